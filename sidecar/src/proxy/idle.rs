//! How long a request may go on while no byte of it moves, in either direction.
//!
//! Nothing is noted when bytes move: once in a long while it is looked whether any have. A request
//! that stands still is ended after [`limits::BODY_IDLE`] at the least, and twice that at the most.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};

use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::context::RequestBytes;
use super::error::Reason;
use super::limits;

/// Watches a body while it is waited for.
#[derive(Debug, Default)]
pub struct Idle {
    look: Option<Pin<Box<Sleep>>>,
    passed: u64,
}

impl Idle {
    /// Ready when nothing has passed since the last look; `passed` is how much ever has.
    pub fn poll(&mut self, task: &mut Task<'_>, passed: u64) -> Poll<()> {
        let next = || Instant::now() + limits::BODY_IDLE;
        let look = self.look.get_or_insert_with(|| {
            self.passed = passed;
            Box::pin(sleep_until(next()))
        });
        while look.as_mut().poll(task).is_ready() {
            if self.passed == passed {
                return Poll::Ready(());
            }
            self.passed = passed;
            look.as_mut().reset(next());
        }
        Poll::Pending
    }
}

/// Runs `work`, which waits for an answer, as long as something of the request is `sent`.
///
/// # Errors
/// `idle_timeout`.
pub async fn bound<T>(sent: RequestBytes, work: impl Future<Output = T>) -> Result<T, Reason> {
    let mut work = pin!(work);
    loop {
        let before = sent.get();
        match timeout(limits::BODY_IDLE, work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if sent.get() == before => return Err(Reason::IdleTimeout),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_ended_and_one_that_moves_is_not() {
        let begun = Instant::now();
        let mut idle = Idle::default();
        // A byte now and then, for a day; then none.
        let stops = begun + 24 * limits::BODY_IDLE;
        let passed = || stops.min(Instant::now()).duration_since(begun).as_secs() / 60;
        poll_fn(|task| idle.poll(task, passed())).await;
        let ended = Instant::now();
        assert!(ended >= stops + limits::BODY_IDLE, "{:?}", ended - begun);
        assert!(
            ended <= stops + 2 * limits::BODY_IDLE,
            "{:?}",
            ended - begun
        );
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
        let answer = bound(sent.clone(), pending::<()>());
        let reason = tokio::select! {
            answer = answer => answer.unwrap_err(),
            () = sending => unreachable!("it never ends"),
        };
        assert_eq!(reason, Reason::IdleTimeout);
        assert!(begun.elapsed() >= 10 * limits::BODY_IDLE);
        assert!(begun.elapsed() <= 12 * limits::BODY_IDLE + Duration::from_secs(1));
    }
}
