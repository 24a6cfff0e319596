//! Authentication: who a request is from, beyond the workload that its caller's sidecar proves.
//!
//! Phase: in the destination's sidecar, after the peer is let into the port and before anything else.
//! From `ApiRoute.auth`. Methods are bearer tokens (JWTs of known issuers, and tokens that a server is
//! asked about) and keys of consumers. A request without what is required is answered 401 with reason
//! `credentials_missing`; one with a credential that is not good 401 with `credentials_invalid`,
//! whatever else it brings and whether or not any is required; one whose token lacks a scope 403 with
//! `scope_missing`. When it can't be told, because keys have never come or nobody answers, 503 with
//! `credentials_uncheckable`: nobody is let in for that. Challenges are those of RFC 6750 section 3.
//!
//! What is not forwarded is taken out of the request, and claims are told to the application in
//! headers that nobody else can set. Metrics: `meshwright_access_total`, by what became of a request.

pub mod api_key;
pub mod credential;
pub mod introspection;
pub mod issuer;
pub mod jwt;
mod tell;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use http::request::Parts;
use wire::mesh;

use self::api_key::{Consumer, Consumers};
use self::credential::{Ambiguous, Place};
use self::introspection::{Introspection, Worth};
use self::issuer::{Issuer, IssuerKeys};
use self::jwt::Token;
use crate::proxy::error::{Error, Reason};

/// What is required of requests.
#[derive(Debug)]
pub struct Authentication {
    require: Require,
    issuers: Vec<Issuer>,
    introspection: Option<Introspection>,
    api_key: Option<ApiKey>,
    /// Every place that a token may be in, each once.
    places: Vec<Place>,
}

/// How many methods must be satisfied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Require {
    Any,
    All,
    Optional,
}

#[derive(Debug)]
struct ApiKey {
    from: Place,
    forward: bool,
}

/// Who has been found to call, beside the peer.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// What its token says.
    pub token: Option<Arc<Token>>,
    /// Whose key it sends.
    pub consumer: Option<Arc<Consumer>>,
    /// Who vouches for the token: the place among the issuers, or the server that was asked.
    by: By,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum By {
    #[default]
    Nobody,
    Issuer(usize),
    Introspection,
}

/// What a worker remembers of credentials.
#[derive(Debug, Default)]
pub struct Known {
    /// Tokens whose signatures were verified.
    pub verified: jwt::Verified,
    /// What was said of tokens.
    pub introspected: introspection::Answers,
}

