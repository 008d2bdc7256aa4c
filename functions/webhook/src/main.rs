//! Starts the `webhook` function, nothing else.

fn main() {}
