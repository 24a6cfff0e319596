//! The certificate authority: a root that is trusted, an intermediate that signs, leaves for a day
//! at most.
//!
//! ```text
//! root (10 years)  ─▶ intermediate (1 year) ─▶ leaf (24 h)  spiffe://<trust domain>/ns/<ns>/sa/<sa>
//! in the trust         sent along with           + the pod that it was issued to, as an extension
//! bundle               every leaf
//! ```
//!
//! Who a leaf is for is never read from the request: [`csr`] takes nothing but a proven public key
//! out of it, and [`crate::issuer`] says who is asking. How one root follows another is
//! [`rotation`]'s; where roots come from if not from here, [`provided`]'s; how all is written down,
//! `kept`'s; and where, [`store`]'s.

mod authority;
pub mod csr;
mod error;
mod kept;
mod leaf;
mod line;
pub mod provided;
mod report;
mod rotation;
pub mod secret;
pub mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::issuer::Workload;
pub(crate) use authority::pem_block;
pub use csr::{BadRequest, RequestedKey};
pub use error::Error;
pub(crate) use leaf::is_operator;
pub use leaf::{InvalidLeaf, PeerLeaf};
use provided::Provider;
pub(crate) use provided::rfc3339;
pub use report::{Certificate, Report};
use rotation::{Authorities, Moment, Wanted};
use store::{KeyStore, Saved};

/// How long a leaf is valid unless told otherwise, and at most: 24 hours.
pub const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long it is valid at least: sidecars renew no sooner than after half of it.
pub const MIN_LEAF_LIFE: Duration = Duration::from_secs(60);

/// How long a root of our own is valid unless told otherwise: ten years.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long it is valid at least: a rotation takes two leaves' lives, in a fifth of it.
pub const MIN_ROOT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far back certificates are valid: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// The operator's own place in every trust domain, whatever namespace it is installed in: sidecars
/// know their operator by it, so no workload is ever given it.
pub const OPERATOR: (&str, &str) = ("meshwright-system", "meshwright-operator");

/// How often the store is read again, at the least: for what another replica wrote, for what is due,
/// and for what is wished for.
const LOOK: Duration = Duration::from_secs(20);
/// And within a leaf's life.
const LOOKS_IN_A_LIFE: u32 = 10;
/// Replicas know what was written after so many looks, however they fall and clocks differ.
const LOOKS_UNTIL_KNOWN: u32 = 3;

/// How often another replica may be first before that is called a failure.
const ATTEMPTS: usize = 10;

/// The certificate authority of one trust domain.
pub struct Ca {
    settings: Settings,
    store: Box<dyn KeyStore>,
    provider: Option<Box<dyn Provider>>,
    /// Names this replica among those that share the store.
    replica: String,
    current: Mutex<Option<Current>>,
    bundle: watch::Sender<TrustBundle>,
    /// What the operator's own certificate is below, and what it trusts.
    serving: watch::Sender<Serving>,
}

/// What is static for the life of the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// How long leaves are valid.
    pub leaf_life: Duration,
    /// How long roots of our own are valid.
    pub root_life: Duration,
}

/// What was read last.
#[derive(Clone)]
struct Current {
    authorities: Arc<Authorities>,
    /// When: a replica that has not seen it for long must not sign by it.
    seen: Instant,
    margin: Duration,
    lagging: Option<usize>,
    problem: Option<String>,
}

/// Changes whenever the operator's own certificate should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    revision: u64,
    below: Vec<CertificateDer<'static>>,
}

/// The roots that prove a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// DER. The current one, and the next or the previous while a rotation is under way.
    pub roots: Vec<CertificateDer<'static>>,
    /// Microseconds since 1970 at which it became what it is: equal on every replica, never goes
    /// back.
    pub revision: u64,
}

/// A certificate, fresh from the authority.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the intermediate; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf ends.
    pub expires: SystemTime,
}

// === impl Ca ===

impl Ca {
    /// Reads the authority's keys from the store, or makes them. Issues leaves that are valid for
    /// `leaf_life`.
    ///
    /// # Errors
    /// When the store can't be read or written, or holds something else.
    pub async fn open(
        store: Box<dyn KeyStore>,
        trust_domain: &str,
        leaf_life: Duration,
    ) -> Result<Arc<Ca>, Error> {
        let settings = Settings {
            trust_domain: trust_domain.to_owned(),
            leaf_life,
            root_life: ROOT_LIFE,
        };
        Ca::open_with(store, None, settings).await
    }

