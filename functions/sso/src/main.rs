//! Starts the `sso` function, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatehouse_core::runtime::start("sso", sso::run)
}
