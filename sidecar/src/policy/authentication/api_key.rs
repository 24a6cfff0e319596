//! Keys of consumers: `mk_<id>_<secret>`, of which only the hash is known here.
//!
//! The id finds the entry, which is no secret; the SHA-256 of the whole key is compared in a time that
//! tells nothing. A key has 256 bits of chance, so that a plain hash of it can't be undone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use wire::mesh;

/// What every key begins with: scanners of secrets find it by that.
pub const PREFIX: &str = "mk_";
/// No key is longer, in bytes.
const MAX_KEY: usize = 256;

/// Who sends a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: Arc<str>,
    /// Its plan; empty when it is on none.
    pub plan: Arc<str>,
}

/// The keys that are taken.
#[derive(Default)]
pub struct Consumers(HashMap<Box<str>, Key>);

struct Key {
    hash: [u8; 32],
    not_before: Option<SystemTime>,
    expires_at: Option<SystemTime>,
    consumer: Arc<Consumer>,
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It has not the form of one.
    Malformed,
    /// Nobody's.
    Unknown,
    /// Its consumer's no more.
    Expired,
    /// Its consumer's, later.
    NotYetValid,
}

// === build ===

impl Consumers {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: Vec<mesh::ConsumerKey>) -> Result<Self, String> {
        let mut keys = HashMap::with_capacity(sent.len());
        for key in sent {
            let hash = <[u8; 32]>::try_from(&*key.hash);
            let hash = hash.map_err(|_| format!("key `{}`: the hash has not 32 bytes", key.id))?;
            let consumer = Consumer {
                name: key.consumer.into(),
                plan: key.plan.into(),
            };
            let built = Key {
                hash,
                not_before: key.not_before.map(time),
                expires_at: key.expires_at.map(time),
                consumer: Arc::new(consumer),
            };
            keys.insert(key.id.into_boxed_str(), built);
        }
        Ok(Self(keys))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    // === request ===

    /// Whose key it is.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn find(&self, key: &str, now: SystemTime) -> Result<Arc<Consumer>, Refused> {
        if key.len() > MAX_KEY {
            return Err(Refused::Malformed);
        }
        let parts = key
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'));
        let (id, _) = parts.ok_or(Refused::Malformed)?;
        let hash = digest(&SHA256, key.as_bytes());
        let known = self.0.get(id).ok_or(Refused::Unknown)?;
        verify_slices_are_equal(hash.as_ref(), &known.hash).map_err(|_| Refused::Unknown)?;
        if known.not_before.is_some_and(|from| now < from) {
            return Err(Refused::NotYetValid);
        }
        if known.expires_at.is_some_and(|until| until <= now) {
            return Err(Refused::Expired);
        }
        Ok(known.consumer.clone())
    }
}

/// Of Unix seconds; before 1970 and beyond what a clock shows counts as its nearest end.
fn time(seconds: i64) -> SystemTime {
    let after = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let end = SystemTime::UNIX_EPOCH.checked_add(after);
    end.unwrap_or(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 100))
}

// === impl Refused ===

impl Refused {
    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "key_malformed",
            Self::Unknown => "key_unknown",
            Self::Expired => "key_expired",
            Self::NotYetValid => "key_not_yet_valid",
        }
    }
}

/// No hash is shown: of a key that somebody has made up, it could be undone.
impl std::fmt::Debug for Consumers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, whole: &str, consumer: &str) -> mesh::ConsumerKey {
        mesh::ConsumerKey {
            id: id.into(),
            consumer: consumer.into(),
            plan: "gold".into(),
            hash: digest(&SHA256, whole.as_bytes()).as_ref().to_vec().into(),
            ..Default::default()
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_consumer_may_have_two_keys_at_once_and_each_is_taken_in_its_time() {
        let old = mesh::ConsumerKey {
            expires_at: Some(200),
            ..key("old1", "mk_old1_secret", "acme")
        };
        let new = mesh::ConsumerKey {
            not_before: Some(100),
            ..key("new1", "mk_new1_secret", "acme")
        };
        let consumers = Consumers::build(vec![old, new]).unwrap();
        let named = |key: &str, now| consumers.find(key, at(now)).map(|one| one.name.to_string());
        assert_eq!(named("mk_old1_secret", 99).as_deref(), Ok("acme"));
        assert_eq!(named("mk_new1_secret", 99), Err(Refused::NotYetValid));
        assert_eq!(named("mk_old1_secret", 199).as_deref(), Ok("acme"));
        assert_eq!(named("mk_new1_secret", 100).as_deref(), Ok("acme"));
        assert_eq!(named("mk_old1_secret", 200), Err(Refused::Expired));
    }

    #[test]
    fn nothing_but_the_whole_key_is_taken() {
        let consumers = Consumers::build(vec![key("id01", "mk_id01_secret", "acme")]).unwrap();
        for (sent, why) in [
            ("", Refused::Malformed),
            ("mk_id01", Refused::Malformed),
            ("id01_secret", Refused::Malformed),
            ("MK_id01_secret", Refused::Malformed),
            ("mk_id01_", Refused::Unknown),
            ("mk_id01_secre", Refused::Unknown),
            ("mk_id01_secrets", Refused::Unknown),
            ("mk_id01_Secret", Refused::Unknown),
            ("mk_id02_secret", Refused::Unknown),
            ("mk__secret", Refused::Unknown),
        ] {
            assert_eq!(consumers.find(sent, at(0)).map(drop), Err(why), "{sent}");
        }
        let long = format!("mk_id01_{}", "s".repeat(MAX_KEY));
        assert_eq!(
            consumers.find(&long, at(0)).map(drop),
            Err(Refused::Malformed)
        );
        let short = mesh::ConsumerKey {
            hash: vec![1; 31].into(),
            ..key("id01", "", "acme")
        };
        let refused = Consumers::build(vec![short]).unwrap_err();
        assert_eq!(refused, "key `id01`: the hash has not 32 bytes");
    }
}
