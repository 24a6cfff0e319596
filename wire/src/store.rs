//! Where a store is that sidecars share: `redis://user:password@host:port/database`, or `rediss://` over
//! TLS. The compiler refuses what no sidecar could use, so both read it here.

use crate::authority::Authority;

/// The port of a store that names none.
const PORT: u16 = 6379;

/// A store's address, in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// A name, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who asks; empty for the default one.
    pub user: String,
    /// The password; empty when there is none.
    pub password: String,
    /// The database.
    pub database: u32,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
}

/// It is no address of a store. Nothing of it is said: a password may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's address is none of the form redis://host:6379")]
pub struct NoPlace;

// === impl Place ===

impl Place {
    /// Reads an address.
    ///
    /// # Errors
    /// That it is none.
    pub fn read(url: &str) -> Result<Self, NoPlace> {
        let (scheme, rest) = url.split_once("://").ok_or(NoPlace)?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(NoPlace),
        };
        let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| NoPlace)?,
        };
        let authority = Authority::read(rest, PORT).ok_or(NoPlace)?;
        Ok(Self {
            host: authority.host,
            port: authority.port,
            user: authority.user,
            password: authority.password,
            database,
            tls,
        })
    }
}

impl std::fmt::Debug for Place {
    /// The rest is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_its_parts_and_shown_without_what_is_secret() {
        let full = Place::read("redis://app:p%40ss%3Aword@redis.shop:7000/3").unwrap();
        assert_eq!((full.host.as_str(), full.port), ("redis.shop", 7000));
        assert_eq!((&*full.user, &*full.password), ("app", "p@ss:word"));
        assert_eq!((full.database, full.tls), (3, false));
        assert_eq!(format!("{full:?}"), "redis.shop:7000");
        let bare = Place::read("redis://redis").unwrap();
        assert_eq!((bare.port, &*bare.password), (6379, ""));
        let six = Place::read("rediss://[::1]:6380").unwrap();
        assert_eq!((&*six.host, six.port, six.tls), ("::1", 6380, true));
        for wrong in [
            "redis",
            "http://redis",
            "redis://",
            "redis://:pw@",
            "rediss://:6380",
            "redis://redis:99999",
            "redis://redis:0",
            "redis://redis:",
            "redis://[::1]x",
            "redis://redis/a",
            "redis://redis/0?timeout=1",
            "redis://a:%zz@redis",
            "redis://a:%f@redis",
        ] {
            assert_eq!(Place::read(wrong), Err(NoPlace), "{wrong}");
        }
    }
}
