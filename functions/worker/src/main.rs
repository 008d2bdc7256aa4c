//! Starts the `worker` function, nothing else.

fn main() {}
