//! Policies: one file each, all with the same anatomy.
//!
//! | policy | phase | CRD field | verb |
//! |---|---|---|---|
//! | [`authentication`] | before the application, at the destination | `ApiRoute.auth` | `check` |
//! | [`authorization`] | before the application, at the destination | `ApiRoute.authorization` | `decide` |
//! | [`body_limit`] | before all attempts, while the body streams | `ApiRoute.rules[].maxRequestBytes` | `guard` |
//! | [`cache`] | before the application, at the destination | `ApiRoute.cache` | `consult` |
//! | [`compression`] | after all attempts, while the body streams | `ApiRoute.rules[].compression` | `apply` |
//! | [`concurrency`] | before all attempts, until the response has ended | `ApiRoute.rules[].concurrency` | `enter` |
//! | [`cors`] | before and after all attempts | `ApiRoute.rules[].cors` | `preflight`, `share` |
//! | [`direct_response`] | instead of any attempt | `ApiRoute.rules[].directResponse` | `answer` |
//! | [`fault`] | before all attempts | `ApiRoute.rules[].fault` | `inject` |
//! | [`header_edits`] | before and after all attempts | `ApiRoute.rules[].requestHeaders`, `responseHeaders` | `apply` |
//! | [`idempotency`] | before the application, at the destination | `ApiRoute.idempotency` | `claim` |
//! | [`mirror`] | beside all attempts | `ApiRoute.rules[].mirror` | `draw` |
//! | [`rate_limit`] | before the application, at the destination | `RateLimit.limits` | `take` |
//! | [`redirect`] | instead of any attempt | `ApiRoute.rules[].redirect` | `answer` |
//! | [`rewrite`] | before all attempts | `ApiRoute.rules[].rewrite` | `apply` |
//! | [`timeout`] | around all attempts | `ApiRoute.rules[].timeouts.request`, `grpc-timeout` | `start` |
//! | [`retry`] | between attempts | `RetryPolicy.maxRetries` and what is beside it | `want`, `wait` |
//! | [`budget`] | between attempts | `RetryPolicy.budget` | `requested`, `take` |
//! | [`hedging`] | beside an attempt | `RetryPolicy.hedging` | `suits` |
//! | [`circuit_breaker`] | endpoint | `RetryPolicy.circuitBreaker` | `admit`, `enter`, `failed` |
//! | [`load_balancer`] | endpoint | `RetryPolicy.loadBalancing` | `pick` |
//! | [`health_check`] | endpoint | `RetryPolicy.healthCheck` | `observe` |
//!
//! The anatomy of a file: what it does, in which phase, from which field, and what a client sees
//! when it says no; the runtime type; how it is built; its verb; tests on a paused clock.

pub mod authentication;
pub mod authorization;
pub mod body_limit;
pub mod budget;
pub mod cache;
pub mod circuit_breaker;
pub mod compression;
pub mod concurrency;
pub mod cors;
pub mod direct_response;
pub mod fault;
pub mod header_edits;
pub mod health_check;
pub mod hedging;
pub mod idempotency;
pub mod load_balancer;
pub mod mirror;
pub mod rate_limit;
pub mod redirect;
pub mod retry;
pub mod rewrite;
pub mod timeout;

use rand::Rng as _;

/// A share of requests, drawn for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u32);

// === impl Percent ===

impl Percent {
    /// Builds from what was sent: 1 to 100.
    ///
    /// # Errors
    /// A sentence.
    pub fn build(sent: u32) -> Result<Self, String> {
        match sent {
            1..=100 => Ok(Self(sent)),
            other => Err(format!("{other} is no percentage from 1 to 100")),
        }
    }

    /// Whether the next one belongs to the share.
    pub fn draw(self) -> bool {
        self.0 == 100 || rand::rng().random_range(0..100) < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_belongs_to_the_share_with_its_probability() {
        let drawn = |percent| {
            let percent = Percent::build(percent).unwrap();
            (0..10_000).filter(|_| percent.draw()).count()
        };
        assert_eq!(drawn(100), 10_000);
        // Six standard deviations of 10 000 draws at 30 % are 275, at 1 % 60.
        assert!((2725..=3275).contains(&drawn(30)));
        assert!((40..=160).contains(&drawn(1)));
    }
}
