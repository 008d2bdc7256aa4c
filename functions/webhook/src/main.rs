//! Starts the `webhook` function, nothing else.

fn main() -> std::process::ExitCode {
    gatehouse_core::runtime::start("webhook", webhook::start)
}
