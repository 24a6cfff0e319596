//! JWTs (RFC 7519) as bearer tokens: whether one is genuine, and what it says.
//!
//! Pure: keys, rules and the time come from the caller. A token is a JWS in compact form (RFC 7515),
//! signed with an asymmetric algorithm by one of an issuer's [`Keys`], whose kind says which
//! algorithms it may be: the token picks among those and never beyond (RFC 8725 sections 3.1, 3.2).
//! What a header says of where keys are (`jku`, `x5u`, `jwk`, `x5c`) is not looked at.
//!
//! A client whose token is refused sees the fixed sentence of [`Refused::told`]; nothing of a token
//! is ever said or written anywhere. [`Refused::name`] is for metrics.
//!
//! Why not the crate `jsonwebtoken` (11.1 as of writing): it takes the last of two members of one
//! name, reads `crit` and does as if it had not, builds RSA keys anew for each token, and knows only
//! some claims; all of what is here would stand around it. What is left is one call of aws-lc-rs.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use wire::json;
use wire::jwks::{Algorithm, MAX_KID};

mod keys;
mod token;
mod verified;

pub use keys::Keys;
pub use token::Token;
pub use verified::{CAPACITY, MAX_WEIGHT, Verified};

/// A longer token is none, in bytes. Heads of requests are up to 64 KiB, and before a signature is
/// verified a stranger has us read all this.
pub const MAX_TOKEN: usize = 16 * 1024;
/// What clocks may differ by unless a provider says otherwise.
pub const SKEW: Duration = Duration::from_secs(60);
/// What clocks may differ by at most: for so long expired tokens are good.
pub const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// What is required of an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// `iss`, byte by byte.
    pub issuer: String,
    /// One of them is in `aud`; of none, `aud` is not looked at.
    pub audiences: Vec<String>,
    /// The accepted ones; of none, all that the issuer's keys are for.
    pub algorithms: Vec<Algorithm>,
    /// What clocks may differ by; more than [`MAX_SKEW`] is taken for that.
    pub skew: Duration,
    /// Claims that are there and not null, named as for [`Token::claim`].
    pub required_claims: Vec<String>,
    /// All of them are in [`Token::scopes`].
    pub required_scopes: Vec<String>,
    /// How long after `iat` a token is good, whatever its `exp`; `iat` is required then.
    pub max_age: Option<Duration>,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No JWT, or one that could be read in two ways.
    Malformed,
    /// A JWT for something else: `typ` is neither of a plain one nor of an access token.
    WrongType,
    /// Not signed in a way that is accepted: unsigned, with a shared secret, encrypted, with an
    /// algorithm that the key or the provider doesn't have, or with extensions that must be
    /// understood (`crit`).
    UnsupportedAlgorithm,
    /// None of the issuer's keys, as far as they are known.
    UnknownKey {
        /// Whether newer keys of the issuer could be what is missing.
        stale: bool,
    },
    /// Signed by something else than the key that it names.
    BadSignature,
    /// Beyond `exp`, or older than the provider accepts.
    Expired,
    /// Before `nbf` or `iat`.
    NotYetValid,
    /// `iss` is another.
    WrongIssuer,
    /// `aud` has none of the audiences.
    WrongAudience,
    /// A required one; `exp` always is.
    MissingClaim,
    /// A required one. Whoever calls is known and may not: 403.
    MissingScope,
}

/// A token in its parts, of which nothing is known to be true.
struct Unverified<'a> {
    kid: Option<String>,
    /// What is signed: header and claims as they were sent.
    signed: &'a [u8],
    signature: Vec<u8>,
    token: Token,
}

// === build ===

impl Provider {
    /// Accepts every token of an issuer that is not out of its time.
    pub fn new(issuer: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: Vec::new(),
            algorithms: Vec::new(),
            skew: SKEW,
            required_claims: Vec::new(),
            required_scopes: Vec::new(),
            max_age: None,
        }
    }
}

// === request ===

/// Verifies a token and all that is required of it. [`Verified`] does it once for each token.
///
/// # Errors
/// The first reason that was found. A forged token may be told to be expired or of another issuer:
/// what costs little is looked at first.
pub fn verify(
    token: &str,
    keys: &Keys,
    provider: &Provider,
    now: SystemTime,
) -> Result<Token, Refused> {
    Unverified::read(token)?.verify(keys, provider, now)
}

/// Who a token says has issued it, which anybody can write: to choose whose keys to ask for, and for
/// nothing else.
pub fn peek_issuer(token: &str) -> Option<String> {
    let [_, claims, _] = parts(token).ok()?;
    match object(claims).ok()?.remove("iss") {
        Some(Value::String(issuer)) => Some(issuer),
        _ => None,
    }
}

impl<'a> Unverified<'a> {
    fn read(token: &'a str) -> Result<Self, Refused> {
        let [header, claims, signature] = parts(token)?;
        let (algorithm, kid) = read_header(&object(header)?)?;
        let signed = header.len() + 1 + claims.len();
        Ok(Self {
            kid,
            signed: token.as_bytes().get(..signed).ok_or(Refused::Malformed)?,
            signature: decode(signature)?,
            token: Token::read(object(claims)?, algorithm)?,
        })
    }

