//! Programs in Python that check ours: parsers and clients that others wrote.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::program::said;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// The interpreter of the tests' environment, which is made when it is not there yet.
pub async fn interpreter() -> Result<PathBuf> {
    let built = Command::new(folder().join("build"))
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(built.status.success(), "tests/python/build failed");
    let said = String::from_utf8(built.stdout)?;
    let path = said.lines().last().context("it says no path")?;
    Ok(path.into())
}

/// Runs a program of `tests/python` over an input; returns what it prints.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(interpreter().await?);
    command.arg(folder().join(program)).args(arguments);
    said(command, input).await
}
