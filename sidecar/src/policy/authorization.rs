//! Authorization: whether who calls may do what it asks for.
//!
//! Phase: in the destination's sidecar, after authentication and before anything of the request
//! reaches the application; of connections whose bytes nobody reads, when they are opened. From
//! `ApiRoute.authorization`. A rule that denies wins over all that allow, whatever their order, and
//! what no rule allows is refused: 403 with reason `not_permitted`, a connection closed. With `mode:
//! Audit` it passes, and is counted and written down as what would have been refused. Metrics:
//! `meshwright_access_total`, by rule and decision.

use std::sync::Arc;

use http::Method;
use http::request::Parts;
use serde_json::Value;
use wire::mesh;

use super::authentication::Caller;
use super::authentication::jwt::Token;
use crate::config::route::matching::Asked;
use crate::identity::SpiffeId;

/// Who may do what.
#[derive(Debug)]
pub struct Authorization {
    /// Decisions are told, not carried out.
    pub audit_only: bool,
    /// Which are written down.
    pub audit: Audit,
    rules: Vec<Rule>,
}

/// Which decisions are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audit {
    /// None.
    #[default]
    None,
    /// Those against a request.
    Denied,
    /// All.
    All,
}

/// What is allowed or denied.
#[derive(Debug)]
pub struct Rule {
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// Whether it denies.
    pub deny: bool,
    who: Principals,
    roles: Vec<Vec<Principals>>,
    methods: Vec<Method>,
    what: Asked,
}

/// Who it is about; whoever lacks nothing that is named.
#[derive(Debug, Default)]
struct Principals {
    service_accounts: Vec<(Box<str>, Box<str>)>,
    namespaces: Vec<Box<str>>,
    identities: Vec<Box<str>>,
    consumers: Vec<Box<str>>,
    plans: Vec<Box<str>>,
    claims: Vec<(String, Vec<String>)>,
    scopes: Vec<String>,
}

/// What became of a request: the place of the rule that decided, if one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it and none denies it.
    Allowed(usize),
    /// A rule denies it.
    Denied(usize),
    /// No rule allows it.
    NotAllowed,
}

// === build ===

