//! Another ApiRoute as backend: an experience's rules lead to those of a process, and these to those
//! of a system. What can't be followed keeps its share of the requests, which are answered 503.

use std::collections::{BTreeMap, BTreeSet};

use crds::status::Reason;
use crds::{ApiRoute, ApiRouteSpec, BackendKind, BackendRef};

use super::{Reader, Rules, namespaces};
use crate::host;
use crate::index::{Links, Objects};
use crate::inputs::{ObjectKey, Settings};

/// Through how many ApiRoutes requests may be led after the first. Three layers are usual; a sidecar
/// gives up after as many (`proxy/layers.rs`).
pub(crate) const MAX_LAYERS: usize = 8;

/// Every ApiRoute, and which of them lead to which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers<'a> {
    pub(crate) written: &'a Objects<ApiRoute>,
    /// Each with those that it leads to, whether it may or not.
    pub(crate) leads: &'a Links<ObjectKey, ObjectKey>,
    /// What they are to those that lead to them; nothing for those that are not in force.
    pub(crate) in_force: &'a BTreeMap<ObjectKey, Option<Layer>>,
}

/// An ApiRoute in force, for those that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// The Service that its requests count as sent to: its first host.
    pub(crate) service: ObjectKey,
    /// It is about requests.
    pub(crate) reads_requests: bool,
}

/// Why requests can't be led somewhere: reason, field and a clause.
type Problem = (Reason, &'static str, String);

// === impl Layer ===

impl Layer {
    /// What an ApiRoute that is in force is.
    pub(crate) fn of(
        key: &ObjectKey,
        spec: &ApiRouteSpec,
        reads_requests: bool,
        settings: &Settings,
    ) -> Option<Self> {
        let host = spec.hosts.first()?;
        let service = host::service(host, &key.namespace, &settings.cluster_domain)?;
        Some(Self {
            service,
            reads_requests,
        })
    }
}

// === impl Layers ===

impl Layers<'_> {
    /// Whether what is led to `from` can come to `to`.
    fn lead_to(&self, from: &ObjectKey, to: &ObjectKey) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut next = vec![from];
        while let Some(one) = next.pop() {
            if one == to {
                return true;
            }
            let led = self.leads.from(one).into_iter().flatten();
            next.extend(led.filter(|led| seen.insert(led)));
        }
        false
    }

    /// Through how many more ApiRoutes requests can be led from one, as far as `most`.
    fn depth(&self, from: &ObjectKey, most: usize) -> usize {
        let mut now = BTreeSet::from([from]);
        for depth in 0..most {
            let led = now.iter().filter_map(|one| self.leads.from(*one));
            let led: BTreeSet<_> = led.flatten().collect();
            if led.is_empty() {
                return depth;
            }
            now = led;
        }
        most
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// The ApiRoutes that this one leads to, whether it can or not. Not those that it must not lead
    /// to: whoever writes one in another namespace could otherwise make a circle of two.
    pub(crate) fn leads(&self, hosts: &[ObjectKey]) -> BTreeSet<ObjectKey> {
        let backends = self.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
        let routes = backends.filter(|to| to.kind == BackendKind::ApiRoute);
        let routes = routes.map(|to| self.key_of(to));
        routes.filter(|to| self.may_lead(to, hosts)).collect()
    }

    /// The Services that its rules send to, whether they may or not.
    pub(crate) fn sends_to(&self) -> BTreeSet<ObjectKey> {
        let backends = self.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
        let services = backends.filter(|to| to.kind == BackendKind::Service);
        services.map(|to| self.key_of(to)).collect()
    }

    fn may_lead(&self, to: &ObjectKey, hosts: &[ObjectKey]) -> bool {
        to.namespace == self.key.namespace || namespaces(hosts).any(|host| host == to.namespace)
    }

    pub(super) fn key_of(&self, to: &BackendRef) -> ObjectKey {
        let namespace = to.namespace.as_ref().unwrap_or(&self.key.namespace);
        ObjectKey::new(namespace, &*to.name)
    }

    /// The Service that requests count as sent to which are led to another ApiRoute. Whether they can
    /// be or not, it is among the `compiled` services, once it is known.
    pub(super) fn layer(
        &self,
        to: &BackendRef,
        hosts: &[ObjectKey],
        compiled: &mut Rules,
    ) -> Result<ObjectKey, Problem> {
        let key = self.key_of(to);
        let ObjectKey { namespace, name } = &key;
        if !self.may_lead(&key, hosts) {
            let clause = format!(
                "requests can be led to ApiRoutes in this object's namespace or in that of its \
                 hosts, not in {namespace}"
            );
            return Err((Reason::RefNotPermitted, "namespace", clause));
        }
        if !self.layers.written.contains_key(&key) {
            let clause = format!("there is no ApiRoute {name:?} in namespace {namespace}");
            return Err((Reason::BackendNotFound, "name", clause));
        }
        if self.layers.lead_to(&key, self.key) {
            let clause = format!(
                "ApiRoute {name:?} in namespace {namespace} leads back to this one, so that requests \
                 would go round for ever: take one of the references out"
            );
            return Err((Reason::Cycle, "name", clause));
        }
        if self.layers.depth(&key, MAX_LAYERS) >= MAX_LAYERS {
            let clause = format!(
                "requests would be led through more than {MAX_LAYERS} ApiRoutes: let this rule lead \
                 to one that is nearer to the Service"
            );
            return Err((Reason::Cycle, "name", clause));
        }
        let Some(layer) = self.layers.in_force.get(&key).and_then(Option::as_ref) else {
            let clause = format!(
                "ApiRoute {name:?} in namespace {namespace} is not in force: its own status says why"
            );
            return Err((Reason::BackendNotFound, "name", clause));
        };
        if !layer.reads_requests {
            let clause = format!(
                "ApiRoute {name:?} in namespace {namespace} is about connections, not about requests"
            );
            return Err((Reason::UnsupportedProtocol, "name", clause));
        }
        if layer.service.namespace != *namespace {
            let clause = format!(
                "ApiRoute {name:?} in namespace {namespace} governs the calls of its own namespace \
                 only: lead to the one of namespace {}",
                layer.service.namespace
            );
            return Err((Reason::RefNotPermitted, "name", clause));
        }
        let service = BackendRef {
            kind: BackendKind::Service,
            name: layer.service.name.clone(),
            namespace: Some(layer.service.namespace.clone()),
            ..to.clone()
        };
        compiled.services.insert(layer.service.clone());
        match self.problem(&service, &layer.service, hosts, false, &mut compiled.lost) {
            Some((reason, field, clause)) => Err((reason, field, clause)),
            None => Ok(layer.service.clone()),
        }
    }
}

