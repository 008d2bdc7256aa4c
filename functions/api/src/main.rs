//! Starts the `api` function, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_core::runtime::start("api", api::run)
}
