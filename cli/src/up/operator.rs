//! The operator of a mesh: kept running as everything else.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::keep::{Happened, Kept};
use super::launches::Surroundings;
use super::pod::{News, stopped};
use super::process;
use crate::http;

/// It creates keys and reads a folder: that takes no longer.
const START: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_secs(5);
const LAST_LINES: usize = 15;

/// The operator, being kept running.
pub(super) struct Operator {
    stop: watch::Sender<bool>,
    life: JoinHandle<()>,
    log: std::path::PathBuf,
}

/// Starts it.
pub(super) fn start(around: &Surroundings, news: mpsc::UnboundedSender<News>) -> Operator {
    let command = around.operator();
    let log = command.log.clone();
    let (stop, mut stopping) = watch::channel(false);
    let life = tokio::spawn(async move {
        let mut kept = Kept::new(&command, None);
        kept.begin();
        loop {
            tokio::select! {
                () = stopped(&mut stopping) => break,
                happened = kept.next() => if let Happened::Ended(how, pause) = happened {
                    let sentence = format!(
                        "the operator ended ({how}); starting it again in {} s. Workloads run on as they were",
                        pause.as_secs()
                    );
                    let _ = news.send(News::Said(sentence, kept.last_lines(LAST_LINES)));
                },
            }
        }
        if let Some(child) = kept.child {
            process::end(child, GRACE).await;
        }
    });
    Operator { stop, life, log }
}

// === impl Operator ===

impl Operator {
    /// Waits until it has compiled the folder for the first time.
    pub(super) async fn ready(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let address = SocketAddr::from((address, 15014));
        let until = Instant::now() + START;
        while Instant::now() < until {
            let answer = timeout(START, http::get(address, "/ready")).await;
            if matches!(answer, Ok(Ok((200, _)))) {
                return Ok(());
            }
            sleep(ASK_EVERY).await;
        }
        let lines = process::last_lines(&self.log, 0, LAST_LINES).join("\n  | ");
        bail!(
            "the operator was not ready within {} s; its last lines:\n  | {lines}",
            START.as_secs()
        )
    }

    /// Ends it in good order.
    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        // A life that panicked is over as well.
        let _ = self.life.await;
    }
}
