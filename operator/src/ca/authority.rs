//! One certificate that signs others, with its key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::X509Certificate;

use super::{BACKDATED, Error};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// An intermediate lives for a tenth of its root's life and for a year at most, so that a root
/// always outlives what it signs.
const INTERMEDIATE_LIFE: Duration = YEAR;
const INTERMEDIATE_PART: u32 = 10;
/// It is replaced when a third of its life is left.
const NEXT_INTERMEDIATE_PART: u32 = 3;

/// A certificate that may sign others, and its key.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    /// For signing.
    key: KeyPair,
    /// The same, as it is kept.
    pub(super) key_der: PrivateKeyDer<'static>,
    pub(super) valid: (SystemTime, SystemTime),
}

// === impl Authority ===

impl Authority {
    /// A root of our own.
    pub(super) fn root(now: SystemTime, life: Duration) -> Result<Authority, Error> {
        let params = root_params(now, now + life);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Authority::of_pair(certificate.der(), key)
    }

    /// Proves `next`, a root of our own, to those who trust this one and nothing newer.
    pub(super) fn vouch_for(
        &self,
        next: &Authority,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, Error> {
        let mut params = root_params(now, next.valid.1.min(self.valid.1));
        let parsed = parse(&next.certificate)?;
        let name = parsed.subject().iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        // Verifiers look for an issuer by its name: the same, byte for byte.
        params.distinguished_name = distinguished_name(name);
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&next.key, &self.issuer()?)?.into())
    }

    /// An intermediate below a root of our own.
    pub(super) fn intermediate(root: &Authority, now: SystemTime) -> Result<Authority, Error> {
        let life = (root.life() / INTERMEDIATE_PART).min(INTERMEDIATE_LIFE);
        let end = (now + life).min(root.valid.1);
        let mut params = params("Meshwright intermediate", now, end);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = leaf_usages();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &root.issuer()?)?;
        Authority::of_pair(certificate.der(), key)
    }

    fn of_pair(certificate: &[u8], key: KeyPair) -> Result<Authority, Error> {
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Authority::new(certificate, der.into())
    }

    /// From a certificate and its key.
    ///
    /// # Errors
    /// When one can't be read, they don't belong together, or the certificate may not sign others.
    pub(super) fn new(
        certificate: &[u8],
        key_der: PrivateKeyDer<'static>,
    ) -> Result<Authority, Error> {
        let unusable = |what: &str| Error::Unusable(what.to_owned());
        let key = KeyPair::try_from(&key_der)
            // What rcgen says of a key it can't read stays here: it is about a secret.
            .map_err(|_| {
                unusable(
                    "a private key that can't be read: write RSA, ECDSA (P-256, P-384) or Ed25519",
                )
            })?;
        let parsed = parse(certificate)?;
        if parsed.public_key().subject_public_key.as_ref() != key.public_key_raw() {
            return Err(unusable("a certificate with another one's key"));
        }
        if !parsed.is_ca() {
            return Err(unusable(
                "a certificate that may not sign others (it is no CA)",
            ));
        }
        let valid = validity(&parsed);
        Ok(Authority {
            certificate: certificate.to_vec().into(),
            key,
            key_der,
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

    /// How long it is valid in all.
    pub(super) fn life(&self) -> Duration {
        let from = self.valid.0 + BACKDATED;
        self.valid.1.duration_since(from).unwrap_or_default()
    }

    /// Whether this intermediate should be replaced.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.left(now) <= self.life() / NEXT_INTERMEDIATE_PART
    }

    pub(super) fn signed_by(&self, other: &CertificateDer<'_>) -> bool {
        let (Ok(own), Ok(other)) = (parse(&self.certificate), parse(other)) else {
            return false;
        };
        own.issuer() == other.subject() && own.verify_signature(Some(other.public_key())).is_ok()
    }
}

fn root_params(now: SystemTime, end: SystemTime) -> CertificateParams {
    let mut params = params("Meshwright root", now, end);
    // No bound on what is below: a root also vouches for those that follow it.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
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
    params
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
    params.distinguished_name = distinguished_name(&format!("{name} {tag}"));
    params.serial_number = Some(serial);
    set_validity(&mut params, now, end);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Meshwright");
    name.push(DnType::CommonName, common_name);
    name
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
