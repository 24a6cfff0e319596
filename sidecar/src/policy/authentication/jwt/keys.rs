//! An issuer's keys, ready to verify with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use wire::jwks::{Algorithm, Jwks, Key};

use super::Refused;

/// The keys of one set. Without any, every token has an unknown key: for an issuer whose keys have
/// not come yet.
#[derive(Debug, Default)]
pub struct Keys {
    /// Which set it is, so that what one verified never counts for another; 0 has no keys.
    number: u64,
    keys: Vec<(Algorithm, ParsedPublicKey)>,
    by_kid: HashMap<String, Vec<usize>>,
    skipped: Vec<String>,
}

// === build ===

impl Keys {
    /// Builds from what was published.
    ///
    /// # Errors
    /// A clause, when no key is left to verify with.
    pub fn build(set: &Jwks) -> Result<Self, String> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let mut built = Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            skipped: set.skipped.clone(),
            ..Self::default()
        };
        for key in &set.keys {
            for algorithm in key.algorithms() {
                let Some(parsed) = parse(&key.key, *algorithm) else {
                    // Its place in the set is not known here, and its name may be anything.
                    let name = algorithm.name();
                    let skipped = format!("a key for {name} is no point of its curve");
                    built.skipped.push(skipped);
                    continue;
                };
                if let Some(kid) = &key.kid {
                    let places = built.by_kid.entry(kid.clone()).or_default();
                    places.push(built.keys.len());
                }
                built.keys.push((*algorithm, parsed));
            }
        }
        match built.keys.is_empty() {
            true => Err(format!("no key is usable: {}", built.skipped.join("; "))),
            false => Ok(built),
        }
    }
}

fn parse(key: &Key, algorithm: Algorithm) -> Option<ParsedPublicKey> {
    let (how, bytes): (&'static dyn VerificationAlgorithm, &[u8]) = match (key, algorithm) {
        (Key::Rsa { n, e }, _) => {
            let key = RsaPublicKeyComponents { n, e };
            return key.to_parsed_public_key(rsa(algorithm)?).ok();
        }
        (Key::Ec { point, .. }, Algorithm::Es256) => (&ECDSA_P256_SHA256_FIXED, point),
        (Key::Ec { point, .. }, Algorithm::Es384) => (&ECDSA_P384_SHA384_FIXED, point),
        (Key::Ec { point, .. }, Algorithm::Es512) => (&ECDSA_P521_SHA512_FIXED, point),
        (Key::Ed25519(point), Algorithm::EdDsa) => (&ED25519, point),
        _ => return None,
    };
    ParsedPublicKey::new(how, bytes).ok()
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

// === request ===

impl Keys {
    /// Why keys of the set are not used, a sentence each; nothing in them comes from a key.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Another for each set that was built in this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether `signature` is one of `message` by the key of this name.
    pub(super) fn check(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refused> {
        let key = self.find(kid, algorithm)?;
        let verified = key.verify_sig(message, signature);
        verified.map_err(|_| Refused::BadSignature)
    }

    /// One key and no other is tried: a token must not have us verify a hundred signatures.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&ParsedPublicKey, Refused> {
        let fits = |(of, _): &&(Algorithm, ParsedPublicKey)| *of == algorithm;
        if let Some(kid) = kid {
            let unknown = Refused::UnknownKey { stale: true };
            let places = self.by_kid.get(kid).ok_or(unknown)?.iter();
            let fitting = places.filter_map(|place| self.keys.get(*place)).find(fits);
            let (_, key) = fitting.ok_or(Refused::UnsupportedAlgorithm)?;
            return Ok(key);
        }
        let mut fitting = self.keys.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some((_, key)), None) => Ok(key),
            // Newer keys would be no clearer.
            (Some(_), Some(_)) => Err(Refused::UnknownKey { stale: false }),
            (None, _) => Err(Refused::UnknownKey { stale: true }),
        }
    }
}
