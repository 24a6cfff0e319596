//! The own leaf: asked for at start, renewed at half its life.
//!
//! The first leaf is signed for the workload's token; every later one for the leaf in force, over
//! mutual TLS, so that a token is needed once. Each has a key of its own. While the operator is
//! away the leaf in force stays in force, and asking goes on with growing pauses.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use wire::discovery::SignRequest;
use wire::discovery::certificates_client::CertificatesClient;

use super::store::Store;
use super::verify::identity_of;
use super::{SpiffeId, verify};
use crate::net::tls::{KeyAndChain, TlsContext, anonymous_client, root_store};
use crate::net::to_operator::Operator;

/// Pauses between attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The longest pause of a workload that has no leaf in force: its pod waits for nothing else, and
/// is to be ready within 5 s of the operator's return.
const LONGEST_WITHOUT: Duration = Duration::from_secs(2);

/// How long the operator may take to sign; it may have to ask the API server.
const SIGN_TIMEOUT: Duration = Duration::from_secs(15);

/// No leaf is renewed sooner, whatever its dates say: a clock that is wrong must not make a storm.
const MIN_LIFE: Duration = Duration::from_secs(30);

/// Sleep follows a clock that stands still while the machine does; leaves do not. So it is looked
/// at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The largest chain that is accepted: a leaf and a few intermediates.
const MAX_CHAIN: usize = 8;

/// What this workload proves itself with. Immutable; a renewal makes another.
#[derive(Debug)]
pub struct Credentials {
    /// Who we are.
    pub id: SpiffeId,
    /// Ready-made TLS configurations.
    pub tls: TlsContext,
    /// When the leaf was made valid and when it ends.
    pub valid: (SystemTime, SystemTime),
    /// When to ask for the next one.
    due: Due,
    own: KeyAndChain,
    roots: Vec<Vec<u8>>,
}

/// When a leaf is renewed. A clock that is wrong may be set right meanwhile, so that what it says
/// counts only where the leaf's own dates do.
#[derive(Clone, Copy, Debug)]
struct Due {
    half: SystemTime,
    soonest: Instant,
}

/// A leaf that is not in force by the clock of this node. A leaf just signed is in force by the
/// operator's, so the two clocks differ; one that has been here for long may merely have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfForce {
    from: SystemTime,
    until: SystemTime,
    clock: SystemTime,
}

/// Why there is no leaf yet, for the person on call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token file cannot be read.
    #[error("cannot read the token {path}: {error}")]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The operator refused, or cannot be reached.
    #[error("the operator gives no certificate: {0}")]
    Refused(String),
    /// What came back cannot be used.
    #[error("the operator's certificate cannot be used: {0}")]
    Unusable(String),
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
}

/// Obtains and renews the leaf; publishes [`Credentials`].
#[derive(Debug)]
pub struct Certs {
    /// Where the operator is.
    pub operator: Operator,
    /// The workload's token.
    pub token_file: PathBuf,
    /// Trust before the first answer: from injection, or kept from an earlier life.
    pub first_roots: Vec<Vec<u8>>,
    /// Where key, chain and roots are kept.
    pub store: Store,
    /// The trust domain that this workload belongs to.
    pub trust_domain: String,
    /// Where the credentials go.
    pub publish: watch::Sender<Option<Arc<Credentials>>>,
    /// Roots that came over the stream; `None` until some have.
    pub newer_roots: watch::Receiver<Option<Arc<Vec<Vec<u8>>>>>,
}

// === impl Credentials ===

