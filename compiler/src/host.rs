//! Hosts: which Service a name means, and which one was meant by a name that means none.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;

use k8s_openapi::api::core::v1::Service;

use crate::index::Objects;
use crate::inputs::ObjectKey;

/// What may have been meant by Services that don't exist, found once for each of them.
///
/// Whoever may write objects decides how many names mean nothing and how many Services there are,
/// and everyone waits for the compilation: what one missing name costs is bounded.
#[derive(Debug)]
pub(crate) struct Suggestions<'a> {
    services: &'a Objects<Service>,
    made: RefCell<HashMap<ObjectKey, String>>,
    /// Names, each with the first namespace that has a Service of it.
    namespaces: OnceCell<HashMap<String, String>>,
    compared: Cell<usize>,
}

/// With how many names a misspelt one is compared at most; only those count that have about as many
/// letters, and about the same.
const MAX_COMPARED: usize = 64;

/// The Service that `host` means to someone in `namespace`, whether it exists or not; `None` for a
/// name that can't be a Service's.
pub(crate) fn service(host: &str, namespace: &str, cluster_domain: &str) -> Option<ObjectKey> {
    let in_full = host
        .strip_suffix(cluster_domain)
        .and_then(|rest| rest.strip_suffix(".svc."));
    let parts = |name: &str| match name.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace] => Some(ObjectKey::new(*namespace, *service)),
        _ => None,
    };
    match in_full {
        Some(name) => parts(name),
        None if !host.contains('.') => Some(ObjectKey::new(namespace, host)),
        // `orders.svc` is a Service in a namespace of that name.
        None => host
            .strip_suffix(".svc")
            .and_then(parts)
            .or_else(|| parts(host)),
    }
}

/// An address of plaintext (`scheme://user@host:port`) in which the name of a Service of `namespace` means it from anywhere,
/// as who reads it may be elsewhere; over TLS a name is also what is proved, and stays as it is.
pub(crate) fn from_anywhere(url: String, host: &str, namespace: &str) -> String {
    let is_short = !host.is_empty() && !host.contains(['.', ':']);
    let begin = url.rfind('@').map(|at| at + 1);
    let begin = begin.or_else(|| url.find("://").map(|at| at + 3));
    let end = begin.filter(|begin| is_short && url[*begin..].starts_with(host));
    match end.map(|begin| begin + host.len()) {
        Some(end) => format!("{}.{namespace}{}", &url[..end], &url[end..]),
        None => url,
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

/// The candidate that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    closest(name, alike(name, candidates))
}

/// The one of a few candidates that fewest letters are wrong in.
fn closest<'a>(name: &str, few: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    few.map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated(name))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters may be wrong in a misspelling of `name`.
fn tolerated(name: &str) -> usize {
    (name.len() / 3).clamp(1, 3)
}

/// The candidates that are worth a comparison: one wrong letter makes a difference of at most one
/// in length, and of two in how often letters occur.
fn alike<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    let tolerated = tolerated(name);
    let (length, letters) = (name.chars().count(), letters(name));
    candidates
        .into_iter()
        .filter(move |candidate| candidate.chars().count().abs_diff(length) <= tolerated)
        .filter(move |candidate| {
            let theirs = self::letters(candidate);
            let differences = letters.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b));
            differences.sum::<usize>() <= 2 * tolerated
        })
        .take(MAX_COMPARED)
}

/// How often each letter occurs; where two share a place, names only look more alike.
fn letters(name: &str) -> [usize; 64] {
    let mut letters = [0; 64];
    for letter in name.chars() {
        letters[letter as usize % 64] += 1;
    }
    letters
}

// === impl Suggestions ===

impl<'a> Suggestions<'a> {
    pub(crate) fn new(services: &'a Objects<Service>) -> Self {
        Suggestions {
            services,
            made: RefCell::default(),
            namespaces: OnceCell::new(),
            compared: Cell::new(0),
        }
    }

