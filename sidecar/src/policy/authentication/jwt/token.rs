//! What a token says, and whether that is what is required of it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use wire::jwks::Algorithm;

use super::{MAX_SKEW, Provider, Refused};

/// The end of the year 9999, in seconds since 1970. Beyond it is no time but milliseconds in place of
/// seconds, or a number made to overflow something.
const LATEST: u64 = 253_402_300_799;

/// A token that is genuine: its signature was verified, or its issuer says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    claims: Map<String, Value>,
    /// None of one that its issuer was asked about.
    algorithm: Option<Algorithm>,
    expires: SystemTime,
    not_before: Option<SystemTime>,
    issued: Option<SystemTime>,
}

// === build ===

impl Token {
    /// Of claims that nobody has verified: for whoever is about to.
    pub(super) fn read(claims: Map<String, Value>, algorithm: Algorithm) -> Result<Self, Refused> {
        Ok(Self {
            expires: time(&claims, "exp")?.ok_or(Refused::MissingClaim)?,
            not_before: time(&claims, "nbf")?,
            issued: time(&claims, "iat")?,
            claims,
            algorithm: Some(algorithm),
        })
    }

    /// Of what an issuer answered that was asked about a token (RFC 7662 section 2.2); without `exp` it
    /// has no end of its own.
    ///
    /// # Errors
    /// A time that is none.
    pub fn introspected(claims: Map<String, Value>) -> Result<Self, Refused> {
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(LATEST);
        Ok(Self {
            expires: time(&claims, "exp")?.unwrap_or(latest),
            not_before: time(&claims, "nbf")?,
            issued: time(&claims, "iat")?,
            claims,
            algorithm: None,
        })
    }
}

/// A NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Refused> {
    let since = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) if seconds <= LATEST => Some(Duration::from_secs(seconds)),
            (None, Some(seconds)) if seconds <= LATEST as f64 => {
                Duration::try_from_secs_f64(seconds).ok()
            }
            _ => None,
        },
        Some(_) => None,
    };
    let time = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    time.map(Some).ok_or(Refused::Malformed)
}

// === request ===

impl Token {
    /// Whether a token is what a provider requires at this time. Nothing of it is remembered, so that
    /// it holds for a token of the cache as for a new one.
    ///
    /// # Errors
    /// The first thing that isn't.
    pub(super) fn judge(&self, provider: &Provider, now: SystemTime) -> Result<(), Refused> {
        self.suits(provider, now)?;
        self.grants(provider)
    }

    /// What says that another issuer, another key or another time is asked for.
    pub(super) fn suits(&self, provider: &Provider, now: SystemTime) -> Result<(), Refused> {
        let algorithms = &provider.algorithms;
        let among = self.algorithm.is_some_and(|own| algorithms.contains(&own));
        if !algorithms.is_empty() && !among {
            return Err(Refused::UnsupportedAlgorithm);
        }
        if self.issuer() != Some(&provider.issuer) {
            return Err(Refused::WrongIssuer);
        }
        self.is_in_time(provider, now)
    }

    /// What the issuer has to have written into it.
    pub(super) fn grants(&self, provider: &Provider) -> Result<(), Refused> {
        if !provider.audiences.is_empty() {
            self.is_for(&provider.audiences)?;
        }
        let there = |name: &String| self.claim(name).is_some_and(|claim| !claim.is_null());
        if !provider.required_claims.iter().all(there) {
            return Err(Refused::MissingClaim);
        }
        let granted = |scope: &String| self.scopes().any(|granted| granted == scope);
        match provider.required_scopes.iter().all(granted) {
            true => Ok(()),
            false => Err(Refused::MissingScope),
        }
    }

    fn is_for(&self, audiences: &[String]) -> Result<(), Refused> {
        let ours = |name: &str| audiences.iter().any(|audience| audience == name);
        let fits = match self.claims.get("aud") {
            Some(Value::String(name)) => ours(name),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(ours),
            None | Some(_) => false,
        };
        match fits {
            true => Ok(()),
            false => Err(Refused::WrongAudience),
        }
    }

    fn is_in_time(&self, provider: &Provider, now: SystemTime) -> Result<(), Refused> {
        let skew = provider.skew.min(MAX_SKEW);
        // A time that cannot be is far in the future.
        let over = |time: SystemTime, after: Duration| {
            let end = time
                .checked_add(after)
                .and_then(|end| end.checked_add(skew));
            end.is_some_and(|end| end <= now)
        };
        let ahead = |time: SystemTime| time.duration_since(now).is_ok_and(|ahead| ahead > skew);
        if over(self.expires, Duration::ZERO) {
            return Err(Refused::Expired);
        }
        if self.not_before.is_some_and(ahead) || self.issued.is_some_and(ahead) {
            return Err(Refused::NotYetValid);
        }
        match (provider.max_age, self.issued) {
            (Some(_), None) => Err(Refused::MissingClaim),
            (Some(age), Some(issued)) if over(issued, age) => Err(Refused::Expired),
            _ => Ok(()),
        }
    }

