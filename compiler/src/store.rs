//! Where sidecars keep something together: from a Secret to the address of a store.

use std::collections::BTreeMap;

use crds::rate_limit::Store;
use crds::status::Reason;
use k8s_openapi::api::core::v1::Secret;
use wire::store::Place;

use crate::access::certificates;
use crate::access::keys::text;
use crate::api_route::Refusal;
use crate::host;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings, Unreadable};

/// What is known when a store's address is read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    /// The object that names the store.
    pub(crate) key: &'a ObjectKey,
    pub(crate) credentials: &'a Objects<Secret>,
    pub(crate) unreadable: &'a BTreeMap<String, Unreadable>,
    pub(crate) settings: &'a Settings,
}

// === impl Reader ===

impl Reader<'_> {
    /// The store's address; empty, and why, when it can't be had. `at`: where the store is written.
    pub(crate) fn url(&self, at: &str, store: &Store) -> (String, Option<Refusal>) {
        let wanted = &store.redis.url_secret_ref;
        let redis = format!("{at}.redis");
        let at = format!("{redis}.urlSecretRef");
        let namespace = &self.key.namespace;
        let key = ObjectKey::new(&**namespace, &*wanted.name);
        let found = match self.credentials.get(&key) {
            None => Err(match self.unreadable.get(namespace) {
                Some(why) => format!("{at}.name: {}", why.sentence(namespace)),
                None => format!(
                    "{at}.name: there is no Secret {:?} with the label meshwright.dev/credential in \
                     namespace {namespace}.",
                    wanted.name
                ),
            }),
            Some(secret) => text(secret, &wanted.key).ok_or_else(|| {
                format!(
                    "{at}.key: Secret {key} has no text {:?} in its data.",
                    wanted.key
                )
            }),
        };
        let read = found.and_then(|url| match Place::read(&url) {
            Ok(place) if place.tls => Ok(url),
            Ok(place) if self.is_service(&place.host) => {
                Ok(host::from_anywhere(url, &place.host, namespace))
            }
            _ => Err(format!(
                "{at}: what stands in Secret {key} is no redis://host:6379 whose host is a Service of \
                 the mesh, and no rediss://host:6379."
            )),
        });
        let authorities = store.redis.ca_certificates.as_deref();
        let unreadable = authorities.and_then(|pem| certificates(&redis, pem));
        let read = unreadable.map_or(read, Err);
        match read {
            Ok(url) => (url, None),
            Err(why) => {
                let message = format!("{why} Until then it is as though the store did not answer.");
                let reason = Reason::SecretNotUsable;
                (String::new(), Some(Refusal { reason, message }))
            }
        }
    }

    /// Plaintext stays in the mesh: outside, anybody could answer.
    fn is_service(&self, host: &str) -> bool {
        let domain = &self.settings.cluster_domain;
        // An address of IPv6 has no dots, and is no name.
        !host.contains(':') && host::service(host, &self.key.namespace, domain).is_some()
    }
}
