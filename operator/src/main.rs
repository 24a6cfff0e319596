//! The operator, as a process.

use std::process::ExitCode;

use clap::Parser;
use operator::args::Config;
use operator::{app, telemetry};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let config = Config::parse();
    telemetry::log(!config.is_local());
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
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
