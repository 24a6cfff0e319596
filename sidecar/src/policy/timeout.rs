//! Request timeout: an end to waiting, counted from the request's head to the response's last byte.
//!
//! Phase: around all attempts of a request, in the caller's sidecar. From
//! `ApiRoute.rules[].timeouts.request`, and from the caller's `grpc-timeout` if that is sooner. When it passes before the response's head, the client sees
//! 504 with reason `request_timeout`; when it passes later, the response is cut off, because a
//! status that has been sent cannot be taken back.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::error::{Error, Reason};

/// The instant when a request must have ended, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

// === request ===

impl Deadline {
    /// Starts counting at `from`.
    pub fn start(timeout: Option<Duration>, from: Instant) -> Self {
        Self(timeout.and_then(|timeout| from.checked_add(timeout)))
    }

    /// This one, or the one that the caller set itself when that comes first.
    pub fn or_sooner(self, timeout: Option<Duration>, from: Instant) -> Self {
        match (self.0, Self::start(timeout, from).0) {
            (Some(own), Some(callers)) => Self(Some(own.min(callers))),
            (own, callers) => Self(own.or(callers)),
        }
    }

    /// When, if ever.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Runs `work` until it ends or the deadline passes.
    ///
    /// # Errors
    /// What `work` fails with, or `request_timeout`.
    pub async fn bound<T>(self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.0 {
            // Without a deadline no timer is touched.
            None => work.await,
            Some(deadline) => tokio::time::timeout_at(deadline, work)
                .await
                .unwrap_or_else(|_| Err(Reason::RequestTimeout.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_outlasts_the_timeout_ends_with_its_reason() {
        let deadline = Deadline::start(Some(Duration::from_millis(250)), Instant::now());
        let late = deadline.bound(async {
            tokio::time::sleep(Duration::from_millis(251)).await;
            Ok(())
        });
        assert_eq!(late.await.unwrap_err().reason, Reason::RequestTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn work_within_the_timeout_or_without_one_ends_by_itself() {
        for timeout in [None, Some(Duration::from_secs(2))] {
            let deadline = Deadline::start(timeout, Instant::now());
            let work = deadline.bound(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(7)
            });
            assert_eq!(work.await.unwrap(), 7);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_routes_and_the_callers_deadline_the_sooner_holds() {
        let now = Instant::now();
        let second = Some(Duration::from_secs(1));
        let minute = Some(Duration::from_secs(60));
        for (own, callers) in [
            (second, minute),
            (minute, second),
            (None, second),
            (second, None),
        ] {
            let deadline = Deadline::start(own, now).or_sooner(callers, now);
            assert_eq!(deadline.instant(), now.checked_add(Duration::from_secs(1)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_before_an_attempt_counts() {
        let from = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        let deadline = Deadline::start(Some(Duration::from_secs(1)), from);
        let never = deadline.bound(std::future::pending::<Result<(), Error>>());
        assert_eq!(never.await.unwrap_err().reason, Reason::RequestTimeout);
    }
}
