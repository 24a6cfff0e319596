//! Broker → [`Broker`]: where events are, and who asks.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::ClientConfig;
use wire::broker::Address;
use wire::mesh;

use super::remote;

/// A broker.
pub struct Broker {
    /// As sent: two with the same are the same.
    sent: mesh::Broker,
    /// Where it is; `None` when it can't be had.
    pub address: Option<Address>,
    /// How it proves itself; `None` for plaintext, which stays in the mesh.
    pub tls: Option<Arc<ClientConfig>>,
}

// === build ===

impl Broker {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence without a word of what is secret.
    pub fn build(sent: mesh::Broker) -> Result<Self, String> {
        let address = match sent.url.is_empty() {
            true => None,
            false => Some(Address::read(&sent.url).map_err(|error| error.to_string())?),
        };
        let tls = match &address {
            Some(Address { tls: true, .. }) => {
                let shown = (&*sent.certificate, &*sent.key);
                let client = remote::client_that_shows(&sent.ca_certificates, shown)?;
                let mut client = Arc::unwrap_or_clone(client);
                // It speaks no HTTP.
                client.alpn_protocols.clear();
                Some(Arc::new(client))
            }
            _ => None,
        };
        Ok(Self { sent, address, tls })
    }

    // === request ===

    /// Its name, as people write it.
    pub fn name(&self) -> &str {
        &self.sent.name
    }

    /// Who asks, and the password; empty when there are none.
    pub fn password(&self) -> (&str, &str) {
        (&self.sent.user, &self.sent.password)
    }

    /// Of RabbitMQ, which of its virtual hosts is meant.
    pub fn virtual_host(&self) -> &str {
        match &*self.sent.virtual_host {
            "" => "/",
            named => named,
        }
    }

    /// What is shown instead; empty when there is none.
    pub fn token(&self) -> &str {
        &self.sent.token
    }
}

impl PartialEq for Broker {
    fn eq(&self, other: &Self) -> bool {
        self.sent == other.sent
    }
}

impl Eq for Broker {}

impl Hash for Broker {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sent.name.hash(state);
        self.sent.url.hash(state);
    }
}

/// Its name, and where it is: the rest is secret.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{} at {address}", self.sent.name),
            None => f.write_str(&self.sent.name),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
