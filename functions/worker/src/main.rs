//! Starts the `worker` function, nothing else.

fn main() -> std::process::ExitCode {
    gatehouse_core::runtime::start("worker", worker::run)
}
