//! Who may enter, among all that is compiled.

use std::collections::{BTreeMap, BTreeSet};

use crds::status::Reason;
use wire::{Kind, ResourceId, capability};

use super::{Compilation, resource_id};
use crate::access::Reader;
use crate::api_route::{Hosts, Refusal};
use crate::endpoints::tcp_ports;
use crate::guard::target_port;
use crate::index::selector;
use crate::inputs::{ObjectKey, ObjectRef};
use crate::output::Audience;
use crate::{pod_settings, workload};

/// What becomes of what an object says of who may enter, when it is not in force.
const ENFORCED: &str = "What it says of who may enter is enforced all the same.";
/// The same, when that can't be understood.
const CLOSED: &str = "Until this is corrected, nobody may call these Services.";

/// What a sidecar beside a pod enforces, and the fields that say it.
const WHO_MAY_ENTER: (&str, &str) = ("who may enter", "auth and authorization");
const ONCE: (&str, &str) = ("what is carried out once", "idempotency");
const EVENTS: (&str, &str) = (
    "what becomes an event, or a stream of them",
    "publish and stream",
);

/// What an ApiRoute becomes of what it says of who may enter.
#[derive(Default)]
pub(super) struct Guarded {
    /// The Services at whose pods it holds.
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) resources: Vec<ResourceId>,
    /// What of its Secrets can't be used.
    pub(super) unusable: Vec<Refusal>,
    /// What is said of it when the object is not in force.
    pub(super) note: Option<&'static str>,
}

