//! Takes a delivery in: verify, enqueue, answer.
