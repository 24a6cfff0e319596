//! Where sidecars keep something together: from a Secret to the address of a store.

use crds::rate_limit::Store;
use crds::status::Reason;
use k8s_openapi::api::core::v1::Secret;

use crate::access::keys::text;
use crate::api_route::Refusal;
use crate::host;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings};

/// What is known when a store's address is read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    /// The object that names the store.
    pub(crate) key: &'a ObjectKey,
    pub(crate) credentials: &'a Objects<Secret>,
    pub(crate) settings: &'a Settings,
}

// === impl Reader ===

impl Reader<'_> {
    /// The store's address; empty, and why, when it can't be had. `at`: where the store is written.
    pub(crate) fn url(&self, at: &str, store: &Store) -> (String, Option<Refusal>) {
        let wanted = &store.redis.url_secret_ref;
        let at = format!("{at}.redis.urlSecretRef");
        let namespace = &self.key.namespace;
        let key = ObjectKey::new(&**namespace, &*wanted.name);
        let found = match self.credentials.get(&key) {
            None => Err(format!(
                "{at}.name: there is no Secret {:?} with the label meshwright.dev/credential in \
                 namespace {namespace}.",
                wanted.name
            )),
            Some(secret) => text(secret, &wanted.key).ok_or_else(|| {
                format!(
                    "{at}.key: Secret {key} has no text {:?} in its data.",
                    wanted.key
                )
            }),
        };
        let read = found.and_then(|url| match self.is_store(&url) {
            true => Ok(url),
            false => Err(format!(
                "{at}: what stands in Secret {key} is no redis://host:6379 whose host is a Service of \
                 the mesh, and no rediss://host:6379."
            )),
        });
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
    fn is_store(&self, url: &str) -> bool {
        let Some((scheme, rest)) = url.split_once("://") else {
            return false;
        };
        let place = rest.split('/').next().unwrap_or_default();
        let place = place.rsplit('@').next().unwrap_or_default();
        let name = place.split(':').next().unwrap_or_default();
        let domain = &self.settings.cluster_domain;
        match scheme {
            "rediss" => !place.is_empty(),
            "redis" => host::service(name, &self.key.namespace, domain).is_some(),
            _ => false,
        }
    }
}
