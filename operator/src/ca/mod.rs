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
//! out of it, and [`crate::issuer`] says who is asking. What is kept, and when it is replaced, is
//! [`authority`]'s; where it is kept, [`store`]'s.
//!
//! A root is followed by the next one two years before its end. The next one is in the trust
//! bundle at once and signs half a year later, when every sidecar has long had it.

mod authority;
pub mod csr;
mod leaf;
pub mod secret;
pub mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::issuer::Workload;
use authority::Authorities;
pub(crate) use authority::pem_block;
pub use csr::{BadRequest, RequestedKey};
pub(crate) use leaf::is_operator;
pub use leaf::{InvalidLeaf, PeerLeaf};
use store::{KeyStore, Saved, StoreError};

/// How long a leaf is valid unless told otherwise, and at most: 24 hours.
pub const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long it is valid at least: sidecars renew no sooner than after half of it.
pub const MIN_LEAF_LIFE: Duration = Duration::from_secs(60);

/// How far back certificates are valid: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// The operator's own place in every trust domain, whatever namespace it is installed in: sidecars
/// know their operator by it, so no workload is ever given it.
pub const OPERATOR: (&str, &str) = ("meshwright-system", "meshwright-operator");

/// How often the store is read again: for what another replica wrote, and for what is due.
const REFRESH: Duration = Duration::from_secs(10 * 60);

/// How often another replica may be first before that is called a failure.
const ATTEMPTS: usize = 10;

/// The certificate authority of one trust domain.
pub struct Ca {
    trust_domain: String,
    leaf_life: Duration,
    store: Box<dyn KeyStore>,
    current: Mutex<Arc<Authorities>>,
    bundle: watch::Sender<TrustBundle>,
}

/// The roots that prove a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// DER. The current one, and the next while a rotation is under way.
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

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is kept is no authority.
    #[error("what is kept of the certificate authority can't be used: {0}")]
    Unusable(String),
    /// Other replicas were first, again and again.
    #[error(
        "the certificate authority's keys were changed by another replica {ATTEMPTS} times in a row"
    )]
    Overtaken,
    /// The intermediate has ended: renewing it must have failed for months.
    #[error(
        "the certificate authority's intermediate has ended; the operator's log says why it was not renewed"
    )]
    Ended,
    /// A certificate or key could not be made.
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
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
        let ca = Ca {
            trust_domain: trust_domain.to_owned(),
            leaf_life,
            store,
            current: Mutex::default(),
            bundle: watch::Sender::default(),
        };
        ca.refresh(SystemTime::now()).await?;
        Ok(Arc::new(ca))
    }

    /// The trust domain of every identity it issues.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The trust bundle, and word of every change of it.
    pub fn bundle(&self) -> watch::Receiver<TrustBundle> {
        self.bundle.subscribe()
    }

    /// A leaf for a workload.
    ///
    /// # Errors
    /// When the intermediate has ended, or the cryptography fails.
    pub fn issue(&self, key: &RequestedKey, workload: &Workload) -> Result<Issued, Error> {
        self.issue_at(key, workload, SystemTime::now())
    }

    pub(crate) fn issue_at(
        &self,
        key: &RequestedKey,
        workload: &Workload,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let uri = workload.spiffe_id(&self.trust_domain);
        self.sign(key, &uri, Some(workload), now)
    }

    /// A leaf for this operator, and its key.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub fn issue_operator(&self) -> Result<(Issued, KeyPair), Error> {
        let key = KeyPair::generate()?;
        let uri = spiffe_id(&self.trust_domain, OPERATOR.0, OPERATOR.1);
        let issued = self.sign(&key, &uri, None, SystemTime::now())?;
        Ok((issued, key))
    }

    /// Renews what is due and takes over what other replicas wrote, for as long as it is polled.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            // Replicas that started together don't stay together.
            let pause = REFRESH.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::time::sleep(pause).await;
            if let Err(error) = self.refresh(SystemTime::now()).await {
                tracing::warn!(%error, "the certificate authority's keys couldn't be checked; trying again in {pause:.0?}");
            }
        }
    }

    fn sign(
        &self,
        key: &impl rcgen::PublicKeyData,
        uri: &str,
        workload: Option<&Workload>,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let authorities = self.current();
        let issuer = authorities.intermediate().ok_or(Error::Ended)?;
        leaf::issue(issuer, key, uri, workload, now, self.leaf_life)
    }

    fn current(&self) -> Arc<Authorities> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    async fn refresh(&self, now: SystemTime) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let kept = self.store.load().await?;
            let authorities = match &kept {
                Some(kept) => Authorities::from_pem(&kept.pem)?,
                None => Authorities::default(),
            };
            let Some(renewed) = authorities.renewed(now)? else {
                self.adopt(authorities, now);
                return Ok(());
            };
            let version = kept.map(|kept| kept.version);
            match self
                .store
                .save(renewed.to_pem(), renewed.roots_pem(), version)
                .await?
            {
                Saved::Done => {
                    tracing::info!(
                        roots = renewed.bundle(now).roots.len(),
                        "the certificate authority's keys were renewed"
                    );
                    self.adopt(renewed, now);
                    return Ok(());
                }
                Saved::Overtaken => {}
            }
        }
        Err(Error::Overtaken)
    }

    fn adopt(&self, authorities: Authorities, now: SystemTime) {
        let bundle = authorities.bundle(now);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(authorities);
        self.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            *current = bundle;
            changed
        });
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
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
