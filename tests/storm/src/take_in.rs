//! `cargo take-in`: what one delivery costs one process of `webhook`, beside an empty function in the same run: deliveries a
//! second, CPU, calls of AWS and bytes. It prints the table of docs/PERFORMANCE.md, and asserts nothing: machines differ.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use gatehouse_local::gateway::{Front, event};
use gatehouse_local::{Local, Options};
use gatehouse_tests::sign;
use hyper::body::Bytes;
use serde_json::json;

/// Measures the take-in, one process at a time, one delivery after the other.
#[derive(Debug, Parser)]
#[command(name = "take-in", version)]
struct Arguments {
    /// The binary to measure: `cargo build --release -p webhook`.
    #[arg(long, default_value = "target/release/webhook")]
    webhook: PathBuf,
    /// The empty function: `cargo build --release -p gatehouse-tests --bin probe`.
    #[arg(long, default_value = "target/release/probe")]
    empty: PathBuf,
    /// Deliveries for each row, after a tenth as many that are not counted.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..))]
    deliveries: u32,
}

/// Sizes of the deliveries' bodies.
const SIZES: [(&str, usize); 3] = [("1 KB", 1_000), ("10 KB", 10_000), ("100 KB", 100_000)];

struct Row {
    a_second: f64,
    cpu: Duration,
    calls: f64,
    sent: f64,
    received: f64,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    writeln!(out, "| body | function | a second | CPU each | AWS calls each | bytes to AWS | bytes from AWS |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for (name, size) in SIZES {
        for (function, binary) in [("empty", &arguments.empty), ("webhook", &arguments.webhook)] {
            let row = measure(binary, size, arguments.deliveries).await?;
            writeln!(
                out,
                "| {name} | {function} | {:.0} | {:.0} µs | {:.2} | {:.0} | {:.0} |",
                row.a_second,
                row.cpu.as_secs_f64() * 1e6,
                row.calls,
                row.sent,
                row.received
            )?;
            out.flush()?;
        }
    }
    Ok(())
}

async fn measure(binary: &Path, size: usize, count: u32) -> io::Result<Row> {
    if !binary.exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not built", binary.display())));
    }
    let options = Options {
        binaries: [("webhook".to_owned(), binary.canonicalize()?)].into(),
        processes: 1,
        mappings: false,
        settings: [("LOG_LEVEL".to_owned(), "info".to_owned())].into(),
        ..Options::default()
    };
    let house = Local::start(options).await.map_err(io::Error::other)?;
    let secret = house.app().client_secret.expose().to_owned();
    let deliver = async |n: u32| {
        let answer = house.lambda().invoke("webhook", delivery(&secret, size, n)).await;
        answer.map(drop).map_err(io::Error::other)
    };
    for n in 0..count.div_ceil(10) {
        deliver(n).await?;
    }
    // Not more than the house remembers.
    house.aws().reset_calls();
    let before = house.aws().recorded().len();
    let (began, cpu) = (Instant::now(), cpu_of_children(binary)?);
    for n in 0..count {
        deliver(n).await?;
    }
    let (took, cpu) = (began.elapsed(), cpu_of_children(binary)?.saturating_sub(cpu));
    let calls: u64 = house.aws().calls().values().sum();
    let exchanges = house.aws().recorded();
    let exchanges = &exchanges[before.min(exchanges.len())..];
    let seen = exchanges.len().max(1) as f64;
    let bytes = |of: fn(&gatehouse_local::aws::Exchange) -> usize| exchanges.iter().map(of).sum::<usize>() as f64;
    let each = f64::from(count);
    let calls = calls as f64 / each;
    let row = Row {
        a_second: each / took.as_secs_f64(),
        cpu: cpu / count,
        calls,
        sent: bytes(|exchange| exchange.request.len()) / seen * calls,
        received: bytes(|exchange| exchange.answer.len()) / seen * calls,
    };
    house.stop().await;
    Ok(row)
}

/// A signed delivery as the function's URL hands it over.
fn delivery(secret: &str, size: usize, n: u32) -> Bytes {
    let start = json!({ "id": n, "email": "somebody@example.com", "total_price": "12.50" }).to_string();
    let note = "x".repeat(size.saturating_sub(start.len() + 11));
    let body = format!("{},\"note\":\"{note}\"}}", &start[..start.len() - 1]);
    let request = hyper::Request::post("/")
        .header("host", "webhook.localhost")
        .header("content-type", "application/json")
        .header("user-agent", "Shopify-Captain-Hook")
        .header("x-shopify-topic", "orders/create")
        .header("x-shopify-shop-domain", "gatehouse-demo.myshopify.com")
        .header("x-shopify-api-version", "2026-10")
        .header("x-shopify-webhook-id", format!("b54557e4-bdd9-4b37-8a5f-{n:012}"))
        .header("x-shopify-event-id", format!("98880550-7158-44d4-b7cd-{n:012}"))
        .header("x-shopify-triggered-at", "2026-11-22T05:00:00.123Z")
        .header("x-shopify-hmac-sha256", sign::webhook(secret, body.as_bytes()));
    let (parts, ()) = request.body(()).expect("a request of literals").into_parts();
    let event = event(Front::FunctionUrl, "webhook", &parts, &body.into(), "6a7e8feb-b491-4cf7-a9f1-bf3703467718", 0);
    event.to_string().into()
}

/// What the processes of this binary that we started have used of the CPU so far.
fn cpu_of_children(binary: &Path) -> io::Result<Duration> {
    // Linux counts in hundredths of a second, whatever the kernel's own clock is (proc(5)).
    const TICKS: u32 = 100;
    let us = std::process::id().to_string();
    let name = binary.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
        let Some((before, after)) = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            continue;
        };
        let fields: Vec<&str> = after.split(' ').collect();
        if before == name && fields.get(1) == Some(&us.as_str()) {
            ticks += [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u32>().ok()).sum::<u32>();
        }
    }
    Ok(Duration::from_secs(ticks.into()) / TICKS)
}
