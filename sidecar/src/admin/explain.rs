//! `GET /explain`: what would become of a call of the application, and why.
//!
//! The call is captured, unless it is said that a proxy is asked. What is carried as requests is
//! governed by rules about requests, and every other connection by rules about connections.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use wire::{Kind, Resource, mesh};

mod asked;
mod attempts;
mod filters;
mod place;
#[cfg(test)]
mod tests;

use crate::config::State;
use crate::config::retry_policy::{Algorithm, HashOn};
use crate::config::route::explain::explain;
use crate::config::route::{Backend, Route, connections};
use crate::config::service::{Endpoint, Protocol, Service};
use crate::config::state::Called;
use crate::policy::health_check::{EndpointState, Healths};
use crate::policy::load_balancer::hash;
use crate::policy::retry::Retries;
use crate::proxy::error::Reason;
use crate::proxy::layers::MAX_LAYERS;
use crate::proxy::path;
use asked::{Asked, Begins};
use place::Place;

/// The explanation, or a sentence on what was asked wrongly.
pub(super) fn answer(
    state: &State,
    held: &[Resource],
    healths: &Healths,
    query: &str,
) -> Result<Value, String> {
    let asked = Asked::read(query)?;
    match place::find(state, &asked) {
        Place::Service(called, asides) => {
            let known = Known {
                state,
                held,
                healths,
            };
            reached(known, asked, &called, asides)
        }
        Place::Nobody(why) => {
            let mut told = json!({ "refused": { "closed": true, "why": why } });
            let named = state.named(&asked.host).is_some();
            let reason = match state.refuses_unknown() && !named {
                true => Reason::AddressNotKnown,
                false => Reason::UnknownHost,
            };
            as_a_proxy(&mut told, &asked, reason);
            Ok(told)
        }
        Place::Unknown { why, named } => Ok(unknown(state, &asked, why, named)),
    }
}

/// A call to what is no Service's.
fn unknown(state: &State, asked: &Asked, mut why: String, named: bool) -> Value {
    if named {
        why += "; if it leads to an address that the mesh knows, ask with that";
    }
    if state.refuses_unknown() {
        let mut told = json!({});
        told["refused"] = refused(Reason::AddressNotKnown, &asked.begins, &why);
        if named {
            as_a_proxy(&mut told, asked, Reason::UnknownHost);
        }
        return told;
    }
    let to = match asked.host.contains(':') {
        true => format!("[{}]:{}", asked.host, asked.port),
        false => format!("{}:{}", asked.host, asked.port),
    };
    let mut told = json!({ "passes": { "to": to, "why": why } });
    let asides = super::limits::of_outside(state, limited_as(asked), asked.port);
    if !asides.is_empty() {
        told["asides"] = asides.into();
    }
    as_a_proxy(&mut told, asked, Reason::UnknownHost);
    told
}

/// The name by which a limit for what is called outside knows it, if by any.
fn limited_as(asked: &Asked) -> &str {
    match &asked.begins {
        Begins::Request => &asked.host,
        Begins::Tls(name) => name.as_deref().unwrap_or_default(),
        Begins::Bytes => "",
    }
}

/// What a request is answered that is sent to the sidecar as a proxy, where that differs.
fn as_a_proxy(told: &mut Value, asked: &Asked, reason: Reason) {
    if asked.begins == Begins::Request {
        told["asProxy"] = json!({ "reason": reason.name(), "status": reason.status().as_u16() });
    }
}

