//! Calls that go on meanwhile, of which none may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use tests::client::Client;
use tests::mesh::SOON;
use tests::wait_until;
use tokio::task::JoinSet;

/// How many calls each caller has under way.
const AT_ONCE: usize = 6;

/// Callers that call until they are told to end.
pub(crate) struct Calls {
    over: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    callers: JoinSet<Result<()>>,
}

// === impl Calls ===

impl Calls {
    /// Each of these calls each of its URLs in turn.
    pub(crate) fn begin(callers: Vec<(Client, &'static [&'static str])>) -> Self {
        let mut calls = Calls {
            over: Arc::default(),
            made: Arc::default(),
            callers: JoinSet::new(),
        };
        let callers = callers.iter();
        for (client, urls) in callers.flat_map(|one| std::iter::repeat_n(one, AT_ONCE)) {
            let client = client.another();
            let urls = *urls;
            let (over, made) = (calls.over.clone(), calls.made.clone());
            calls.callers.spawn(async move {
                for url in urls.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    let answer = client.get(url).await;
                    let answer = answer.with_context(|| format!("call {number}"))?;
                    ensure!(answer.status == 200, "call {number} to {url}: {answer:?}");
                }
                Ok(())
            });
        }
        calls
    }

    /// Ends them once there were so many; how many there were. The first that failed is an error.
    pub(crate) async fn end(mut self, enough: usize) -> Result<usize> {
        let patience = SOON * 15;
        wait_until("there were enough calls", patience, async || {
            let made = self.made.load(Ordering::Relaxed);
            ensure!(made >= enough, "{made} of {enough}");
            Ok(())
        })
        .await?;
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended??;
        }
        Ok(self.made.load(Ordering::Relaxed))
    }
}
