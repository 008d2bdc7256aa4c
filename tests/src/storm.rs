//! `cargo storm`.

fn main() {}
