//! `cargo run`: the whole system on one machine.
#![expect(clippy::print_stdout, reason = "the address is what a person or a script reads from standard output")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use gatehouse_local::{Local, Options, StartError, binaries, schedule, standalone};

/// The whole system on one machine: AWS, Shopify and Lambda, embedded.
#[derive(Parser)]
struct Arguments {
    /// The gateway's port; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keep nothing: everything is gone when it stops.
    #[arg(long)]
    ephemeral: bool,
    /// Where state is kept.
    #[arg(long, default_value = ".gatehouse")]
    keep: PathBuf,
    /// One host (app.localhost) for the app, the grant, the API and the deliveries, as behind the deployment's own domain.
    #[arg(long)]
    one_domain: bool,
    /// An app that is not embedded in the admin: the code grant, then a login cookie. Implies --one-domain.
    #[arg(long)]
    standalone: bool,
    /// Print one JSON line when it is ready, for scripts, and nothing else on standard output.
    #[arg(long)]
    json: bool,
    /// Start the function binaries as they are, without building them.
    #[arg(long)]
    no_build: bool,
    /// Show what the functions write.
    #[arg(long)]
    logs: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The table warns of every condition that does not hold: that is everyday here.
    let level = if arguments.logs { "info,dynoxide=error" } else { "warn,dynoxide=error" };
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    if !arguments.no_build {
        binaries::build()?;
    }
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let local = Local::start(Options {
            port: arguments.port,
            keep: (!arguments.ephemeral).then(|| arguments.keep.clone()),
            one_domain: arguments.one_domain || arguments.standalone,
            settings: if arguments.standalone { standalone() } else { BTreeMap::new() },
            retry_after: Duration::from_secs(5),
            schedule: schedule::of_the_template(),
            record: false,
            echo: arguments.logs,
            ..Options::default()
        })
        .await?;
        if arguments.json {
            println!("{}", local.json_line());
        } else {
            println!("Ready in {} ms. Open {}", began.elapsed().as_millis(), local.addresses().admin);
            println!("Scripts connect to 127.0.0.1 and name the part in the Host header; Ctrl-C stops everything.");
        }
        asked_to_stop().await?;
        local.stop().await;
        Ok(())
    })
}

async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}
