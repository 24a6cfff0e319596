//! Programs in Node that others wrote: an issuer of tokens, and CloudEvents' SDK.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::program::said;

/// An issuer that is not ours: the npm package `oauth2-mock-server`. Ends when dropped.
pub struct MockIssuer {
    _process: Child,
    said: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

async fn folder() -> Result<PathBuf> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/build");
    let built = Command::new(build)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(built.status.success(), "tests/node/build failed");
    let said = String::from_utf8(built.stdout)?;
    Ok(said.lines().last().context("it says no path")?.into())
}

/// Runs a program of `tests/node` over an input; returns what it prints.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let folder = folder().await?;
    let mut command = Command::new(folder.join("node"));
    command.arg(folder.join(program)).args(arguments);
    said(command, input).await
}

// === impl MockIssuer ===

impl MockIssuer {
    /// Starts at an address, with one key; `url` is what it calls itself. Answers the key's name too.
    pub async fn start(at: SocketAddr, url: &str) -> Result<(Self, String)> {
        let folder = folder().await?;
        let mut process = Command::new(folder.join("node"))
            .arg(folder.join("issuer.mjs"))
            .args([&at.ip().to_string(), &at.port().to_string(), url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = process.stdin.take().context("an input")?;
        let answers = process.stdout.take().context("an output")?;
        let mut issuer = Self {
            _process: process,
            said,
            answers: BufReader::new(answers).lines(),
        };
        let kid = issuer.key().await?;
        Ok((issuer, kid))
    }

    /// Another key in place of those that there were; its name.
    pub async fn key(&mut self) -> Result<String> {
        self.ask("key").await
    }

    /// Another key beside those that there are; its name.
    pub async fn another_key(&mut self) -> Result<String> {
        self.ask("more").await
    }

    /// A token that says this, signed with this key.
    pub async fn token(&mut self, kid: &str, claims: &Value) -> Result<String> {
        self.ask(&format!("token {kid} {claims}")).await
    }

    /// Answers this from now on to those who ask about tokens.
    pub async fn says_of_tokens(&mut self, worth: &Value) -> Result<()> {
        self.ask(&format!("worth {worth}")).await.map(drop)
    }

    /// How often it was asked about tokens.
    pub async fn asked(&mut self) -> Result<u64> {
        Ok(self.ask("asked").await?.parse()?)
    }

    async fn ask(&mut self, command: &str) -> Result<String> {
        self.said
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        let answer = self.answers.next_line().await?;
        answer.with_context(|| format!("the issuer ended at {command:?}"))
    }
}
