//! Leaves: made here, and read here when one comes back as the proof of who is calling.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, IsCa, KeyUsagePurpose, SanType,
};
use wire::id::POD_EXTENSION;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::authority::{leaf_usages, parse, serial, set_validity, validity};
use super::line::Line;
use super::{Error, Issued, OPERATOR, spiffe_id};
use crate::issuer::{InvalidName, Workload};

/// DER's tag of a UTF8String.
const UTF8_STRING: u8 = 0x0c;

/// Who is at the other end of a connection, as its leaf proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLeaf {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub spiffe_id: String,
    /// Of the pod and its service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the leaf was issued to.
    pub pod: String,
    /// Tells the pod from its predecessors of the same name.
    pub pod_uid: String,
    /// When the leaf ends. A connection may outlive it.
    pub expires: SystemTime,
}

/// Why a leaf, though its chain is good, proves no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLeaf {
    /// Not readable as an X.509 certificate.
    #[error("the certificate can't be read")]
    Unreadable,
    /// Not one URI, or not one of a workload.
    #[error(
        "the certificate names no workload: it must have one URI, spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    NoWorkload,
    /// Of another trust domain.
    #[error("the certificate is of trust domain `{0}`, not ours")]
    OtherTrustDomain(String),
    /// The extension is missing or of another form.
    #[error("the certificate doesn't say which pod it was issued to")]
    NoPod,
    /// A part of either is no name.
    #[error("the certificate names no workload: {0}")]
    Name(#[from] InvalidName),
}

/// Signs a leaf. Without a workload it is the operator's own, which no pod is bound to.
pub(super) fn issue(
    line: &Line,
    key: &impl rcgen::PublicKeyData,
    uri: &str,
    workload: Option<&Workload>,
    now: SystemTime,
    life: Duration,
) -> Result<Issued, Error> {
    if line.left(now).is_zero() {
        return Err(Error::Ended);
    }
    let expires = (now + life).min(line.ends());
    let mut params = CertificateParams::default();
    set_validity(&mut params, now, expires);
    params.serial_number = Some(serial());
    // No subject: whoever reads one would compare names that prove nothing.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = leaf_usages();
    params.use_authority_key_identifier_extension = true;
    params.custom_extensions = workload.map(pod_extension).into_iter().collect();
    let leaf = params.signed_by(key, &line.signer.issuer()?)?;
    let mut chain = vec![leaf.into()];
    chain.extend_from_slice(&line.between);
    Ok(Issued { chain, expires })
}

fn pod_extension(workload: &Workload) -> CustomExtension {
    let text = format!("{}/{}/{}", workload.namespace, workload.pod, workload.uid);
    CustomExtension::from_oid_content(POD_EXTENSION, utf8_string(&text))
}

/// A UTF8String in DER. A workload's names bound its length to some 600 bytes.
fn utf8_string(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut der = vec![UTF8_STRING];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        Ok(byte) => der.extend([0x81, byte]),
        Err(_) => {
            let [.., high, low] = length.to_be_bytes();
            der.extend([0x82, high, low]);
        }
    }
    der.extend(text.as_bytes());
    der
}

// === impl PeerLeaf ===

impl PeerLeaf {
    /// Reads a leaf whose chain has been verified.
    ///
    /// # Errors
    /// When it is no leaf that was issued to a pod of the trust domain.
    pub fn read(leaf: &[u8], trust_domain: &str) -> Result<PeerLeaf, InvalidLeaf> {
        let certificate = parse(leaf).map_err(|_| InvalidLeaf::Unreadable)?;
        let uri = the_uri(&certificate).ok_or(InvalidLeaf::NoWorkload)?;
        let (domain, namespace, service_account) =
            split_spiffe_id(uri).ok_or(InvalidLeaf::NoWorkload)?;
        if domain != trust_domain {
            return Err(InvalidLeaf::OtherTrustDomain(
                domain.chars().take(253).collect(),
            ));
        }
        let (pod_namespace, pod, uid) = pod_of(&certificate).ok_or(InvalidLeaf::NoPod)?;
        if pod_namespace != namespace {
            return Err(InvalidLeaf::NoPod);
        }
        let Workload {
            namespace,
            service_account,
            pod,
            uid,
        } = Workload::new(namespace, service_account, &pod, &uid)?;
        Ok(PeerLeaf {
            spiffe_id: uri.to_owned(),
            namespace,
            service_account,
            pod,
            pod_uid: uid,
            expires: validity(&certificate).1,
        })
    }

    /// The pod, as the one that a renewed leaf would be issued to.
    pub fn workload(&self) -> Workload {
        Workload {
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
            pod: self.pod.clone(),
            uid: self.pod_uid.clone(),
        }
    }
}

/// Whether a leaf, whose chain has been verified, is the operator's own. No workload is given its
/// identity ([`OPERATOR`]), and it is bound to no pod.
pub(crate) fn is_operator(leaf: &[u8], trust_domain: &str) -> bool {
    let Ok(certificate) = parse(leaf) else {
        return false;
    };
    let extensions = certificate.extensions().iter();
    let mut oids = extensions.filter_map(|one| one.oid.iter());
    let bound = oids.any(|oid| oid.eq(POD_EXTENSION.iter().copied()));
    let own = spiffe_id(trust_domain, OPERATOR.0, OPERATOR.1);
    !bound && the_uri(&certificate) == Some(own.as_str())
}

/// SPIFFE X.509-SVID, section 2: exactly one URI.
fn the_uri<'a>(certificate: &X509Certificate<'a>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next()?;
    uris.next().is_none().then_some(uri)
}

/// Trust domain, namespace, service account.
fn split_spiffe_id(uri: &str) -> Option<(&str, &str, &str)> {
    let mut parts = uri.strip_prefix("spiffe://")?.split('/');
    let domain = parts.next()?;
    let (Some("ns"), Some(namespace)) = (parts.next(), parts.next()) else {
        return None;
    };
    let (Some("sa"), Some(account)) = (parts.next(), parts.next()) else {
        return None;
    };
    parts
        .next()
        .is_none()
        .then_some((domain, namespace, account))
}

/// Namespace, pod and UID.
fn pod_of(certificate: &X509Certificate<'_>) -> Option<(String, String, String)> {
    let mut found = certificate.extensions().iter().filter(|extension| {
        extension
            .oid
            .iter()
            .is_some_and(|oid| oid.eq(POD_EXTENSION.iter().copied()))
    });
    let (Some(extension), None) = (found.next(), found.next()) else {
        return None;
    };
    // What we write is short and in its one DER form: writing it again is how it is checked.
    let text = match extension.value {
        [UTF8_STRING, length, text @ ..] if *length < 0x80 => text,
        [UTF8_STRING, 0x81, _, text @ ..] | [UTF8_STRING, 0x82, _, _, text @ ..] => text,
        _ => return None,
    };
    let text = std::str::from_utf8(text).ok()?;
    if utf8_string(text) != extension.value {
        return None;
    }
    let mut parts = text.splitn(3, '/');
    Some((
        parts.next()?.to_owned(),
        parts.next()?.to_owned(),
        parts.next()?.to_owned(),
    ))
}
