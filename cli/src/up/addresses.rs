//! The addresses of a mesh. They mean nothing outside it, so every mesh may use the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use compiler::ObjectKey;
use k8s_openapi::api::core::v1::Service;

/// The operator's address, and the bridge's.
pub(super) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The length of the prefix of the workloads' network, in bits.
pub(super) const PREFIX: u8 = 16;
/// Stands for the host's own loopback address inside the mesh.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 244, 255, 254);
/// The name of [`HOST`].
pub(super) const HOST_NAME: &str = "host.meshwright.internal";
/// Where Services' addresses begin, as in most clusters.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);

/// Who has which address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pods: BTreeMap<String, u32>,
    services: BTreeMap<ObjectKey, Ipv4Addr>,
    /// Those that Services have written themselves.
    written: BTreeSet<Ipv4Addr>,
}

// === impl Addresses ===

impl Addresses {
    /// The place of a pod among all, from 2: kept as long as the pod is, in ever new lives.
    pub(super) fn pod(&mut self, name: &str) -> u32 {
        if let Some(place) = self.pods.get(name) {
            return *place;
        }
        let taken: BTreeSet<_> = self.pods.values().copied().collect();
        let place = (2..)
            .find(|place| !taken.contains(place))
            .expect("there are fewer pods than numbers");
        self.pods.insert(name.to_owned(), place);
        place
    }

    /// The pod's address is another's to have.
    pub(super) fn release(&mut self, name: &str) {
        self.pods.remove(name);
    }

    /// Learns which Services there are: what one has written itself is nobody else's, and whoever was
    /// given it before gets another.
    pub(super) fn know(&mut self, services: &BTreeMap<ObjectKey, Arc<Service>>) {
        let written = services.values().filter_map(|service| written(service));
        self.written = written.filter_map(|text| text.parse().ok()).collect();
        let written = &self.written;
        self.services.retain(|_, given| !written.contains(given));
    }

    /// A Service's address. `None`: it has none of its own (headless, or a name for elsewhere).
    pub(super) fn service(&mut self, key: &ObjectKey, service: &Service) -> Option<Ipv4Addr> {
        let spec = service.spec.as_ref()?;
        if let Some(written) = written(service) {
            return written.parse().ok();
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if headless || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        if let Some(address) = self.services.get(key) {
            return Some(*address);
        }
        let given = self.services.values().copied();
        let taken: BTreeSet<_> = given.chain(self.written.iter().copied()).collect();
        let address = (10..)
            .map(|place| Ipv4Addr::from_bits(SERVICES.to_bits() + place))
            .find(|address| !taken.contains(address))
            .expect("there are fewer Services than addresses");
        self.services.insert(key.clone(), address);
        Some(address)
    }
}

/// The address that a Service has written itself.
pub(super) fn written(service: &Service) -> Option<&str> {
    let text = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!["", "None"].contains(&text)).then_some(text)
}

/// Whether a workload may have an address.
pub(super) fn is_for_workloads(address: Ipv4Addr) -> bool {
    let network = |address: Ipv4Addr| address.to_bits() >> (32 - PREFIX);
    network(address) == network(BRIDGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(cluster_ip: Option<&str>) -> Arc<Service> {
        let document = serde_json::json!({ "spec": { "clusterIP": cluster_ip } });
        Arc::new(serde_json::from_value(document).unwrap())
    }

    #[test]
    fn an_address_that_one_service_has_written_is_given_to_no_other() {
        let mut addresses = Addresses::default();
        let key = |name: &str| ObjectKey::new("shop", name);
        let mut services = BTreeMap::from([
            (key("given"), service(None)),
            (key("written"), service(Some("10.96.0.10"))),
        ]);
        addresses.know(&services);
        let written = addresses.service(&key("written"), &services[&key("written")]);
        assert_eq!(written, Some(Ipv4Addr::new(10, 96, 0, 10)));
        let before = addresses.service(&key("given"), &services[&key("given")]);
        assert_ne!(before, written);

        // Nor left to another.
        let taken = before.unwrap().to_string();
        services.insert(key("late"), service(Some(&taken)));
        addresses.know(&services);
        let after = addresses.service(&key("given"), &services[&key("given")]);
        assert_ne!(after, before);
        assert_ne!(after, written);
    }

    #[test]
    fn a_pod_keeps_its_place_and_a_gone_ones_place_is_used_again() {
        let mut addresses = Addresses::default();
        assert_eq!(
            [addresses.pod("a"), addresses.pod("b"), addresses.pod("a")],
            [2, 3, 2]
        );
        addresses.release("a");
        assert_eq!([addresses.pod("c"), addresses.pod("b")], [2, 3]);
    }

    #[test]
    fn a_service_keeps_its_address_and_a_headless_one_has_none() {
        let mut addresses = Addresses::default();
        let (one, other) = (
            ObjectKey::new("shop", "one"),
            ObjectKey::new("shop", "other"),
        );
        let first = addresses.service(&one, &service(None));
        assert_ne!(addresses.service(&other, &service(None)), first);
        assert_eq!(addresses.service(&one, &service(None)), first);
        assert_eq!(addresses.service(&other, &service(Some("None"))), None);
    }
}
