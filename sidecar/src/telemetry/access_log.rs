//! One JSON line for each request: who called what, and how it ended.
//!
//! No query strings, no bodies, no header values but the host: what is not written cannot leak.
//! Lines are written by a thread of their own; when it cannot keep up they are dropped and
//! counted, because a slow disk must not slow requests.

pub mod selection;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use self::selection::{Facts, Selected, Selection};
use super::metrics::GrpcStatus;
use super::tap::Taps;

/// Lines waiting for the writer.
const QUEUE: usize = 4096;

/// One request. Serialised in this order.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// RFC 3339, UTC, when the request's head arrived.
    pub time: Timestamp,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// The request's method.
    pub method: &'a str,
    /// As sent in `:authority` or `Host`.
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// The SPIFFE id of the caller, on inbound requests.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'a str,
    /// `namespace/service`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub service: &'a str,
    /// `namespace/name` of the ApiRoute.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    /// The rule of the ApiRoute.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    /// The consumer whose key came with the request.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub consumer: &'a str,
    /// What an ApiRoute's `authorization` decided: `allowed`, `denied`, or `would_deny`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub decision: &'a str,
    /// The rule of `authorization` that decided; none when it was denied because none allows it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub decided_by: &'a str,
    /// What became of it where an ApiRoute's `cache` keeps answers: `hit`, `stale`, `revalidated`,
    /// `collapsed`, `miss` or `bypass`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub cache: &'a str,
    /// The limit of a RateLimit that it met: `namespace/name/limit`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub limit: &'a str,
    /// What that did: `limited`, `delayed`, or `would_limit`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub limited: &'a str,
    /// What became of it where an ApiRoute's `idempotency` carries calls out once: `first`, `unkept`,
    /// `released`, `replayed`, `conflict`, `in_progress`, `unknown`, `key_required`, `unavailable` or
    /// `unprotected`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub idempotency: &'a str,
    /// `namespace/pod` that answered.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub endpoint: &'a str,
    /// 0 when the caller went away before there was one.
    pub status: u16,
    /// The status of a gRPC answer.
    #[serde(skip_serializing_if = "GrpcStatus::is_none")]
    pub grpc_status: GrpcStatus,
    /// Why the mesh answered itself, or delayed; see `proxy::error`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    /// For the person on call.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
    /// `complete`, `cancelled` (the caller went away) or `failed` (after the response had begun).
    pub outcome: &'static str,
    /// Attempts, hedges included.
    pub attempts: u32,
    /// Which of its caller's attempts it was, as a peer says, from the second on.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// What the last of them but the first followed: `connect_failure`, `refused_stream`, `reset`,
    /// `per_try_timeout`, `status` or `grpc_status`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub retried_after: &'a str,
    /// From the request's head to the response's last byte, microseconds.
    pub duration_us: u64,
    /// Body bytes of the request that were passed on.
    pub request_bytes: u64,
    /// Body bytes of the response that were passed on.
    pub response_bytes: u64,
    /// Of `traceparent`: the same at every hop of a call.
    pub trace_id: &'a str,
    /// Of `x-request-id`.
    pub request_id: &'a str,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A point in time, written as RFC 3339 with microseconds.
#[derive(Debug)]
pub struct Timestamp(pub SystemTime);

/// Where lines go; what is dropped is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<To>);

#[derive(Debug)]
struct To {
    lines: Option<SyncSender<Vec<u8>>>,
    selected: Arc<Selected>,
    taps: Arc<Taps>,
    dropped: Counter,
}

// === impl Timestamp ===

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match jiff::Timestamp::try_from(self.0) {
            Ok(time) => to.collect_str(&format_args!("{time:.6}")),
            Err(_) => to.serialize_none(),
        }
    }
}

// === impl AccessLog ===

