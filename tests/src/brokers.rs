//! Real brokers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

pub mod older;
pub mod rabbitmq;

/// The program of a NATS server, which is built when it is not there yet.
///
/// # Panics
/// When it can't be.
pub fn nats_server() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| built(&[]).unwrap_or_else(|error| panic!("{error:#}")));
    folder.join("nats-server")
}

/// The folder of RabbitMQ's programs (`rabbitmq-server`, `rabbitmqctl`), which is installed when it is not there yet.
///
/// # Panics
/// When it can't be.
pub fn rabbitmq() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder =
        FOLDER.get_or_init(|| built(&["--rabbitmq"]).unwrap_or_else(|error| panic!("{error:#}")));
    folder.clone()
}

fn built(arguments: &[&str]) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("brokers/build");
    let output = Command::new(script)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "tests/brokers/build failed");
    let said = String::from_utf8(output.stdout)?;
    Ok(said.lines().last().context("it says no path")?.into())
}
