//! What is taken out of a certificate signing request: one public key, and the proof that the asker
//! holds its private half. Names, usages and everything else that it asks for is not even looked at.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;

/// The largest request that is parsed, in bytes: one with a P-256 key and nothing else has 200.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

/// An ECDSA P-256 public key whose private half the asker has proven to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedKey([u8; 65]);

/// Why a request is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// More than [`MAX_CSR_BYTES`].
    #[error("the certificate signing request is larger than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// Not PKCS #10 in DER.
    #[error("the certificate signing request can't be read: it must be PKCS #10 in DER")]
    Unreadable,
    /// RSA, Ed25519, another curve, another hash.
    #[error(
        "the certificate signing request has another kind of key: it must be ECDSA on P-256, signed with SHA-256"
    )]
    OtherKey,
    /// The asker doesn't hold the private key, or the request was changed on its way.
    #[error(
        "the certificate signing request's signature is wrong: it isn't signed with the key that it names"
    )]
    WrongSignature,
}

// === impl RequestedKey ===

impl RequestedKey {
    /// The key in a PKCS #10 request (DER), once its signature has been verified.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn from_csr(der: &[u8]) -> Result<RequestedKey, BadRequest> {
        if der.len() > MAX_CSR_BYTES {
            return Err(BadRequest::TooLarge);
        }
        let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
            return Err(BadRequest::Unreadable);
        };
        let public = &csr.certification_request_info.subject_pki;
        let curve = public
            .algorithm
            .parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok());
        if public.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
            || curve != Some(OID_EC_P256)
            || csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
        {
            return Err(BadRequest::OtherKey);
        }
        // An uncompressed point, the only form that TLS 1.3 and rustls know.
        let point = match <[u8; 65]>::try_from(public.subject_public_key.data.as_ref()) {
            Ok(point @ [4, ..]) => point,
            _ => return Err(BadRequest::OtherKey),
        };
        // It also proves that the point is on the curve.
        csr.verify_signature()
            .map_err(|_| BadRequest::WrongSignature)?;
        Ok(RequestedKey(point))
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    fn csr(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default()
            .serialize_request(key)
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn the_proven_key_is_taken_out_of_a_request() {
        let key = KeyPair::generate().unwrap();
        let requested = RequestedKey::from_csr(&csr(&key)).unwrap();
        assert_eq!(requested.der_bytes(), key.public_key_raw());
    }

    #[test]
    fn what_else_a_request_asks_for_does_not_matter() {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI("spiffe://evil/ns/a/sa/b".try_into().unwrap())];
        let extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        params.custom_extensions = vec![extension];
        let key = KeyPair::generate().unwrap();
        let csr = params.serialize_request(&key).unwrap();
        let requested = RequestedKey::from_csr(csr.der()).unwrap();
        assert_eq!(requested.der_bytes(), key.public_key_raw());
    }

    #[test]
    fn other_kinds_of_key_are_refused() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(
                RequestedKey::from_csr(&csr(&key)),
                Err(BadRequest::OtherKey)
            );
        }
        let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        assert_eq!(
            RequestedKey::from_csr(&csr(&rsa)),
            Err(BadRequest::OtherKey)
        );
    }

    #[test]
    fn a_request_for_a_key_that_the_asker_does_not_hold_is_refused() {
        let (own, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut request = csr(&own);
        let at = request
            .windows(65)
            .position(|window| window == own.public_key_raw())
            .expect("the key is in the request");
        request[at..at + 65].copy_from_slice(theirs.public_key_raw());
        assert_eq!(
            RequestedKey::from_csr(&request),
            Err(BadRequest::WrongSignature)
        );
    }

    #[test]
    fn a_request_that_was_changed_is_refused() {
        let mut request = csr(&KeyPair::generate().unwrap());
        let at = request
            .windows(5)
            .position(|window| window == b"rcgen")
            .unwrap();
        request[at] = b'R';
        assert_eq!(
            RequestedKey::from_csr(&request),
            Err(BadRequest::WrongSignature)
        );
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut request = csr(&key);
        let at = request
            .windows(65)
            .position(|window| window == key.public_key_raw())
            .unwrap();
        request[at + 64] ^= 1;
        assert_eq!(
            RequestedKey::from_csr(&request),
            Err(BadRequest::WrongSignature)
        );
    }

    #[test]
    fn what_is_no_request_or_too_large_is_refused() {
        let request = csr(&KeyPair::generate().unwrap());
        let more = [&request[..], &[0]].concat();
        for der in [
            &b""[..],
            b"-----BEGIN",
            &request[..request.len() - 1],
            &more,
        ] {
            assert_eq!(RequestedKey::from_csr(der), Err(BadRequest::Unreadable));
        }
        let large = vec![0x30; MAX_CSR_BYTES + 1];
        assert_eq!(RequestedKey::from_csr(&large), Err(BadRequest::TooLarge));
    }
}
