//! Remote → [`Remote`]: somewhere to ask over HTTP, in the mesh or outside.

use std::sync::Arc;

use http::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use wire::mesh;

use crate::net::tls;

/// Somewhere to ask.
#[derive(Clone, Debug)]
pub struct Remote {
    uri: Uri,
    /// As sent; two with the same are the same.
    authorities: String,
    /// How a server outside the mesh proves itself; `None` in the mesh.
    tls: Option<Arc<ClientConfig>>,
}

impl PartialEq for Remote {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri && self.authorities == other.authorities
    }
}

// === build ===

impl Remote {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Remote) -> Result<Self, String> {
        let uri: Uri = sent
            .uri
            .parse()
            .map_err(|_| format!("`{}` is no address", sent.uri))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(format!("`{}` names no host", sent.uri));
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(client(&sent.ca_certificates)?),
            _ => return Err(format!("`{}` is neither http nor https", sent.uri)),
        };
        Ok(Self {
            uri,
            authorities: sent.ca_certificates,
            tls,
        })
    }

    // === request ===

    /// What is asked for.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// How a server outside the mesh proves itself; `None` in the mesh, where its sidecar does.
    pub fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }
}

/// Trust in a server outside the mesh, as authorities vouch for it (PEM; empty: those of the web).
///
/// # Errors
/// A sentence.
pub fn client(authorities: &str) -> Result<Arc<ClientConfig>, String> {
    client_that_shows(authorities, ("", ""))
}

/// The same, which shows a certificate of its own (with its key, PEM; empty: none).
///
/// # Errors
/// A sentence, without a word of the key.
pub fn client_that_shows(
    authorities: &str,
    (certificate, key): (&str, &str),
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the authorities: {error}"))?;
        let added = roots.add(certificate);
        added.map_err(|error| format!("the authorities: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no authority to vouch for the server".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(tls::provider());
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = builder.with_root_certificates(roots);
    let mut client = match certificate.is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|_| "what is shown is no certificate in PEM")?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
            let key = key.map_err(|_| "the key of what is shown is none in PEM")?;
            let client = builder.with_client_auth_cert(chain, key);
            client.map_err(|_| "the certificate that is shown and its key don't belong together")?
        }
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(uri: &str, authorities: &str) -> Result<Remote, String> {
        Remote::build(mesh::Remote {
            uri: uri.into(),
            ca_certificates: authorities.into(),
        })
    }

    #[test]
    fn what_cannot_be_asked_is_rejected() {
        assert!(
            build("http://issuer.auth/keys", "")
                .unwrap()
                .tls()
                .is_none()
        );
        assert!(
            build("https://issuer.example/keys", "")
                .unwrap()
                .tls()
                .is_some()
        );
        for (uri, authorities, why) in [
            ("/keys", "", "`/keys` names no host"),
            (
                "ftp://a/keys",
                "",
                "`ftp://a/keys` is neither http nor https",
            ),
            (
                "https://a/keys",
                "no PEM",
                "there is no authority to vouch for the server",
            ),
        ] {
            assert_eq!(build(uri, authorities).unwrap_err(), why);
        }
    }
}
