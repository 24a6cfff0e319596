//! The keys that an issuer of tokens publishes: a JWK set (RFC 7517) as public keys.
//!
//! What verifies is read: RSA (RFC 7518 section 6.3), the NIST curves (6.2) and Ed25519 (RFC 8037).
//! A key that is for something else, of a kind that nobody here knows, or too weak, is skipped and
//! said to be: sets hold such keys beside others, and an issuer that adds one must not shut its
//! users out. A set with a secret in it, be it a shared key or a private one, is refused whole. No
//! sidecar needs it, whoever reads the set could issue tokens with it, and its owner must be told.
//!
//! Compiler and sidecar read sets here, the one those in manifests, the other those it fetches. That
//! a point is on its curve is seen by whoever builds a verifying key of it: this crate has no
//! cryptography.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::json;

/// A set is no larger than this, in bytes; those of large issuers have some 10 KB.
pub const MAX_BYTES: usize = 256 * 1024;
/// A set has no more keys than this, usable or not.
pub const MAX_KEYS: usize = 100;
/// A key's name is no longer than this, in bytes.
pub const MAX_KID: usize = 512;
/// RSA keys, in bits. Below, they are weak (RFC 7518 section 3.3 forbids them); above, each
/// signature costs milliseconds.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The longest exponent of an RSA key, in bytes; nearly all have 65537.
const MAX_EXPONENT: usize = 4;

/// Members that only whoever signs may know: RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1, RFC 8037
/// section 2, and `priv` of the lattice kinds.
const SECRETS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// How a token is signed: the `alg` of RFC 7518 section 3.1 and RFC 8037, the asymmetric ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

/// What a set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    /// The usable keys, in their order. No two of one name verify the same algorithm.
    pub keys: Vec<Jwk>,
    /// Why others are none, a sentence each. Nothing in them comes from a key.
    pub skipped: Vec<String>,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    /// Its name, which tokens give.
    pub kid: Option<String>,
    /// The only algorithm it is for, where it says one.
    pub algorithm: Option<Algorithm>,
    /// What it is made of.
    pub key: Key,
}

/// What a public key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Both big-endian, without leading zeros; 2048 to 8192 bits, and an odd exponent of 3 or more.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// A point of a curve.
    Ec {
        /// The curve.
        curve: Curve,
        /// Uncompressed (SEC 1 section 2.3.3): 4, x, y.
        point: Vec<u8>,
    },
    /// A point of edwards25519, as RFC 8032 encodes it; none of small order.
    Ed25519([u8; 32]),
}

/// A curve of NIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `P-256`.
    P256,
    /// `P-384`.
    P384,
    /// `P-521`.
    P521,
}

// === impl Algorithm ===

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// As tokens and keys call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Of a name; `None` for what is not asymmetric, `none` among others. Letters count (RFC 7515
    /// section 4.1.1). `Ed25519` is what RFC 9864 calls `EdDSA` with such a key, the only kind here.
    pub fn named(name: &str) -> Option<Self> {
        let fits = |one: &Self| one.name() == name;
        let renamed = (name == "Ed25519").then_some(Self::EdDsa);
        Self::ALL.into_iter().find(fits).or(renamed)
    }
}

// === impl Jwks ===

impl Jwks {
    /// Reads a set.
    ///
    /// # Errors
    /// A clause that says why there are no keys to use: it is malformed or too large, one of them is
    /// a secret, or none is usable. It names places and members, never values.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        let set = json::object(bytes).map_err(|error| format!("it is no JSON object: {error}"))?;
        let Some(Value::Array(members)) = set.get("keys") else {
            return Err(match set.contains_key("kty") {
                true => r#"it is a key, not a set: write {"keys": [...]}"#.to_owned(),
                false => "it has no array `keys`".to_owned(),
            });
        };
        if members.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        for (index, member) in members.iter().enumerate() {
            if let Value::Object(member) = member {
                refuse_secrets(index, member)?;
            }
            match Jwk::read(member) {
                Ok(key) => found.push((index, key)),
                Err(why) => skipped.push(format!("keys[{index}] {why}")),
            }
        }
        let keys = without_doubt(found, &mut skipped);
        if keys.is_empty() {
            let why = match skipped.is_empty() {
                true => String::new(),
                false => format!(": {}", skipped.join("; ")),
            };
            return Err(format!("it has no key to verify tokens with{why}"));
        }
        Ok(Self { keys, skipped })
    }
}

