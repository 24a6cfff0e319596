//! The circuit of a target that has no endpoint beside it, such as the one that events are delivered to: while it is open,
//! whoever wants to call waits.

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Circuit, CircuitBreaker, Fault};

/// A circuit, and when it opens and closes.
#[derive(Debug)]
pub struct Sole {
    breaker: CircuitBreaker,
    circuit: Circuit,
    /// Who tried it has ended.
    tried: Notify,
}

/// A call whose outcome the circuit is told. One that is dropped tells nothing.
#[derive(Debug)]
pub struct Call<'a> {
    sole: &'a Sole,
    /// The opening after which it tries; `None` when the circuit was closed.
    tries: Option<u64>,
}

// === impl Sole ===

impl Sole {
    /// One that is closed.
    pub fn new(breaker: CircuitBreaker) -> Self {
        Self {
            breaker,
            circuit: Circuit::default(),
            tried: Notify::new(),
        }
    }

    /// Calls, where that may be.
    ///
    /// # Errors
    /// Until when it is open at least; a moment that is over where somebody tries it now.
    pub fn enter(&self) -> Result<Call<'_>, Instant> {
        let entered = self.circuit.enter(&self.breaker);
        let tries = entered.ok_or_else(|| self.circuit.turn().until)?;
        Ok(Call { sole: self, tries })
    }

    /// Whether whoever wants to call may.
    pub fn is_closed(&self) -> bool {
        self.circuit.is_closed()
    }

    /// Until when nobody calls; `None` when somebody may, or may try.
    pub fn open_until(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let until = self.circuit.turn().until;
        (until > Instant::now()).then_some(until)
    }

    /// Waits until it may be worth while to enter again.
    pub async fn changed(&self, until: Instant) {
        match until > Instant::now() {
            true => sleep_until(until).await,
            false => {
                let tried = self.tried.notified();
                // Whoever tried may have ended just now.
                if !self.circuit.admits(&self.breaker) {
                    tried.await;
                }
            }
        }
    }
}

// === impl Call ===

impl Call<'_> {
    /// How it ended.
    pub fn ended(mut self, how: Result<(), Fault>) {
        let Sole {
            breaker, circuit, ..
        } = self.sole;
        let good = how.map_or_else(|fault| !breaker.counts(fault), |()| true);
        match self.tries.take() {
            Some(opening) => {
                let _ = circuit.tried(breaker, opening, Some(good));
                self.sole.tried.notify_waiters();
            }
            None if good => circuit.succeeded(breaker),
            None => {
                let _ = circuit.failed(breaker) && circuit.open(breaker);
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(opening) = self.tries {
            let Sole {
                breaker, circuit, ..
            } = self.sole;
            let _ = circuit.tried(breaker, opening, None);
            self.sole.tried.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;
    use wire::mesh;

    use super::*;

    fn sole() -> Sole {
        let sent = mesh::CircuitBreaker {
            consecutive_failures: 2,
            error_percent: 100,
            min_requests: 1000,
            window_ms: 10_000,
            on_5xx: true,
            on_timeout: true,
            open_for_ms: 10_000,
            max_open_for_ms: 15_000,
            half_open_requests: 1,
            max_ejected_percent: 100,
            ..mesh::CircuitBreaker::default()
        };
        Sole::new(CircuitBreaker::build(&sent).unwrap())
    }

    /// Whether one more failure has opened it.
    fn fails(sole: &Sole) -> bool {
        sole.enter().unwrap().ended(Err(Fault::ServerError));
        !sole.is_closed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_for_longer_and_longer_and_one_call_at_a_time_tries_it() {
        let sole = sole();
        assert!(!fails(&sole));
        // What is not counted says that it is well.
        sole.enter().unwrap().ended(Err(Fault::Reset));
        assert!(!fails(&sole));
        assert!(fails(&sole));
        let until = sole.enter().unwrap_err() - Instant::now();
        assert!((10_000..=12_500).contains(&until.as_millis()), "{until:?}");

        sole.changed(Instant::now() + until).await;
        let tries = sole.enter().unwrap();
        assert!(sole.enter().unwrap_err() <= Instant::now());
        tries.ended(Err(Fault::Timeout));
        let until = sole.enter().unwrap_err() - Instant::now();
        assert!((15_000..=18_750).contains(&until.as_millis()), "{until:?}");

        advance(until).await;
        sole.enter().unwrap().ended(Ok(()));
        assert!(sole.is_closed() && !fails(&sole));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_one_that_tries_goes_on_when_it_has_ended_or_was_dropped() {
        let sole = sole();
        fails(&sole);
        assert!(fails(&sole));
        advance(Duration::from_secs(13)).await;
        let tries = sole.enter().unwrap();
        let over = sole.enter().unwrap_err();
        let (changed, ()) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(1), sole.changed(over)),
            async {
                tokio::task::yield_now().await;
                drop(tries);
            }
        );
        assert!(changed.is_ok());
        let tries = sole.enter().unwrap();
        let over = sole.enter().unwrap_err();
        let waiting = sole.changed(over);
        tries.ended(Ok(()));
        // It has ended before anybody waited.
        waiting.await;
        assert!(sole.enter().is_ok());
    }
}
