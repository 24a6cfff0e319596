//! What a peer's certificate proves.
//!
//! Chains are verified by webpki against the trust bundle; which workload the leaf belongs to is
//! read from its URI SAN. A name or address of the peer is never compared: addresses are reused,
//! identities are not.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::SpiffeId;

/// Accepts a server whose chain leads to the trust bundle. The caller then compares the identity
/// it expected with [`identity_of`], before it sends anything.
#[derive(Debug)]
pub struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// Why a leaf proves no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// Not readable as an X.509 certificate.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// SPIFFE X.509-SVID section 2: exactly one URI SAN.
    #[error("the peer's certificate has {0} URI names; an identity has exactly one")]
    UriNames(usize),
    /// The one URI is no identity of a mesh.
    #[error(transparent)]
    NotAnIdentity(#[from] super::spiffe::NotAnIdentity),
    /// It belongs to another trust domain.
    #[error("the peer belongs to trust domain `{0}`, which this mesh does not trust")]
    OtherTrustDomain(String),
}

/// The identity that a leaf proves, given that its chain has been verified.
///
/// # Errors
/// See [`NoIdentity`].
pub fn identity_of(leaf: &[u8], trust_domain: &str) -> Result<SpiffeId, NoIdentity> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| NoIdentity::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| NoIdentity::Unreadable)?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), 0) = (uris.next(), uris.count()) else {
        let count = names.iter().flat_map(|n| &n.value.general_names);
        return Err(NoIdentity::UriNames(
            count.filter(|n| matches!(n, GeneralName::URI(_))).count(),
        ));
    };
    let id: SpiffeId = uri.parse()?;
    if id.trust_domain() != trust_domain {
        return Err(NoIdentity::OtherTrustDomain(id.trust_domain().to_owned()));
    }
    Ok(id)
}

// === impl ChainVerifier ===

impl ChainVerifier {
    /// Trusts what leads to one of `roots`.
    pub fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Self {
        Self { roots, provider }
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Never reached: only TLS 1.3 is offered.
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls13RequiredForQuic,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The error for a peer whose chain is good and whose identity is not the one expected.
pub fn not_for_name() -> Error {
    Error::InvalidCertificate(CertificateError::NotValidForName)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn leaf(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_one_uri_name_of_a_leaf_is_its_identity() {
        let id = identity_of(
            &leaf(&["spiffe://cluster.local/ns/a/sa/b"]),
            "cluster.local",
        );
        assert_eq!(id.unwrap().as_str(), "spiffe://cluster.local/ns/a/sa/b");
    }

    #[test]
    fn a_leaf_with_no_or_two_uri_names_or_of_another_domain_proves_nothing() {
        assert_eq!(
            identity_of(&leaf(&[]), "cluster.local"),
            Err(NoIdentity::UriNames(0))
        );
        let two = [
            "spiffe://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/c",
        ];
        assert_eq!(
            identity_of(&leaf(&two), "cluster.local"),
            Err(NoIdentity::UriNames(2))
        );
        assert_eq!(
            identity_of(&leaf(&["spiffe://evil/ns/a/sa/b"]), "cluster.local"),
            Err(NoIdentity::OtherTrustDomain("evil".into()))
        );
        assert_eq!(
            identity_of(b"not a certificate", "cluster.local"),
            Err(NoIdentity::Unreadable)
        );
    }
}