impl Authorization {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Authorization) -> Result<Self, String> {
        let rules = sent.rules.into_iter().map(|rule| {
            let name = rule.name.clone();
            Rule::build(rule).map_err(|why| format!("rule `{name}`: {why}"))
        });
        Ok(Self {
            audit_only: sent.audit_only,
            audit: match mesh::Audit::try_from(sent.audit) {
                Ok(mesh::Audit::None) => Audit::None,
                Ok(mesh::Audit::Denied) => Audit::Denied,
                Ok(mesh::Audit::All) => Audit::All,
                Err(_) => return Err("what is written down is not known to this sidecar".into()),
            },
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// The rules, in the order written.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Rule {
    fn build(sent: mesh::AccessRule) -> Result<Self, String> {
        let methods = sent.methods.iter().map(|name| {
            Method::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no method"))
        });
        let members = |role: mesh::Role| match role.members.is_empty() {
            true => Err(format!("role `{}` has no members", role.name)),
            false => role.members.into_iter().map(Principals::build).collect(),
        };
        Ok(Self {
            name: sent.name.into(),
            deny: sent.deny,
            who: sent
                .principals
                .map_or(Ok(Principals::default()), Principals::build)?,
            roles: sent
                .roles
                .into_iter()
                .map(members)
                .collect::<Result<_, _>>()?,
            methods: methods.collect::<Result<_, _>>()?,
            what: Asked::build(sent.paths, sent.headers)?,
        })
    }
}

impl Principals {
    fn build(sent: mesh::Principals) -> Result<Self, String> {
        let boxed = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect();
        let accounts = sent.service_accounts.into_iter().map(|account| {
            let parts = account.split_once('/');
            let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
            let (namespace, name) = parts.ok_or_else(|| format!("`{account}` is no account"))?;
            Ok::<_, String>((namespace.into(), name.into()))
        });
        let claims = sent
            .claims
            .into_iter()
            .map(|claim| match claim.values.is_empty() {
                true => Err(format!("claim `{}` can have no value", claim.name)),
                false => Ok((claim.name, claim.values)),
            });
        Ok(Self {
            service_accounts: accounts.collect::<Result<_, _>>()?,
            namespaces: boxed(sent.namespaces),
            identities: boxed(sent.identities),
            consumers: boxed(sent.consumers),
            plans: boxed(sent.plans),
            claims: claims.collect::<Result<_, _>>()?,
            scopes: sent.scopes,
        })
    }
}

// === request ===

impl Authorization {
    /// Decides about a request; of a connection there is no head.
    pub fn decide(
        &self,
        peer: Option<&SpiffeId>,
        caller: &Caller,
        head: Option<&Parts>,
    ) -> Decision {
        let mut decision = Decision::NotAllowed;
        for (place, rule) in self.rules.iter().enumerate() {
            // What allows already is not looked at again, and what denies always is.
            if (rule.deny || decision == Decision::NotAllowed) && rule.fits(peer, caller, head) {
                if rule.deny {
                    return Decision::Denied(place);
                }
                decision = Decision::Allowed(place);
            }
        }
        decision
    }
}

impl Rule {
    fn fits(&self, peer: Option<&SpiffeId>, caller: &Caller, head: Option<&Parts>) -> bool {
        let asked = match head {
            Some(head) => {
                (self.methods.is_empty() || self.methods.contains(&head.method))
                    && match self.deny {
                        true => self.what.fits_any_line(head),
                        false => self.what.fits(head),
                    }
            }
            // A connection has neither.
            None => self.methods.is_empty() && self.what.is_anything(),
        };
        let has = |role: &Vec<Principals>| role.iter().any(|member| member.fits(peer, caller));
        asked
            && self.who.fits(peer, caller)
            && (self.roles.is_empty() || self.roles.iter().any(has))
    }
}

impl Principals {
    fn fits(&self, peer: Option<&SpiffeId>, caller: &Caller) -> bool {
        let peer_is = |named: &dyn Fn(&SpiffeId) -> bool| peer.is_some_and(named);
        let (consumer, token) = (caller.consumer.as_deref(), caller.token.as_deref());
        let is_account = |id: &SpiffeId| {
            let mut accounts = self.service_accounts.iter();
            accounts.any(|(namespace, name)| {
                **namespace == *id.namespace() && **name == *id.service_account()
            })
        };
        let among = |names: &[Box<str>], name: &str| names.iter().any(|one| **one == *name);
        (self.service_accounts.is_empty() || peer_is(&is_account))
            && (self.namespaces.is_empty()
                || peer_is(&|id| among(&self.namespaces, id.namespace())))
            && (self.identities.is_empty() || peer_is(&|id| among(&self.identities, id.as_str())))
            && (self.consumers.is_empty()
                || consumer.is_some_and(|one| among(&self.consumers, &one.name)))
            && (self.plans.is_empty() || consumer.is_some_and(|one| among(&self.plans, &one.plan)))
            && (self.claims.is_empty() || token.is_some_and(|token| self.are_claimed(token)))
            && (self.scopes.is_empty() || token.is_some_and(|token| self.are_granted(token)))
    }

    fn are_claimed(&self, token: &Token) -> bool {
        let mut claims = self.claims.iter();
        claims.all(|(name, values)| {
            let claim = token.claim(name);
            claim.is_some_and(|claim| match claim {
                Value::Array(list) => list.iter().any(|one| is_one_of(one, values)),
                one => is_one_of(one, values),
            })
        })
    }

    fn are_granted(&self, token: &Token) -> bool {
        let mut scopes = self.scopes.iter();
        scopes.all(|scope| token.scopes().any(|granted| granted == scope))
    }
}

fn is_one_of(claim: &Value, values: &[String]) -> bool {
    match claim {
        Value::String(text) => values.iter().any(|value| value == text),
        Value::Number(number) => {
            let number = number.to_string();
            values.contains(&number)
        }
        Value::Bool(value) => values
            .iter()
            .any(|text| text == if *value { "true" } else { "false" }),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

// === impl Decision ===

impl Decision {
    /// Whether the request may go on.
    pub fn allows(self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The rule that decided.
    pub fn rule(self, authorization: &Authorization) -> Option<&Rule> {
        match self {
            Self::Allowed(place) | Self::Denied(place) => authorization.rules.get(place),
            Self::NotAllowed => None,
        }
    }
}

#[cfg(test)]
mod tests;
