//! Hosts: which Service a name means, and which one was meant by a name that means none.

use crate::index::Objects;
use crate::inputs::ObjectKey;
use k8s_openapi::api::core::v1::Service;

/// The Service that `host` means to someone in `namespace`, whether it exists or not; `None` for a
/// name that can't be a Service's.
pub(crate) fn service(host: &str, namespace: &str, cluster_domain: &str) -> Option<ObjectKey> {
    let name = host
        .strip_suffix(cluster_domain)
        .and_then(|rest| rest.strip_suffix(".svc."))
        .or_else(|| host.strip_suffix(".svc"));
    match (name, host.split('.').collect::<Vec<_>>().as_slice()) {
        (Some(name), _) => match name.split('.').collect::<Vec<_>>().as_slice() {
            [service, namespace] => Some(ObjectKey::new(*namespace, *service)),
            _ => None,
        },
        (None, [service]) => Some(ObjectKey::new(namespace, *service)),
        (None, [service, namespace]) => Some(ObjectKey::new(*namespace, *service)),
        (None, _) => None,
    }
}

/// Every name that means the Service from anywhere.
pub(crate) fn names(service: &ObjectKey, cluster_domain: &str) -> Vec<String> {
    let ObjectKey { namespace, name } = service;
    vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{cluster_domain}"),
    ]
}

/// What may have been meant by a Service that doesn't exist, as a clause that begins with "; ":
/// the one with the most similar name in its namespace, or one of the same name elsewhere.
pub(crate) fn suggestion(missing: &ObjectKey, services: &Objects<Service>) -> String {
    let neighbours = services
        .keys()
        .filter(|key| key.namespace == missing.namespace)
        .map(|key| key.name.as_str());
    if let Some(name) = nearest(&missing.name, neighbours) {
        return format!("; did you mean {name:?}?");
    }
    match services.keys().find(|key| key.name == missing.name) {
        Some(elsewhere) => format!("; there is \"{}.{}\"", elsewhere.name, elsewhere.namespace),
        None => "; create it or correct the name".to_owned(),
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerated = (name.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_means_a_service_in_every_form_that_dns_knows() {
        let orders = Some(ObjectKey::new("shop", "orders"));
        for host in [
            "orders",
            "orders.shop",
            "orders.shop.svc",
            "orders.shop.svc.cluster.local",
        ] {
            assert_eq!(service(host, "shop", "cluster.local"), orders, "{host}");
        }
        assert_eq!(
            service("orders", "web", "cluster.local"),
            Some(ObjectKey::new("web", "orders"))
        );
    }

    #[test]
    fn other_names_mean_no_service() {
        for host in [
            "api.example.com",
            "a.orders.shop.svc",
            "orders.svc.cluster.local",
            "orders.shop.svc.example.com",
            "orders.shop.cluster.local",
        ] {
            assert_eq!(service(host, "shop", "cluster.local"), None, "{host}");
        }
    }

    #[test]
    fn the_nearest_name_is_a_misspelling_away() {
        let known = ["orders", "order-items", "payments"];
        assert_eq!(nearest("ordres", known), Some("orders"));
        assert_eq!(nearest("order", known), Some("orders"));
        assert_eq!(nearest("inventory", known), None);
    }
}
