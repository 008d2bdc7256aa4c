//! Starts the `keeper` function, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_core::runtime::start("keeper", keeper::run)
}
