//! Retries: whether a request is sent again, and when.
//!
//! Phase: between attempts, in the caller's sidecar and nowhere else. From `RetryPolicy.maxRetries`,
//! `backoff`, `perTryTimeout`, `retryOn`, `methods`, `idempotencyKey`, `retryAfter` and `maxReplayBytes`;
//! without any of them, [`Retries::without_policy`]. A client sees the last answer, or 504 with reason
//! `try_timeout` when the last try took too long. `proxy/attempts.rs` carries it out, within the budget
//! ([`super::budget`]).
//!
//! What surely reached no application is sent again whatever the method: the endpoint could not be
//! connected to, it refused the stream before it was read (RFC 9113 section 8.7), or the sidecar beside
//! it says so. All else only if the method is one of those named, or the request has the header with
//! which its sender says that it can be repeated.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};
use http::{HeaderName, Method, Request, StatusCode};
use rand::Rng;
use wire::mesh::{self, backoff};

use super::hedging::Hedging;

/// No span of a policy is longer.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// When a request is sent again.
#[derive(Debug, PartialEq, Eq)]
pub struct Retries {
    /// `namespace/name` of the RetryPolicy; empty without one.
    pub object: String,
    /// The first try not counted.
    pub max: u32,
    /// How long before each.
    pub backoff: Backoff,
    /// Until the response begins.
    pub per_try_timeout: Option<Duration>,
    /// The longest wait that an answer asks for, if that counts.
    pub retry_after: Option<Duration>,
    /// How much is kept of a body.
    pub max_replay_bytes: u64,
    /// Whether it is sent while another try is still unanswered.
    pub hedging: Option<Hedging>,
    on: On,
    methods: Vec<Method>,
    key: Option<HeaderName>,
}

/// How long before each retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    growth: Growth,
    initial: Duration,
    max: Duration,
    jitter: Jitter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Exponential(u32),
    Linear,
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jitter {
    Full,
    Equal,
    None,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct On {
    statuses: Vec<u16>,
    grpc_statuses: Vec<u16>,
    client_errors: bool,
    server_errors: bool,
    connect_failure: bool,
    reset: bool,
    refused_stream: bool,
    per_try_timeout: bool,
}

/// What became of an attempt that may be followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The endpoint can't be connected to.
    ConnectFailure,
    /// The application never got it, as the endpoint or its sidecar says.
    RefusedStream,
    /// The connection ended before the response began.
    Reset,
    /// It took too long.
    PerTryTimeout,
    /// The application's answer.
    Status(StatusCode),
    /// The application's answer, without any message.
    Grpc(u16),
}

// === build ===