    /// What may have been meant by a Service that doesn't exist, as a clause that begins with "; ":
    /// the one with the most similar name in its namespace, or one of the same name elsewhere.
    ///
    /// It depends on the names of the Services in its namespace, and on where there are Services of
    /// its name: see [`crate::index::Neighbourhood`].
    pub(crate) fn instead_of(&self, missing: &ObjectKey) -> String {
        if let Some(made) = self.made.borrow().get(missing) {
            return made.clone();
        }
        let made = self.make(missing);
        self.made.borrow_mut().insert(missing.clone(), made.clone());
        made
    }

    fn make(&self, missing: &ObjectKey) -> String {
        let ObjectKey { namespace, name } = missing;
        let neighbours = self
            .services
            .range(ObjectKey::new(&**namespace, "")..)
            .map(|(key, _)| key)
            .take_while(|key| key.namespace == *namespace)
            .map(|key| key.name.as_str());
        let few = alike(name, neighbours).inspect(|_| self.compared.set(self.compared.get() + 1));
        if let Some(name) = closest(name, few) {
            return format!("; did you mean {name:?}?");
        }
        let namespaces = self.namespaces.get_or_init(|| {
            let mut namespaces = HashMap::new();
            for ObjectKey { namespace, name } in self.services.keys() {
                let first = namespaces.entry(name.clone());
                first.or_insert_with(|| namespace.clone());
            }
            namespaces
        });
        match namespaces.get(name) {
            Some(elsewhere) => format!("; there is \"{name}.{elsewhere}\""),
            None => "; create it or correct the name".to_owned(),
        }
    }

    /// With how many names others were compared letter by letter.
    #[cfg(test)]
    pub(crate) fn compared(&self) -> usize {
        self.compared.get()
    }
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
    fn a_namespace_may_be_called_as_dns_calls_its_branches() {
        for (host, namespace) in [
            ("orders.svc", "svc"),
            ("orders.svc.svc", "svc"),
            ("orders.svc.svc.cluster.local", "svc"),
            ("orders.local", "local"),
            ("orders.cluster", "cluster"),
        ] {
            let expected = Some(ObjectKey::new(namespace, "orders"));
            assert_eq!(service(host, "shop", "cluster.local"), expected, "{host}");
        }
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

    #[test]
    fn a_name_is_compared_with_few_others_however_many_there_are() {
        let service = |namespace: &str, name: &str| {
            let key = ObjectKey::new(namespace, name);
            (key, std::sync::Arc::default())
        };
        // Each differs from the missing one in its last three letters.
        let similar = (0..5000).map(|number| service("shop", &format!("inventory-{number:04}")));
        let others = (0..1000).map(|number| service("bank", &format!("inventory-x{number:03}")));
        let mut services: Objects<Service> = similar.chain(others).collect();
        let missing = ObjectKey::new("shop", "inventory-0xyz");
        let suggestions = Suggestions::new(&services);
        let made = suggestions.instead_of(&missing);
        assert_eq!(made, "; did you mean \"inventory-0000\"?");
        assert_eq!(suggestions.compared(), MAX_COMPARED);
        assert_eq!(suggestions.instead_of(&missing), made);
        assert_eq!(suggestions.compared(), MAX_COMPARED, "once is enough");

        // What can't be meant takes no place from what can.
        services.insert(ObjectKey::new("shop", "zebra"), std::sync::Arc::default());
        let suggestions = Suggestions::new(&services);
        let made = suggestions.instead_of(&ObjectKey::new("shop", "zerba"));
        assert_eq!(made, "; did you mean \"zebra\"?");
        assert_eq!(suggestions.compared(), 1);

        let elsewhere = suggestions.instead_of(&ObjectKey::new("web", "zebra"));
        assert_eq!(elsewhere, "; there is \"zebra.shop\"");
        assert_eq!(suggestions.compared(), 1, "no other namespace is looked at");
    }
}
