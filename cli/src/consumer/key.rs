//! Keys: `mk_<id>_<secret><checksum>`.
//!
//! The secret is 256 bits of chance, so that the plain SHA-256 by which a key is known can't be undone.
//! The checksum at its end tells a key from what only looks like one, without asking anybody: whoever
//! scans texts for secrets reports no other.

use anyhow::anyhow;
use aws_lc_rs::digest::{SHA256, digest};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sidecar::policy::authentication::api_key::PREFIX;

/// Digits, and letters of which the id takes the small ones.
const BASE62: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// An id is part of a Secret's name, where there are no capitals.
const BASE36: usize = 36;
/// Ids are no secret, and few enough in a namespace to be different.
const ID: usize = 8;
/// What holds 256 bits in base 62.
const SECRET: usize = 43;
/// What holds 32 bits in base 62.
const CHECKSUM: usize = 6;

/// A new key. It is shown once, and nothing else of it than its id and its hash is kept.
pub struct Key {
    id: String,
    whole: String,
}

// === impl Key ===

impl Key {
    /// Makes one from the operating system's random source.
    ///
    /// # Errors
    /// When there is none.
    pub fn random() -> anyhow::Result<Self> {
        let id = random(ID, BASE36)?;
        let mut whole = format!("{PREFIX}{id}_{}", random(SECRET, BASE62.len())?);
        whole.push_str(&checksum(&whole));
        Ok(Self { id, whole })
    }

    /// What finds its entry, and no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its consumer sends.
    pub fn reveal(&self) -> &str {
        &self.whole
    }

    /// What is kept in its place, as a Secret has it.
    pub fn hash(&self) -> String {
        let hash = digest(&SHA256, self.whole.as_bytes());
        let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
        format!("sha256:{}", digits.collect::<String>())
    }
}

/// Whether a text is a key that this command has made, or somebody in its place: its form and its
/// checksum say so.
pub fn is_key(text: &str) -> bool {
    let all = |part: &str, length: usize, base: usize| {
        let digits = &BASE62[..base];
        part.len() == length && part.bytes().all(|byte| digits.contains(&byte))
    };
    let parts = text
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('_'));
    let of_its_form = parts.is_some_and(|(id, rest)| {
        all(id, ID, BASE36) && all(rest, SECRET + CHECKSUM, BASE62.len())
    });
    // Past its form there are single bytes only.
    of_its_form && {
        let (before, written) = text.split_at(text.len() - CHECKSUM);
        checksum(before) == written
    }
}

/// So many digits of a base, each as likely as any other.
fn random(length: usize, base: usize) -> anyhow::Result<String> {
    // Above the last whole multiple of the base, some digits would be likelier than others.
    let fair = 256 - 256 % base;
    let mut digits = String::with_capacity(length);
    while digits.len() < length {
        let mut bytes = [0; 64];
        OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| anyhow!("the operating system gives no chance: {error}"))?;
        let left = length - digits.len();
        let taken = bytes.iter().map(|byte| usize::from(*byte));
        let taken = taken.filter(|byte| *byte < fair).take(left);
        digits.extend(taken.map(|byte| char::from(BASE62[byte % base])));
    }
    Ok(digits)
}

/// The CRC-32 of a text in base 62, the highest digit first.
fn checksum(of: &str) -> String {
    let mut rest = crc32fast::hash(of.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % BASE62.len()];
        rest /= BASE62.len();
    }
    digits.map(char::from).iter().collect()
}

/// Nothing of it gets into a log or an error by accident.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_key_has_the_form_that_scanners_know() {
        let form = "mk_[0-9a-z]{8}_[0-9A-Za-z]{49}";
        let told = include_str!("../../../docs/access.md");
        assert!(told.contains(&format!("`{form}`")));
        let form = regex::Regex::new(&format!("^{form}$")).unwrap();
        for _ in 0..200 {
            let key = Key::random().unwrap();
            assert!(form.is_match(key.reveal()));
            assert!(is_key(key.reveal()));
            assert!(key.reveal().starts_with(&format!("mk_{}_", key.id())));
            assert_eq!(format!("{key:?}"), format!("key {}", key.id()));
        }
    }

    #[test]
    fn a_key_with_any_other_character_is_none() {
        let key = Key::random().unwrap();
        let whole = key.reveal().as_bytes();
        for place in 0..whole.len() {
            for other in (0..=127).filter(|other| *other != whole[place]) {
                let mut edited = whole.to_vec();
                edited[place] = other;
                let edited = String::from_utf8(edited).unwrap();
                assert!(!is_key(&edited), "character {place} as {other}");
            }
        }
        let shorter = &key.reveal()[..whole.len() - 1];
        for other in ["", "mk_", "mk__", shorter, &format!("{}0", key.reveal())] {
            assert!(!is_key(other));
        }
        assert!(!is_key(&key.reveal().replace('k', "é")));
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_all_before_it_in_base_62() {
        // The CRC-32 of "123456789" is 0xcbf43926 wherever it is told.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum("123456789"), "3Jzrme");
        // A zero is six digits too.
        assert_eq!(checksum(""), "000000");
        assert!(is_key(
            "mk_k7f3q9ab_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG1c0Eo2"
        ));
    }

    #[test]
    fn every_character_is_as_likely_as_any_other() {
        for base in [BASE36, BASE62.len()] {
            let each = 2_000;
            let mut counts = BTreeMap::new();
            for digit in random(each * base, base).unwrap().bytes() {
                *counts.entry(digit).or_insert(0_usize) += 1;
            }
            assert_eq!(counts.len(), base);
            // Seven standard deviations: without the fair bound, eight of 62 would have a fourth more.
            for (digit, count) in counts {
                assert!(count.abs_diff(each) < 315, "{digit}: {count} of {each}");
            }
        }
    }

    #[test]
    fn no_two_keys_are_alike_and_the_hash_is_of_the_whole_key() {
        let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        let known = Key {
            id: "k7f3q9".into(),
            whole: "foo".into(),
        };
        assert_eq!(
            known.hash(),
            "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
        );
    }
}
