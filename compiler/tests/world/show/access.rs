//! Who may enter, for people.

use serde_json::{Value, json};
use wire::mesh;

use super::{request_match, service};

pub(super) fn shown(sent: mesh::Access) -> Value {
    let mut shown = json!({
        "route": format!("{}/{}", sent.namespace, sent.name),
        "at": Vec::from_iter(sent.services.iter().map(service)),
        "about": if sent.connections { "connections" } else { "requests" },
    });
    if sent.closed {
        shown["closed"] = json!(true);
    }
    if let Some(authentication) = sent.authentication {
        shown["authentication"] = self::authentication(authentication);
    }
    if let Some(authorization) = sent.authorization {
        let audit = authorization.audit().as_str_name();
        let rules = authorization.rules.iter().map(rule);
        shown["authorization"] = json!({
            "auditOnly": authorization.audit_only, "audit": audit, "rules": Vec::from_iter(rules),
        });
    }
    shown
}

pub(super) fn keys(sent: mesh::Keys) -> Value {
    let consumers = sent.consumers.iter().map(|key| {
        let hash: String = key.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "id": key.id, "consumer": key.consumer, "plan": key.plan, "hash": hash,
            "from": key.not_before, "until": key.expires_at,
        })
    });
    json!({
        "route": format!("{}/{}", sent.namespace, sent.name),
        "consumers": Vec::from_iter(consumers),
        "asksWithASecret": !sent.introspection_secret.is_empty(),
    })
}

fn authentication(sent: mesh::Authentication) -> Value {
    let jwt = sent.jwt.iter().map(|issuer| {
        let source = issuer.jwks.as_ref().and_then(|jwks| jwks.source.as_ref());
        json!({
            "issuer": issuer.issuer, "audiences": issuer.audiences, "algorithms": issuer.algorithms,
            "skewMs": issuer.clock_skew_ms, "claims": issuer.required_claims,
            "scopes": issuer.required_scopes, "from": sources(&issuer.from),
            "tells": told(&issuer.claims_to_headers), "forward": issuer.forward,
            "ttlMs": issuer.jwks.as_ref().map(|jwks| jwks.ttl_ms),
            "keys": match source {
                Some(mesh::jwks_source::Source::Remote(remote)) => remote.uri.clone(),
                Some(mesh::jwks_source::Source::Inline(_)) => "inline".to_owned(),
                None => "nowhere".to_owned(),
            },
        })
    });
    let mut shown = json!({"require": sent.require().as_str_name(), "jwt": Vec::from_iter(jwt)});
    if let Some(asked) = &sent.introspection {
        shown["introspection"] = json!({
            "endpoint": asked.endpoint.as_ref().map(|remote| remote.uri.clone()),
            "client": asked.client_id, "ttlMs": asked.ttl_ms, "audiences": asked.audiences,
            "scopes": asked.required_scopes, "from": sources(&asked.from), "forward": asked.forward,
        });
    }
    if let Some(api_key) = &sent.api_key {
        let from = sources(api_key.from.as_slice());
        shown["apiKey"] = json!({"from": from, "forward": api_key.forward});
    }
    shown
}

fn sources(sent: &[mesh::TokenSource]) -> Vec<String> {
    let sources = sent.iter().map(|source| {
        let place = source.place().as_str_name();
        format!("{place} {} {}", source.name, source.prefix)
            .trim()
            .to_owned()
    });
    sources.collect()
}

fn told(sent: &[mesh::ClaimToHeader]) -> Vec<String> {
    let told = sent
        .iter()
        .map(|one| format!("{} in {}", one.claim, one.header));
    told.collect()
}

fn rule(sent: &mesh::AccessRule) -> Value {
    let mut shown = json!({"name": sent.name, "does": if sent.deny { "deny" } else { "allow" }});
    if let Some(who) = &sent.principals {
        shown["who"] = principals(who);
    }
    for role in &sent.roles {
        let members = Vec::from_iter(role.members.iter().map(principals));
        shown["role"][&role.name] = members.into();
    }
    if !sent.methods.is_empty() {
        shown["methods"] = json!(sent.methods);
    }
    if !sent.paths.is_empty() {
        shown["paths"] = Vec::from_iter(sent.paths.iter().map(request_match)).into();
    }
    if !sent.headers.is_empty() {
        let headers = mesh::Match {
            headers: sent.headers.clone(),
            ..mesh::Match::default()
        };
        shown["headers"] = request_match(&headers).into();
    }
    shown
}

fn principals(sent: &mesh::Principals) -> Value {
    let mut shown = json!({});
    let lists = [
        ("serviceAccounts", &sent.service_accounts),
        ("namespaces", &sent.namespaces),
        ("identities", &sent.identities),
        ("consumers", &sent.consumers),
        ("plans", &sent.plans),
        ("scopes", &sent.scopes),
    ];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        shown[name] = json!(list);
    }
    for claim in &sent.claims {
        shown["claims"][&claim.name] = json!(claim.values);
    }
    shown
}
