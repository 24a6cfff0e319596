//! `GET /explain`: what would become of a request of the application, and why.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request};
use serde_json::{Value, json};
use wire::{Kind, Resource, mesh};

mod filters;

use crate::config::State;
use crate::config::route::explain::explain;
use crate::config::route::query::parameters;
use crate::config::route::{Backend, Route};
use crate::config::service::{Port, Service};
use crate::proxy::error::Reason;
use crate::proxy::layers::MAX_LAYERS;
use crate::proxy::{headers, path};

/// What is asked: `method` (GET), `url`, and any number of `header` (`name: value`).
struct Asked {
    head: Parts,
}

/// The explanation, or a sentence on what was asked wrongly.
pub(super) fn answer(state: &State, held: &[Resource], query: &str) -> Result<Value, String> {
    let Asked { mut head } = Asked::read(query)?;
    let form = path::normalise(head.uri.path().as_bytes());
    let form = match form {
        Ok(form) => form.into_owned(),
        Err(why) => return Ok(refused(Reason::BadRequest, &format!("the path: {why}"))),
    };
    head.uri = with_path(&head.uri, &form).ok_or("the path is too long")?;
    let Some((service, port)) = called(state, &head) else {
        return Ok(refused(
            Reason::UnknownHost,
            "the host and port are no Service's of the mesh: by its address it passes as it is",
        ));
    };
    let mut told = json!({
        "path": form,
        "service": service.key.to_string(),
        "port": port.number,
        "protocol": format!("{:?}", port.protocol),
    });
    let Some(route) = state.route(&service.key) else {
        told["goes"] = json!([backend(service, port.number, 1)]);
        return Ok(told);
    };
    let asked = Governed {
        state,
        held,
        service,
        port: port.number,
    };
    let governed = asked.by(route, head, 0)?;
    if let (Value::Object(told), Value::Object(governed)) = (&mut told, governed) {
        told.extend(governed);
    }
    Ok(told)
}

/// A request that has come to a Service's port.
#[derive(Clone, Copy)]
struct Governed<'a> {
    state: &'a State,
    held: &'a [Resource],
    service: &'a Arc<Service>,
    port: u16,
}

impl Governed<'_> {
    /// What an ApiRoute makes of it; `depth` others have led it here.
    fn by(self, route: &Route, mut head: Parts, depth: u32) -> Result<Value, String> {
        let mut told = json!({ "route": &*route.object });
        let sent = sent(self.held, &route.object).ok_or("the ApiRoute has just gone: ask again")?;
        told["rules"] = json!(explain(&sent, &head)?);
        let entry = route.find_preflight(&head).or_else(|| route.find(&head));
        let Some(found) = entry else {
            told["refused"] = refused(Reason::NoRoute, Reason::NoRoute.told())["refused"].take();
            return Ok(told);
        };
        let rule = &route.rules()[found.rule];
        let called = filters::Called {
            head: &head,
            port: self.port,
            prefix: found.prefix,
        };
        let sent = &sent.rules[found.rule];
        told["does"] = json!(filters::told(sent, &rule.filters, &called));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
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
            told["refused"] =
                refused(Reason::BadRequest, "the path that it is rewritten to")["refused"].take();
            return Ok(told);
        }
        let backends = rule.backends.iter().map(|to| self.goes(to, &head, depth));
        let backends: Vec<Value> = backends.collect::<Result<_, _>>()?;
        told["goes"] = match backends.is_empty() {
            true => json!([backend(self.service, self.port, 1)]),
            false => json!(backends),
        };
        Ok(told)
    }

    fn goes(self, to: &Backend, head: &Parts, depth: u32) -> Result<Value, String> {
        let missing = || {
            json!({
                "service": to.service.to_string(), "port": to.port, "weight": to.weight,
                "missing": true,
            })
        };
        let Some(service) = self.state.service(&to.service) else {
            return Ok(missing());
        };
        let mut goes = backend(service, to.port, to.weight);
        let Some(object) = &to.route else {
            return Ok(goes);
        };
        let route = self.state.named_route(object);
        match route.filter(|_| depth < MAX_LAYERS) {
            Some(route) => {
                let next = Governed {
                    service,
                    port: to.port,
                    ..self
                };
                goes["then"] = next.by(route, head.clone(), depth + 1)?;
                Ok(goes)
            }
            None => Ok(missing()),
        }
    }
}

fn refused(reason: Reason, why: &str) -> Value {
    json!({ "refused": {
        "reason": reason.name(), "status": reason.status().as_u16(), "why": why,
    } })
}

fn called<'a>(state: &'a State, head: &Parts) -> Option<(&'a Arc<Service>, &'a Arc<Port>)> {
    let service = state.named(headers::host(head)?)?;
    Some((service, service.port(headers::port(head))?))
}

fn backend(service: &Service, port: u16, weight: u32) -> Value {
    let found = service.port(port);
    json!({
        "service": service.key.to_string(), "port": port, "weight": weight,
        "endpoints": found.map_or(0, |port| port.endpoints.len()),
        "missing": found.is_none(),
    })
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

impl Asked {
    fn read(query: &str) -> Result<Self, String> {
        let mut request = Request::builder();
        let mut url = None;
        for (name, value) in parameters(query.as_bytes()) {
            match &*name {
                b"method" => {
                    let method = Method::from_bytes(&value);
                    request = request.method(method.map_err(|_| "that is no method")?);
                }
                b"url" => url = Some(value.into_owned()),
                b"header" => {
                    let colon = value.iter().position(|byte| *byte == b':');
                    let (name, rest) =
                        value.split_at(colon.ok_or("write a header as name: value")?);
                    let name = HeaderName::from_bytes(name.trim_ascii());
                    let value = HeaderValue::from_bytes(rest[1..].trim_ascii());
                    request = request.header(
                        name.map_err(|_| "that is no header name")?,
                        value.map_err(|_| "that is no header value")?,
                    );
                }
                _ => return Err("ask with method, url and header".to_owned()),
            }
        }
        let url = url.ok_or("which url? such as url=http://orders/1")?;
        let uri = Uri::from_maybe_shared(url).map_err(|_| "that is no URL")?;
        if uri.authority().is_none() {
            return Err("write the URL with its host, such as http://orders/1".to_owned());
        }
        let request = request
            .uri(uri)
            .body(())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            head: request.into_parts().0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_wrongly_is_said_with_how_to_ask() {
        let state = State::default();
        let wrong = |query: &str| answer(&state, &[], query).unwrap_err();
        assert!(wrong("").contains("url=http://orders/1"));
        assert!(wrong("url=/orders").contains("with its host"));
        assert!(wrong("url=http://orders/&header=x").contains("name: value"));
        assert!(wrong("url=http://orders/&method=%20").contains("no method"));
        assert!(wrong("url=http://orders/&x=1").contains("method, url and header"));
    }

    #[test]
    fn a_host_that_is_nobodys_and_a_path_that_is_refused_are_said_with_their_reason() {
        let state = State::default();
        let told = answer(&state, &[], "url=http://nobody/").unwrap();
        assert_eq!(told["refused"]["reason"], "unknown_host");
        let told = answer(&state, &[], "url=http://orders/a%2500").unwrap();
        assert_eq!(told["refused"]["reason"], "bad_request");
    }
}
