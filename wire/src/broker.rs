//! Where a broker is, and what it can do: `nats://host:port`, `amqp://host:port`, `redis://host:port`; over TLS
//! `tls://` (NATS), `amqps://`, `rediss://`. The compiler refuses what no sidecar could use, so both read it here.

use std::fmt;

use crate::authority::Authority;

/// What addresses begin with, what is there, whether over TLS, and the port of one that names none.
const SCHEMES: [(&str, BrokerKind, bool, u16); 6] = [
    ("nats", BrokerKind::Nats, false, 4222),
    ("tls", BrokerKind::Nats, true, 4222),
    ("amqp", BrokerKind::RabbitMq, false, 5672),
    ("amqps", BrokerKind::RabbitMq, true, 5671),
    ("redis", BrokerKind::Redis, false, 6379),
    ("rediss", BrokerKind::Redis, true, 6379),
];

/// What a broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokerKind {
    /// NATS with JetStream.
    Nats,
    /// RabbitMQ, over AMQP 0-9-1.
    RabbitMq,
    /// Redis, with its streams.
    Redis,
}

/// What a broker can do that not every one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It delivers to one member of a group at a time, in order.
    pub order: bool,
    /// A new group may start with what was published before.
    pub history: bool,
    /// The longest topic, in bytes.
    pub topic: usize,
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
#[error(
    "the broker's address is none of the form nats://host:4222, amqp://host:5672 or redis://host:6379"
)]
pub struct NoAddress;

// === impl BrokerKind ===

impl BrokerKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::RabbitMq => "RabbitMQ",
            Self::Redis => "Redis",
        }
    }

    /// What it can do.
    pub fn abilities(self) -> Abilities {
        match self {
            Self::Nats => Abilities {
                order: true,
                history: true,
                topic: 200,
            },
            Self::RabbitMq => Abilities {
                order: false,
                history: false,
                topic: 150,
            },
            Self::Redis => Abilities {
                order: false,
                history: true,
                topic: 200,
            },
        }
    }
}

// === impl Address ===

impl Address {
    /// Reads an address. Credentials stand beside it, and not in it.
    ///
    /// # Errors
    /// That it is none.
    pub fn read(url: &str) -> Result<Self, NoAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(NoAddress)?;
        let mut schemes = SCHEMES.into_iter();
        let known = schemes.find(|(known, ..)| *known == scheme);
        let (_, kind, tls, port) = known.ok_or(NoAddress)?;
        let authority = Authority::read(rest.strip_suffix('/').unwrap_or(rest), port);
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
        for (url, kind, port, tls) in [
            ("amqp://rabbit", BrokerKind::RabbitMq, 5672, false),
            (
                "amqps://rabbit.example.com",
                BrokerKind::RabbitMq,
                5671,
                true,
            ),
            ("redis://redis:1", BrokerKind::Redis, 1, false),
            ("rediss://redis.example.com", BrokerKind::Redis, 6379, true),
        ] {
            let read = Address::read(url).unwrap();
            assert_eq!((read.kind, read.port, read.tls), (kind, port, tls), "{url}");
        }
        let six = Address::read("nats://[::1]:1").unwrap();
        assert_eq!((&*six.host, six.port), ("::1", 1));
        for wrong in [
            "nats",
            "nats://",
            "http://nats",
            "amqp://rabbit/shop",
            "redis://redis/0",
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