/// A call to a Service, or to a pod of it by the pod's own address.
fn reached(
    known: Known<'_>,
    asked: Asked,
    called: &Called,
    mut asides: Vec<String>,
) -> Result<Value, String> {
    let Called { service, port, .. } = called;
    let Known { state, .. } = known;
    let key = &service.key;
    let itself = called.endpoint();
    // As `Destinations::at` has it.
    let governed = itself.is_none() || service.is_headless();
    let (requests, bytes) = (state.route(key), state.connections(key));
    let all = [requests, bytes].into_iter().flatten();
    if !governed {
        asides.extend(all.map(|route| {
            format!(
                "who calls a pod's own address means that pod: ApiRoute {} does not govern it",
                route.object
            )
        }));
    }
    let (requests, bytes) = match governed {
        true => (requests, bytes),
        false => (None, None),
    };
    let reads = port.protocol.with_connections(bytes.is_some());
    let mut told = json!({
        "service": key.to_string(),
        "port": port.number,
        "protocol": format!("{:?}", port.protocol),
        "reads": format!("{reads:?}"),
    });
    if let Some(endpoint) = itself {
        told["pod"] = json!({ "name": &*endpoint.pod, "address": endpoint.address.to_string() });
    }
    let to = Governed {
        known,
        service,
        port: port.number,
        itself,
        left: &Cell::new(MAX_TOLD),
        retries: None,
    };
    let is_request = asked.begins == Begins::Request;
    let more = match (reads, is_request) {
        (Protocol::Http | Protocol::Http2, false) => {
            let why = "what is sent where only HTTP is carried is not HTTP";
            json!({ "refused": refused(Reason::BadRequest, &asked.begins, why) })
        }
        (Protocol::Tcp, _) | (Protocol::Detect, false) => {
            asides.extend(requests.map(|route| {
                format!(
                    "ApiRoute {} is about requests, and of this nobody reads any",
                    route.object
                )
            }));
            to.connection(bytes, &asked.begins)
        }
        (_, true) => {
            asides.extend(bytes.map(|route| {
                format!(
                    "ApiRoute {} is about connections that nobody reads, and this port's are read",
                    route.object
                )
            }));
            to.request(requests, asked)?
        }
    };
    told["asides"] = json!(asides);
    extend(&mut told, more);
    Ok(told)
}

/// The most ApiRoutes that one answer tells which others lead to.
const MAX_TOLD: u32 = 64;

/// What the sidecar knows.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    state: &'a State,
    held: &'a [Resource],
    healths: &'a Healths,
}

/// A call that has come to a Service's port.
#[derive(Clone, Copy, Debug)]
struct Governed<'a> {
    known: Known<'a>,
    service: &'a Arc<Service>,
    port: u16,
    /// The endpoint that was called by its own address.
    itself: Option<&'a Endpoint>,
    /// How many more ApiRoutes are told that others lead to: they may fan out at each layer.
    left: &'a Cell<u32>,
    /// When it is sent again, as the innermost rule says that has a policy of its own.
    retries: Option<&'a Arc<Retries>>,
}

