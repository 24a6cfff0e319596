//! Who may enter, for people: nothing of a credential, and of keys only how many there are.

use std::sync::Arc;
use std::time::SystemTime;

use http::Request;
use http::request::Parts;
use serde_json::{Value, json};
use wire::path::normalise;

use super::limits;
use crate::config::State;
use crate::config::access::Enforced;
use crate::config::route::query::parameters;
use crate::config::state::Served;
use crate::identity::SpiffeId;
use crate::policy::authentication::api_key::Consumers;
use crate::policy::authentication::{Caller, Known, Need};
use crate::policy::authorization::Decision;
use crate::proxy::error::Reason;

/// What says who may enter at a port.
pub(super) fn may_enter(served: &Served) -> Value {
    let requests = served.for_requests();
    // What is said of connections holds for requests too, on most ports.
    let connections = served.for_connections().iter().filter(|connection| {
        let said = |request: &Enforced| Arc::ptr_eq(&request.access, &connection.access);
        !requests.iter().any(said)
    });
    requests.iter().chain(connections).map(one).collect()
}

fn one(enforced: &Enforced) -> Value {
    let access = &enforced.access;
    let mut shown = json!({ "route": &*access.object, "closed": access.closed });
    if let Some(authentication) = &access.authentication {
        let issuers = authentication.issuers().iter().map(|issuer| {
            json!({
                "issuer": issuer.provider.issuer,
                "keysAreHere": issuer.keys.are_here(),
                "skippedKeys": issuer.keys.current().skipped(),
            })
        });
        let keys = enforced.keys.as_ref();
        shown["credentials"] = json!({
            "issuers": issuers.collect::<Vec<_>>(),
            "consumerKeys": keys.map(|keys| keys.consumers.len()),
        });
    }
    if let Some(authorization) = &access.authorization {
        let rules = authorization.rules().iter().map(|rule| {
            let does = if rule.deny { "deny" } else { "allow" };
            json!({ "rule": &*rule.name, "does": does })
        });
        shown["rules"] = rules.collect();
        shown["toldOnly"] = authorization.audit_only.into();
    }
    shown
}

// === `GET /enter` ===

/// What is asked: who calls, and with what.
struct Asked {
    head: Parts,
    source: Option<SpiffeId>,
    port: Option<u16>,
}

/// What would become of a request that came to this workload, or a sentence on what was asked wrongly.
/// Keys are not fetched for it, and nobody is asked about tokens.
pub(super) fn enter(state: &State, query: &str) -> Result<Value, String> {
    let asked = Asked::read(query)?;
    let ports = state.built.guards.values().flat_map(|guard| &guard.ports);
    let mut ports: Vec<u16> = ports.map(|(port, _)| *port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.retain(|port| asked.port.is_none_or(|asked| asked == *port));
    if ports.is_empty() {
        return Err("no Service of this workload has that port".to_owned());
    }
    Ok(ports
        .into_iter()
        .map(|port| at_port(state, &asked, port))
        .collect())
}

impl Asked {
    fn read(query: &str) -> Result<Self, String> {
        let mut request = Request::builder();
        let (mut source, mut port) = (None, None);
        for (name, value) in parameters(query.as_bytes()) {
            let text = String::from_utf8_lossy(&value);
            match &*name {
                b"method" => request = request.method(&*value),
                b"path" => request = request.uri(&*value),
                b"header" => {
                    let (name, value) = text
                        .split_once(':')
                        .ok_or("write a header as name: value")?;
                    request = request.header(name.trim(), value.trim());
                }
                b"source" => source = Some(text.parse().map_err(|_| "source is no SPIFFE id")?),
                b"port" => port = Some(text.parse().map_err(|_| "that is no port")?),
                _ => return Err("ask with method, path, header, source and port".to_owned()),
            }
        }
        let request = request.body(()).map_err(|error| error.to_string())?;
        let (mut head, ()) = request.into_parts();
        let form =
            normalise(head.uri.path().as_bytes()).map_err(|why| format!("the path: {why}"))?;
        let target = match head.uri.query() {
            Some(query) => format!("{form}?{query}"),
            None => form.into_owned(),
        };
        head.uri = target.parse().map_err(|_| "that is no path")?;
        Ok(Self { head, source, port })
    }
}

fn at_port(state: &State, asked: &Asked, port: u16) -> Value {
    let mut told = json!({ "port": port });
    let served = match state.served(port) {
        Ok(served) => served,
        Err(why) => {
            told["refused"] = refused(crate::proxy::inbound::refusal(why), "");
            return told;
        }
    };
    told["service"] = json!(&*served.guard.service);
    let mut callers = Vec::new();
    let said = served.for_requests().iter().map(|one| {
        let (told, caller) = judged(asked, one);
        callers.extend(caller);
        told
    });
    told["says"] = said.collect();
    // Who is not let in counts in no limit.
    if callers.len() == served.for_requests().len() {
        let head = entered(asked, served, &callers);
        told["limits"] = limits::would(served, &head, asked.source.as_ref(), &callers);
    }
    told
}

/// The request as limits see it: as the application will get it.
fn entered(asked: &Asked, served: &Served, callers: &[Caller]) -> Parts {
    let mut head = asked.head.clone();
    let all = || served.for_requests().iter().zip(callers);
    for (enforced, _) in all() {
        if let Some(authentication) = &enforced.access.authentication {
            authentication.clear(&mut head);
        }
    }
    for (enforced, caller) in all() {
        if let Some(authentication) = &enforced.access.authentication {
            authentication.pass_on(caller, &mut head);
        }
    }
    head
}

/// What one ApiRoute says of it, and who calls if it lets them in.
fn judged(asked: &Asked, enforced: &Enforced) -> (Value, Option<Caller>) {
    let access = &enforced.access;
    let mut told = json!({ "route": &*access.object });
    if access.closed {
        told["refused"] = refused(Reason::AccessClosed, "");
        return (told, None);
    }
    let mut caller = Caller::default();
    if let Some(authentication) = &access.authentication {
        let none = Consumers::default();
        let consumers = enforced.keys.as_ref().map_or(&none, |keys| &keys.consumers);
        let now = SystemTime::now();
        match authentication.check(&asked.head, &Known::default(), consumers, now) {
            Ok(found) => caller = found,
            Err(Need::Worth(..)) => {
                told["unknown"] = json!("a server would be asked what the token is worth");
                return (told, None);
            }
            Err(Need::Refused(why) | Need::Keys(_, why)) => {
                told["refused"] = refused(why.reason(), why.name());
                return (told, None);
            }
        }
        told["consumer"] = json!(caller.consumer.as_ref().map(|one| one.name.to_string()));
        told["token"] = json!(caller.token.is_some());
    }
    if let Some(authorization) = &access.authorization {
        let decision = authorization.decide(asked.source.as_ref(), &caller, Some(&asked.head));
        told["rule"] = json!(
            decision
                .rule(authorization)
                .map(|rule| rule.name.to_string())
        );
        told["toldOnly"] = authorization.audit_only.into();
        if !decision.allows() {
            let why = match decision {
                Decision::Denied(_) => "the rule denies it",
                _ => "no rule allows it",
            };
            told["refused"] = refused(Reason::NotPermitted, why);
            if !authorization.audit_only {
                return (told, None);
            }
        }
    }
    (told, Some(caller))
}

pub(super) fn refused(reason: Reason, why: &str) -> Value {
    json!({ "reason": reason.name(), "status": reason.status().as_u16(), "why": why })
}
