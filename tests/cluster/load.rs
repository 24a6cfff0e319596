//! Requests that are under way while something else happens.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::installation::PODS;
use crate::shop::Shop;

/// Requests that `web` begins one after another, whatever became of those before.
#[derive(Debug)]
pub(crate) struct Load {
    kubectl: Child,
    asked: JoinHandle<Result<Vec<Asked>>>,
}

/// One of them, when it has ended.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) began: SystemTime,
    pub(crate) ended: SystemTime,
    /// The status of the answer, or 0 and what went wrong.
    pub(crate) outcome: String,
}

// === impl Load ===

impl Load {
    /// Begins one that asks for `url` at each interval, such as `20ms`, and waits until the first
    /// request has ended. Unless it is ended, it ends by itself after 100 000 requests.
    pub(crate) async fn begin(shop: &Shop, url: &str, interval: &str) -> Result<Self> {
        let exec = ["exec", "-i", "-n", &shop.namespace, "deployment/web"];
        let mut kubectl = shop
            .cluster
            .command("kubectl")
            .args(exec)
            .args(["-c", "web", "--", "/web", "load", url, interval])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(kubectl.stdout.take().context("a pipe")?).lines();
        let first = timeout(PODS, lines.next_line()).await??;
        let mut asked = vec![first.context("not one request")?.parse()?];
        let rest = async move || {
            while let Some(line) = lines.next_line().await? {
                asked.push(line.parse()?);
            }
            Ok(asked)
        };
        Ok(Self {
            kubectl,
            asked: tokio::spawn(rest()),
        })
    }

    /// Begins no more, waits for those that are under way, and returns all.
    pub(crate) async fn end(mut self) -> Result<Vec<Asked>> {
        let ended = self.kubectl.try_wait()?;
        ensure!(ended.is_none(), "it ended before it was to: {ended:?}");
        // In the pod, its input closes.
        drop(self.kubectl.stdin.take());
        let asked = timeout(PODS, self.asked).await???;
        let status = self.kubectl.wait().await?;
        ensure!(status.success(), "{status}");
        Ok(asked)
    }
}

// === impl Asked ===

impl std::str::FromStr for Asked {
    type Err = anyhow::Error;

    /// A line of `web load` (`programs/web`).
    fn from_str(line: &str) -> Result<Self> {
        let parse = || {
            let mut words = line.splitn(3, ' ');
            let mut at = || {
                let since = Duration::from_millis(words.next()?.parse().ok()?);
                SystemTime::UNIX_EPOCH.checked_add(since)
            };
            Some(Self {
                began: at()?,
                ended: at()?,
                outcome: words.next()?.trim_end().to_owned(),
            })
        };
        parse().with_context(|| format!("a line that says nothing of a request: {line}"))
    }
}