impl Governed<'_> {
    fn request(self, route: Option<&Arc<Route>>, asked: Asked) -> Result<Value, String> {
        let mut head = asked.head;
        let form = match path::normalise(head.uri.path().as_bytes()) {
            Ok(form) => form.into_owned(),
            Err(why) => {
                let why = format!("the path: {why}");
                let refused = refused(Reason::BadRequest, &Begins::Request, &why);
                return Ok(json!({ "refused": refused }));
            }
        };
        head.uri = with_path(&head.uri, &form).ok_or("the path is too long")?;
        let mut told = json!({ "carried": "request", "path": form });
        match route {
            Some(route) => extend(&mut told, self.by(route, head, 0)?),
            None => told["goes"] = json!([self.own(Some(&head.headers))]),
        }
        Ok(told)
    }

    /// What an ApiRoute makes of a request; `depth` others have led it here.
    fn by(self, route: &Route, mut head: Parts, depth: u32) -> Result<Value, String> {
        let mut told = json!({ "route": &*route.object });
        let refuse = |reason, why| refused(reason, &Begins::Request, why);
        if head.method == Method::CONNECT {
            told["refused"] = refuse(Reason::BadRequest, "CONNECT names no path");
            return Ok(told);
        }
        let sent =
            sent(self.known.held, &route.object).ok_or("the ApiRoute has just gone: ask again")?;
        told["rules"] = json!(explain(&sent, &head)?);
        let entry = route.find_preflight(&head).or_else(|| route.find(&head));
        let Some(found) = entry else {
            told["refused"] = refuse(Reason::NoRoute, Reason::NoRoute.told());
            return Ok(told);
        };
        let rule = &route.rules()[found.rule];
        let own = self.known.state.policies.of_rule(&route.object, &rule.name);
        let here = Governed {
            retries: own.or(self.retries),
            ..self
        };
        let called = filters::Called {
            head: &head,
            port: self.port,
            prefix: found.prefix,
        };
        let does = filters::told(&sent.rules[found.rule], &rule.filters, &called);
        let asks = [Method::GET, Method::HEAD].contains(&head.method);
        let own = route.kept.as_ref().map(|kept| filters::kept_here(kept));
        let theirs = sent.cached.then(|| filters::KEPT.to_owned());
        let kept = own.into_iter().chain(theirs).filter(|_| asks);
        let once = !sent.idempotency_key.is_empty() && !head.method.is_safe();
        let once = once.then(|| filters::once(&sent.idempotency_key));
        let does = does.into_iter().chain(once).chain(kept);
        told["does"] = json!(Vec::from_iter(does));
        if let Some(timeout) = rule.request_timeout {
            told["timeoutMs"] = json!(millis(timeout));
        }
        if let Some(idle) = rule.idle_timeout {
            told["idleTimeoutMs"] = json!(millis(idle));
        }
        if rule.filters.redirect.is_some() || rule.filters.direct_response.is_some() {
            return Ok(told);
        }
        if let Some(edits) = &rule.filters.request_headers {
            edits.apply(&mut head.headers);
        }
        if let Some(rewrite) = &rule.filters.rewrite
            && rewrite.apply(&mut head, found.prefix).is_err()
        {
            told["refused"] = refuse(Reason::BadRequest, "the path that it is rewritten to");
            return Ok(told);
        }
        let backends = rule.backends.iter().map(|to| here.goes(to, &head, depth));
        let backends: Vec<Value> = backends.collect::<Result<_, _>>()?;
        here.leads(&mut told, backends, Some(&head.headers));
        Ok(told)
    }

    fn goes(self, to: &Backend, head: &Parts, depth: u32) -> Result<Value, String> {
        let mut goes = self.backend(to, Some(&head.headers));
        let service = self.known.state.service(&to.service);
        let service = service.filter(|_| goes["missing"] != true);
        let (Some(service), Some(object)) = (service, &to.route) else {
            return Ok(goes);
        };
        // Of whom the last one names.
        goes["balanced"] = Value::Null;
        goes["attempts"] = json!([]);
        let route = self.known.state.named_route(object);
        let route = route.filter(|route| !route.governs_connections());
        match route.filter(|_| depth < MAX_LAYERS) {
            Some(route) if self.left.get() == 0 => {
                goes["untold"] = json!(&*route.object);
            }
            Some(route) => {
                self.left.set(self.left.get() - 1);
                let next = Governed {
                    service,
                    port: to.port,
                    itself: None,
                    ..self
                };
                goes["then"] = next.by(route, head.clone(), depth + 1)?;
            }
            None => goes["missing"] = json!(true),
        }
        Ok(goes)
    }

    /// A connection whose bytes nobody reads.
    fn connection(self, route: Option<&Arc<Route>>, begins: &Begins) -> Value {
        let server_name = match begins {
            Begins::Tls(name) => name.as_deref(),
            Begins::Request | Begins::Bytes => None,
        };
        let mut told = json!({ "carried": "connection", "serverName": server_name });
        let Some(route) = route else {
            told["goes"] = json!([self.own(None)]);
            return told;
        };
        told["route"] = json!(&*route.object);
        let rules = route.connections();
        told["rules"] = json!(connections::explain(rules, server_name));
        let found = connections::find(rules, server_name);
        let Some(rule) = found.and_then(|place| rules.get(place)) else {
            let why = "no rule is for this connection";
            told["refused"] = closed(Reason::NoRoute, why);
            return told;
        };
        if let Some(idle) = rule.idle_timeout {
            told["idleTimeoutMs"] = json!(millis(idle));
        }
        let backends = rule.backends.iter().map(|to| self.backend(to, None));
        self.leads(&mut told, backends.collect(), None);
        told
    }

    /// To the backends of a rule, or without any to what was called. `headers` of a request.
    fn leads(self, told: &mut Value, backends: Vec<Value>, headers: Option<&HeaderMap>) {
        if backends.is_empty() {
            told["goes"] = json!([self.own(headers)]);
            return;
        }
        let somewhere = |to: &Value| to["missing"] != true && to["weight"] != 0;
        if !backends.iter().any(somewhere) {
            let why = Reason::BackendMissing.told();
            told["refused"] = match headers {
                Some(_) => refused(Reason::BackendMissing, &Begins::Request, why),
                None => closed(Reason::BackendMissing, "it goes to no backend that exists"),
            };
        }
        told["goes"] = json!(backends);
    }

    /// What was called, as a place to go.
    fn own(self, headers: Option<&HeaderMap>) -> Value {
        let own = Backend {
            service: self.service.key.clone(),
            port: self.port,
            weight: 1,
            route: None,
        };
        let Some(endpoint) = self.itself else {
            return self.backend(&own, headers);
        };
        json!({
            "service": own.service.to_string(), "port": own.port, "weight": own.weight,
            "endpoints": 1, "missing": false, "itself": endpoint.address.to_string(),
        })
    }

    /// A backend, how one of its endpoints is picked and what follows when it fails, if a RetryPolicy
    /// says that.
    fn backend(self, to: &Backend, headers: Option<&HeaderMap>) -> Value {
        let found = self.known.state.service(&to.service);
        let found = found.and_then(|service| service.port(to.port));
        let mut told = json!({
            "service": to.service.to_string(), "port": to.port, "weight": to.weight,
            "endpoints": found.map_or(0, |port| port.endpoints.len()),
            "missing": found.is_none(),
        });
        if let Some(policy) = self.known.state.policies.destination(&to.service)
            && let Some(balancing) = &policy.balancing
        {
            let mut balanced = balanced(&balancing.algorithm, headers);
            if let Some(time) = balancing.slow_start {
                balanced += &format!(", with a slow start of {time:?}");
            }
            told["balanced"] = json!({ "by": balanced, "retryPolicy": &*policy.object });
        }
        let endpoints = found.into_iter().flat_map(|port| &port.endpoints);
        let open = endpoints.filter(|endpoint| {
            let state = self.known.healths.state(&to.service, to.port, endpoint);
            matches!(state, Some(EndpointState::Open | EndpointState::HalfOpen))
        });
        let open = open.count();
        if open > 0 {
            told["notCalled"] = json!(open);
        }
        if headers.is_some() && found.is_some() {
            told["attempts"] = json!(attempts::told(self.known.state, &to.service, self.retries));
        }
        told
    }
}

