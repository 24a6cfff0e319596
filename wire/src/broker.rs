//! Where a broker is: `nats://host:port`, or `tls://host:port` over TLS. The compiler refuses what no sidecar could
//! use, so both read it here.

use std::fmt;

use crate::authority::Authority;

/// The port of a NATS server that names none.
const NATS: u16 = 4222;

/// What a broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokerKind {
    /// NATS with JetStream.
    Nats,
}

/// A broker's address, in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What is there.
    pub kind: BrokerKind,
    /// A name, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
}

/// It is no address of a broker. Nothing of it is said: a password may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker's address is none of the form nats://host:4222")]
pub struct NoAddress;

// === impl Address ===

impl Address {
    /// Reads an address. Credentials stand beside it, and not in it.
    ///
    /// # Errors
    /// That it is none.
    pub fn read(url: &str) -> Result<Self, NoAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(NoAddress)?;
        let (kind, tls) = match scheme {
            "nats" => (BrokerKind::Nats, false),
            "tls" => (BrokerKind::Nats, true),
            _ => return Err(NoAddress),
        };
        let authority = Authority::read(rest.strip_suffix('/').unwrap_or(rest), NATS);
        let authority = authority.ok_or(NoAddress)?;
        let has_path = authority.host.contains(['/', '?', '#', ' ', ',']);
        if has_path || !authority.user.is_empty() || !authority.password.is_empty() {
            return Err(NoAddress);
        }
        Ok(Self {
            kind,
            host: authority.host,
            port: authority.port,
            tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_s_address_is_read_in_its_parts() {
        let bare = Address::read("nats://nats").unwrap();
        assert_eq!((&*bare.host, bare.port, bare.tls), ("nats", 4222, false));
        let out = Address::read("tls://nats.example.com").unwrap();
        assert_eq!(
            (&*out.host, out.port, out.tls),
            ("nats.example.com", 4222, true)
        );
        let full = Address::read("nats://nats.events.svc:5222/").unwrap();
        assert_eq!((&*full.host, full.port), ("nats.events.svc", 5222));
        assert_eq!(full.to_string(), "nats.events.svc:5222");
        let six = Address::read("nats://[::1]:1").unwrap();
        assert_eq!((&*six.host, six.port), ("::1", 1));
        for wrong in [
            "nats",
            "nats://",
            "http://nats",
            "nats://app:secret@nats",
            "nats://nats:0",
            "nats://nats:99999",
            "nats://nats/a",
            "nats://a,b",
        ] {
            assert_eq!(Address::read(wrong), Err(NoAddress), "{wrong}");
        }
    }
}
