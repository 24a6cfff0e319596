//! How long a request may go on while no byte of it moves, in either direction.
//!
//! Nothing is noted when bytes move: now and then it is looked whether any have. A request that
//! stands still is ended after its limit at the least, and a quarter of it more at the most. The
//! limit is its rule's (`ApiRoute.rules[].timeouts.idle`), or else [`super::limits::BODY_IDLE`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::error::Reason;

/// Looks without a move that make a request idle.
const LOOKS: u32 = 4;

/// Watches a body while it is waited for.
#[derive(Debug)]
pub struct Idle {
    limit: Duration,
    look: Option<Pin<Box<Sleep>>>,
    passed: u64,
    still: u32,
}

impl Idle {
    /// Nothing is watched before it is first waited for.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            look: None,
            passed: 0,
            still: 0,
        }
    }

    /// Ready when nothing has passed for the limit; `passed` is how much ever has.
    pub fn poll(&mut self, task: &mut Task<'_>, passed: u64) -> Poll<()> {
        let next = || Instant::now() + self.limit / LOOKS;
        let look = self.look.get_or_insert_with(|| {
            self.passed = passed;
            Box::pin(sleep_until(next()))
        });
        while look.as_mut().poll(task).is_ready() {
            match self.passed == passed {
                true => self.still += 1,
                false => self.still = 0,
            }
            if self.still == LOOKS {
                return Poll::Ready(());
            }
            self.passed = passed;
            look.as_mut().reset(next());
        }
        Poll::Pending
    }
}

/// Runs `work`, unless nothing has `moved` meanwhile for the limit.
///
/// # Errors
/// `idle_timeout`.
pub async fn bound<T>(
    limit: Duration,
    moved: impl Fn() -> u64,
    work: impl Future<Output = T>,
) -> Result<T, Reason> {
    let mut work = pin!(work);
    let mut still = 0;
    while still < LOOKS {
        let before = moved();
        match timeout(limit / LOOKS, work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if moved() == before => still += 1,
            Err(_) => still = 0,
        }
    }
    Err(Reason::IdleTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::context::RequestBytes;
    use crate::proxy::limits;
    use std::future::{pending, poll_fn};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_ended_and_one_that_moves_is_not() {
        let begun = Instant::now();
        let mut idle = Idle::new(limits::BODY_IDLE);
        // A byte now and then, for a day; then none.
        let stops = begun + 24 * limits::BODY_IDLE;
        let passed = || stops.min(Instant::now()).duration_since(begun).as_secs() / 60;
        poll_fn(|task| idle.poll(task, passed())).await;
        let ended = Instant::now();
        assert!(ended >= stops + limits::BODY_IDLE, "{:?}", ended - begun);
        assert!(
            ended <= stops + limits::BODY_IDLE * 5 / 4,
            "{:?}",
            ended - begun
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_that_is_shorter_than_the_limit_is_borne_and_a_longer_one_is_not() {
        const LIMIT: Duration = Duration::from_secs(30);
        for (silence, ends) in [(29, false), (38, true)] {
            let begun = Instant::now();
            let mut idle = Idle::new(LIMIT);
            let passed = || begun.elapsed().as_secs() / silence;
            let watched = poll_fn(|task| idle.poll(task, passed()));
            let ended = timeout(100 * LIMIT, watched).await;
            assert_eq!(ended.is_ok(), ends, "{silence} s");

            let sent = RequestBytes::counted();
            let moving = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(silence)).await;
                    sent.add(1);
                }
            };
            let answer = bound(LIMIT, || sent.get(), pending::<()>());
            let ended = tokio::select! {
                ended = timeout(100 * LIMIT, answer) => ended,
                () = moving => unreachable!("it never ends"),
            };
            assert_eq!(ended.ok(), ends.then_some(Err(Reason::IdleTimeout)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_while_the_request_moves() {
        let sent = RequestBytes::counted();
        let sending = async {
            for _ in 0..20 {
                sent.add(1);
                tokio::time::sleep(limits::BODY_IDLE / 2).await;
            }
            pending::<()>().await;
        };
        let begun = Instant::now();
        let answer = bound(limits::BODY_IDLE, || sent.get(), pending::<()>());
        let reason = tokio::select! {
            answer = answer => answer.unwrap_err(),
            () = sending => unreachable!("it never ends"),
        };
        assert_eq!(reason, Reason::IdleTimeout);
        assert!(begun.elapsed() >= 10 * limits::BODY_IDLE);
        assert!(begun.elapsed() <= 12 * limits::BODY_IDLE + Duration::from_secs(1));
    }
}
