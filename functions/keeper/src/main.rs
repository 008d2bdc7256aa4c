//! Starts the `keeper` function, nothing else.

fn main() {}