    /// The same, with roots of that life, or with what somebody else provides.
    ///
    /// # Errors
    /// As [`Ca::open`]; and when nothing that can be used is provided, and never was.
    pub async fn open_with(
        store: Box<dyn KeyStore>,
        provider: Option<Box<dyn Provider>>,
        settings: Settings,
    ) -> Result<Arc<Ca>, Error> {
        let ca = Ca {
            settings,
            store,
            provider,
            replica: format!("{:016x}", rand::random::<u64>()),
            current: Mutex::default(),
            bundle: watch::Sender::default(),
            serving: watch::Sender::default(),
        };
        ca.refresh(SystemTime::now(), |_| None).await?;
        Ok(Arc::new(ca))
    }

    /// The trust domain of every identity it issues.
    pub fn trust_domain(&self) -> &str {
        &self.settings.trust_domain
    }

    /// The trust bundle, and word of every change of it.
    pub fn bundle(&self) -> watch::Receiver<TrustBundle> {
        self.bundle.subscribe()
    }

    /// Word of every change after which the operator needs another certificate of its own.
    pub fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    /// How the authority is.
    pub fn report(&self) -> Option<Report> {
        let place = self.provider.as_ref().map(|provider| provider.place());
        let authority = place.unwrap_or_else(|| "Meshwright".to_owned());
        let current = self.lock().clone()?;
        Some(Report::of(&current, authority, SystemTime::now()))
    }

    /// When the certificates end that leaves hang on: what it is, `signs`, `next` or `previous`, and
    /// when; of several the first.
    pub fn expiries(&self) -> Vec<(&'static str, &'static str, SystemTime)> {
        let Some(current) = self.lock().clone() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for (part, line) in report::parts(&current.authorities) {
            all.push(("root", part, line.roots_end()));
            all.push(("intermediate", part, line.signer.valid.1));
        }
        all
    }

    /// Whether something is wrong with the authority that somebody should look at.
    pub fn has_problem(&self) -> bool {
        let current = self.lock();
        current
            .as_ref()
            .is_none_or(|current| current.problem.is_some())
    }

    /// A leaf for a workload.
    ///
    /// # Errors
    /// When what signs has ended or was not looked at for too long, or the cryptography fails.
    pub fn issue(&self, key: &RequestedKey, workload: &Workload) -> Result<Issued, Error> {
        self.issue_at(key, workload, SystemTime::now())
    }

    pub(crate) fn issue_at(
        &self,
        key: &RequestedKey,
        workload: &Workload,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let current = self.lock().clone().ok_or(Error::NotProvided)?;
        if current.seen.elapsed() > self.margin() {
            return Err(Error::Stale);
        }
        let uri = workload.spiffe_id(self.trust_domain());
        let line = current.authorities.signing();
        leaf::issue(
            line,
            key,
            &uri,
            Some(workload),
            now,
            self.settings.leaf_life,
        )
    }

