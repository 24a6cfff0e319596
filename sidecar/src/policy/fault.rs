//! Fault: a delay or an error that nobody but the route's author is to blame for.
//!
//! Phase: before all attempts, in the caller's sidecar. From `ApiRoute.rules[].fault`. Whether a
//! request is delayed and whether it is aborted are drawn independently. One that is aborted is
//! answered the status that the rule says, with reason `fault_injected`; the response to one that
//! was delayed is labelled with the same reason, so that nobody takes the delay for the service's.
//! A delay counts against the request timeout: when that passes first, the client sees 504 with
//! reason `request_timeout`.

use std::time::Duration;

use http::StatusCode;
use wire::mesh;

use super::Percent;
use super::timeout::Deadline;
use crate::proxy::error::{Error, Reason};

/// What is done to which share of the requests.
#[derive(Debug)]
pub struct Fault {
    delay: Option<(Duration, Percent)>,
    abort: Option<(StatusCode, Percent)>,
}

// === build ===

impl Fault {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Fault) -> Result<Self, String> {
        let delay = sent.delay.map(|delay| {
            let duration = Duration::from_millis(delay.duration_ms);
            Ok::<_, String>((duration, Percent::build(delay.percent)?))
        });
        let abort = sent.abort.map(|abort| {
            let status = u16::try_from(abort.status).ok();
            let status = status
                .filter(|status| (400..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok())
                .ok_or_else(|| format!("{} is no status of an error", abort.status))?;
            Ok::<_, String>((status, Percent::build(abort.percent)?))
        });
        Ok(Self {
            delay: delay.transpose()?,
            abort: abort.transpose()?,
        })
    }

    // === request ===

    /// Draws; says whether the request was delayed.
    ///
    /// # Errors
    /// `fault_injected`; `request_timeout` when the delay is longer.
    pub async fn inject(&self, deadline: Deadline) -> Result<bool, Error> {
        let delay = self.delay.filter(|(_, percent)| percent.draw());
        if let Some((duration, _)) = delay {
            let wait = async {
                tokio::time::sleep(duration).await;
                Ok(())
            };
            let late = |error: Error| Error::new(error.reason, "during an injected delay");
            deadline.bound(wait).await.map_err(late)?;
        }
        match self.abort {
            Some((status, percent)) if percent.draw() => {
                Err(Error::from(Reason::FaultInjected).with_status(status))
            }
            _ => Ok(delay.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn fault(delay: Option<(u64, u32)>, abort: Option<(u32, u32)>) -> Result<Fault, String> {
        Fault::build(mesh::Fault {
            delay: delay.map(|(duration_ms, percent)| mesh::FaultDelay {
                duration_ms,
                percent,
            }),
            abort: abort.map(|(status, percent)| mesh::FaultAbort { status, percent }),
        })
    }

    fn no_deadline() -> Deadline {
        Deadline::start(None, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_as_long_as_it_says_and_then_the_request_goes_on() {
        let fault = fault(Some((1500, 100)), None).unwrap();
        let began = Instant::now();
        assert!(fault.inject(no_deadline()).await.unwrap());
        assert_eq!(began.elapsed(), Duration::from_millis(1500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_counts_against_the_request_timeout() {
        let fault = fault(Some((1500, 100)), Some((500, 100))).unwrap();
        let began = Instant::now();
        let deadline = Deadline::start(Some(Duration::from_secs(1)), began);
        let error = fault.inject(deadline).await.unwrap_err();
        assert_eq!(error.reason, Reason::RequestTimeout);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_has_the_status_that_the_rule_says_and_the_reason_of_a_fault() {
        let fault = fault(None, Some((418, 100))).unwrap();
        let error = fault.inject(no_deadline()).await.unwrap_err();
        assert_eq!(error.reason, Reason::FaultInjected);
        assert_eq!(error.status().as_u16(), 418);
    }

    #[tokio::test(start_paused = true)]
    async fn whether_a_request_is_delayed_says_nothing_about_whether_it_is_aborted() {
        let fault = fault(Some((1, 50)), Some((500, 50))).unwrap();
        let mut seen = [0u32; 4];
        for _ in 0..4000 {
            let began = Instant::now();
            let aborted = fault.inject(no_deadline()).await.is_err();
            let delayed = !began.elapsed().is_zero();
            seen[usize::from(aborted) * 2 + usize::from(delayed)] += 1;
        }
        // Six standard deviations of 4 000 draws at a quarter are 164.
        assert!(seen.iter().all(|n| (836..=1164).contains(n)), "{seen:?}");
    }

    #[test]
    fn what_is_no_percentage_or_no_error_is_rejected() {
        for (delay, abort) in [
            (Some((1, 0)), None),
            (Some((1, 101)), None),
            (None, Some((500, 0))),
            (None, Some((200, 50))),
            (None, Some((600, 50))),
            (None, Some((70000, 50))),
        ] {
            assert!(fault(delay, abort).is_err(), "{delay:?} {abort:?}");
        }
    }
}
