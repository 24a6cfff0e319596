//! A certificate authority that somebody else provides, in the layout of cert-manager's Secrets:
//! `tls.crt` (a certificate that may sign others, and those above it), `tls.key`, and `ca.crt` (the
//! roots).
//!
//! It is looked at as closely as a sidecar would: what it signs for a trial must be proved by its
//! own roots. What can't be used is refused with a sentence, and changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use rcgen::KeyPair;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};

use super::authority::{Authority, parse, validity};
use super::kept::MAX_ROOTS;
use super::leaf;
use super::line::Line;
use super::store::StoreError;

/// The name of the certificate's part.
pub const CERTIFICATE: &str = "tls.crt";
/// The name of the key's.
pub const KEY: &str = "tls.key";
/// The name of the roots'.
pub const ROOTS: &str = "ca.crt";

/// Who a leaf for a trial is for: nobody.
const NOBODY: &str = "spiffe://invalid/ns/none/sa/none";

/// Provides a certificate authority, which may be another one each time.
pub trait Provider: Send + Sync + 'static {
    /// What is provided now; `None` when nothing is there yet.
    fn provided(&self) -> BoxFuture<'_, Result<Option<Provided>, StoreError>>;

    /// For people: where it stands.
    fn place(&self) -> String;
}

/// The three parts, PEM. Never shown.
pub struct Provided {
    /// `tls.crt`.
    pub certificate: Vec<u8>,
    /// `tls.key`.
    pub key: Vec<u8>,
    /// `ca.crt`.
    pub roots: Vec<u8>,
}

// === impl Provided ===

impl Provided {
    /// The line that it is, if it can be used now.
    ///
    /// # Errors
    /// A sentence that says what is wrong with which part, and how to put it right.
    pub(super) fn read(&self, now: SystemTime) -> Result<Arc<Line>, String> {
        let chain = certificates(CERTIFICATE, &self.certificate)?;
        let roots = certificates(ROOTS, &self.roots)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| format!("{KEY} is no private key in PEM"))?;
        let first = chain.first().ok_or("it is empty")?;
        check(first, &roots, now)?;
        let signer = Authority::new(first, key)
            .map_err(|error| format!("{CERTIFICATE} and {KEY} can't be used: {error}"))?;
        let line = Line {
            // A root is not sent along: who needs it to be told doesn't trust it.
            between: chain
                .into_iter()
                .filter(|one| !roots.contains(one))
                .collect(),
            roots,
            own: None,
            signer: Arc::new(signer),
        };
        prove(&line, now)?;
        Ok(Arc::new(line))
    }
}

impl fmt::Debug for Provided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provided").finish_non_exhaustive()
    }
}

fn certificates(part: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found: Vec<CertificateDer<'static>> = Vec::new();
    for one in CertificateDer::pem_slice_iter(pem) {
        let one = one.map_err(|_| format!("{part} is no list of certificates in PEM"))?;
        parse(&one).map_err(|_| format!("{part} holds a certificate that can't be read"))?;
        if !found.contains(&one) {
            found.push(one);
        }
        if found.len() > MAX_ROOTS {
            return Err(format!("{part} holds more than {MAX_ROOTS} certificates"));
        }
    }
    match found.is_empty() {
        true => Err(format!("{part} holds no certificate in PEM")),
        false => Ok(found),
    }
}

/// What can be said of a certificate alone, in plainer words than the trial finds.
fn check(
    der: &CertificateDer<'_>,
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), String> {
    let parsed = parse(der).map_err(|error| error.to_string())?;
    let (from, until) = validity(&parsed);
    if until <= now {
        return Err(format!(
            "{CERTIFICATE} has ended at {}: let it be renewed",
            rfc3339(until)
        ));
    }
    if from > now {
        return Err(format!(
            "{CERTIFICATE} is valid from {} on only: compare the clocks",
            rfc3339(from)
        ));
    }
    if !parsed.is_ca() {
        return Err(format!(
            "{CERTIFICATE} may not sign others: set isCA: true in its Certificate"
        ));
    }
    let usage = parsed.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(format!(
            "the key usage of {CERTIFICATE} doesn't allow signing certificates: add `cert sign` to the usages of its Certificate"
        ));
    }
    let extended = parsed.extended_key_usage().ok().flatten();
    let both = |usage: &x509_parser::extensions::ExtendedKeyUsage<'_>| {
        usage.any || (usage.server_auth && usage.client_auth)
    };
    if extended.is_some_and(|usage| !both(usage.value)) {
        return Err(format!(
            "the extended key usage of {CERTIFICATE} leaves no room for leaves of servers and clients: give its Certificate both `server auth` and `client auth`, or neither"
        ));
    }
    let ended = |root: &CertificateDer<'_>| parse(root).is_ok_and(|root| validity(&root).1 <= now);
    if roots.iter().all(ended) {
        return Err(format!(
            "every certificate of {ROOTS} has ended: let the one that issues {CERTIFICATE} be renewed"
        ));
    }
    Ok(())
}

/// Signs for nobody, and looks at the result as the two ends of a connection do.
fn prove(line: &Line, now: SystemTime) -> Result<(), String> {
    let trial = || -> Result<(), rustls::Error> {
        let failed = |error: &dyn fmt::Display| rustls::Error::General(error.to_string());
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let life = Duration::from_secs(60);
        let issued = leaf::issue(line, &key, NOBODY, None, now, life);
        let issued = issued.map_err(|error| failed(&error))?;
        let (leaf, between) = issued.chain.split_first().ok_or_else(|| failed(&"empty"))?;
        let mut roots = RootCertStore::empty();
        for root in &line.roots {
            roots.add(root.clone())?;
        }
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, between, now, algorithms)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
        let clients = clients.map_err(|error| failed(&error))?;
        clients.verify_client_cert(leaf, between, now).map(drop)
    };
    trial().map_err(|error| match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "{CERTIFICATE} isn't signed by a certificate of {ROOTS}: both must come from one issuer, with those in between in {CERTIFICATE}"
        ),
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => format!(
            "{CERTIFICATE} isn't signed by the certificate of {ROOTS} that has the name of its issuer"
        ),
        error => {
            let said = format!("{error:?}");
            let why = match said.contains("PathLen") {
                true => "a path length above it leaves no room for one more certificate".to_owned(),
                false => error.to_string(),
            };
            format!("what {CERTIFICATE} signs isn't proved by {ROOTS}: {why}")
        }
    })
}

/// A time for people.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .and_then(|time| time.round(jiff::Unit::Second))
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}
