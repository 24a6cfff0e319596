//! Outputs as YAML for people.

use compiler::{AudienceKey, Compiled, Output};
use serde_json::{Map, Value, json};
use wire::Kind;
use wire::mesh::{self, r#match::Path};

mod access;
mod cache;
mod filters;
mod idempotency;
mod publish;
mod rate_limit;
mod retry_policy;
mod subscription;

/// Resources and verdicts.
pub(crate) fn output(output: &Output) -> String {
    let resources: Map<String, Value> = output
        .resources
        .iter()
        .map(|(id, compiled)| (id.to_string(), resource(compiled)))
        .collect();
    let verdicts: Map<String, Value> = output
        .verdicts
        .iter()
        .map(|(object, verdict)| {
            let conditions = verdict.conditions.iter().map(|condition| {
                let shown = match condition.message.as_str() {
                    "" => format!("{} ({})", condition.status, condition.reason),
                    message => format!("{} ({}): {message}", condition.status, condition.reason),
                };
                (condition.type_.to_string(), json!(shown))
            });
            let mut shown: Map<String, Value> = conditions.collect();
            shown.insert("target".to_owned(), json!(verdict.target));
            shown.insert(
                "resources".to_owned(),
                verdict.resources.iter().map(ToString::to_string).collect(),
            );
            (object.to_string(), shown.into())
        })
        .collect();
    serde_yaml::to_string(&json!({"resources": resources, "verdicts": verdicts})).unwrap()
}

/// Everything about a resource but its generation.
pub(crate) fn resource(compiled: &Compiled) -> Value {
    let shown = compiled.audience.iter();
    // Goes with every Service.
    let shown = shown.filter(|key| **key != AudienceKey::AnyService);
    let audience = shown.map(|key| match key {
        AudienceKey::Everyone => "everyone".to_owned(),
        AudienceKey::Namespace(namespace) => format!("namespace {namespace}"),
        AudienceKey::Service(namespace, name) => format!("callers of {namespace}/{name}"),
        AudienceKey::AnyService => "callers of any".to_owned(),
        AudienceKey::Pod(namespace, name) => format!("pod {namespace}/{name}"),
    });
    let around = &compiled.around;
    let mut shown = json!({
        "for": Value::from_iter(audience),
        "needs": compiled.resource.capabilities,
        "body": body(compiled),
    });
    if !around.services.is_empty() {
        let services = around.services.iter().map(ToString::to_string);
        shown["leadsTo"] = Value::from_iter(services);
    }
    if let Some(object) = &compiled.object {
        shown["carriesOut"] = json!(object.to_string());
    }
    shown
}

fn body(compiled: &Compiled) -> Value {
    let resource = &compiled.resource;
    match resource.id.kind {
        Kind::Route => route(resource.decode().unwrap()),
        Kind::Access => access::shown(resource.decode().unwrap()),
        Kind::Cache => cache::shown(resource.decode().unwrap()),
        Kind::Idempotency => idempotency::shown(resource.decode().unwrap()),
        Kind::Publish => publish::shown(resource.decode().unwrap()),
        Kind::Subscription => subscription::shown(resource.decode().unwrap()),
        Kind::Keys => access::keys(resource.decode().unwrap()),
        Kind::RetryPolicy => retry_policy::shown(resource.decode().unwrap()),
        Kind::RateLimit => rate_limit::shown(resource.decode().unwrap()),
        Kind::Endpoints => endpoints(resource.decode().unwrap()),
        Kind::Guard => guard(resource.decode().unwrap()),
        Kind::Workload => {
            let mesh::Workload {
                namespace,
                pod,
                identity,
                guards,
                refuse_unknown,
                permissive,
                permissive_ports,
                zone,
            } = resource.decode().unwrap();
            let mut shown = json!({
                "pod": format!("{namespace}/{pod}"), "identity": identity, "guards": guards,
            });
            if refuse_unknown {
                shown["unknownAddresses"] = json!("refused");
            }
            if permissive {
                shown["permissive"] = json!("every port");
            }
            if !permissive_ports.is_empty() {
                shown["permissivePorts"] = json!(permissive_ports);
            }
            if !zone.is_empty() {
                shown["zone"] = json!(zone);
            }
            shown
        }
        Kind::Networks => {
            let mesh::Networks { networks } = resource.decode().unwrap();
            json!(networks)
        }
        Kind::Lookup => unreachable!("made of what streams ask for"),
        Kind::Identity => {
            let mesh::Identity {
                trust_domain,
                roots,
            } = resource.decode().unwrap();
            json!({"trustDomain": trust_domain, "roots": roots.len()})
        }
    }
}

fn protocol(number: i32) -> &'static str {
    mesh::Protocol::try_from(number).unwrap().as_str_name()
}

