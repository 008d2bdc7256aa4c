//! Starts the `sso` function, nothing else.

fn main() {}
