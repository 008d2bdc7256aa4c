//! Starts the `install` function, nothing else.

fn main() {}