impl AccessLog {
    /// Writes to standard output, from a thread of its own; the second is told when everything
    /// has been written and no [`AccessLog`] is left.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to_stdout(selection: Selection, dropped: Counter) -> io::Result<(Self, Receiver<()>)> {
        Self::to(io::stdout(), selection, dropped)
    }

    /// As [`AccessLog::to_stdout`], to `writer`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to(
        writer: impl Write + Send + 'static,
        selection: Selection,
        dropped: Counter,
    ) -> io::Result<(Self, Receiver<()>)> {
        let (lines, queue) = sync_channel(QUEUE);
        let (done, written) = sync_channel(1);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                write_all(&queue, writer);
                drop(done);
            })?;
        let log = To {
            lines: Some(lines),
            selected: Arc::new(Selected::new(selection)),
            taps: Arc::default(),
            dropped,
        };
        Ok((Self(Arc::new(log)), written))
    }

    /// Writes nothing; requests can be watched all the same.
    pub fn off() -> Self {
        Self(Arc::new(To {
            lines: None,
            selected: Arc::new(Selected::new(Selection::default())),
            taps: Arc::default(),
            dropped: Counter::default(),
        }))
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.0.lines.is_some()
    }

    /// Which requests are written, in every clone; `None` when none ever are.
    pub fn selected(&self) -> Option<Arc<Selected>> {
        self.is_on().then(|| self.0.selected.clone())
    }

    /// Whether a request is written.
    pub fn includes(&self, facts: Facts) -> bool {
        self.is_on() && (facts.audited || self.0.selected.get().includes(facts))
    }

    /// Who watches live, in every clone.
    pub fn taps(&self) -> &Arc<Taps> {
        &self.0.taps
    }

    /// A request has ended: it is written if it is selected, and shown to who watches. Its line is
    /// made only then.
    pub fn ended<'a>(&self, facts: Facts, line: impl FnOnce() -> Line<'a>) {
        let (written, watched) = (self.includes(facts), self.0.taps.are_open());
        if !written && !watched {
            return;
        }
        let line = line();
        if written {
            self.write(&line);
        }
        if watched {
            self.0.taps.offer(&line, facts);
        }
    }

    /// Queues a line.
    pub fn write(&self, line: &Line<'_>) {
        let Some(lines) = &self.0.lines else { return };
        let mut bytes = Vec::with_capacity(512);
        if serde_json::to_writer(&mut bytes, line).is_err() {
            return;
        }
        bytes.push(b'\n');
        match lines.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.0.dropped.inc();
            }
        }
    }
}

/// Writes what is queued, many lines with one call where many wait.
fn write_all(queue: &Receiver<Vec<u8>>, mut writer: impl Write) {
    while let Ok(mut batch) = queue.recv() {
        while batch.len() < 64 * 1024 {
            match queue.try_recv() {
                Ok(line) => batch.extend_from_slice(&line),
                Err(_) => break,
            }
        }
        if writer
            .write_all(&batch)
            .and_then(|()| writer.flush())
            .is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);
    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line() -> Line<'static> {
        Line {
            time: Timestamp(SystemTime::UNIX_EPOCH),
            direction: "outbound",
            method: "GET",
            host: "orders",
            path: "/",
            source: "",
            service: "",
            route: "",
            rule: "",
            consumer: "",
            cache: "",
            idempotency: "",
            decision: "",
            decided_by: "",
            limit: "",
            limited: "",
            endpoint: "",
            status: 200,
            grpc_status: GrpcStatus::None,
            reason: "",
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

    #[test]
    fn every_line_is_written_before_the_process_may_end() {
        let to = Written::default();
        let (log, written) =
            AccessLog::to(to.clone(), Selection::default(), Counter::default()).unwrap();
        for _ in 0..100 {
            log.write(&line());
        }
        drop(log);
        // The writer hangs up when it is done.
        assert!(written.recv().is_err());
        let text = String::from_utf8(to.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(
            text.starts_with(r#"{"time":"1970-01-01T00:00:00.000000Z","direction":"outbound""#),
            "{text}"
        );
    }

    #[test]
    fn a_line_is_made_only_when_somebody_is_to_have_it() {
        let log = AccessLog::off();
        let facts = Facts {
            audited: false,
            failed: true,
            duration: std::time::Duration::ZERO,
            lot: 0,
        };
        let made = std::cell::Cell::new(0);
        let ended = || {
            log.ended(facts, || {
                made.set(made.get() + 1);
                line()
            });
            made.get()
        };
        assert_eq!(ended(), 0);
        let tap = log.taps().open(Default::default());
        assert_eq!(ended(), 1);
        drop(tap);
        assert_eq!(ended(), 1);
    }

    /// Takes nothing until it is let.
    struct Stuck(std::sync::mpsc::Receiver<()>, Written);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Returns at once when the other end is gone.
            let _ = self.0.recv();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_stuck_holds_nobody_up_and_what_it_misses_is_counted() {
        let to = Written::default();
        let (stuck, letting) = std::sync::mpsc::channel();
        let dropped = Counter::default();
        let writer = Stuck(letting, to.clone());
        let (log, written) = AccessLog::to(writer, Selection::default(), dropped.clone()).unwrap();
        let lines = 3 * QUEUE;
        for _ in 0..lines {
            log.write(&line());
        }
        assert!(dropped.get() > 0);
        drop(stuck);
        drop(log);
        assert!(written.recv().is_err());
        let text = String::from_utf8(to.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count() as u64 + dropped.get(), lines as u64);
    }
}
