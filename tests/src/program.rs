//! Programs that are given an input, and print.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a program prints of an input.
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