fn refuse_secrets(index: usize, member: &Map<String, Value>) -> Result<(), String> {
    if member.get("kty").is_some_and(|kind| kind == "oct") {
        return Err(format!(
            "keys[{index}] is of kty `oct`, a shared secret: whoever verifies with it could issue \
             tokens; let the issuer sign with RSA, a curve or Ed25519"
        ));
    }
    match SECRETS.iter().find(|secret| member.contains_key(**secret)) {
        Some(secret) => Err(format!(
            "keys[{index}] has `{secret}`, a part of a private key: publish the public members alone, \
             and replace this key, which is a secret no more"
        )),
        None => Ok(()),
    }
}

/// One key of each name and algorithm.
///
/// Two keys of one name may be alternatives (RFC 7517 section 4.5), and are when no algorithm is
/// common to them. Else a token says no more of which one signed it than the order of the set does:
/// neither is used, so that no result depends on that order, and the other keys stay. A repetition
/// is no second key.
fn without_doubt(found: Vec<(usize, Jwk)>, skipped: &mut Vec<String>) -> Vec<Jwk> {
    let confused = |one: &Jwk, other: &Jwk| {
        let mut algorithms = one.algorithms().iter();
        one.kid == other.kid && algorithms.any(|one| other.algorithms().contains(one))
    };
    let rivals =
        |one: &Jwk, other: &Jwk| one.kid.is_some() && one.key != other.key && confused(one, other);
    let mut keys: Vec<Jwk> = Vec::new();
    for (index, key) in &found {
        let repeats = |before: &Jwk| before.key == key.key && confused(before, key);
        if found.iter().any(|(_, other)| rivals(key, other)) {
            skipped.push(format!(
                "keys[{index}] has the `kid` of another key that could have signed the same tokens"
            ));
        } else if keys.iter().any(repeats) {
            skipped.push(format!("keys[{index}] is there already"));
        } else {
            keys.push(key.clone());
        }
    }
    keys
}

// === impl Jwk ===

impl Jwk {
    /// The algorithms whose signatures it may verify: its kind's, or the only one it is for. No key
    /// verifies two kinds, so a token cannot choose how a key is taken (RFC 8725 section 3.1).
    pub fn algorithms(&self) -> &[Algorithm] {
        match &self.algorithm {
            Some(algorithm) => std::slice::from_ref(algorithm),
            None => self.key.algorithms(),
        }
    }

    fn read(member: &Value) -> Result<Self, &'static str> {
        let Value::Object(member) = member else {
            return Err("is no object");
        };
        if member.get("use").is_some_and(|used| used != "sig") {
            return Err("is not for signatures: its `use` is another than `sig`");
        }
        if let Some(uses) = member.get("key_ops") {
            let uses = uses.as_array().map_or(&[][..], Vec::as_slice);
            if !uses.iter().any(|used| used == "verify") {
                return Err("is not to verify with: its `key_ops` lack `verify`");
            }
        }
        let kid = match member.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => return Err("has a `kid` that is no text of 512 bytes or less"),
        };
        let key = Key::read(member)?;
        let algorithm = match member.get("alg") {
            None => None,
            Some(name) => {
                let named = name.as_str().and_then(Algorithm::named);
                let fitting = named.filter(|named| key.algorithms().contains(named));
                Some(fitting.ok_or("has an `alg` that such a key has no signatures of")?)
            }
        };
        Ok(Self {
            kid,
            algorithm,
            key,
        })
    }
}

// === impl Key ===

