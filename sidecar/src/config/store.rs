//! SharedStore → [`Address`]: where replicas count together.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::ClientConfig;
use wire::store::Place;

use super::remote;

/// Where a store is, and how it is spoken to.
pub struct Address {
    /// As sent: two with the same are the same.
    sent: (String, String),
    place: Place,
    tls: Option<Arc<ClientConfig>>,
}

// === build ===

impl Address {
    /// Builds from what was sent: what [`Place`] reads, and the authorities that vouch for a store over
    /// TLS (PEM; empty: those of the public web).
    ///
    /// # Errors
    /// A sentence without a word of the address, in which a password stands.
    pub fn build(url: String, authorities: String) -> Result<Self, String> {
        let place = Place::read(&url).map_err(|error| error.to_string())?;
        let tls = match place.tls {
            true => Some(remote::client(&authorities)?),
            false => None,
        };
        Ok(Self {
            place,
            tls,
            sent: (url, authorities),
        })
    }

    // === request ===

    /// A name, or an address.
    pub fn host(&self) -> &str {
        &self.place.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// Who asks; empty for the default one.
    pub fn user(&self) -> &str {
        &self.place.user
    }

    /// The password; empty when there is none.
    pub fn password(&self) -> &str {
        &self.place.password
    }

    /// The database.
    pub fn database(&self) -> u32 {
        self.place.database
    }

    /// How it proves itself; `None` for plaintext, which stays in the mesh.
    pub fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.sent == other.sent
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sent.hash(state);
    }
}

/// Host and port alone: the rest is secret.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.place.host, self.place.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
