//! `cargo sim`: runs schedules, shows what it saw, and fails when a promise was broken. It must never print success without
//! having run.

use std::io::{self, Write};
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use clap::{Parser, ValueEnum};
use gatehouse_sim::{Report, Without, run, trace};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs random schedules of processes, faults and merchants against the vault's state machine.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// How many schedules to run.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    schedules: u64,
    /// The first schedule's seed; the others follow. Drawn and printed when missing.
    #[arg(long)]
    seed: Option<u64>,
    /// Switch a part of the protocol off, to see the simulator notice.
    #[arg(long, value_enum)]
    without: Option<Part>,
    /// Print everything that happens, for a single schedule.
    #[arg(long)]
    trace: bool,
    /// Threads; as many as the machine has cores when missing.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Lease,
    SecondLook,
    AtomicWrite,
    RemovalCheck,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::SecondLook => "second-look",
            Self::AtomicWrite => "atomic-write",
            Self::RemovalCheck => "removal-check",
        }
    }
}

impl From<Part> for Without {
    fn from(part: Part) -> Self {
        match part {
            Part::Lease => Self::Lease,
            Part::SecondLook => Self::SecondLook,
            Part::AtomicWrite => Self::AtomicWrite,
            Part::RemovalCheck => Self::RemovalCheck,
        }
    }
}

fn main() -> io::Result<ExitCode> {
    let arguments = Arguments::parse();
    // Short, so that it can be typed again.
    let seed = arguments.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let without = arguments.without.map(Without::from);
    let mut out = io::stdout().lock();
    if arguments.trace {
        if arguments.schedules != 1 {
            writeln!(io::stderr(), "--trace tells one schedule: give --schedules 1 and its --seed")?;
            return Ok(ExitCode::from(2));
        }
        let (lines, report) = trace(seed, without);
        for line in lines {
            writeln!(out, "{line}")?;
        }
        return conclude(&mut out, &report, arguments.without);
    }
    let threads = arguments.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    writeln!(out, "{} schedules from seed {seed}, {threads} threads", arguments.schedules)?;
    let bar = ProgressBar::new(arguments.schedules);
    let style = "{bar:40} {pos}/{len} schedules, {per_sec}, {eta} left, broken: {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("a literal template"));
    let broken = std::sync::atomic::AtomicU64::new(0);
    bar.set_message("0");
    let report = run(arguments.schedules, seed, without, threads, |done, failed| {
        let broken = broken.fetch_add(failed, std::sync::atomic::Ordering::Relaxed) + failed;
        if failed > 0 {
            bar.set_message(broken.to_string());
        }
        bar.inc(done);
    });
    let elapsed = bar.elapsed();
    bar.finish_and_clear();
    writeln!(out, "in {:.1} s", elapsed.as_secs_f64())?;
    write!(out, "{}", report.stats)?;
    conclude(&mut out, &report, arguments.without)
}

/// Names every failing schedule and how to see it again.
fn conclude(out: &mut impl Write, report: &Report, without: Option<Part>) -> io::Result<ExitCode> {
    if report.failing.is_empty() {
        writeln!(out, "every promise was kept")?;
        return Ok(ExitCode::SUCCESS);
    }
    let without = without.map_or_else(String::new, |part| format!(" --without {}", part.name()));
    for (seed, promises) in &report.failing {
        let words: Vec<&str> = promises.iter().map(|promise| promise.words()).collect();
        writeln!(out, "seed {seed}: {}", words.join(", "))?;
    }
    writeln!(out, "{} failing schedules; the first again, in full:", report.failing.len())?;
    writeln!(out, "  cargo sim -- --seed {} --schedules 1 --trace{without}", report.failing[0].0)?;
    Ok(ExitCode::FAILURE)
}
