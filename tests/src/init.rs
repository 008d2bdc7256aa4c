//! `init`: how long each function takes from its start to its first request for work, with the empty function
//! (`functions/webhook/examples/empty.rs`) beside them in the same run.
//!
//! The functions' AWS is the house's, over plain HTTP on this machine: it has no network's time in it and no TLS. Functions
//! take turns, so that a noisy moment falls on all of them. It must never be compared across machines.
#![expect(clippy::print_stdout, reason = "its answer is a table on standard output")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use gatehouse_local::{Local, Options, functions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Starts of each function, from spawning the process to its first request for an event.
#[derive(Parser)]
struct Arguments {
    /// Where the binaries lie: `FOLDER/name/bootstrap` as cargo-lambda makes them, or `FOLDER/name`.
    #[arg(long, default_value = "target/lambda")]
    folder: PathBuf,
    /// Starts of each.
    #[arg(long, default_value_t = 21)]
    starts: usize,
}

/// A process that has not asked for work by then never will.
const GIVE_UP: Duration = Duration::from_secs(20);
const EMPTY: &str = "empty";
/// What Lambda limits a request's head to is larger; nothing that asks for work sends as much.
const HEAD_BYTES: usize = 16 * 1024;

type Failed = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    let local = Local::start(Options { mappings: false, record: false, ..Options::default() }).await?;
    let names: Vec<&str> = [EMPTY].into_iter().chain(functions::names()).collect();
    let mut taken: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..=arguments.starts {
        for name in &names {
            let time = start(&binary(&arguments.folder, name)?, name, local.settings()).await?;
            // The first round fills the page cache.
            if round > 0 {
                taken.entry(name).or_default().push(time);
            }
        }
    }
    let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1_000.0);
    println!("| function | binary, MB | median, ms | fastest | slowest |\n|---|---|---|---|---|");
    for name in names {
        let bytes = std::fs::metadata(binary(&arguments.folder, name)?)?.len();
        let size = format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
        let Some(times) = taken.get_mut(name) else { continue };
        times.sort();
        let (median, fastest, slowest) = (times[times.len() / 2], times[0], times[times.len() - 1]);
        println!("| `{name}` | {size} | {} | {} | {} |", millis(median), millis(fastest), millis(slowest));
    }
    local.stop().await;
    Ok(())
}

fn binary(folder: &Path, name: &str) -> Result<PathBuf, Failed> {
    let nested = folder.join(name).join("bootstrap");
    let found = if nested.is_file() { nested } else { folder.join(name) };
    if found.is_file() {
        Ok(found.canonicalize()?)
    } else {
        Err(format!("no binary of {name} in {}", folder.display()).into())
    }
}

/// Starts the process against a Runtime API of its own; the time until it asks for its first event.
async fn start(binary: &Path, name: &str, settings: &BTreeMap<String, String>) -> Result<Duration, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut command = Command::new(binary);
    command.env_clear().envs(settings).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string());
    for (variable, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
    ] {
        command.env(variable, value);
    }
    let began = Instant::now();
    let mut process = command.spawn()?;
    let asked = async {
        loop {
            let (stream, _) = listener.accept().await?;
            if asks_for_work(stream).await? {
                return Ok::<_, Failed>(began.elapsed());
            }
        }
    };
    let time = tokio::select! {
        time = tokio::time::timeout(GIVE_UP, asked) => time.map_err(|_| format!("{name} asked for no work"))??,
        ended = process.wait() => return Err(format!("{name} ended before it asked for work: {}", ended?).into()),
    };
    process.kill().await?;
    Ok(time)
}

/// Reads one request's head; true for `GET …/invocation/next`. Others are accepted with an empty answer.
async fn asks_for_work(mut stream: TcpStream) -> Result<bool, Failed> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(false);
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if line.starts_with(b"GET ") && line.windows(16).any(|path| path == b"/invocation/next") {
        return Ok(true);
    }
    stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    Ok(false)
}