    /// All claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// How it is signed.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// `exp`. It is good for the provider's skew longer.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// `iss`, who has issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// `sub`, of whom it speaks: a name that the issuer gives once.
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// What its owner may do: the words of `scope` (RFC 8693 section 4.2) and `scp`, which some
    /// issuers write instead. Either is a text of words between spaces, or a list.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let claims = ["scope", "scp"].into_iter();
        claims
            .filter_map(|name| self.claims.get(name))
            .flat_map(|claim| {
                let (text, list) = match claim {
                    Value::String(text) => (text.as_str(), &[][..]),
                    Value::Array(list) => ("", list.as_slice()),
                    _ => ("", &[][..]),
                };
                let words = text.split(' ').chain(list.iter().filter_map(Value::as_str));
                words.filter(|word| !word.is_empty())
            })
    }

    /// A claim by its name, or by the pointer to it (RFC 6901) if the name begins with `/`:
    /// `/realm_access/roles/0`. Of a claim whose own name begins with `/`, that is `~1` in a pointer.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        let Some(pointer) = name.strip_prefix('/') else {
            return self.claims.get(name);
        };
        let mut steps = pointer.split('/').map(unescape);
        let first = self.claims.get(&*steps.next()??)?;
        steps.try_fold(first, |within, step| match within {
            Value::Object(members) => members.get(&*step?),
            Value::Array(elements) => elements.get(index(&step?)?),
            _ => None,
        })
    }
}

/// A step of a pointer as the name that it stands for; most are their own.
fn unescape(step: &str) -> Option<Cow<'_, str>> {
    if !step.contains('~') {
        return Some(Cow::Borrowed(step));
    }
    let mut name = String::with_capacity(step.len());
    let mut pieces = step.split('~');
    name.push_str(pieces.next()?);
    for piece in pieces {
        let (escaped, rest) = match piece.as_bytes().first()? {
            b'0' => ('~', piece.get(1..)?),
            b'1' => ('/', piece.get(1..)?),
            _ => return None,
        };
        name.push(escaped);
        name.push_str(rest);
    }
    Some(Cow::Owned(name))
}

/// Digits without a leading zero (RFC 6901 section 4).
fn index(step: &str) -> Option<usize> {
    let digits = step.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits && (step == "0" || !step.starts_with('0'));
    fits.then(|| step.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: Value) -> Token {
        let Value::Object(mut claims) = claims else {
            panic!("no object")
        };
        claims.insert("exp".to_owned(), json!(2_000_000_000));
        Token::read(claims, Algorithm::Es256).unwrap()
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_a_pointer() {
        let token = token(json!({
            "a": {"b": [10, {"c/d": 11, "e~f": 12, "": 13}], "0": 14},
            "https://x.example/y": 15,
            "/z": 16,
            "": 17,
        }));
        for (name, expected) in [
            ("https://x.example/y", Some(15)),
            ("", Some(17)),
            ("/", Some(17)),
            ("/~1z", Some(16)),
            ("/a/b/0", Some(10)),
            ("/a/0", Some(14)),
            ("/a/b/1/c~1d", Some(11)),
            ("/a/b/1/e~0f", Some(12)),
            ("/a/b/1/", Some(13)),
            ("a/b", None),
            ("a.b", None),
            ("/z", None),
            ("/a/b/00", None),
            ("/a/b/+0", None),
            ("/a/b/-", None),
            ("/a/b/", None),
            ("/a/b/2", None),
            ("/a/b/99999999999999999999999", None),
            ("/a/b/1/e~f", None),
            ("/a/b/1/e~", None),
            ("/a/b/0/x", None),
        ] {
            let found = token.claim(name).map(|claim| claim.as_i64().unwrap());
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn scopes_are_words_of_a_text_or_a_list_in_either_claim() {
        for (claims, expected) in [
            (json!({"scope": "a b  c "}), vec!["a", "b", "c"]),
            (json!({"scope": ["a", "b c", 1, ""]}), vec!["a", "b c"]),
            (json!({"scp": ["a"], "scope": "b"}), vec!["b", "a"]),
            (json!({"scp": "a b"}), vec!["a", "b"]),
            (json!({"scp": {"a": "b"}, "scope": 1}), vec![]),
            (json!({}), vec![]),
        ] {
            let token = token(claims);
            assert_eq!(Vec::from_iter(token.scopes()), expected, "{token:?}");
        }
    }

    #[test]
    fn times_are_numbers_of_seconds_within_ten_thousand_years() {
        let read = |exp: Value| {
            let claims = Map::from_iter([("exp".to_owned(), exp)]);
            let read = Token::read(claims, Algorithm::Es256);
            read.map(|token| {
                token
                    .expires()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
            })
        };
        for (exp, seconds) in [
            (json!(0), 0.0),
            (json!(1_300_819_380), 1_300_819_380.0),
            (json!(1_300_819_380.5), 1_300_819_380.5),
            (json!(1e9), 1e9),
            (json!(LATEST), LATEST as f64),
        ] {
            assert_eq!(read(exp), Ok(Duration::from_secs_f64(seconds)));
        }
        for exp in [
            json!(-1),
            json!(-0.5),
            json!(LATEST + 1),
            json!(u64::MAX),
            json!(1e300),
            json!("1300819380"),
            json!(null),
            json!(true),
            json!([1_300_819_380]),
        ] {
            assert_eq!(read(exp.clone()), Err(Refused::Malformed), "{exp}");
        }
        let none = Token::read(Map::new(), Algorithm::Es256);
        assert_eq!(none, Err(Refused::MissingClaim));
    }
}
