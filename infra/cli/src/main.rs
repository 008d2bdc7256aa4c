//! `gatehouse`, the operator's command: tokens, privacy, queues, settings, and whether a deployment is right.
//!
//! Settings come from the environment, as the functions' do, or with `--local` from a running `cargo run`. It must never:
//! print a token, a secret or personal data beyond ids (but for `multipass`, which is for that), or change anything that its name does not say.
#![expect(clippy::print_stdout, reason = "its answers go to standard output")]
#![expect(clippy::print_stderr, reason = "what went wrong goes to standard error")]

mod doctor;
mod multipass;
mod privacy;
mod queue;
mod target;
mod tokens;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The operator's command.
#[derive(Parser)]
#[command(name = "gatehouse", version)]
struct Arguments {
    /// Talk to the house that `cargo run` has started here, and not to AWS.
    #[arg(long, global = true)]
    local: bool,
    /// Where that house says where it is.
    #[arg(long, global = true, default_value = ".gatehouse/running.json")]
    running: PathBuf,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Access tokens: how many live, which die next; migration to expiring ones.
    #[command(subcommand)]
    Tokens(tokens::Command),
    /// Privacy requests and what was done about them.
    #[command(subcommand)]
    Privacy(privacy::Command),
    /// What lies in the dead-letter queues, and sending it back.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Multipass tokens: what one says, and making one. The secret comes from a file or the secret store.
    #[command(subcommand)]
    Multipass(multipass::Multipass),
    /// Checks a deployment from outside; exits with 1 when something is wrong. Changes nothing.
    Doctor(doctor::Arguments),
    /// Prints the table of all settings.
    Settings,
}

/// What went wrong, as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A setting is missing or wrong.
    #[error(transparent)]
    Settings(#[from] gatehouse_core::config::ConfigError),
    /// No local house.
    #[error("no running house is noted in {0}: start one with `cargo run`, or name its file with --running")]
    NoHouse(String),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] gatehouse_core::vault::VaultError),
    /// The table.
    #[error(transparent)]
    Store(#[from] gatehouse_core::store::StoreError),
    /// Privacy.
    #[error(transparent)]
    Privacy(#[from] gatehouse_core::privacy::DataError),
    /// SQS, by its code.
    #[error("SQS refused ({0}): check the queue URLs and your permission")]
    Queue(String),
    /// No HTTP client, or no TLS.
    #[error("the TLS stack does not start: {0}")]
    Tls(String),
    /// A file of one's own.
    #[error("{0}: {1}")]
    File(String, String),
    /// An argument.
    #[error("{0}")]
    Argument(&'static str),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(Box::pin(run(arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// False when the answer is that something is wrong.
async fn run(arguments: Arguments) -> Result<bool, CliError> {
    let json = arguments.json;
    let target = || target::Target::find(arguments.local.then_some(arguments.running.as_path()));
    match arguments.command {
        Command::Settings => {
            print!("{}", gatehouse_core::config::markdown_table());
            Ok(true)
        }
        Command::Tokens(command) => tokens::run(command, &target()?, json).await,
        Command::Privacy(command) => privacy::run(command, &target()?, json).await,
        Command::Queue(command) => queue::run(command, &target()?, json).await,
        Command::Multipass(command) => Ok(multipass::run(command, &target()?, json).await),
        Command::Doctor(command) => doctor::run(&command, &target()?, json).await,
    }
}

/// Rows under headings, in columns as wide as needed.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count());
        cells.chain([headings[n].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(headings.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}
