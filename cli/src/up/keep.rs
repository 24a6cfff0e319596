//! Keeping a program running: started again when it ends, later each time.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep_until};

use super::enter::Launch;
use super::place::Namespaces;
use super::process;

/// The waits before starting again what ended: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A log that is longer is begun anew: a mesh may run for days, and each request has a line.
const LONGEST_LOG: u64 = 32 << 20;
/// Whoever ran this long has started well.
const STABLE: Duration = Duration::from_secs(60);

/// A program to keep running.
#[derive(Debug)]
pub(super) struct Command {
    /// What it is called in sentences.
    pub(super) what: String,
    pub(super) launch: Launch,
    pub(super) log: PathBuf,
}

/// A program being kept running.
pub(super) struct Kept<'a> {
    pub(super) command: &'a Command,
    namespaces: Option<&'a Namespaces>,
    pub(super) child: Option<Child>,
    log: Option<File>,
    since: Instant,
    /// When to start it (again).
    due: Option<Instant>,
    /// How long its log was when it was last started.
    pub(super) log_before: u64,
    /// How often it ended lately.
    pub(super) failures: u32,
}

/// What happened to a program.
pub(super) enum Happened {
    Started,
    /// How, as a phrase; it is started again after this pause.
    Ended(String, Duration),
}

// === impl Kept ===

impl<'a> Kept<'a> {
    /// Not started before [`Kept::begin`].
    pub(super) fn new(command: &'a Command, namespaces: Option<&'a Namespaces>) -> Self {
        Self {
            command,
            namespaces,
            child: None,
            log: None,
            since: Instant::now(),
            due: None,
            failures: 0,
            log_before: 0,
        }
    }

    /// Starts it, unless it was before.
    pub(super) fn begin(&mut self) {
        if self.child.is_none() && self.due.is_none() {
            self.due = Some(Instant::now());
        }
    }

    /// Begins its log anew when it has grown too long.
    pub(super) fn trim_log(&mut self) {
        if let Some(log) = &self.log
            && log
                .metadata()
                .is_ok_and(|metadata| metadata.len() > LONGEST_LOG)
            && log.set_len(0).is_ok()
        {
            // Whoever writes appends, so at the new end.
            self.log_before = 0;
        }
    }

    /// The last lines that it wrote in this life.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        process::last_lines(&self.command.log, self.log_before, count)
    }

    /// Waits for the next thing to happen to it. Cancel safe.
    pub(super) async fn next(&mut self) -> Happened {
        if let Some(child) = &mut self.child {
            let group = process::group(child);
            let status = child.wait().await;
            self.child = None;
            // What it started and left behind would be in its successor's way.
            process::kill(group);
            return self.ended(&how(status));
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        match self.start() {
            Ok(child) => {
                self.child = Some(child);
                self.since = Instant::now();
                Happened::Started
            }
            Err(error) => self.ended(&format!("it could not be started: {error}")),
        }
    }

    fn start(&mut self) -> std::io::Result<Child> {
        let log = match self.log.take() {
            Some(log) => log,
            None => process::log(&self.command.log)?,
        };
        self.log_before = log.metadata().map_or(0, |metadata| metadata.len());
        let child = process::start(&self.command.launch, &log, self.namespaces);
        self.log = Some(log);
        child
    }

    fn ended(&mut self, how: &str) -> Happened {
        if self.since.elapsed() > STABLE {
            self.failures = 0;
        }
        let pause = BACKOFF
            .0
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF.1);
        self.failures += 1;
        self.due = Some(Instant::now() + pause);
        Happened::Ended(how.to_owned(), pause)
    }
}

fn how(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), process::ending)
}