impl Retries {
    /// What holds without a policy: nobody writes any to survive that endpoints come and go. Only what
    /// surely reached nobody is sent again.
    pub fn without_policy() -> &'static Self {
        static DEFAULT: LazyLock<Retries> = LazyLock::new(|| Retries {
            object: String::new(),
            max: 2,
            backoff: Backoff {
                growth: Growth::Exponential(2),
                initial: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: Jitter::Full,
            },
            per_try_timeout: None,
            retry_after: None,
            max_replay_bytes: 64 * 1024,
            hedging: None,
            on: On {
                connect_failure: true,
                refused_stream: true,
                ..On::default()
            },
            methods: Vec::new(),
            key: None,
        });
        &DEFAULT
    }

    /// Builds from what was sent. `object` is the RetryPolicy's `namespace/name`.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Retries, object: &str) -> Result<Self, String> {
        let on = sent.on.ok_or("it doesn't say after which failures")?;
        let spans = [sent.per_try_timeout_ms, sent.retry_after_max_ms];
        if !spans
            .iter()
            .flatten()
            .all(|span| (1..=DAY_MS).contains(span))
        {
            return Err("times are more than nothing and no more than a day".into());
        }
        let methods = sent.methods.iter().map(|name| {
            let unknown = |_| format!("`{name}` is no method");
            Method::from_bytes(name.as_bytes()).map_err(unknown)
        });
        let key = match &*sent.idempotency_key {
            "" => None,
            name => Some(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{name}` is no header"))?,
            ),
        };
        Ok(Self {
            object: object.to_owned(),
            max: sent.max.min(10),
            backoff: Backoff::build(sent.backoff.ok_or("it has no backoff")?)?,
            per_try_timeout: sent.per_try_timeout_ms.map(Duration::from_millis),
            retry_after: sent.retry_after_max_ms.map(Duration::from_millis),
            max_replay_bytes: sent.max_replay_bytes.min(1 << 20),
            hedging: sent.hedging.map(Hedging::build).transpose()?,
            on: On::build(on)?,
            methods: methods.collect::<Result<_, _>>()?,
            key,
        })
    }
}

impl Backoff {
    /// No wait at all, where nothing is sent again.
    pub const NONE: Self = Self {
        growth: Growth::Constant,
        initial: Duration::ZERO,
        max: Duration::ZERO,
        jitter: Jitter::None,
    };

    /// Builds from what was sent.
    ///
    /// # Errors
    /// What of it is not known.
    pub fn build(sent: mesh::Backoff) -> Result<Self, String> {
        let growth = match sent.growth() {
            backoff::Growth::Exponential => Growth::Exponential(sent.multiplier.max(1)),
            backoff::Growth::Linear => Growth::Linear,
            backoff::Growth::Constant => Growth::Constant,
            backoff::Growth::Unspecified => {
                return Err("how the backoff grows is not known to this sidecar".into());
            }
        };
        let jitter = match sent.jitter() {
            backoff::Jitter::Full => Jitter::Full,
            backoff::Jitter::Equal => Jitter::Equal,
            backoff::Jitter::None => Jitter::None,
            backoff::Jitter::Unspecified => {
                return Err("how the backoff is drawn is not known to this sidecar".into());
            }
        };
        Ok(Self {
            growth,
            initial: Duration::from_millis(sent.initial_ms.min(DAY_MS)),
            max: Duration::from_millis(sent.max_ms.min(DAY_MS)),
            jitter,
        })
    }
}

impl On {
    fn build(sent: mesh::RetryOn) -> Result<Self, String> {
        let numbers = |sent: Vec<u32>| {
            let numbers = sent
                .into_iter()
                .map(|number| u16::try_from(number).map_err(|_| format!("{number} is no status")));
            numbers.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            statuses: numbers(sent.statuses)?,
            grpc_statuses: numbers(sent.grpc_statuses)?,
            client_errors: sent.status_4xx,
            server_errors: sent.status_5xx,
            connect_failure: sent.connect_failure,
            reset: sent.reset,
            refused_stream: sent.refused_stream,
            per_try_timeout: sent.per_try_timeout,
        })
    }
}

// === request ===

impl Retries {
    /// Whether such a failure is one after which a request is sent again.
    pub fn want(&self, failure: Failure) -> bool {
        let on = &self.on;
        match failure {
            Failure::ConnectFailure => on.connect_failure,
            Failure::RefusedStream => on.refused_stream,
            Failure::Reset => on.reset,
            Failure::PerTryTimeout => on.per_try_timeout,
            Failure::Status(status) => {
                on.statuses.contains(&status.as_u16())
                    || on.client_errors && status.is_client_error()
                    || on.server_errors && status.is_server_error()
            }
            Failure::Grpc(status) => on.grpc_statuses.contains(&status),
        }
    }

    /// Whether a request may arrive twice.
    pub fn repeat<B>(&self, request: &Request<B>) -> bool {
        let (key, headers) = (self.key.as_ref(), request.headers());
        self.methods.contains(request.method()) || key.is_some_and(|key| headers.contains_key(key))
    }

    /// How long to wait before the next, after so many retries; `asked` by the answer, if it has.
    pub fn wait(&self, retried: u32, asked: Option<Duration>) -> Duration {
        let asked = asked
            .zip(self.retry_after)
            .map(|(asked, most)| asked.min(most));
        self.backoff.wait(retried).max(asked.unwrap_or_default())
    }
}

impl std::fmt::Display for Retries {
    /// As people are told it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = &self.on;
        let conditions = [
            (on.connect_failure, "a connect failure"),
            (on.refused_stream, "a refused stream"),
            (on.reset, "a reset"),
            (on.per_try_timeout, "a try that takes too long"),
            (on.client_errors, "4xx"),
            (on.server_errors, "5xx"),
        ];
        let conditions = conditions.into_iter().filter(|(on, _)| *on);
        let statuses = on.statuses.iter().map(u16::to_string);
        let grpc = on.grpc_statuses.iter().map(|code| format!("grpc {code}"));
        let after = conditions.map(|(_, name)| name.to_owned());
        let after: Vec<_> = after.chain(statuses).chain(grpc).collect();
        match self.max {
            0 => f.write_str("never sent again")?,
            max => {
                let times = if max == 1 { "time" } else { "times" };
                write!(
                    f,
                    "sent again up to {max} {times} after {}",
                    after.join(", ")
                )?;
                let methods = self.methods.iter().map(Method::as_str);
                let methods = Vec::from_iter(methods).join(", ");
                write!(f, "; what may have arrived only if it is {methods}")?;
                if let Some(key) = &self.key {
                    write!(f, " or has {key}")?;
                }
            }
        }
        if let Some(timeout) = self.per_try_timeout {
            write!(f, "; each try within {timeout:?}")?;
        }
        if let Some(hedging) = self.hedging {
            write!(f, "; a hedge after {:?}", hedging.after)?;
        }
        Ok(())
    }
}

impl Backoff {
    /// The wait after so many retries.
    pub fn wait(&self, retried: u32) -> Duration {
        let whole = self.whole(retried);
        let drawn = rand::rng().random_range(0.0..=1.0);
        match self.jitter {
            Jitter::None => whole,
            Jitter::Full => whole.mul_f64(drawn),
            Jitter::Equal => whole.mul_f64(0.5 + drawn / 2.0),
        }
    }

    /// Before anything is drawn.
    fn whole(&self, retried: u32) -> Duration {
        let factor = match self.growth {
            Growth::Exponential(by) => by.saturating_pow(retried),
            Growth::Linear => retried.saturating_add(1),
            Growth::Constant => 1,
        };
        self.initial.saturating_mul(factor).min(self.max)
    }
}

impl Failure {
    /// Whether the application surely never got the request.
    pub fn is_unsent(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::RefusedStream)
    }

    /// As metrics and logs name it, and the status if it is one that has a name: no application makes up
    /// series.
    pub fn names(self) -> (&'static str, u16) {
        match self {
            Self::ConnectFailure => ("connect_failure", 0),
            Self::RefusedStream => ("refused_stream", 0),
            Self::Reset => ("reset", 0),
            Self::PerTryTimeout => ("per_try_timeout", 0),
            Self::Status(status) if status.canonical_reason().is_some() => {
                ("status", status.as_u16())
            }
            Self::Status(_) => ("status", 0),
            Self::Grpc(status) => ("grpc_status", status),
        }
    }
}

/// How long an answer of 429 or 503 asks to wait (RFC 9110 section 10.2.3).
pub fn asks_to_wait(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asks = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ]
    .contains(&status);
    let text = headers.get(RETRY_AFTER).filter(|_| asks)?.to_str().ok()?;
    match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            Some(at.duration_since(now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backoff(growth: backoff::Growth, jitter: backoff::Jitter) -> mesh::Backoff {
        mesh::Backoff {
            growth: growth.into(),
            initial_ms: 100,
            multiplier: 3,
            max_ms: 1000,
            jitter: jitter.into(),
        }
    }

    fn sent() -> mesh::Retries {
        mesh::Retries {
            max: 2,
            backoff: Some(backoff(backoff::Growth::Exponential, backoff::Jitter::None)),
            on: Some(mesh::RetryOn {
                statuses: vec![503],
                grpc_statuses: vec![14],
                reset: true,
                ..Default::default()
            }),
            methods: vec!["GET".into(), "PUT".into()],
            idempotency_key: "idempotency-key".into(),
            retry_after_max_ms: Some(2000),
            ..Default::default()
        }
    }

    #[test]
    fn waits_grow_as_they_are_told_to() {
        use backoff::Growth::{Constant, Exponential, Linear};
        for (growth, expected) in [
            (Exponential, [100, 300, 900, 1000]),
            (Linear, [100, 200, 300, 400]),
            (Constant, [100; 4]),
        ] {
            let built = Backoff::build(backoff(growth, backoff::Jitter::None)).unwrap();
            let waits = [0, 1, 2, 3].map(|retried| built.wait(retried).as_millis());
            assert_eq!(waits, expected, "{growth:?}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_drawn_from_its_part_of_the_whole_and_never_longer_than_max(
            initial_ms in 0..100_000u64,
            multiplier in 0..20u32,
            max_ms in 0..100_000u64,
            retried in 0..20u32,
            growth in 1..=3i32,
            jitter in 1..=3i32,
        ) {
            let sent = mesh::Backoff { growth, initial_ms, multiplier, max_ms, jitter };
            let built = Backoff::build(sent).unwrap();
            let (wait, whole) = (built.wait(retried), built.whole(retried));
            prop_assert!(wait <= whole && whole <= Duration::from_millis(max_ms));
            match built.jitter {
                Jitter::Full => {}
                Jitter::Equal => prop_assert!(wait >= whole.mul_f64(0.4999)),
                Jitter::None => prop_assert_eq!(wait, whole),
            }
        }
    }

    #[test]
    fn an_answer_can_ask_for_a_longer_wait_up_to_what_is_allowed() {
        let retries = Retries::build(sent(), "shop/orders").unwrap();
        let ms = |asked: Option<u64>| {
            let wait = retries.wait(0, asked.map(Duration::from_millis));
            u64::try_from(wait.as_millis()).unwrap()
        };
        assert_eq!(
            [ms(None), ms(Some(50)), ms(Some(1500)), ms(Some(9000))],
            [100, 100, 1500, 2000]
        );
        let deaf = mesh::Retries {
            retry_after_max_ms: None,
            ..sent()
        };
        let deaf = Retries::build(deaf, "").unwrap();
        assert_eq!(deaf.wait(0, Some(Duration::from_secs(9))).as_millis(), 100);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_counts_for_429_and_503() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let asked = |status: u16, text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            asks_to_wait(status, &headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(asked(503, "7"), Some(7));
        assert_eq!(asked(429, "Sun, 06 Nov 1994 08:49:40 GMT"), Some(3));
        assert_eq!(asked(503, "Sun, 06 Nov 1994 08:49:30 GMT"), Some(0));
        for text in ["", "-1", "1.5", "soon", "99999999999999"] {
            assert_eq!(asked(503, text), None, "{text}");
        }
        assert_eq!(asked(500, "7"), None);
    }

    #[test]
    fn only_failures_that_are_named_are_followed_by_another_try() {
        let retries = Retries::build(sent(), "").unwrap();
        let status = |status| Failure::Status(StatusCode::from_u16(status).unwrap());
        let wanted = [status(503), Failure::Grpc(14), Failure::Reset];
        assert!(wanted.into_iter().all(|failure| retries.want(failure)));
        let unwanted = [
            status(500),
            status(429),
            Failure::Grpc(13),
            Failure::ConnectFailure,
            Failure::RefusedStream,
            Failure::PerTryTimeout,
        ];
        assert!(!unwanted.into_iter().any(|failure| retries.want(failure)));
        let classes = mesh::Retries {
            on: Some(mesh::RetryOn {
                status_4xx: true,
                ..Default::default()
            }),
            ..sent()
        };
        let classes = Retries::build(classes, "").unwrap();
        assert!(classes.want(status(404)) && !classes.want(status(503)));
    }

    #[test]
    fn only_statuses_that_have_a_name_are_counted_by_it() {
        let names = |status| Failure::Status(StatusCode::from_u16(status).unwrap()).names();
        assert_eq!((names(503), names(599)), (("status", 503), ("status", 0)));
        assert_eq!(Failure::Grpc(14).names(), ("grpc_status", 14));
    }

    #[test]
    fn what_may_arrive_twice_has_a_method_that_is_named_or_a_key() {
        let retries = Retries::build(sent(), "").unwrap();
        let may = |method: &str, key: Option<&str>| {
            let mut request = Request::builder().method(method).uri("/");
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            retries.repeat(&request.body(()).unwrap())
        };
        assert!(may("GET", None) && may("PUT", None) && may("POST", Some("1")));
        assert!(!may("POST", None) && !may("DELETE", None));
    }

    #[test]
    fn without_a_policy_only_what_reached_nobody_is_sent_again() {
        let retries = Retries::without_policy();
        assert!(retries.want(Failure::ConnectFailure) && retries.want(Failure::RefusedStream));
        let status = Failure::Status(StatusCode::SERVICE_UNAVAILABLE);
        for failure in [
            Failure::Reset,
            Failure::PerTryTimeout,
            status,
            Failure::Grpc(14),
        ] {
            assert!(!retries.want(failure), "{failure:?}");
        }
        assert_eq!(retries.max, 2);
    }

    #[test]
    fn what_is_not_known_or_means_nothing_is_rejected() {
        let with = |change: fn(&mut mesh::Retries)| {
            let mut sent = sent();
            change(&mut sent);
            Retries::build(sent, "").unwrap_err()
        };
        assert_eq!(
            with(|sent| sent.on = None),
            "it doesn't say after which failures"
        );
        assert_eq!(with(|sent| sent.backoff = None), "it has no backoff");
        assert_eq!(
            with(|sent| sent.backoff = Some(mesh::Backoff::default())),
            "how the backoff grows is not known to this sidecar"
        );
        assert_eq!(
            with(|sent| sent.methods = vec!["a b".into()]),
            "`a b` is no method"
        );
        assert_eq!(
            with(|sent| sent.idempotency_key = "a b".into()),
            "`a b` is no header"
        );
        assert_eq!(
            with(|sent| sent.per_try_timeout_ms = Some(0)),
            "times are more than nothing and no more than a day"
        );
    }
}
