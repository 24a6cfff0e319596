//! The certificate that a Secret holds for whoever asks for one: a system that events go to, a broker.

use k8s_openapi::api::core::v1::Secret;

use crate::access::certificates;
use crate::access::keys::text;
use crate::inputs::ObjectKey;

/// What begins a private key in PEM, after its algorithm.
const KEY: &str = "PRIVATE KEY-----";
/// What one has that nobody can read without a password.
const ENCRYPTED: &str = "ENCRYPTED";

/// What a Secret shows, and its key; empty where it has neither.
///
/// # Errors
/// A sentence without a word of what stands in it.
pub(crate) fn read(key: &ObjectKey, secret: &Secret) -> Result<(String, String), String> {
    let of = |field| text(secret, field).unwrap_or_default();
    let (certificate, private_key) = (of("tls.crt"), of("tls.key"));
    if !certificate.is_empty() && certificates("", &certificate).is_some() {
        return Err(format!(
            "what stands in \"tls.crt\" of Secret {key} is no certificate in PEM, or not all of it is."
        ));
    }
    if certificate.is_empty() != private_key.is_empty() {
        return Err(format!(
            "Secret {key} has one of \"tls.crt\" and \"tls.key\": a certificate is shown with its key, or not at all."
        ));
    }
    if !private_key.is_empty() && (!private_key.contains(KEY) || private_key.contains(ENCRYPTED)) {
        return Err(format!(
            "what stands in \"tls.key\" of Secret {key} is no private key in PEM, or is encrypted."
        ));
    }
    Ok((certificate, private_key))
}
