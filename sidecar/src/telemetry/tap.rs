//! Live requests for whoever watches: the access log's lines, as they come, of those that are wanted.
//!
//! A tap is a bounded queue off the request's path: a reader that is slow loses lines, and is told how
//! many; no request waits for it. While nobody watches, a request costs one load of a number that
//! nobody changes. What is not in the access log is not here either: no query strings, no bodies, no
//! header values but the host.

pub mod wanted;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::sync::mpsc::{self, Receiver, Sender};

use self::wanted::Wanted;
use super::access_log::Line;
use super::access_log::selection::Facts;

/// Taps at a time: each costs every request that it wants a line.
pub const MAX_TAPS: usize = 8;

/// Lines that wait for the reader of one tap.
const QUEUE: usize = 512;

/// Bytes that are given on at once.
const BATCH: usize = 32 * 1024;

/// Who watches. Shared by all workers.
#[derive(Debug, Default)]
pub struct Taps {
    /// How many do: all that a request reads while nobody does.
    open: AtomicUsize,
    watchers: RwLock<Vec<Arc<Watcher>>>,
}

#[derive(Debug)]
struct Watcher {
    wanted: Wanted,
    lines: Sender<Bytes>,
    /// Lines that found no place, of which the reader has not been told yet.
    lost: AtomicU64,
}

/// The requests that one watches, as a body: a JSON object a line, or `{"lost":n}` where n of them
/// found no place. Closed when dropped.
#[derive(Debug)]
pub struct Tap {
    taps: Arc<Taps>,
    watcher: Arc<Watcher>,
    lines: Receiver<Bytes>,
}

// === impl Taps ===

impl Taps {
    /// Whether anybody watches.
    pub fn are_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Watches from now on; `None` when [`MAX_TAPS`] do already.
    pub fn open(self: &Arc<Self>, wanted: Wanted) -> Option<Tap> {
        let mut watchers = self
            .watchers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if watchers.len() >= MAX_TAPS {
            return None;
        }
        let (sender, lines) = mpsc::channel(QUEUE);
        let watcher = Arc::new(Watcher {
            wanted,
            lines: sender,
            lost: AtomicU64::new(0),
        });
        watchers.push(watcher.clone());
        self.open.store(watchers.len(), Ordering::Relaxed);
        Some(Tap {
            taps: self.clone(),
            watcher,
            lines,
        })
    }

    /// Hands a request to those who want it.
    pub fn offer(&self, line: &Line<'_>, facts: Facts) {
        let watchers = self.watchers.read().unwrap_or_else(PoisonError::into_inner);
        let mut written: Option<Bytes> = None;
        for watcher in watchers.iter().filter(|one| one.wanted.fits(line, facts)) {
            let bytes = match &written {
                Some(bytes) => bytes.clone(),
                None => {
                    let Ok(mut bytes) = serde_json::to_vec(line) else {
                        return;
                    };
                    bytes.push(b'\n');
                    written.insert(bytes.into()).clone()
                }
            };
            if watcher.lines.try_send(bytes).is_err() {
                watcher.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

// === impl Tap ===

impl Body for Tap {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut batch = BytesMut::new();
        // Lines are lost only while others wait here, so that whoever loses some is asked for more.
        while batch.len() < BATCH {
            match self.lines.poll_recv(cx) {
                Poll::Ready(Some(line)) => batch.extend_from_slice(&line),
                // The other end is held here too.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        let lost = self.watcher.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            batch.extend_from_slice(format!("{{\"lost\":{lost}}}\n").as_bytes());
        }
        match batch.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Some(Ok(Frame::data(batch.freeze())))),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let watchers = self.taps.watchers.write();
        let mut watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|one| !Arc::ptr_eq(one, &self.watcher));
        self.taps.open.store(watchers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::telemetry::access_log::Timestamp;
    use crate::telemetry::metrics::GrpcStatus;

    pub(super) fn line() -> Line<'static> {
        Line {
            time: Timestamp(SystemTime::UNIX_EPOCH),
            direction: "outbound",
            method: "GET",
            host: "orders",
            path: "/orders/1",
            source: "",
            service: "shop/orders",
            route: "shop/orders",
            rule: "all",
            consumer: "",
            cache: "",
            idempotency: "",
            decision: "",
            decided_by: "",
            limit: "",
            limited: "",
            endpoint: "",
            status: 503,
            grpc_status: GrpcStatus::None,
            reason: "no_endpoints",
            detail: "",
            outcome: "complete",
            attempts: 1,
            attempt: 0,
            retried_after: "",
            duration_us: 5,
            request_bytes: 0,
            response_bytes: 0,
            trace_id: "",
            request_id: "",
        }
    }

    pub(super) fn facts(lot: u32) -> Facts {
        Facts {
            failed: false,
            audited: false,
            duration: Duration::ZERO,
            lot,
        }
    }

    async fn next(tap: &mut Tap) -> String {
        let frame = tap.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_tap_that_is_not_read_loses_lines_holds_nobody_up_and_is_told() {
        let taps = Arc::new(Taps::default());
        let mut slow = taps.open(Wanted::default()).unwrap();
        for _ in 0..QUEUE + 7 {
            taps.offer(&line(), facts(0));
        }
        let mut text = String::new();
        while text.lines().count() < QUEUE + 1 {
            text += &next(&mut slow).await;
        }
        assert_eq!(text.matches("{\"lost\":7}\n").count(), 1);
        // Told once.
        taps.offer(&line(), facts(0));
        assert!(!next(&mut slow).await.contains("lost"));
    }

    #[test]
    fn taps_are_few_and_cost_nothing_when_closed() {
        let taps = Arc::new(Taps::default());
        assert!(!taps.are_open());
        let mut open: Vec<_> = (0..MAX_TAPS)
            .map(|_| taps.open(Wanted::default()).unwrap())
            .collect();
        assert!(taps.open(Wanted::default()).is_none());
        open.pop();
        assert!(taps.open(Wanted::default()).is_some());
        open.clear();
        assert!(!taps.are_open());
    }
}