    fn verify(self, keys: &Keys, provider: &Provider, now: SystemTime) -> Result<Token, Refused> {
        // Before the signature, which costs most, and before the key: a token of another issuer, or an
        // old one, must not look as if this issuer had new keys. What a genuine token lacks is told
        // to nobody who has none.
        self.token.suits(provider, now)?;
        let algorithm = self.token.algorithm();
        let algorithm = algorithm.ok_or(Refused::UnsupportedAlgorithm)?;
        keys.check(self.kid.as_deref(), algorithm, self.signed, &self.signature)?;
        self.token.grants(provider)?;
        Ok(self.token)
    }
}

/// Header, claims and signature, encoded.
fn parts(token: &str) -> Result<[&str; 3], Refused> {
    if token.len() > MAX_TOKEN {
        return Err(Refused::Malformed);
    }
    let mut parts = token.split('.');
    let three = (parts.next(), parts.next(), parts.next());
    match (three, parts.count()) {
        ((Some(header), Some(claims), Some(signature)), 0) => Ok([header, claims, signature]),
        // A JWE (RFC 7516 section 7.1).
        ((.., Some(_)), 2) => Err(Refused::UnsupportedAlgorithm),
        _ => Err(Refused::Malformed),
    }
}

/// Strictly: no padding, no other characters, no bits that stand for nothing. A token has one
/// spelling, and nobody who compares spellings is deceived.
fn decode(part: &str) -> Result<Vec<u8>, Refused> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|_| Refused::Malformed)
}

fn object(part: &str) -> Result<Map<String, Value>, Refused> {
    json::object(&decode(part)?).map_err(|_| Refused::Malformed)
}

/// The algorithm, and the name of the key.
fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Refused> {
    // There is no extension that we understand (RFC 7515 section 4.1.11). `b64`, which changes what
    // is signed, must be in `crit`, and must not be believed where it is not (RFC 7797 section 6).
    let extended = header.contains_key("crit") || header.get("b64").is_some_and(|b64| b64 != true);
    if extended {
        return Err(Refused::UnsupportedAlgorithm);
    }
    is_access_token(header)?;
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => Algorithm::named(name).ok_or(Refused::UnsupportedAlgorithm)?,
        _ => return Err(Refused::Malformed),
    };
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(kid)) if kid.len() <= MAX_KID => Ok((algorithm, Some(kid.clone()))),
        Some(_) => Err(Refused::Malformed),
    }
}

/// Issuers sign JWTs of many kinds with the same keys: of logouts, events, proofs of possession. One
/// of them taken for an access token is what RFC 8725 section 3.11 warns of. So where a type is
/// said it is one that access tokens have: `at+jwt` (RFC 9068 section 2.1), or `JWT`, which most
/// issuers write on all of them, or none. `cty` says that the claims are a token themselves.
fn is_access_token(header: &Map<String, Value>) -> Result<(), Refused> {
    let fits = match header.get("typ") {
        None => true,
        Some(Value::String(kind)) => {
            // `application/` may be left out, and letters don't count (RFC 7515 section 4.1.9).
            let whole = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];
            whole.iter().any(|one| kind.eq_ignore_ascii_case(one))
        }
        Some(_) => return Err(Refused::Malformed),
    };
    match fits && !header.contains_key("cty") {
        true => Ok(()),
        false => Err(Refused::WrongType),
    }
}

// === impl Refused ===

impl Refused {
    /// One of each; of an unknown key, the one that newer keys could help.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::WrongType,
        Self::UnsupportedAlgorithm,
        Self::UnknownKey { stale: true },
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::MissingClaim,
        Self::MissingScope,
    ];

    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongType => "wrong_type",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim => "missing_claim",
            Self::MissingScope => "missing_scope",
        }
    }

    /// What the client is told.
    pub fn told(self) -> &'static str {
        match self {
            Self::Malformed => "the token is not a well-formed JWT",
            Self::WrongType => "the token is of a type that is not accepted here",
            Self::UnsupportedAlgorithm => "the token is not signed in a way that is accepted",
            Self::UnknownKey { .. } => "the token is signed with a key that is not known",
            Self::BadSignature => "the signature of the token is not valid",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::WrongIssuer => "the token is of an issuer that is not accepted",
            Self::WrongAudience => "the token is for another audience",
            Self::MissingClaim => "the token lacks a claim that is required",
            Self::MissingScope => "the token lacks a scope that is required",
        }
    }

    /// The `error` of RFC 6750 section 3.1: `insufficient_scope`, which goes with 403, or
    /// `invalid_token`, which goes with 401.
    pub fn code(self) -> &'static str {
        match self {
            Self::MissingScope => "insufficient_scope",
            _ => "invalid_token",
        }
    }

    /// Whether the keys of the issuer should be fetched anew. Anybody can cause it, with a name that
    /// no key has: how often it is done is the fetcher's to bound.
    pub fn is_stale(self) -> bool {
        self == Self::UnknownKey { stale: true }
    }
}

#[cfg(test)]
mod tests;
