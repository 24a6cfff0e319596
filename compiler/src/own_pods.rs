//! What an ApiRoute says that the sidecars beside its pods see to: it can only be about pods of its own
//! namespace, of the Services that its hosts name and that its rules send to.

use std::collections::BTreeSet;

use crds::{ApiRouteSpec, BackendKind, RouteRule};

use crate::inputs::ObjectKey;

/// The Services at whose pods it holds, given those of the hosts.
pub(crate) fn services(
    key: &ObjectKey,
    spec: &ApiRouteSpec,
    hosts: &[ObjectKey],
) -> BTreeSet<ObjectKey> {
    let backends = spec.rules.iter().flat_map(|rule| &rule.backend_refs);
    let backends = backends.filter(|backend| backend.kind == BackendKind::Service);
    let backends = backends.map(|backend| {
        let namespace = backend.namespace.as_deref();
        ObjectKey::new(namespace.unwrap_or(&key.namespace), &*backend.name)
    });
    let all = hosts.iter().cloned().chain(backends);
    all.filter(|service| service.namespace == key.namespace)
        .collect()
}

/// Where a rule sends to pods whose sidecars would not do what is said, as sentences; `place` is the
/// rule's.
pub(crate) fn elsewhere<'r>(
    key: &'r ObjectKey,
    (place, rule): (usize, &'r RouteRule),
    would_not: &'r str,
) -> impl Iterator<Item = String> + 'r {
    let backends = rule.backend_refs.iter().enumerate();
    backends.filter_map(move |(backend, to)| {
        let at = format!("spec.rules[{place}].backendRefs[{backend}]");
        let namespace = to.namespace.as_deref().unwrap_or(&key.namespace);
        let name = &to.name;
        if to.kind == BackendKind::ApiRoute {
            return Some(format!(
                "{at}.kind: the pods behind ApiRoute {namespace}/{name} would not {would_not}: write it \
                 in that ApiRoute, or send to a Service."
            ));
        }
        (namespace != key.namespace).then(|| {
            format!(
                "{at}.namespace: the pods of namespace {namespace} would not {would_not}: write it in an \
                 ApiRoute there, for Service {name:?}."
            )
        })
    })
}
