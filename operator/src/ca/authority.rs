//! The certificates that sign others: what is kept of them, and when they are replaced.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::X509Certificate;

use super::{BACKDATED, Error, TrustBundle, micros};

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

const ROOT_LIFE: Duration = YEAR.saturating_mul(10);
/// A root with less than this left is followed by a next one, which is trusted at once.
const NEXT_ROOT: Duration = YEAR.saturating_mul(2);
/// A root with less than this left no longer signs. Half a year after the next one was made: every
/// sidecar that is not to be cut off has had word of it by then. Longer than an intermediate lives,
/// so that a root outlives what it signs.
const SIGNS_NO_MORE: Duration = DAY.saturating_mul(548);
const INTERMEDIATE_LIFE: Duration = YEAR;
/// An intermediate with less than this left is replaced.
const NEXT_INTERMEDIATE: Duration = DAY.saturating_mul(122);

/// The most that is parsed of what is kept.
const MAX_CERTIFICATES: usize = 64;

/// A certificate that may sign others, and its key.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) valid: (SystemTime, SystemTime),
}

/// All that is kept: immutable; a renewal makes another.
#[derive(Clone, Default)]
pub(super) struct Authorities {
    /// Oldest first. Those that have ended stay, for there is one in nine years, and the bundle's
    /// revision is counted from them.
    roots: Vec<Arc<Authority>>,
    intermediate: Option<Arc<Authority>>,
}

// === impl Authorities ===

impl Authorities {
    /// The one that signs leaves.
    pub(super) fn intermediate(&self) -> Option<&Authority> {
        self.intermediate.as_deref()
    }

    /// What is due is made anew: the whole as it should be kept from now on, or `None` when nothing
    /// is due.
    pub(super) fn renewed(&self, now: SystemTime) -> Result<Option<Authorities>, Error> {
        let mut renewed = self.clone();
        if self
            .roots
            .last()
            .is_none_or(|newest| newest.left(now) <= NEXT_ROOT)
        {
            renewed.roots.push(Arc::new(Authority::root(now)?));
        }
        let signing = renewed
            .roots
            .iter()
            .find(|root| root.left(now) > SIGNS_NO_MORE)
            .ok_or_else(|| Error::Unusable("the root that was just made has ended".into()))?;
        let fits = |intermediate: &Authority| {
            intermediate.left(now) > NEXT_INTERMEDIATE && intermediate.signed_by(signing)
        };
        if !self.intermediate().is_some_and(fits) {
            renewed.intermediate = Some(Arc::new(Authority::intermediate(signing, now)?));
        }
        let same = renewed.roots.len() == self.roots.len()
            && match (&renewed.intermediate, &self.intermediate) {
                (Some(after), Some(before)) => Arc::ptr_eq(after, before),
                _ => false,
            };
        Ok((!same).then_some(renewed))
    }

    /// What to trust now.
    pub(super) fn bundle(&self, now: SystemTime) -> TrustBundle {
        let (trusted, ended): (Vec<_>, Vec<_>) = self
            .roots
            .iter()
            .partition(|root| root.left(now) > Duration::ZERO);
        let changes = self.roots.iter().map(|root| root.valid.0);
        let changes = changes.chain(ended.iter().map(|root| root.valid.1));
        TrustBundle {
            revision: changes.map(micros).max().unwrap_or(0),
            roots: trusted
                .into_iter()
                .map(|root| root.certificate.clone())
                .collect(),
        }
    }

    /// Everything, keys included: each certificate followed by its key, the intermediate last.
    pub(super) fn to_pem(&self) -> String {
        let all = self.roots.iter().chain(&self.intermediate);
        let blocks = all.map(|one| {
            pem_block("CERTIFICATE", &one.certificate)
                + &pem_block("PRIVATE KEY", one.key.serialized_der())
        });
        blocks.collect()
    }

