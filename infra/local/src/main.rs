//! `cargo run`: the whole system on one machine.

fn main() {}
