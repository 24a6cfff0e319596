//! An answer that takes long to make: whoever asks, it is made by one at a time, aside from those who
//! serve, and again only after a while.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An answer is given for so many times as long as it took to make: nobody who asks without end takes
/// more than a tenth of a processor.
const SHARE: u32 = 10;
/// For how long it is given at the least, and at the most.
const KEPT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The answer that was made last. Cheap to share.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Option<Made>>>);

#[derive(Debug)]
struct Made {
    answer: Bytes,
    until: Instant,
}

// === impl Kept ===

impl Kept {
    /// The answer; `make` makes it where there is none that is new enough.
    ///
    /// # Errors
    /// What `make` says, and that it failed.
    pub(super) async fn get<E>(
        &self,
        make: impl FnOnce() -> Result<Bytes, E> + Send + 'static,
    ) -> Result<Bytes, String>
    where
        E: std::fmt::Display + Send + 'static,
    {
        let mut last = self.0.clone().lock_owned().await;
        if let Some(made) = last.as_ref().filter(|made| Instant::now() < made.until) {
            return Ok(made.answer.clone());
        }
        // The lock goes with it: who asks and is gone begins no second one beside it.
        let making = tokio::task::spawn_blocking(move || {
            let begun = std::time::Instant::now();
            let answer = make()?;
            *last = Some(Made {
                answer: answer.clone(),
                until: Instant::now() + kept_for(begun.elapsed()),
            });
            Ok(answer)
        });
        match making.await {
            Ok(made) => made.map_err(|why: E| why.to_string()),
            Err(failed) => Err(failed.to_string()),
        }
    }
}

/// How long an answer is given that took so long.
fn kept_for(took: Duration) -> Duration {
    let (least, most) = KEPT;
    took.saturating_mul(SHARE).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::time::advance;

    use super::*;

    fn counted(made: &Arc<AtomicUsize>) -> impl FnOnce() -> Result<Bytes, Infallible> + use<> {
        let made = made.clone();
        move || {
            let count = made.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(Bytes::from(count.to_string()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_made_once_for_all_who_ask_within_a_while() {
        let (kept, made) = (Kept::default(), Arc::default());
        for _ in 0..3 {
            assert_eq!(kept.get(counted(&made)).await.unwrap(), "1");
        }
        advance(KEPT.1).await;
        assert_eq!(kept.get(counted(&made)).await.unwrap(), "2");
    }

    #[tokio::test]
    async fn one_answer_is_made_at_a_time_even_for_who_asks_and_is_gone() {
        let (kept, made) = (Kept::default(), Arc::<AtomicUsize>::default());
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let (go, going) = mpsc::channel::<()>();
        let slow = {
            let kept = kept.clone();
            let make = counted(&made);
            tokio::spawn(async move {
                kept.get(move || {
                    let _ = begun.send(());
                    let _ = going.recv();
                    make()
                })
                .await
            })
        };
        begins.recv().await.unwrap();
        slow.abort();
        assert!(slow.await.unwrap_err().is_cancelled());
        let others = (0..10).map(|_| kept.get(counted(&made)));
        let others = futures::future::join_all(others);
        let (others, sent) = futures::join!(others, async { go.send(()) });
        sent.unwrap();
        assert!(others.iter().all(|answer| answer.as_deref() == Ok(b"1")));
    }

    #[test]
    fn what_takes_longer_is_kept_longer_and_a_second_at_most() {
        let millis = Duration::from_millis;
        for (took, kept) in [(1, 100), (40, 400), (100, 1000), (9000, 1000)] {
            assert_eq!(kept_for(millis(took)), millis(kept), "{took}");
        }
    }
}