impl Credentials {
    /// Credentials from their parts.
    ///
    /// # Errors
    /// When the leaf proves no identity of the trust domain, or key and leaf do not fit.
    pub fn new(own: KeyAndChain, roots: Vec<Vec<u8>>, trust_domain: &str) -> Result<Self, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
        let leaf = own
            .chain
            .first()
            .ok_or_else(|| Error::Unusable("it is empty".into()))?;
        let id = identity_of(leaf, trust_domain).map_err(|error| unusable(&error))?;
        let valid = validity(leaf).ok_or_else(|| Error::Unusable("unreadable leaf".into()))?;
        let store = root_store(&roots).map_err(|error| unusable(&error))?;
        let tls = TlsContext::new(&own, store).map_err(|error| unusable(&error))?;
        Ok(Self {
            id,
            tls,
            valid,
            due: Due::of(valid, Instant::now()),
            own,
            roots,
        })
    }

    /// The same leaf beside other roots. It is renewed when it would have been, however often trust
    /// changes meanwhile.
    fn trusting(&self, roots: &[Vec<u8>], trust_domain: &str) -> Result<Self, Error> {
        let own = KeyAndChain {
            chain: self.own.chain.clone(),
            key: self.own.key.clone_key(),
        };
        Ok(Self {
            due: self.due,
            ..Self::new(own, roots.to_vec(), trust_domain)?
        })
    }

    /// The longest pause between attempts to renew it: shorter the less is left of its life, so that an
    /// operator that was away for most of it is still asked in time.
    fn longest_pause(&self, clock: SystemTime) -> Duration {
        let left = self.valid.1.duration_since(clock).unwrap_or_default();
        (left / 8).clamp(LONGEST_WITHOUT, BACKOFF.1)
    }

    /// Whether the leaf is in force now.
    pub fn in_force(&self) -> bool {
        self.out_of_force(SystemTime::now()).is_none()
    }

    /// What is wrong with the leaf's dates at `clock`; `None` when it is in force.
    pub fn out_of_force(&self, clock: SystemTime) -> Option<OutOfForce> {
        let (from, until) = self.valid;
        let in_force = from <= clock && clock < until;
        (!in_force).then_some(OutOfForce { from, until, clock })
    }

    /// Says that the leaf has just been signed, and when this node's clock makes it useless.
    fn tell_signed(&self, clock: SystemTime) {
        let Some(wrong) = self.out_of_force(clock) else {
            tracing::info!(identity = %self.id, "certificate obtained");
            return;
        };
        tracing::warn!(
            identity = %self.id,
            valid_from = %time(wrong.from),
            valid_until = %time(wrong.until),
            clock = %time(wrong.clock),
            "{}", wrong.of_a_leaf_just_signed()
        );
    }

    /// How long it is until it is renewed.
    fn renew_in(&self) -> Duration {
        self.due.after(SystemTime::now(), Instant::now())
    }
}

// === impl OutOfForce ===

impl OutOfForce {
    /// The cause, where the leaf was signed only now.
    fn of_a_leaf_just_signed(&self) -> &'static str {
        if self.clock < self.from {
            "this node's clock is behind the operator's: the certificate just obtained is not valid yet"
        } else {
            "this node's clock is ahead of the operator's: the certificate just obtained has already ended"
        }
    }
}

impl fmt::Display for OutOfForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until, clock) = (time(self.from), time(self.until), time(self.clock));
        write!(
            f,
            "it is valid from {from} until {until}, and this node's clock says {clock}"
        )
    }
}

/// A time to the second, as people read it.
fn time(time: SystemTime) -> String {
    // A certificate may name a year that the calendar here does not have.
    jiff::Timestamp::try_from(time).map_or_else(|_| "?".into(), |time| format!("{time:.0}"))
}

// === impl Due ===

impl Due {
    /// Half the life, 10 % earlier or later, so that the workloads of a cluster that started
    /// together do not renew together.
    fn of((from, to): (SystemTime, SystemTime), now: Instant) -> Self {
        let life = to.duration_since(from).unwrap_or_default();
        Self {
            half: from + life.mul_f64(rand::rng().random_range(0.45..0.55)),
            soonest: now + MIN_LIFE,
        }
    }

    /// How long it is until then.
    fn after(&self, clock: SystemTime, now: Instant) -> Duration {
        let by_clock = self.half.duration_since(clock).unwrap_or_default();
        by_clock.max(self.soonest.saturating_duration_since(now))
    }
}

// === impl Certs ===

