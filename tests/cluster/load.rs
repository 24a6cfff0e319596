//! Requests that are under way while something else happens.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use tests::cluster::wait_until;
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
    ended: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    asked: JoinHandle<Result<Vec<Asked>>>,
}

/// One of them, when it has ended.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) began: SystemTime,
    pub(crate) ended: SystemTime,
    /// The status of the answer, or 0, and what went wrong.
    pub(crate) outcome: String,
}

// === impl Load ===

impl Load {
    /// Begins one that asks for `url` at each interval, such as `20ms`, and waits until the first
    /// request has ended. Unless it is ended, it ends by itself after 100 000 requests.
    pub(crate) async fn begin(shop: &Shop, url: &str, interval: &str) -> Result<Self> {
        Self::of("load", shop, url, interval).await
    }

    /// The same; the outcome of one that is answered with 200 is `200 POD`, by the word of who has answered.
    pub(crate) async fn who(shop: &Shop, url: &str, interval: &str) -> Result<Self> {
        Self::of("who", shop, url, interval).await
    }

    /// The same, with an event in each; the outcome of one that is accepted is `202 ID`.
    pub(crate) async fn publish(shop: &Shop, url: &str, interval: &str) -> Result<Self> {
        Self::of("publish", shop, url, interval).await
    }

    async fn of(what: &str, shop: &Shop, url: &str, interval: &str) -> Result<Self> {
        let exec = ["exec", "-i", "-n", &shop.namespace, "deployment/web"];
        let mut kubectl = shop
            .cluster
            .command("kubectl")
            .args(exec)
            .args(["-c", "web", "--", "/web", what, url, interval])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(kubectl.stdout.take().context("a pipe")?).lines();
        let first = timeout(PODS, lines.next_line()).await??;
        let mut asked: Vec<Asked> = vec![first.context("not one request")?.parse()?];
        let ended = Arc::new(AtomicUsize::new(1));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counted, taken) = (ended.clone(), accepted.clone());
        let rest = async move || {
            while let Some(line) = lines.next_line().await? {
                let one: Asked = line.parse()?;
                taken.fetch_add(one.outcome.starts_with("202 ").into(), Ordering::Relaxed);
                asked.push(one);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(asked)
        };
        Ok(Self {
            kubectl,
            ended,
            accepted,
            asked: tokio::spawn(rest()),
        })
    }

    /// How many have ended so far.
    pub(crate) fn so_far(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// How many events have been accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
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

/// Does something while calls are under way at all of these URLs, each as often as is said, waits until
/// at least so many have ended, and fails when one of them has failed.
pub(crate) async fn under_load<T>(
    shop: &Shop,
    calls: &[(&str, &str)],
    (what, enough): (&str, usize),
    done: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    let mut loads = Vec::new();
    for (url, interval) in calls {
        loads.push(Load::begin(shop, url, interval).await?);
    }
    let made = done().await.with_context(|| what.to_owned());
    let took = began.elapsed();
    let so_far = || loads.iter().map(Load::so_far).sum::<usize>();
    let waited = wait_until("there were enough calls", PODS * 3, async || {
        ensure!(so_far() >= enough, "{} of {enough}", so_far());
        Ok(())
    });
    // However that went, what became of the calls is worth knowing.
    let waited = waited.await;
    let mut asked = Vec::new();
    for load in loads {
        asked.append(&mut load.end().await?);
    }
    eprintln!(
        "{what}: {} calls in {:?}, of which it took {took:?}",
        asked.len(),
        began.elapsed()
    );
    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    let (Some(first), Some(last)) = (failed.first(), failed.last()) else {
        waited?;
        return made;
    };
    let (failed, all) = (failed.len(), asked.len());
    let made = made
        .err()
        .map_or_else(String::new, |error| format!("\n{error:#}"));
    let logs = shop.sidecar_logs().await;
    let logs = logs.unwrap_or_else(|error| format!("no logs: {error:#}"));
    bail!("{what}: {failed} of {all} failed, from {first:?} until {last:?}{made}\n{logs}");
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
