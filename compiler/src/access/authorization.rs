//! Who may do what: from `crds::Authorization` to `mesh::Authorization`.

use std::collections::BTreeSet;

use crds::{Action, ApiRouteSpec, Audit, Authorization, AuthorizationRule, Mode, Principals};
use wire::mesh;
use wire::regex::{self, Regex};

use crate::api_route::{header_match, matches_path, read_path, rule_name};
use crate::inputs::ObjectKey;

/// What is compiled, if `authorization` is written.
///
/// # Errors
/// Everything that can't be understood, as sentences.
pub(super) fn compile(
    key: &ObjectKey,
    spec: &ApiRouteSpec,
) -> Result<Option<mesh::Authorization>, Vec<String>> {
    let Some(written) = &spec.authorization else {
        return Ok(None);
    };
    let problems = problems(spec, written);
    if !problems.is_empty() {
        return Err(problems);
    }
    let rules = written.rules.iter().enumerate();
    Ok(Some(mesh::Authorization {
        audit_only: written.mode == Mode::Audit,
        audit: match written.audit {
            Audit::None => mesh::Audit::None,
            Audit::Denied => mesh::Audit::Denied,
            Audit::All => mesh::Audit::All,
        }
        .into(),
        rules: rules
            .map(|(place, rule)| access_rule(key, written, place, rule))
            .collect(),
    }))
}

fn problems(spec: &ApiRouteSpec, written: &Authorization) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expressions = 0;
    let roles: BTreeSet<&str> = written
        .roles
        .iter()
        .map(|role| role.name.as_str())
        .collect();
    for (place, role) in written.roles.iter().enumerate() {
        for (member, principals) in role.members.iter().enumerate() {
            let at = format!("spec.authorization.roles[{place}].members[{member}]");
            problems.extend(unknowable(spec, &at, principals));
        }
    }
    for (place, rule) in written.rules.iter().enumerate() {
        let at = format!("spec.authorization.rules[{place}]");
        if let Some(principals) = &rule.principals {
            problems.extend(unknowable(spec, &format!("{at}.principals"), principals));
            let unknown = principals.roles.iter().enumerate();
            let unknown = unknown.filter(|(_, role)| !roles.contains(role.as_str()));
            problems.extend(unknown.map(|(number, role)| {
                format!(
                    "{at}.principals.roles[{number}]: there is no role {role:?} in \
                     spec.authorization.roles."
                )
            }));
        }
        for (number, path) in rule.paths.iter().enumerate() {
            match read_path(path) {
                Ok(expression) => expressions += usize::from(expression.is_some()),
                Err(why) => problems.push(format!("{at}.paths[{number}].value: {why}.")),
            }
        }
        for (number, header) in rule.headers.iter().enumerate() {
            if header.type_ == crds::ValueType::Regex {
                expressions += 1;
                let expression = header.value.as_deref().unwrap_or_default();
                if let Err(why) = Regex::new(expression) {
                    problems.push(format!("{at}.headers[{number}].value: {why}."));
                }
            }
        }
    }
    if expressions > regex::MAX_IN_ROUTE {
        let too_many = regex::too_many(expressions);
        problems.push(format!("spec.authorization.rules: {too_many}."));
    }
    problems
}

/// What can't be known of any caller: a rule that asks for it would never allow, and worse, never
/// deny.
fn unknowable(spec: &ApiRouteSpec, at: &str, principals: &Principals) -> Vec<String> {
    let auth = spec.auth.as_ref();
    let keys = auth.is_some_and(|auth| auth.api_key.is_some());
    let tokens = auth.is_some_and(|auth| !auth.jwt.is_empty() || auth.introspection.is_some());
    let asked = [
        (
            "consumers",
            principals.consumers.is_empty(),
            keys,
            "auth.apiKey",
        ),
        ("plans", principals.plans.is_empty(), keys, "auth.apiKey"),
        (
            "jwtClaims",
            principals.jwt_claims.is_empty(),
            tokens,
            "auth.jwt or auth.introspection",
        ),
        (
            "scopes",
            principals.scopes.is_empty(),
            tokens,
            "auth.jwt or auth.introspection",
        ),
    ];
    let unknowable = asked.iter().filter(|(_, empty, known, _)| !empty && !known);
    unknowable
        .map(|(field, _, _, needed)| {
            format!("{at}.{field}: nothing is known of them without spec.{needed}: write it.")
        })
        .collect()
}

fn access_rule(
    key: &ObjectKey,
    written: &Authorization,
    place: usize,
    rule: &AuthorizationRule,
) -> mesh::AccessRule {
    let asked = rule.principals.as_ref();
    let asked = asked.map_or(&[][..], |principals| &principals.roles);
    let roles = written.roles.iter();
    let roles = roles.filter(|role| asked.contains(&role.name));
    mesh::AccessRule {
        name: rule.name.clone().unwrap_or_else(|| rule_name(place)),
        deny: rule.action == Action::Deny,
        principals: rule.principals.as_ref().map(|one| principals(key, one)),
        methods: rule
            .methods
            .iter()
            .map(|method| method.as_str().to_owned())
            .collect(),
        paths: rule.paths.iter().map(matches_path).collect(),
        headers: rule.headers.iter().map(header_match).collect(),
        roles: roles
            .map(|role| mesh::Role {
                name: role.name.clone(),
                members: role
                    .members
                    .iter()
                    .map(|one| principals(key, one))
                    .collect(),
            })
            .collect(),
    }
}

fn principals(key: &ObjectKey, written: &Principals) -> mesh::Principals {
    let accounts = written.service_accounts.iter();
    let accounts = accounts.map(|account| match account.contains('/') {
        true => account.clone(),
        false => format!("{}/{account}", key.namespace),
    });
    mesh::Principals {
        service_accounts: accounts.collect(),
        namespaces: written.namespaces.clone(),
        identities: written.spiffe_ids.clone(),
        consumers: written.consumers.clone(),
        plans: written.plans.clone(),
        claims: written
            .jwt_claims
            .iter()
            .map(|claim| mesh::ClaimMatch {
                name: claim.name.clone(),
                values: claim.values.clone(),
            })
            .collect(),
        scopes: written.scopes.clone(),
    }
}
