//! The operator, as a process.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use operator::args::Config;
use operator::probe::{self, ProbeArgs};
use operator::{app, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// A stream's buffers are large and mostly untouched, and thousands begin and end together: this allocator
/// takes only the pages that are touched, and gives them back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The operator of Meshwright.
#[derive(Debug, Parser)]
#[command(
    name = "meshwright-operator",
    version,
    args_conflicts_with_subcommands = true
)]
struct Program {
    #[command(subcommand)]
    instead: Option<Instead>,
    #[command(flatten)]
    config: Config,
}

/// What it does instead of running.
#[derive(Debug, Subcommand)]
enum Instead {
    /// Ask the operator that runs whether it is ready, and what its webhook answers.
    Probe(ProbeArgs),
}

fn main() -> ExitCode {
    let Program { instead, config } = Program::parse();
    telemetry::log(!config.is_local());
    let ended = match instead {
        Some(Instead::Probe(args)) => ask(&args),
        None => run(config),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask(args: &ProbeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for line in runtime.block_on(probe::run(args))? {
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut running = app::start(config).await?;
        let failed = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            () = running.ended() => true,
        };
        running.shutdown().await?;
        anyhow::ensure!(!failed, "a part of the operator has ended, see above");
        Ok(())
    })
}
