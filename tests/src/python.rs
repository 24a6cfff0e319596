//! Programs in Python that check ours: parsers and clients that others wrote.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

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

/// What a program prints that is given an input.
pub(crate) async fn said(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("an input")?;
    let wrote = async {
        // One that ends before it has read says why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (ended, ()) = tokio::join!(child.wait_with_output(), wrote);
    let ended = ended?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8(ended.stdout)?)
}
