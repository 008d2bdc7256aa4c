//! Starts the `callback` function, nothing else.

fn main() {}