    /// The roots' certificates alone: no secret.
    pub(super) fn roots_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| pem_block("CERTIFICATE", &root.certificate))
            .collect()
    }

    /// What [`Authorities::to_pem`] wrote.
    pub(super) fn from_pem(pem: &str) -> Result<Authorities, Error> {
        let mut sections = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            sections.push(section.map_err(|error| Error::Unusable(error.to_string()))?);
            if sections.len() > 2 * MAX_CERTIFICATES {
                return Err(Error::Unusable("too many certificates".into()));
            }
        }
        let mut all = Authorities::default();
        for pair in sections.chunks(2) {
            let [
                (SectionKind::Certificate, certificate),
                (SectionKind::PrivateKey, key),
            ] = pair
            else {
                return Err(Error::Unusable(
                    "each certificate must be followed by its private key (PKCS #8)".into(),
                ));
            };
            let one = Arc::new(Authority::new(certificate, key)?);
            if one.signed_by(&one) {
                all.roots.push(one);
            } else {
                all.intermediate = Some(one);
            }
        }
        if all.roots.is_empty() {
            return Err(Error::Unusable("there is no root".into()));
        }
        all.roots.sort_by_key(|root| root.valid);
        Ok(all)
    }
}

// === impl Authority ===

impl Authority {
    fn root(now: SystemTime) -> Result<Authority, Error> {
        let mut params = params("Meshwright root", now, now + ROOT_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        // A workload is named by a URI, the operator too. Should one of these roots ever be trusted
        // for more than the mesh, then it still vouches for no host. (That it vouches for URIs of
        // its trust domain only can't be said: webpki knows no constraints of URIs.)
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![
                GeneralSubtree::DnsName(String::new()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Authority::new(certificate.der(), key.serialized_der())
    }

    fn intermediate(root: &Authority, now: SystemTime) -> Result<Authority, Error> {
        let end = (now + INTERMEDIATE_LIFE).min(root.valid.1);
        let mut params = params("Meshwright intermediate", now, end);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = leaf_usages();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &root.issuer()?)?;
        Authority::new(certificate.der(), key.serialized_der())
    }

    fn new(certificate: &[u8], key: &[u8]) -> Result<Authority, Error> {
        let unusable = |what: &str| Error::Unusable(what.to_owned());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key),
            &PKCS_ECDSA_P256_SHA256,
        )
        // What rcgen says of a key it can't read stays here: it is about a secret.
        .map_err(|_| unusable("a key that is no ECDSA P-256 key in PKCS #8"))?;
        let parsed = parse(certificate)?;
        if parsed.public_key().subject_public_key.as_ref() != key.public_key_raw() {
            return Err(unusable("a certificate is followed by another one's key"));
        }
        if !parsed.is_ca() {
            return Err(unusable("a certificate that may not sign others"));
        }
        let valid = validity(&parsed);
        Ok(Authority {
            certificate: certificate.to_vec().into(),
            key,
            valid,
        })
    }

    /// For signing with it.
    pub(super) fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, Error> {
        Ok(Issuer::from_ca_cert_der(&self.certificate, &self.key)?)
    }

    /// How long it is still valid.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        self.valid.1.duration_since(now).unwrap_or_default()
    }

    fn signed_by(&self, other: &Authority) -> bool {
        let (Ok(own), Ok(other)) = (parse(&self.certificate), parse(&other.certificate)) else {
            return false;
        };
        own.issuer() == other.subject() && own.verify_signature(Some(other.public_key())).is_ok()
    }
}

/// What every certificate of ours has in common.
fn params(name: &str, now: SystemTime, end: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let serial = serial();
    // Two authorities never share a name: a verifier looks for an issuer by its name.
    let tag: String = serial
        .to_bytes()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Meshwright");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {tag}"));
    params.serial_number = Some(serial);
    set_validity(&mut params, now, end);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// 126 random bits: positive, and of one length.
pub(super) fn serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&serial)
}

/// A sidecar is a client and a server at once.
pub(super) fn leaf_usages() -> Vec<ExtendedKeyUsagePurpose> {
    vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ]
}

/// Valid from a little before `now`, to the second.
pub(super) fn set_validity(params: &mut CertificateParams, now: SystemTime, end: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |time: SystemTime| {
        Duration::from_secs(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        )
    };
    params.not_before = epoch + seconds(now - BACKDATED);
    params.not_after = epoch + seconds(end);
}

pub(super) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Error::Unusable("a certificate that can't be read".into())),
    }
}

pub(super) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    let validity = certificate.validity();
    (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    )
}

/// One block as RFC 7468 has it.
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        block.push_str(&String::from_utf8_lossy(line));
        block.push('\n');
    }
    block + &format!("-----END {label}-----\n")
}
