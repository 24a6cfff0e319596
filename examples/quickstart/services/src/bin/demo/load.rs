//! Requests to the shop's published port, counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use quickstart::client::{self, Answer};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Requests in flight at a time.
pub(crate) const CALLERS: u64 = 4;

/// What became of some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Pages, by the version of `orders` that each of them names.
    pub(crate) pages: BTreeMap<String, u64>,
    /// What was answered instead of a page, and how often.
    pub(crate) failures: BTreeMap<String, u64>,
    /// When the last one of those was sent.
    pub(crate) last_failure: Option<Instant>,
}

/// Requests that go on until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    callers: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

/// Sends `count` requests for the page, a few at a time.
pub(crate) async fn send(url: &str, count: u64, headers: &[(&'static str, &'static str)]) -> Tally {
    let left = Arc::new(AtomicU64::new(count));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (url, headers, left) = (url.to_owned(), map(headers), left.clone());
        callers.spawn(async move {
            let mut tally = Tally::default();
            let one_less = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
            {
                let sent = Instant::now();
                tally.add(sent, client::call(Method::GET, &url, headers.clone()).await);
            }
            tally
        });
    }
    Tally::sum(callers.join_all().await)
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    headers.iter().map(header).collect()
}

// === impl Load ===

impl Load {
    /// Requests the page again and again, a few requests at a time, at most for `longest`.
    pub(crate) fn start(url: &str, longest: Duration) -> Self {
        let load = Self {
            callers: JoinSet::new(),
            stop: Arc::default(),
            answered: Arc::default(),
        };
        let end = Instant::now() + longest;
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (url, stop, answered) = (url.to_owned(), load.stop.clone(), load.answered.clone());
            callers.spawn(async move {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    let sent = Instant::now();
                    tally.add(sent, client::get(&url).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                tally
            });
        }
        Self { callers, ..load }
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends no more; what became of those sent.
    pub(crate) async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        Tally::sum(self.callers.join_all().await)
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, sent: Instant, answer: anyhow::Result<Answer>) {
        let what = match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                let page: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let version = page["ordersVersion"].as_str().unwrap_or_default();
                *self.pages.entry(version.to_owned()).or_default() += 1;
                return;
            }
            Ok(answer) => format!("{}: {}", answer.status, answer.text().trim()),
            Err(error) => format!("{error:#}"),
        };
        *self.failures.entry(what).or_default() += 1;
        self.last_failure = self.last_failure.max(Some(sent));
    }

    fn sum(tallies: Vec<Tally>) -> Self {
        let mut all = Tally::default();
        for tally in tallies {
            all.last_failure = all.last_failure.max(tally.last_failure);
            for (into, from) in [
                (&mut all.pages, tally.pages),
                (&mut all.failures, tally.failures),
            ] {
                for (what, n) in from {
                    *into.entry(what).or_default() += n;
                }
            }
        }
        all
    }

    /// Pages that name this version of `orders`.
    pub(crate) fn of(&self, version: &str) -> u64 {
        self.pages.get(version).copied().unwrap_or_default()
    }

    /// Pages received.
    pub(crate) fn answered(&self) -> u64 {
        self.pages.values().sum()
    }

    /// Requests that got no page.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// What was answered instead of a page, one line for each kind.
    pub(crate) fn complaints(&self) -> String {
        let lines = self
            .failures
            .iter()
            .map(|(what, n)| format!("\n  {n} times: {what}"));
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_page_is_a_failure_with_its_text() {
        let answer = |status, body: &'static str| {
            Ok(Answer {
                status,
                headers: HeaderMap::new(),
                body: body.into(),
            })
        };
        let mut tally = Tally::default();
        let now = Instant::now();
        tally.add(now, answer(StatusCode::OK, r#"{"ordersVersion": "v2"}"#));
        assert_eq!(tally.last_failure, None);
        tally.add(now, answer(StatusCode::BAD_GATEWAY, "broken\n"));
        let all = Tally::sum(vec![tally.clone(), tally]);
        assert_eq!((all.of("v2"), all.answered(), all.failed()), (2, 2, 2));
        assert_eq!(all.last_failure, Some(now));
        assert_eq!(all.complaints(), "\n  2 times: 502 Bad Gateway: broken");
    }
}