    /// A leaf for this operator, and its key.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub fn issue_operator(&self) -> Result<(Issued, KeyPair), Error> {
        let current = self.lock().clone().ok_or(Error::NotProvided)?;
        let key = KeyPair::generate()?;
        let uri = spiffe_id(self.trust_domain(), OPERATOR.0, OPERATOR.1);
        let now = SystemTime::now();
        let (line, proofs) = current.authorities.serving(now, self.margin());
        let mut issued = leaf::issue(line, &key, &uri, None, now, self.settings.leaf_life)?;
        issued.chain.extend(proofs);
        Ok((issued, key))
    }

    /// Takes the steps that are due and takes over those of other replicas, for as long as it is
    /// polled. `lagging` says of a bundle's revision how many of this replica's streams have not
    /// acknowledged it, and `None` when it was not published to them yet.
    pub async fn keep_fresh(self: Arc<Self>, lagging: impl Fn(u64) -> Option<usize> + Send + Sync) {
        loop {
            // Replicas that started together don't stay together.
            let pause = self.look().mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::time::sleep(pause).await;
            if let Err(error) = self.refresh(SystemTime::now(), &lagging).await {
                self.set_problem(Some(format!(
                    "the certificate authority's keys couldn't be looked at: {error}"
                )));
            }
        }
    }

    /// How often the store is read.
    fn look(&self) -> Duration {
        LOOK.min(self.settings.leaf_life / LOOKS_IN_A_LIFE)
    }

    fn margin(&self) -> Duration {
        self.look() * LOOKS_UNTIL_KNOWN
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(
        &self,
        now: SystemTime,
        lagging: impl Fn(u64) -> Option<usize>,
    ) -> Result<(), Error> {
        let (wanted, problem) = self.wanted(now).await;
        for _ in 0..ATTEMPTS {
            let kept = self.store.load().await?;
            let seen = Instant::now();
            let held = self.lock().as_ref().map(|held| held.authorities.clone());
            let before = match &kept {
                Some(kept) => Some(Authorities::from_text(&kept.text)?),
                None => None,
            };
            let lagging = before.as_ref().and_then(|before| lagging(before.revision));
            let moment = Moment {
                now,
                wanted: &wanted,
                leaf_life: self.settings.leaf_life,
                root_life: self.settings.root_life,
                margin: self.margin(),
                lagging,
                replica: &self.replica,
            };
            let step = match &before {
                Some(before) => before.stepped(&moment)?,
                // Somebody has deleted them, and every leaf in force hangs on them: they are put back.
                // Who means it, because a key was stolen, stops every replica first.
                None if held.is_some() => {
                    tracing::warn!(
                        "the certificate authority's keys are gone from where they are kept, and are put back"
                    );
                    held.as_deref().cloned()
                }
                None => Some(Authorities::first(&moment).map_err(|error| match &problem {
                    Some(problem) => Error::Unusable(problem.clone()),
                    None => error,
                })?),
            };
            let after = match (step, before) {
                (Some(step), before) => {
                    let version = kept.map(|kept| kept.version);
                    let saved = self.store.save(step.to_text(), step.roots_pem(), version);
                    if saved.await? == Saved::Overtaken {
                        continue;
                    }
                    before.inspect(|before| before.tell_left(&step, &moment));
                    step
                }
                (None, Some(before)) => before,
                // The first ones are always a step.
                (None, None) => return Err(Error::NotProvided),
            };
            self.adopt(after, seen, lagging, now);
            self.set_problem(problem);
            return Ok(());
        }
        Err(Error::Overtaken)
    }

    /// What is wished for, and why that isn't all that is.
    async fn wanted(&self, now: SystemTime) -> (Wanted, Option<String>) {
        let Some(provider) = &self.provider else {
            return match self.store.request().await {
                Ok(request) => (Wanted::Own { request }, None),
                Err(error) => (
                    Wanted::Own { request: None },
                    Some(format!(
                        "it can't be seen whether a rotation is asked for: {error}"
                    )),
                ),
            };
        };
        let place = provider.place();
        let read = match provider.provided().await {
            Ok(Some(provided)) => provided.read(now),
            Ok(None) => Err("it isn't there yet".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(line) => (Wanted::Provided(Some(line)), None),
            Err(why) => {
                let kept = match self.lock().is_some() {
                    true => "; what was there before is kept",
                    false => "",
                };
                let why =
                    format!("the certificate authority of {place} can't be used: {why}{kept}");
                (Wanted::Provided(None), Some(why))
            }
        }
    }

    fn adopt(
        &self,
        authorities: Authorities,
        seen: Instant,
        lagging: Option<usize>,
        now: SystemTime,
    ) {
        let margin = self.margin();
        let bundle = authorities.bundle();
        let (line, proofs) = authorities.serving(now, margin);
        let serving = Serving {
            revision: bundle.revision,
            below: [line.between.clone(), line.roots.clone(), proofs].concat(),
        };
        let mut current = self.lock();
        let before = current.take();
        let stage = |authorities: &Authorities| std::mem::discriminant(&authorities.stage);
        let moved = before
            .as_ref()
            .is_some_and(|before| stage(&before.authorities) != stage(&authorities));
        *current = Some(Current {
            authorities: Arc::new(authorities),
            seen,
            margin,
            lagging,
            problem: before.and_then(|before| before.problem),
        });
        drop(current);
        self.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            *current = bundle;
            changed
        });
        self.serving.send_if_modified(|current| {
            let changed = *current != serving;
            *current = serving;
            changed
        });
        if let Some(report) = self.report().filter(|_| moved) {
            tracing::info!(
                stage = report.stage,
                "the certificate authority: {}",
                report.message
            );
        }
    }

    /// Says what is wrong, once for as long as it is.
    fn set_problem(&self, problem: Option<String>) {
        let mut current = self.lock();
        let Some(current) = current.as_mut() else {
            return;
        };
        if current.problem == problem {
            return;
        }
        match &problem {
            Some(problem) => tracing::warn!("{problem}"),
            None => tracing::info!("the certificate authority is in order again"),
        }
        current.problem = problem;
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.settings.trust_domain)
            .finish_non_exhaustive()
    }
}

// === impl TrustBundle ===

impl TrustBundle {
    /// The roots, one PEM block after the other.
    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| pem_block("CERTIFICATE", root))
            .collect()
    }

    /// When the last of its roots has ended, if that was before now: whoever has nothing else trusts nobody then.
    pub fn ended(&self, now: SystemTime) -> Option<SystemTime> {
        let last = self.roots.iter().filter_map(line::end).max();
        last.filter(|last| *last <= now)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
pub(crate) fn spiffe_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// Microseconds since 1970; 0 for what is before.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