/// What is needed before it can be told who calls.
#[derive(Debug)]
pub enum Need<'a> {
    /// Nothing: the request is refused.
    Refused(Refused),
    /// The issuer's keys, which have not come, or lack one.
    Keys(&'a IssuerKeys, Refused),
    /// What a token is worth.
    Worth(&'a Introspection, String),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no credential of a kind that is required.
    Missing,
    /// There are two where one is meant.
    Ambiguous,
    /// The token is not good.
    Token(jwt::Refused),
    /// Whoever was asked says that the token is not good.
    Introspected(introspection::Refused),
    /// The consumer's key is not good.
    Key(api_key::Refused),
    /// The issuer's keys have never come.
    NoKeys,
    /// Nobody says what the token is worth.
    NobodySays,
}

// === build ===

impl Authentication {
    /// Builds from what was sent; what is known of issuers goes on.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Authentication, old: Option<&Self>) -> Result<Self, String> {
        let require = match mesh::Require::try_from(sent.require) {
            Ok(mesh::Require::Any) => Require::Any,
            Ok(mesh::Require::All) => Require::All,
            Ok(mesh::Require::Optional) => Require::Optional,
            Ok(mesh::Require::Unspecified) | Err(_) => {
                return Err("what is required is not known to this sidecar".to_owned());
            }
        };
        let before = old.map_or(&[][..], |old| &old.issuers);
        let issuers = sent.jwt.into_iter().map(|sent| {
            let name = sent.issuer.clone();
            Issuer::build(sent, before).map_err(|why| format!("issuer `{name}`: {why}"))
        });
        let issuers = issuers.collect::<Result<Vec<_>, _>>()?;
        let before = old.and_then(|old| old.introspection.as_ref());
        let introspection = sent
            .introspection
            .map(|sent| Introspection::build(sent, before));
        let introspection = introspection
            .transpose()
            .map_err(|why| format!("introspection: {why}"))?;
        let api_key = sent.api_key.map(|sent| {
            let from = sent.from.as_ref().ok_or("the api key has no place")?;
            Ok::<_, String>(ApiKey {
                from: Place::build(from)?,
                forward: sent.forward,
            })
        });
        let api_key = api_key.transpose()?;
        if issuers.is_empty() && introspection.is_none() && api_key.is_none() {
            return Err("no method is known to this sidecar".to_owned());
        }
        let mut places: Vec<Place> = Vec::new();
        let of_issuers = issuers.iter().flat_map(|issuer| &issuer.from);
        for place in of_issuers.chain(introspection.iter().flat_map(|asked| &asked.from)) {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        Ok(Self {
            require,
            issuers,
            introspection,
            api_key,
            places,
        })
    }

    /// The issuers.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    // === request ===

    /// Finds out who calls. `consumers` are those whose keys are taken. `final_`: whatever could be
    /// waited for has been.
    ///
    /// # Errors
    /// What is missing for it; or why the request is refused.
    pub fn check<'a>(
        &'a self,
        head: &Parts,
        known: &Known,
        consumers: &Consumers,
        now: SystemTime,
    ) -> Result<Caller, Need<'a>> {
        let mut caller = Caller::default();
        if let Some((place, token)) = self.token(head).map_err(Need::Refused)? {
            let (by, token) = self.check_token(place, &token, known, now)?;
            caller.token = Some(token);
            caller.by = by;
        }
        if let Some(api_key) = &self.api_key {
            let sent = api_key
                .from
                .find(head)
                .map_err(|Ambiguous| Need::Refused(Refused::Ambiguous))?;
            if let Some(key) = sent {
                let found = consumers.find(&key, now);
                let found = found.map_err(|why| Need::Refused(Refused::Key(why)))?;
                caller.consumer = Some(found);
            }
        }
        let asks_for_token = !self.places.is_empty();
        let enough = match self.require {
            Require::Optional => true,
            Require::Any => caller.token.is_some() || caller.consumer.is_some(),
            Require::All => {
                (caller.token.is_some() || !asks_for_token)
                    && (caller.consumer.is_some() || self.api_key.is_none())
            }
        };
        match enough {
            true => Ok(caller),
            false => Err(Need::Refused(Refused::Missing)),
        }
    }

    /// The token that a request brings, and where.
    fn token<'r>(&self, head: &'r Parts) -> Result<Option<(&Place, Cow<'r, str>)>, Refused> {
        let mut found = None;
        for place in &self.places {
            let here = place.find(head).map_err(|Ambiguous| Refused::Ambiguous)?;
            if let Some(token) = here
                && found.replace((place, token)).is_some()
            {
                return Err(Refused::Ambiguous);
            }
        }
        Ok(found)
    }

    fn check_token<'a>(
        &'a self,
        place: &Place,
        token: &str,
        known: &Known,
        now: SystemTime,
    ) -> Result<(By, Arc<Token>), Need<'a>> {
        let here = |from: &[Place]| from.contains(place);
        let asked = self
            .introspection
            .as_ref()
            .filter(|asked| here(&asked.from));
        let issuers = || self.issuers.iter().filter(|issuer| here(&issuer.from));
        let keys: Vec<_> = issuers().map(|issuer| issuer.keys.current()).collect();
        let pairs = issuers()
            .zip(&keys)
            .map(|(one, keys)| (&***keys, &one.provider));
        let refused = match known.verified.verify(token, pairs, now) {
            Ok(token) => {
                let says = token.issuer();
                let issuer = self.issuers.iter().position(|issuer| {
                    here(&issuer.from) && says == Some(&*issuer.provider.issuer)
                });
                return Ok((issuer.map_or(By::Nobody, By::Issuer), token));
            }
            Err(refused) => refused,
        };
        // No JWT, or nobody's that is known here: somebody else may know it.
        let unknown = matches!(refused, jwt::Refused::WrongIssuer | jwt::Refused::Malformed);
        match asked.filter(|_| unknown || self.issuers.is_empty()) {
            Some(asked) => match known.introspected.of(asked, token) {
                None => Err(Need::Worth(asked, token.to_owned())),
                Some(Worth::Inactive) => {
                    let inactive = introspection::Refused::Inactive;
                    Err(Need::Refused(Refused::Introspected(inactive)))
                }
                Some(Worth::Active(token)) => match asked.accept(&token, now) {
                    Ok(()) => Ok((By::Introspection, token)),
                    Err(why) => Err(Need::Refused(Refused::Introspected(why))),
                },
            },
            None if refused.is_stale() => {
                let says = jwt::peek_issuer(token);
                let issuer = issuers().find(|one| says.as_ref() == Some(&one.provider.issuer));
                let refused = match issuer.is_none_or(|issuer| issuer.keys.are_here()) {
                    true => Refused::Token(refused),
                    false => Refused::NoKeys,
                };
                Err(match issuer {
                    Some(issuer) => Need::Keys(&issuer.keys, refused),
                    None => Need::Refused(refused),
                })
            }
            None => Err(Need::Refused(Refused::Token(refused))),
        }
    }

    /// Takes out of a request what only a token may say, whether or not there is one.
    pub fn clear(&self, head: &mut Parts) {
        for issuer in &self.issuers {
            issuer.tell.clear(&mut head.headers);
        }
        if let Some(asked) = &self.introspection {
            asked.tell.clear(&mut head.headers);
        }
    }

    /// Takes out the credentials that the application does not get, and tells it who calls.
    pub fn pass_on(&self, caller: &Caller, head: &mut Parts) {
        let (tell, forward) = match caller.by {
            By::Nobody => (None, false),
            By::Issuer(place) => match self.issuers.get(place) {
                Some(issuer) => (Some(&issuer.tell), issuer.forward),
                None => (None, false),
            },
            By::Introspection => match &self.introspection {
                Some(asked) => (Some(&asked.tell), asked.forward),
                None => (None, false),
            },
        };
        if caller.token.is_some() && !forward {
            self.places.iter().for_each(|place| place.remove(head));
        }
        if let Some(api_key) = self.api_key.as_ref().filter(|api_key| !api_key.forward)
            && caller.consumer.is_some()
        {
            api_key.from.remove(head);
        }
        if let (Some(tell), Some(token)) = (tell, &caller.token) {
            tell.tell(token, &mut head.headers);
        }
    }

    /// What a refusal tells the caller to bring (RFC 6750 section 3; of keys no scheme is registered).
    pub fn challenge(&self, refused: Refused) -> HeaderValue {
        if self.places.is_empty() {
            return HeaderValue::from_static("ApiKey");
        }
        let (code, told) = match refused {
            Refused::Missing | Refused::NoKeys | Refused::NobodySays | Refused::Key(_) => {
                return HeaderValue::from_static("Bearer");
            }
            Refused::Ambiguous => ("invalid_request", "there is more than one token"),
            Refused::Token(why) => (why.code(), why.told()),
            Refused::Introspected(introspection::Refused::MissingScope) => {
                let why = jwt::Refused::MissingScope;
                (why.code(), why.told())
            }
            Refused::Introspected(_) => ("invalid_token", "the token is not active here"),
        };
        // Every part is a constant of ours without a quote.
        let challenge = format!(r#"Bearer error="{code}", error_description="{told}""#);
        HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"))
    }
}

// === impl Refused ===

impl Refused {
    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "ambiguous",
            Self::Token(why) => why.name(),
            Self::Introspected(why) => why.name(),
            Self::Key(why) => why.name(),
            Self::NoKeys => "no_keys",
            Self::NobodySays => "nobody_says",
        }
    }

    /// What the caller is answered.
    pub fn reason(self) -> Reason {
        use introspection::Refused as Introspected;
        match self {
            Self::Missing => Reason::CredentialsMissing,
            Self::Token(jwt::Refused::MissingScope)
            | Self::Introspected(Introspected::MissingScope) => Reason::ScopeMissing,
            Self::NoKeys | Self::NobodySays => Reason::CredentialsUncheckable,
            Self::Ambiguous | Self::Token(_) | Self::Introspected(_) | Self::Key(_) => {
                Reason::CredentialsInvalid
            }
        }
    }

    /// As an error of the request.
    pub fn error(self, authentication: &Authentication) -> Error {
        Error::new(self.reason(), self.name()).challenging(authentication.challenge(self))
    }
}

#[cfg(test)]
mod tests;