impl Compilation<'_> {
    /// The Services that an ApiRoute's hosts name, and whether the rest can be in force.
    pub(super) fn route_hosts(&self, key: &ObjectKey) -> Option<Hosts> {
        let mut hosts = self.route_reader(key)?.hosts();
        let reader = self.access_reader(key)?;
        let mut access = reader.problems(&hosts.services);
        let services = reader.services(&hosts.services);
        access.extend(self.without_pods(&services, WHO_MAY_ENTER));
        access.extend(self.cache_reader(key)?.problems(&hosts.services));
        if let Some(idempotency) = self.idempotency_reader(key) {
            access.extend(idempotency.problems(&hosts.services));
            let services = idempotency.services(&hosts.services);
            access.extend(self.without_pods(&services, ONCE));
        }
        if let Some(publish) = self.publish_reader(key) {
            access.extend(publish.problems(&hosts.services));
            let services = publish.services(&hosts.services);
            access.extend(self.without_pods(&services, EVENTS));
        }
        if !access.is_empty() {
            let all = hosts.refusal.take().into_iter().chain(access);
            hosts.refusal = Refusal::all(all.collect());
        }
        Some(hosts)
    }

    /// What is said of Services that select no pods: no sidecar could enforce anything there.
    fn without_pods(
        &self,
        services: &BTreeSet<ObjectKey>,
        (what, fields): (&str, &str),
    ) -> Vec<Refusal> {
        let lacks = services.iter().filter(|key| {
            let service = self.inputs.services.get(key);
            service.is_some_and(|service| selector(service).is_none_or(BTreeMap::is_empty))
        });
        let refused = lacks.map(|key| Refusal {
            reason: Reason::Invalid,
            message: format!(
                "spec: Service {key} selects no pods, so that no sidecar stands before it to enforce \
                 {what}: give it a selector, or take {fields} out."
            ),
        });
        refused.collect()
    }

    /// Notes at which Services' pods an ApiRoute says who may enter; at none when it is gone.
    pub(super) fn guarded(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let before = self.out.memo.links.access.set(key, services.clone());
        if before.is_empty() && services.is_empty() {
            return;
        }
        let changed = before.symmetric_difference(&services);
        self.dirty.guards.extend(changed.cloned());
        self.dirty.access.insert(key.clone());
    }

    /// What becomes of what an ApiRoute says of who may enter, given the Services of its hosts.
    pub(super) fn guards(&self, key: &ObjectKey, hosts: &[ObjectKey]) -> Option<Guarded> {
        let reader = self.access_reader(key).filter(Reader::is_there)?;
        let services = reader.services(hosts);
        let keys = reader.has_keys().then_some(Kind::Keys);
        let kinds = [Some(Kind::Access), keys].into_iter().flatten();
        let kinds = kinds.filter(|_| !services.is_empty());
        Some(Guarded {
            resources: kinds.filter_map(|kind| resource_id(kind, key)).collect(),
            unusable: match keys {
                Some(_) => reader.keys().1,
                None => Vec::new(),
            },
            note: match reader.is_closed() {
                _ if services.is_empty() => None,
                true => Some(CLOSED),
                false => Some(ENFORCED),
            },
            services,
        })
    }

    /// The ids of what must be held before anybody enters at a Service's pods.
    pub(super) fn access_at(&self, service: &ObjectKey) -> Vec<String> {
        let routes = self.out.memo.links.access.to(service).into_iter().flatten();
        let ids = routes.filter_map(|route| resource_id(Kind::Access, route));
        ids.map(|id| id.to_string()).collect()
    }

    /// Compiles what an ApiRoute says of who may enter, for the pods where it is enforced.
    pub(super) fn access(&mut self, key: &ObjectKey) {
        self.count(Kind::Access);
        let (Some(id), Some(keys_id)) =
            (resource_id(Kind::Access, key), resource_id(Kind::Keys, key))
        else {
            return;
        };
        let services = self.out.memo.links.access.from(key);
        let services = services.cloned().unwrap_or_default();
        let audience = self.pods_of(&services);
        self.bypassed(key, self.bypasses(&services));
        let reader = self.access_reader(key).filter(Reader::is_there);
        let Some(reader) = reader.filter(|_| !audience.is_empty()) else {
            self.remove(id);
            return self.remove(keys_id);
        };
        let reads_requests = self
            .route_reader(key)
            .is_none_or(|route| route.reads_requests());
        let (capabilities, access) = reader.access(&services, reads_requests);
        let keys = reader.has_keys().then(|| reader.keys().0);
        let object = Some(ObjectRef::api_route(key));
        self.put(id, &capabilities, &access, audience.clone(), object.clone());
        match keys {
            Some(keys) => {
                self.count(Kind::Keys);
                self.put(keys_id, &[capability::KEYS], &keys, audience, object);
            }
            None => self.remove(keys_id),
        }
    }

    /// The ports of Services' pods that are reached without a sidecar, so that nobody enforces there who
    /// may enter.
    fn bypasses(&self, services: &BTreeSet<ObjectKey>) -> BTreeSet<(ObjectKey, u16)> {
        let selected = &self.out.memo.links.selected;
        let mut bypasses = BTreeSet::new();
        for key in services {
            let Some(service) = self.inputs.services.get(key) else {
                continue;
            };
            let pods = selected.from(key).into_iter().flatten();
            let pods = pods.filter_map(|pod| self.inputs.pods.get(pod));
            for pod in pods.filter(|pod| workload::is_meshed(pod)) {
                let excluded = pod_settings::excluded_inbound(pod);
                let ports = tcp_ports(service);
                let targets = ports.filter_map(|(number, port)| target_port(number, port, pod));
                let around = targets.filter(|target| excluded.contains(target));
                bypasses.extend(around.map(|target| (key.clone(), target)));
            }
        }
        bypasses
    }

    /// Notes where an ApiRoute is not enforced: it is judged again when that changes.
    fn bypassed(&mut self, key: &ObjectKey, ports: BTreeSet<(ObjectKey, u16)>) {
        let memo = &mut self.out.memo.bypassed;
        let before = match ports.is_empty() {
            true => memo.remove(key),
            false => memo.insert(key.clone(), ports.clone()),
        };
        if before.unwrap_or_default() != ports {
            self.dirty.objects.insert(ObjectRef::api_route(key));
        }
    }

    /// What is said of that.
    pub(super) fn not_enforced(&self, key: &ObjectKey) -> Vec<Refusal> {
        let bypassed = self.out.memo.bypassed.get(key).into_iter().flatten();
        let said = bypassed.map(|(service, port)| Refusal {
            reason: Reason::PortExcluded,
            message: format!(
                "Pods of Service {service} exclude their port {port} from their sidecars ({}): nothing of auth and \
                 authorization is enforced there, and everybody in the network gets in. Take the annotation out and \
                 make the pods anew, or take the port out of the Service.",
                pod_settings::EXCLUDE_INBOUND_PORTS
            ),
        });
        said.collect()
    }

    /// The meshed pods of Services.
    pub(super) fn pods_of(&self, services: &BTreeSet<ObjectKey>) -> Audience {
        let selected = &self.out.memo.links.selected;
        let pods = services.iter().filter_map(|one| selected.from(one));
        self.meshed(pods.flatten())
    }

    pub(super) fn access_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        Some(Reader {
            key,
            spec: &self.inputs.api_routes.get(key)?.spec,
            consumers: &self.inputs.consumers,
            credentials: &self.inputs.credentials,
            unreadable: &self.inputs.unreadable,
            settings: &self.inputs.settings,
        })
    }
}
