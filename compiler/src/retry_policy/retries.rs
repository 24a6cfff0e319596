//! When a request is sent again, within which budget, and when an endpoint is not called.

use crds::{BackoffType, Condition, FailureOn, Jitter, StatusClass};
use wire::mesh::{self, backoff};

use super::Reader;

/// The methods that do the same however often a request arrives (RFC 9110 section 9.2.2), but TRACE.
const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];

/// Retries where `maxRetries` is not written.
const MAX_RETRIES: u32 = 2;

/// What is kept of a body where `maxReplayBytes` is not written.
const MAX_REPLAY_BYTES: u64 = 64 * 1024;

/// What `Exponential` multiplies by where `multiplier` is not written.
const MULTIPLIER: u32 = 2;

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn retries(&self) -> Option<mesh::Retries> {
        let spec = self.spec;
        spec.about_retries()?;
        let methods = match &spec.methods {
            Some(methods) => methods.iter().map(|one| one.as_str().to_owned()).collect(),
            None => IDEMPOTENT.map(str::to_owned).into(),
        };
        let retry_after = spec.retry_after.clone().unwrap_or_default();
        let key = spec.idempotency_key.as_ref();
        Some(mesh::Retries {
            max: spec.max_retries.unwrap_or(MAX_RETRIES),
            backoff: Some(backoff(&spec.backoff.clone().unwrap_or_default())),
            per_try_timeout_ms: spec.per_try_timeout.as_ref().map(crds::Duration::millis),
            on: Some(on(&spec.retry_on.clone().unwrap_or_default())),
            methods,
            idempotency_key: key.map_or_else(String::new, |key| key.header.to_ascii_lowercase()),
            retry_after_max_ms: retry_after.respect.then(|| retry_after.max.millis()),
            max_replay_bytes: spec.max_replay_bytes.unwrap_or(MAX_REPLAY_BYTES),
            hedging: spec.hedging.as_ref().map(|hedging| mesh::Hedging {
                after_ms: hedging.after.millis(),
                max: hedging.max,
            }),
        })
    }

    pub(super) fn budget(&self) -> Option<mesh::Budget> {
        let written = self.spec.budget.as_ref()?;
        Some(mesh::Budget {
            percent: written.percent,
            min_per_second: written.min_per_second,
            window_ms: written.window.millis(),
        })
    }

    pub(super) fn circuit_breaker(&self) -> Option<mesh::CircuitBreaker> {
        let written = self.spec.circuit_breaker.as_ref()?;
        let counts = |one| written.failure_on.contains(&one);
        Some(mesh::CircuitBreaker {
            consecutive_failures: written.consecutive_failures,
            error_percent: written.error_percent,
            min_requests: written.min_requests,
            window_ms: written.window.millis(),
            on_5xx: counts(FailureOn::ServerError),
            on_timeout: counts(FailureOn::Timeout),
            on_connect: counts(FailureOn::Connect),
            on_reset: counts(FailureOn::Reset),
            open_for_ms: written.open_for.millis(),
            max_open_for_ms: written.max_open_for.millis(),
            half_open_requests: written.half_open_requests,
            max_ejected_percent: written.max_ejected_percent,
        })
    }
}

pub(crate) fn backoff(written: &crds::Backoff) -> mesh::Backoff {
    let growth = match written.type_ {
        BackoffType::Exponential => backoff::Growth::Exponential,
        BackoffType::Linear => backoff::Growth::Linear,
        BackoffType::Constant => backoff::Growth::Constant,
    };
    let jitter = match written.jitter {
        Jitter::Full => backoff::Jitter::Full,
        Jitter::Equal => backoff::Jitter::Equal,
        Jitter::None => backoff::Jitter::None,
    };
    mesh::Backoff {
        growth: growth.into(),
        initial_ms: written.initial.millis(),
        multiplier: match written.type_ {
            BackoffType::Exponential => written.multiplier.unwrap_or(MULTIPLIER),
            BackoffType::Linear | BackoffType::Constant => 1,
        },
        max_ms: written.max.millis(),
        jitter: jitter.into(),
    }
}

fn on(written: &crds::RetryOn) -> mesh::RetryOn {
    let class = |one| written.status_classes.contains(&one);
    let condition = |one| written.conditions.contains(&one);
    mesh::RetryOn {
        statuses: written.status_codes.clone(),
        status_4xx: class(StatusClass::ClientError),
        status_5xx: class(StatusClass::ServerError),
        grpc_statuses: written.grpc_codes.iter().map(|code| *code as u32).collect(),
        connect_failure: condition(Condition::ConnectFailure),
        reset: condition(Condition::Reset),
        refused_stream: condition(Condition::RefusedStream),
        per_try_timeout: condition(Condition::PerTryTimeout),
    }
}