/// Those whose requests may come to `to`, through however many others.
pub(crate) fn that_lead_to(
    to: &ObjectKey,
    leads: &Links<ObjectKey, ObjectKey>,
) -> BTreeSet<ObjectKey> {
    let mut found = BTreeSet::new();
    let mut next = vec![to];
    while let Some(one) = next.pop() {
        for leading in leads.to(one).into_iter().flatten() {
            if found.insert(leading.clone()) {
                next.push(leading);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_a_reference_does_not_grow_with_the_ways_that_lead_on() {
        // Sixteen of each layer lead to all of the next: 16^7 ways.
        let key = |layer: usize, place: usize| ObjectKey::new("shop", format!("{layer}-{place}"));
        let mut leads = Links::default();
        for layer in 0..7 {
            for place in 0..16 {
                let next = (0..16).map(|place| key(layer + 1, place)).collect();
                leads.set(&key(layer, place), next);
            }
        }
        let layers = Layers {
            written: &Objects::new(),
            leads: &leads,
            in_force: &BTreeMap::new(),
        };
        assert_eq!(layers.depth(&key(0, 0), MAX_LAYERS), 7);
        assert!(layers.lead_to(&key(0, 0), &key(7, 15)));
        assert!(!layers.lead_to(&key(1, 0), &key(1, 1)));
        assert_eq!(that_lead_to(&key(7, 0), &leads).len(), 7 * 16);
    }
}
