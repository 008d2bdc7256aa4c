//! `gatehouse`, the operator's command.

fn main() {}