impl Certs {
    /// Obtains a leaf, publishes it, renews it; never returns.
    pub async fn run(self) {
        let mut roots = self.first_roots.clone();
        let mut newer_roots = self.newer_roots.clone();
        if let Some(kept) = self.kept(&roots) {
            tracing::info!(identity = %kept.id, "continuing with the certificate of an earlier life");
            self.publish.send_replace(Some(Arc::new(kept)));
        }
        // What the stream says of roots has a generation and never goes back; an answer to a
        // signing request has none, and counts only until then.
        let mut told_by_stream = false;
        loop {
            let current = self.publish.borrow().clone();
            let renewed = async {
                match &current {
                    Some(current) if !current.renew_in().is_zero() => {
                        tokio::time::sleep(current.renew_in().min(LOOK_AGAIN)).await;
                        None
                    }
                    _ => {
                        let current = current.clone();
                        Some(self.until_signed(current, &roots, told_by_stream).await)
                    }
                }
            };
            let newer = async {
                let differs = |newer: &Option<Arc<Vec<Vec<u8>>>>| {
                    newer
                        .as_deref()
                        .is_some_and(|newer| !told_by_stream || *newer != roots)
                };
                match newer_roots.wait_for(differs).await {
                    Ok(newer) => newer.as_deref().cloned().unwrap_or_default(),
                    // Nobody is left to tell: the process is ending.
                    Err(_) => std::future::pending().await,
                }
            };
            // New trust does not wait for an operator that does not sign: asking begins again, of
            // somebody whom it vouches for.
            tokio::select! {
                renewed = renewed => {
                    let Some(renewed) = renewed else { continue };
                    roots.clone_from(&renewed.roots);
                    renewed.tell_signed(SystemTime::now());
                    self.publish.send_replace(Some(Arc::new(renewed)));
                }
                newer = newer => {
                    told_by_stream = true;
                    if newer != roots {
                        roots = newer;
                        if let Some(current) = &current {
                            self.trust(current, &roots);
                        }
                    }
                }
            }
        }
    }

    /// What an earlier life left, if it is still in force.
    fn kept(&self, roots: &[Vec<u8>]) -> Option<Credentials> {
        let own = self.store.key_and_chain()?;
        let kept = Credentials::new(own, roots.to_vec(), &self.trust_domain).ok()?;
        kept.in_force().then_some(kept)
    }

    /// Puts a newer trust bundle in force beside the same leaf.
    fn trust(&self, current: &Credentials, roots: &[Vec<u8>]) {
        match current.trusting(roots, &self.trust_domain) {
            Ok(credentials) => {
                self.save(|store| store.save_roots(roots));
                tracing::info!(roots = roots.len(), "trust bundle replaced");
                self.publish.send_replace(Some(Arc::new(credentials)));
            }
            Err(error) => {
                tracing::error!(%error, "the new trust bundle cannot be used; keeping the old one")
            }
        }
    }

    async fn until_signed(
        &self,
        current: Option<Arc<Credentials>>,
        roots: &[Vec<u8>],
        keep_roots: bool,
    ) -> Credentials {
        let mut pause = BACKOFF.0;
        loop {
            let by_leaf = current.as_deref().filter(|current| current.in_force());
            let signed = self.sign(by_leaf, roots, keep_roots);
            let error = match tokio::time::timeout(SIGN_TIMEOUT, signed).await {
                Ok(Ok(credentials)) => return credentials,
                Ok(Err(error)) => error,
                Err(_) => Error::Refused(format!("no answer within {SIGN_TIMEOUT:?}")),
            };
            tracing::warn!(%error, retry_in = ?pause, "no certificate");
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(jittered).await;
            let now = SystemTime::now();
            let longest = current.as_deref().map(|leaf| leaf.longest_pause(now));
            pause = (pause * 2).min(longest.unwrap_or(LONGEST_WITHOUT));
        }
    }

