//! The sidecar's process.

use std::process::ExitCode;

use clap::Parser;
use sidecar::args::{Cli, Command};
use sidecar::{app, telemetry};

/// Events and headers are small and come and go by the thousand, which is what the C library's allocator is slow at.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::log::init(&cli.args.log);
    telemetry::log::end_at_panic();
    let ended = match &cli.command {
        Some(Command::Redirect(redirect)) => redirect.run().map_err(anyhow::Error::from),
        None => app::run(&cli.args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
