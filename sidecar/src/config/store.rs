//! SharedStore → [`Address`]: where replicas count together.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::ClientConfig;

use super::remote;

/// The port of a store that names none.
const PORT: u16 = 6379;

/// Where a store is, and how it is spoken to.
pub struct Address {
    /// As sent: two with the same are the same.
    sent: (String, String),
    host: String,
    port: u16,
    user: String,
    password: String,
    database: u32,
    tls: Option<Arc<ClientConfig>>,
}

// === build ===

impl Address {
    /// Builds from what was sent: `redis://user:password@host:port/database`, or `rediss://`, and the
    /// authorities that vouch for the latter (PEM; empty: those of the public web).
    ///
    /// # Errors
    /// A sentence without a word of the address, in which a password stands.
    pub fn build(url: String, authorities: String) -> Result<Self, String> {
        let wrong = "the store's address is none of the form redis://host:6379";
        let (scheme, rest) = url.split_once("://").ok_or(wrong)?;
        let tls = match scheme {
            "redis" => None,
            "rediss" => Some(remote::client(&authorities)?),
            _ => return Err(wrong.to_owned()),
        };
        let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| wrong)?,
        };
        let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let bracketed = place
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        if host.is_empty() {
            return Err(wrong.to_owned());
        }
        let port = port.map_or(Ok(PORT), str::parse).map_err(|_| wrong)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            user: decoded(user).ok_or(wrong)?,
            password: decoded(password).ok_or(wrong)?,
            database,
            tls,
            sent: (url, authorities),
        })
    }

    // === request ===

    /// A name, or an address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who asks; empty for the default one.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password; empty when there is none.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The database.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// How it proves itself; `None` for plaintext, which stays in the mesh.
    pub fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }
}

/// What stands in place of `%xx`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
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
    fn an_address_is_read_and_shown_without_what_is_secret() {
        let build = |url: &str| Address::build(url.to_owned(), String::new());
        let full = build("redis://app:p%40ss%3Aword@redis.shop:7000/3").unwrap();
        assert_eq!((full.host(), full.port()), ("redis.shop", 7000));
        assert_eq!((full.user(), full.password()), ("app", "p@ss:word"));
        assert_eq!(full.database(), 3);
        assert_eq!(
            format!("{full} {full:?}"),
            "redis.shop:7000 redis.shop:7000"
        );
        let bare = build("redis://redis").unwrap();
        assert_eq!((bare.port(), bare.password()), (6379, ""));
        assert!(build("rediss://[::1]:6380").unwrap().tls().is_some());
        for wrong in [
            "redis",
            "http://redis",
            "redis://",
            "redis://:pw@",
            "redis://redis:99999",
            "redis://redis/a",
            "redis://a:%zz@redis",
            "redis://a:%f@redis",
        ] {
            let why = build(wrong).unwrap_err();
            assert!(!why.contains("pw"), "{why}");
        }
    }
}