    async fn sign(
        &self,
        by_leaf: Option<&Credentials>,
        roots: &[Vec<u8>],
        keep_roots: bool,
    ) -> Result<Credentials, Error> {
        let key = KeyPair::generate()?;
        // The operator decides the identity from the token or leaf; the request names nothing.
        let csr = CertificateParams::default().serialize_request(&key)?;
        let unusable = |error: rustls::Error| Error::Unusable(error.to_string());
        let (tls, token) = match by_leaf {
            Some(current) => (current.tls.client_grpc.clone(), String::new()),
            None => {
                let client = anonymous_client(root_store(roots).map_err(unusable)?);
                (Arc::new(client.map_err(unusable)?), self.token().await?)
            }
        };
        let channel = self
            .operator
            .connect(tls)
            .await
            .map_err(|error| Error::Refused(error.to_string()))?;
        let request = SignRequest {
            csr: csr.der().to_vec().into(),
            token,
        };
        let answer = CertificatesClient::new(channel)
            .sign(request)
            .await
            .map_err(|status| Error::Refused(status.message().to_owned()))?
            .into_inner();
        if answer.chain.is_empty() || answer.chain.len() > MAX_CHAIN {
            return Err(Error::Unusable(format!(
                "its chain has {} certificates",
                answer.chain.len()
            )));
        }
        let chain: Vec<Vec<u8>> = answer.chain.iter().map(|der| der.to_vec()).collect();
        let roots: Vec<Vec<u8>> = match keep_roots {
            true => roots.to_vec(),
            false => answer.roots.iter().map(|der| der.to_vec()).collect(),
        };
        let own = KeyAndChain {
            chain: chain.iter().cloned().map(CertificateDer::from).collect(),
            key: rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        };
        let credentials = Credentials::new(own, roots.clone(), &self.trust_domain)?;
        self.save(|store| {
            store.save_key_and_chain(&key.serialize_pem(), &chain)?;
            store.save_roots(&roots)
        });
        Ok(credentials)
    }

    async fn token(&self) -> Result<String, Error> {
        let read = tokio::fs::read_to_string(&self.token_file).await;
        read.map(|token| token.trim().to_owned())
            .map_err(|error| Error::Token {
                path: self.token_file.clone(),
                error,
            })
    }

    /// A state folder that cannot be written costs the next restart, not this life.
    fn save(&self, save: impl FnOnce(&Store) -> std::io::Result<()>) {
        if let Err(error) = save(&self.store) {
            tracing::warn!(%error, "cannot keep credentials for a restart");
        }
    }
}

/// From when until when a leaf is valid.
pub(crate) fn validity(leaf: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    Some((
        at(leaf.validity().not_before)?,
        at(leaf.validity().not_after)?,
    ))
}

