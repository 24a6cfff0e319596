//! What callers keep: from `ApiRoute.cache.atCaller` to `mesh::CacheAtCaller`.
//!
//! What a caller's sidecar gives, no destination's sidecar decides about. So it is told of every
//! credential that one in the namespace may let callers in by, and of whatever else of a request its rules
//! look at, for an answer to be given to nobody who sends another, and of every edit of who may enter there: it keeps nothing that was answered by who had
//! been told something else. Of all in the namespace, because whatever
//! Service a pod is called by, what is said of each of its Services holds there.

use std::collections::BTreeSet;

use crds::{ApiRoute, ApiRouteSpec, Auth, CredentialPlace};
use serde::Serialize;
use wire::mesh;

use super::Reader;
use crate::index::Objects;
use crate::inputs::ObjectKey;

// === impl Reader ===

impl Reader<'_> {
    /// What callers keep, given every ApiRoute.
    pub(crate) fn at_caller(&self, all: &Objects<ApiRoute>) -> Option<mesh::CacheAtCaller> {
        let cache = self.spec.cache.as_ref()?;
        let at_caller = cache.at_caller.as_ref()?;
        let (mut headers, mut query) = (BTreeSet::new(), BTreeSet::new());
        let (mut deciding, mut by_method) = (BTreeSet::new(), false);
        for (_, route) in in_namespace(&self.key.namespace, all) {
            for (place, name) in route.spec.auth.iter().flat_map(places) {
                match place {
                    CredentialPlace::Header => headers.insert(name.to_ascii_lowercase()),
                    CredentialPlace::Query => query.insert(name.to_owned()),
                    // All cookies tell answers apart.
                    CredentialPlace::Cookie => false,
                };
            }
            let authorization = route.spec.authorization.iter();
            for rule in authorization.flat_map(|authorization| &authorization.rules) {
                let names = rule.headers.iter().map(|header| &header.name);
                deciding.extend(names.map(|name| name.to_ascii_lowercase()));
                by_method |= !rule.methods.is_empty();
            }
        }
        Some(mesh::CacheAtCaller {
            cache: Some(self.message(cache, &BTreeSet::new(), all)),
            max_age_ms: at_caller.max_age.millis(),
            credential_headers: headers.into_iter().collect(),
            credential_query: query.into_iter().collect(),
            deciding_headers: deciding.into_iter().collect(),
            by_method,
        })
    }

    /// What a caller and a destination must both have been told; nothing where callers keep nothing.
    pub(super) fn revision(&self, all: &Objects<ApiRoute>) -> Vec<u8> {
        if !is_at_caller(self.spec) {
            return Vec::new();
        }
        let mut revision = Revision::default();
        revision.add(self.spec);
        let guarding = in_namespace(&self.key.namespace, all);
        for (key, route) in guarding.filter(|(_, route)| says_who_may_enter(&route.spec)) {
            revision.add(&(&key.name, &route.spec.auth, &route.spec.authorization));
        }
        revision.hash()
    }
}

/// Whether the callers of what an ApiRoute is for keep answers.
pub(crate) fn is_at_caller(spec: &ApiRouteSpec) -> bool {
    let cache = spec.cache.as_ref();
    cache.is_some_and(|cache| cache.at_caller.is_some())
}

/// Whether an ApiRoute says who may enter.
pub(crate) fn says_who_may_enter(spec: &ApiRouteSpec) -> bool {
    spec.auth.is_some() || spec.authorization.is_some()
}

/// The ApiRoutes of a namespace.
pub(crate) fn in_namespace<'o>(
    namespace: &str,
    all: &'o Objects<ApiRoute>,
) -> impl Iterator<Item = (&'o ObjectKey, &'o ApiRoute)> {
    let routes = all.range(ObjectKey::new(namespace, "")..);
    let routes = routes.map(|(key, route)| (key, route.as_ref()));
    routes.take_while(move |(key, _)| key.namespace == namespace)
}

/// Where credentials are looked for, but for the header that tokens stand in where nothing is said of
/// it: that one every sidecar knows.
pub(crate) fn places(auth: &Auth) -> impl Iterator<Item = (CredentialPlace, &str)> {
    let tokens = auth.jwt.iter().flat_map(|jwt| &jwt.from);
    let asked = auth.introspection.iter().flat_map(|asked| &asked.from);
    let tokens = tokens.chain(asked).map(|from| (from.place, &*from.name));
    let keys = auth.api_key.iter().map(|keys| (keys.place, &*keys.name));
    tokens.chain(keys)
}

/// What is written, as a few bytes.
#[derive(Default)]
struct Revision(Vec<u8>);

impl Revision {
    fn add(&mut self, written: &impl Serialize) {
        // What was read can be written. Where it could not, it counts as nothing, as it did before.
        self.0
            .extend(serde_json::to_vec(written).unwrap_or_default());
        self.0.push(b'\n');
    }

    fn hash(&self) -> Vec<u8> {
        wire::resource::hash(&[], &self.0).to_vec()
    }
}
