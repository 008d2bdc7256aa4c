//! Starts the `callback` function, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_core::runtime::start("callback", callback::run)
}