/// Whether `leaf` is the operator's.
pub(crate) fn is_operator(leaf: &[u8], trust_domain: &str) -> Result<(), rustls::Error> {
    let id = identity_of(leaf, trust_domain)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    if (id.namespace(), id.service_account()) == ("meshwright-system", "meshwright-operator") {
        Ok(())
    } else {
        Err(verify::not_for_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_leaf_is_renewed_at_half_its_life_give_or_take_a_tenth() {
        let from = SystemTime::now();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let now = Instant::now();
            let after = Due::of((from, from + 24 * HOUR), now).after(from, now);
            assert!(
                after >= HOUR.mul_f64(10.8) && after <= HOUR.mul_f64(13.2),
                "{after:?}"
            );
            seen.insert(after);
        }
        assert!(seen.len() > 100, "not all at once");
    }

    #[test]
    fn a_clock_that_is_wrong_makes_no_storm_of_renewals() {
        let (from, now) = (SystemTime::now(), Instant::now());
        let due = Due::of((from, from + 24 * HOUR), now);
        for clock in [from + 20 * HOUR, from + 30 * HOUR] {
            assert_eq!(due.after(clock, now), MIN_LIFE);
            assert_eq!(due.after(clock, now + MIN_LIFE), Duration::ZERO);
        }
    }

    #[test]
    fn a_clock_that_is_set_right_has_the_leaf_renewed_when_it_should_be() {
        let (from, now) = (SystemTime::now(), Instant::now());
        // Made while the clock is a day and a half ahead; an hour later it is right again.
        let due = Due::of((from, from + 24 * HOUR), now);
        assert_eq!(due.after(from + 36 * HOUR, now), MIN_LIFE);
        let after = due.after(from + HOUR, now + HOUR);
        assert!(after < 13 * HOUR, "{after:?}");
    }

    #[test]
    fn newer_roots_do_not_put_off_when_a_leaf_is_renewed() {
        let mut credentials = of_the_second_of_january();
        credentials.due.soonest = Instant::now();
        let trusting = credentials
            .trusting(&credentials.roots, "cluster.local")
            .unwrap();
        // It is due: other roots beside it, made only now, change nothing of that.
        assert_eq!(trusting.renew_in(), Duration::ZERO);
        assert_eq!(trusting.due.half, credentials.due.half);
    }

    #[test]
    fn the_less_is_left_of_a_leaf_the_more_often_the_operator_is_asked() {
        let credentials = of_the_second_of_january();
        for (clock, longest) in [
            ("2026-01-02T12:00:00Z", BACKOFF.1),
            ("2026-01-02T23:58:40Z", Duration::from_secs(10)),
            ("2026-01-02T23:59:59Z", LONGEST_WITHOUT),
            ("2026-01-03T12:00:00Z", LONGEST_WITHOUT),
        ] {
            assert_eq!(credentials.longest_pause(at(clock)), longest, "{clock}");
        }
    }

    /// A leaf that is valid throughout 2 January 2026.
    fn of_the_second_of_january() -> Credentials {
        let mut params = CertificateParams::default();
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2026, 1, 3);
        let key = KeyPair::generate().unwrap();
        let leaf = params.self_signed(&key).unwrap();
        let own = KeyAndChain {
            chain: vec![leaf.der().clone()],
            key: rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        };
        Credentials::new(own, vec![leaf.der().to_vec()], "cluster.local").unwrap()
    }

    fn at(time: &str) -> SystemTime {
        time.parse::<jiff::Timestamp>().unwrap().into()
    }

    /// What the log says of a leaf signed when the clock of the node is at `clock`.
    fn said_of_a_leaf_signed_at(clock: &str) -> String {
        let written = Arc::new(std::sync::Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_writer(Written(written.clone()))
            .finish();
        let credentials = of_the_second_of_january();
        tracing::subscriber::with_default(subscriber, || credentials.tell_signed(at(clock)));
        let said = written.lock().unwrap().clone();
        String::from_utf8(said).unwrap()
    }

    #[derive(Clone)]
    struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(more);
            Ok(more.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl tracing_subscriber::fmt::MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_leaf_that_a_wrong_clock_puts_out_of_force_is_told_once_with_its_dates_and_the_cause() {
        let (early, late) = ("2026-01-01T22:00:00Z", "2026-01-03T00:00:00Z");
        for (clock, cause) in [
            (
                early,
                "this node's clock is behind the operator's: the certificate just obtained is not valid yet",
            ),
            (
                late,
                "this node's clock is ahead of the operator's: the certificate just obtained has already ended",
            ),
        ] {
            let said = said_of_a_leaf_signed_at(clock);
            assert_eq!(said.lines().count(), 1, "{said}");
            let clock = format!("clock={clock}");
            let dates = "valid_from=2026-01-02T00:00:00Z valid_until=2026-01-03T00:00:00Z";
            for part in ["WARN", cause, dates, &clock] {
                assert!(said.contains(part), "no {part} in {said}");
            }
        }
        let said = said_of_a_leaf_signed_at("2026-01-02T12:00:00Z");
        assert!(
            said.contains("INFO") && said.contains("certificate obtained"),
            "{said}"
        );
        assert!(!said.contains("clock"), "{said}");
    }

    #[test]
    fn what_is_out_of_force_says_its_dates_and_the_time_of_this_node() {
        let credentials = of_the_second_of_january();
        let wrong = credentials
            .out_of_force(at("2026-01-01T22:00:00.25Z"))
            .unwrap();
        assert_eq!(
            wrong.to_string(),
            "it is valid from 2026-01-02T00:00:00Z until 2026-01-03T00:00:00Z, and this node's clock says \
             2026-01-01T22:00:00Z"
        );
        assert_eq!(credentials.out_of_force(at("2026-01-02T00:00:00Z")), None);
    }
}
