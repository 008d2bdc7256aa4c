//! Starts the `install` function, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_core::runtime::start("install", install::run)
}
