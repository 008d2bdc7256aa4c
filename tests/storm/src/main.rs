//! `cargo storm`: makes a storm, shows what happened, and fails when anything is not as the model has it. It must never
//! print success without having looked.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use gatehouse_storm::model::{self, Mistake};
use gatehouse_storm::plan::Size;
use gatehouse_storm::weather::Weather;
use gatehouse_storm::{Outcome, Progress, Storm, run};
use indicatif::{ProgressBar, ProgressStyle};

/// Sends deliveries to the real take-in and worker while everything around them fails, and compares what is left with a
/// model that applied each once and in order.
#[derive(Debug, Parser)]
#[command(name = "storm", version)]
struct Arguments {
    /// How much is sent, duplicates and garbage included.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    deliveries: u32,
    /// For how many shops.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    shops: u32,
    /// What the plan and the weather follow from. Drawn and printed when missing.
    #[arg(long)]
    seed: Option<u64>,
    /// The largest body in bytes.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1_000..=5_500_000))]
    largest: u32,
    /// Makes a mistake in the model, to see the comparison notice.
    #[arg(long = "break", value_enum, hide = true)]
    mistake: Option<Broken>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Broken {
    LastArrivalWins,
    NoTombstones,
    OneIsLost,
}

impl From<Broken> for Mistake {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::LastArrivalWins => Self::LastArrivalWins,
            Broken::NoTombstones => Self::NoTombstones,
            Broken::OneIsLost => Self::OneIsLost,
        }
    }
}

/// The most differences that are printed.
const SHOWN: usize = 40;

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let arguments = Arguments::parse();
    // Short, so that it can be typed again.
    let seed = arguments.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let (deliveries, shops) = (arguments.deliveries as usize, arguments.shops as usize);
    let storm = Storm {
        size: Size { deliveries, shops, largest: arguments.largest as usize },
        seed,
        weather: Weather {
            outage: Duration::from_millis(2_500),
            calm: Duration::from_secs(4),
            kill: Duration::from_secs(1),
            answers: 50,
        },
        retry_after: Duration::from_secs(3),
        lanes: 24,
        processes: 8,
        patience: Duration::from_secs(600),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{deliveries} deliveries for {shops} shops, seed {seed}")?;
    let bar = ProgressBar::new(deliveries as u64);
    let style = "{bar:40} {pos}/{len} answered, {elapsed}, {eta} left {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("a literal template"));
    let mut outcome = run(storm, |progress| match progress {
        Progress::Answered(count) => bar.set_position(count),
        Progress::Waiting(count) => {
            bar.set_position(deliveries as u64);
            bar.set_message(format!("({count} messages wait)"));
        }
        Progress::Looking => bar.set_message("(looking)"),
    })
    .await;
    bar.finish_and_clear();
    if let Some(mistake) = arguments.mistake {
        let wrong = model::expected(&outcome.plan, Some(mistake.into()));
        let differences = model::differences(&wrong, &outcome.seen, &model::forgettable(&outcome.plan));
        outcome.differences.extend(differences);
    }
    conclude(&mut out, &outcome, seed, &arguments)
}

fn conclude(out: &mut impl Write, outcome: &Outcome, seed: u64, asked: &Arguments) -> io::Result<ExitCode> {
    let (answered, settled) = outcome.times;
    let Arguments { deliveries, shops, largest, .. } = asked;
    let rate = f64::from(*deliveries) / answered.as_secs_f64();
    writeln!(
        out,
        "answered in {:.1} s ({rate:.0} a second), applied in {:.1} s",
        answered.as_secs_f64(),
        settled.as_secs_f64()
    )?;
    for (what, count) in &outcome.counts {
        writeln!(out, "{count:>10} {what}")?;
    }
    let customers: usize = outcome.seen.values().map(|shop| shop.customers.len()).sum();
    let orders: usize = outcome.seen.values().map(|shop| shop.orders.len()).sum();
    let requests: usize = outcome.seen.values().map(|shop| shop.requests.len()).sum();
    writeln!(out, "there are {customers} customers, {orders} orders, {requests} privacy requests")?;
    if outcome.differences.is_empty() {
        writeln!(out, "every delivery was applied once, and nothing else is there")?;
        return Ok(ExitCode::SUCCESS);
    }
    for difference in outcome.differences.iter().take(SHOWN) {
        writeln!(out, "{difference}")?;
    }
    writeln!(out, "{} differences; the same storm again:", outcome.differences.len())?;
    writeln!(out, "  cargo storm -- --deliveries {deliveries} --shops {shops} --largest {largest} --seed {seed}")?;
    Ok(ExitCode::FAILURE)
}
