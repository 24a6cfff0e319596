//! Hedging: a request that is still unanswered is sent a second time, elsewhere, and what answers first
//! counts.
//!
//! Phase: beside an attempt, in the caller's sidecar. From `RetryPolicy.hedging`; off without it. Clients
//! see one answer. Only a GET, HEAD or OPTIONS without a body is hedged, only to endpoints that it has
//! not been sent to yet, and only within the budget of retries ([`super::budget`]).

use std::time::Duration;

use http::Method;
use wire::mesh;

/// When a request is sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// How long the answer may take until the next is sent.
    pub after: Duration,
    /// How many more are sent at most.
    pub max: u32,
}

// === build ===

impl Hedging {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Hedging) -> Result<Self, String> {
        match (sent.after_ms, sent.max) {
            (1.., 1..=10) => Ok(Self {
                after: Duration::from_millis(sent.after_ms),
                max: sent.max,
            }),
            _ => Err("a hedge comes after some time, and there are 1 to 10".into()),
        }
    }
}

// === request ===

impl Hedging {
    /// Whether a request that has no body can be sent twice: its method changes nothing (RFC 9110
    /// section 9.2.1).
    pub fn suits(method: &Method) -> bool {
        [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_is_sent_twice() {
        let suits = |method: &str| Hedging::suits(&method.parse().unwrap());
        assert!(["GET", "HEAD", "OPTIONS"].into_iter().all(suits));
        assert!(
            !["POST", "PUT", "DELETE", "PATCH", "TRACE", "get"]
                .into_iter()
                .any(suits)
        );
    }

    #[test]
    fn a_hedge_without_delay_or_number_is_rejected() {
        for (after_ms, max) in [(0, 1), (1, 0), (1, 11)] {
            assert!(Hedging::build(mesh::Hedging { after_ms, max }).is_err());
        }
    }
}