impl Key {
    /// The algorithms of such keys.
    pub fn algorithms(&self) -> &'static [Algorithm] {
        use Algorithm::*;
        match self {
            Self::Rsa { .. } => &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            Self::Ec { curve, .. } => match curve {
                Curve::P256 => &[Es256],
                Curve::P384 => &[Es384],
                Curve::P521 => &[Es512],
            },
            Self::Ed25519(_) => &[EdDsa],
        }
    }

    fn read(member: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| member.get(name).and_then(Value::as_str);
        match text("kty") {
            Some("RSA") => Self::rsa(number(text("n")), number(text("e"))),
            Some("EC") => {
                let curve = match text("crv") {
                    Some("P-256") => Curve::P256,
                    Some("P-384") => Curve::P384,
                    Some("P-521") => Curve::P521,
                    _ => return Err("is of a curve that is not supported"),
                };
                Self::ec(curve, bytes(text("x")), bytes(text("y")))
            }
            Some("OKP") if text("crv") == Some("Ed25519") => Self::ed25519(bytes(text("x"))),
            Some("OKP") => Err("is of a curve that is not supported"),
            _ => Err("is of a `kty` that is not supported"),
        }
    }

    fn rsa(n: Option<Vec<u8>>, e: Option<Vec<u8>>) -> Result<Self, &'static str> {
        let (Some(n), Some(e)) = (n, e) else {
            return Err("has no `n` and `e` that are unpadded base64url");
        };
        let unused = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&(n.len() * 8 - unused)) {
            return Err("is no RSA key of 2048 to 8192 bits");
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        if !is_odd(&n) || !is_odd(&e) || e == [1] || e.len() > MAX_EXPONENT {
            return Err("has an `n` or `e` that no RSA key has");
        }
        Ok(Self::Rsa { n, e })
    }

    fn ec(curve: Curve, x: Option<Vec<u8>>, y: Option<Vec<u8>>) -> Result<Self, &'static str> {
        // All of them, leading zeros too (RFC 7518 section 6.2.1.2).
        let size = match curve {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        };
        let whole = |coordinate: Option<Vec<u8>>| coordinate.filter(|bytes| bytes.len() == size);
        match (whole(x), whole(y)) {
            (Some(x), Some(y)) => Ok(Self::Ec {
                curve,
                point: [&[4][..], &x, &y].concat(),
            }),
            _ => Err("has no `x` and `y` that are coordinates of its curve in unpadded base64url"),
        }
    }

    fn ed25519(x: Option<Vec<u8>>) -> Result<Self, &'static str> {
        let x = x.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let x = x.ok_or("has no `x` of 32 bytes in unpadded base64url")?;
        match is_small_order(&x) {
            true => Err("is a point that verifies what nobody signed"),
            false => Ok(Self::Ed25519(x)),
        }
    }
}

/// The bytes of a text; strict, so that a key has one spelling.
fn bytes(text: Option<&str>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text?).ok()
}

/// A big-endian number without leading zeros. One zero byte in front is forgiven: libraries write
/// their signed numbers so, which RFC 7518 section 6.3.1.1 warns of.
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let mut bytes = bytes(text)?;
    if bytes.first() == Some(&0) {
        bytes.remove(0);
    }
    (bytes.first() != Some(&0)).then_some(bytes)
}

/// Whether a point is one of the eight whose order divides 8, in any of their encodings, or is
/// encoded with a y beyond the field. With such a key a signature that fits every message is easily
/// made (RFC 8032 section 8.9), and verification as aws-lc does it doesn't look at the key.
fn is_small_order(point: &[u8; 32]) -> bool {
    // The y of those of order 8; the others have -1, 0 and 1, of which -1 is refused with what is
    // beyond the field.
    const OF_ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    // Little-endian, the sign of x in the last bit.
    let mut y = *point;
    y[31] &= 0x7f;
    let rest_is = |byte| y[1..31].iter().all(|one| *one == byte);
    let zero_or_one = y[0] <= 1 && rest_is(0) && y[31] == 0;
    let minus_one_or_more = y[0] >= 0xec && rest_is(0xff) && y[31] == 0x7f;
    zero_or_one || minus_one_or_more || OF_ORDER_8.contains(&y)
}

#[cfg(test)]
mod tests;