pub(super) fn service(service: &mesh::ServiceRef) -> String {
    match service.name.as_str() {
        "" => "nowhere".to_owned(),
        name => format!("{}/{name}", service.namespace),
    }
}

fn endpoints(sent: mesh::Endpoints) -> Value {
    let ports = sent.ports.iter().map(|port| {
        let endpoints = port.endpoints.iter().map(|endpoint| {
            let address = format!("{} port {}", endpoint.address, endpoint.port);
            let address = match endpoint.own_address {
                true => format!("{address}, its own"),
                false => address,
            };
            let address = match endpoint.for_zones.is_empty() {
                true => address,
                false => format!("{address}, for {}", endpoint.for_zones.join(" and ")),
            };
            match (endpoint.pod.as_str(), endpoint.identity.as_str()) {
                ("", _) => address,
                (pod, "") => format!("{address}, pod {pod}, not meshed"),
                (pod, identity) => format!("{address}, pod {pod}, {identity}"),
            }
        });
        json!({
            "port": port.port,
            "name": port.name,
            "protocol": protocol(port.protocol),
            "endpoints": Vec::from_iter(endpoints),
        })
    });
    json!({
        "service": format!("{}/{}", sent.namespace, sent.service),
        "hosts": sent.hosts,
        "addresses": sent.addresses,
        "ports": Vec::from_iter(ports),
    })
}

fn guard(sent: mesh::Guard) -> Value {
    let ports = sent
        .ports
        .iter()
        .map(|port| format!("{} {}", port.port, protocol(port.protocol)));
    let mut shown = json!({
        "service": format!("{}/{}", sent.namespace, sent.service),
        "ports": Vec::from_iter(ports),
    });
    if !sent.access.is_empty() {
        shown["access"] = json!(sent.access);
    }
    shown
}

fn route(sent: mesh::Route) -> Value {
    let connections = sent.connections.iter().map(|rule| {
        let backends = rule.backends.iter().map(backend);
        let mut shown = json!({
            "name": rule.name,
            "serverNames": rule.server_names,
            "backends": Vec::from_iter(backends),
        });
        if let Some(timeout) = rule.idle_timeout_ms {
            shown["idleTimeoutMs"] = json!(timeout);
        }
        shown
    });
    let connections = Vec::from_iter(connections);
    let rules = sent.rules.iter().map(|rule| {
        let mut shown = Map::new();
        shown.insert("name".to_owned(), json!(rule.name));
        let matches: Vec<String> = rule.matches.iter().map(request_match).collect();
        shown.insert("matches".to_owned(), json!(matches));
        let backends = rule.backends.iter().map(backend);
        shown.insert("backends".to_owned(), json!(Vec::from_iter(backends)));
        if let Some(timeout) = rule.request_timeout_ms {
            shown.insert("requestTimeoutMs".to_owned(), json!(timeout));
        }
        shown.extend(filters::shown(rule));
        Value::Object(shown)
    });
    let mut shown = json!({
        "services": Vec::from_iter(sent.services.iter().map(service)),
        "rules": Vec::from_iter(rules),
        "consumer": sent.consumer,
    });
    if !connections.is_empty() {
        shown["connections"] = json!(connections);
    }
    if sent.cached {
        shown["cached"] = json!(true);
    }
    if let Some(kept) = sent.cache_at_caller {
        shown["cachedAtCaller"] = cache::at_caller(kept);
    }
    shown
}

fn backend(backend: &mesh::Backend) -> String {
    let to = service(backend.service.as_ref().unwrap());
    let by = match &backend.route {
        None => String::new(),
        Some(route) => format!(" by route {}/{}", route.namespace, route.name),
    };
    format!("{to} port {} weight {}{by}", backend.port, backend.weight)
}

fn compared(name: &str, value: &str, type_: mesh::MatchType) -> String {
    match type_ {
        mesh::MatchType::Exact => format!("{name}={value}"),
        mesh::MatchType::Regex => format!("{name}~{value}"),
        mesh::MatchType::Present => name.to_owned(),
    }
}

fn request_match(sent: &mesh::Match) -> String {
    let mut parts = Vec::new();
    if !sent.method.is_empty() {
        parts.push(sent.method.clone());
    }
    match &sent.path {
        Some(Path::Exact(path)) => parts.push(format!("exactly {path}")),
        Some(Path::Prefix(path)) => parts.push(format!("below {path}")),
        Some(Path::Pattern(path)) => parts.push(format!("like {path}")),
        Some(Path::Regex(path)) => parts.push(format!("by {path}")),
        None => {}
    }
    for header in &sent.headers {
        parts.push(compared(&header.name, &header.value, header.r#type()));
    }
    for parameter in &sent.query {
        let shown = compared(&parameter.name, &parameter.value, parameter.r#type());
        parts.push(format!("?{shown}"));
    }
    match parts.is_empty() {
        true => "everything".to_owned(),
        false => parts.join(" "),
    }
}
