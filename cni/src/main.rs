//! The plugin and its installer, as a process.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cni::install::{self, InstallArgs};
use cni::plugin::{self, MAX_INPUT_BYTES};
use cni::{daemon_set, enter};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

/// The Meshwright CNI plugin. The container runtime calls it without arguments (CNI_COMMAND).
#[derive(Debug, Parser)]
#[command(name = "meshwright-cni", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the plugin on this node, and keep it there until the DaemonSet is gone.
    Install {
        /// Where to.
        #[command(flatten)]
        place: InstallArgs,
        /// The namespace of the DaemonSet that this runs for.
        #[arg(
            long,
            env = "MESHWRIGHT_NAMESPACE",
            default_value = "meshwright-system"
        )]
        namespace: String,
        /// Its name.
        #[arg(long, env = "MESHWRIGHT_DAEMON_SET", default_value = "meshwright-cni")]
        daemon_set: String,
    },
    /// Say whether the plugin is in place, by the exit code.
    Installed(InstallArgs),
}

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return called();
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let done = match Cli::parse().command {
        Command::Install {
            place,
            namespace,
            daemon_set,
        } => run(&place, &namespace, &daemon_set),
        Command::Installed(place) => install::Place::from(&place)
            .is_installed()
            .map_err(anyhow::Error::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(place: &InstallArgs, namespace: &str, name: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let place = install::Place::from(place);
    runtime.block_on(async {
        place.keep(ended()).await?;
        match daemon_set::fate(namespace, name).await {
            daemon_set::Fate::Stays => {
                tracing::info!(
                    "the DaemonSet stays, and so does the plugin, for the next pod of it"
                );
            }
            daemon_set::Fate::Gone => place.remove()?,
            daemon_set::Fate::Unknown(why) => {
                tracing::warn!(
                    why,
                    "whether the DaemonSet stays can't be seen, so the plugin does"
                );
            }
        }
        Ok(())
    })
}

/// Returns on SIGTERM or SIGINT.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the default action ends the process.
        _ => std::future::pending().await,
    }
}

/// One call of the container runtime: its answer is what is printed, and the exit code.
fn called() -> ExitCode {
    let mut input = Vec::new();
    // One byte more tells what is too long from what just fits.
    let limit = MAX_INPUT_BYTES as u64 + 1;
    let read = io::stdin().lock().take(limit).read_to_end(&mut input);
    let variable = |name: &str| std::env::var(name).ok();
    let answer = match read {
        Ok(_) => plugin::answer(&variable, &input, &enter::Namespaces),
        Err(error) => Err(plugin::unreadable(&error)),
    };
    match answer {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(said)) => say(&said, ExitCode::SUCCESS),
        Err(failure) => say(&failure.to_json(), ExitCode::FAILURE),
    }
}

fn say(said: &Value, code: ExitCode) -> ExitCode {
    match writeln!(io::stdout().lock(), "{said}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