/// What is hashed is asked of the request itself; a connection has no headers.
fn balanced(algorithm: &Algorithm, headers: Option<&HeaderMap>) -> String {
    let on = match algorithm {
        Algorithm::LeastRequest => return "least request".to_owned(),
        Algorithm::RoundRobin => return "round robin".to_owned(),
        Algorithm::ConsistentHash(on) => on,
    };
    let what = match on {
        HashOn::Header(name) => format!("header {name}"),
        HashOn::Cookie(name) => format!("cookie {name}"),
        HashOn::Source => "the calling workload".to_owned(),
    };
    match hash::of_request(on, 0, headers) {
        Some(_) => format!("consistent hash of {what}"),
        None => format!("least request, for it has no {what} to hash"),
    }
}

/// A request is answered, and every other connection closed.
fn refused(reason: Reason, begins: &Begins, why: &str) -> Value {
    if *begins != Begins::Request {
        return closed(reason, why);
    }
    let status: StatusCode = reason.status();
    json!({ "reason": reason.name(), "status": status.as_u16(), "why": why })
}

fn closed(reason: Reason, why: &str) -> Value {
    json!({ "reason": reason.name(), "closed": true, "why": why })
}

fn extend(told: &mut Value, more: Value) {
    if let (Value::Object(told), Value::Object(more)) = (told, more) {
        told.extend(more);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The resource that a route was built from.
fn sent(held: &[Resource], object: &str) -> Option<mesh::Route> {
    let resource = held.iter().find(|resource| {
        let id = &resource.id;
        id.kind == Kind::Route && object.split_once('/') == Some((&*id.namespace, &*id.name))
    });
    resource?.decode().ok()
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target.into_bytes()).ok()?);
    Uri::from_parts(parts).ok()
}
