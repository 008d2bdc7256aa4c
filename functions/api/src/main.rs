//! Starts the `api` function, nothing else.

fn main() {}
