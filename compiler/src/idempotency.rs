//! Idempotency: from what an ApiRoute says of calls that are carried out once to `mesh::Idempotency`.
//!
//! Like what says who may enter, it holds as long as the object is there, whether or not its routing is
//! in force: a call that was carried out twice can't be taken back.

use std::collections::{BTreeMap, BTreeSet};

use crds::idempotency::{Concurrent, Idempotency, KeptFailure};
use crds::status::Reason;
use crds::{ApiRouteSpec, CredentialPlace};
use k8s_openapi::api::core::v1::Secret;
use wire::mesh;

use crate::api_route::{Refusal, matches_path, read_path, service_ref};
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings, Unreadable};
use crate::{own_pods, store};

/// Headers that say something else, that a sidecar makes or takes out, or that do not reach the
/// application's.
const TAKEN: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-mirrored",
    "x-request-id",
];

/// What is known when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a ApiRouteSpec,
    pub(crate) written: &'a Idempotency,
    pub(crate) credentials: &'a Objects<Secret>,
    pub(crate) unreadable: &'a BTreeMap<String, Unreadable>,
    pub(crate) settings: &'a Settings,
}

// === impl Reader ===

impl Reader<'_> {
    /// The Services at whose pods it holds, given those of the hosts: these, and those that its rules
    /// send to, of its own namespace.
    pub(crate) fn services(&self, hosts: &[ObjectKey]) -> BTreeSet<ObjectKey> {
        // By such a header nothing tells calls apart.
        if self.is_taken() {
            return BTreeSet::new();
        }
        own_pods::services(self.key, self.spec, hosts)
    }

    /// Why the object can't be in force.
    pub(crate) fn problems(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        let mut problems = self.unreadable();
        let own = &self.key.namespace;
        if let Some(other) = hosts.iter().find(|host| host.namespace != *own) {
            problems.push(format!(
                "spec.idempotency: what the pods of namespace {} carry out once is said by an ApiRoute \
                 of that namespace: write it there, or take spec.idempotency out.",
                other.namespace
            ));
        }
        for rule in self.spec.rules.iter().enumerate() {
            let would_not = "see to what this object's spec.idempotency says";
            problems.extend(own_pods::elsewhere(self.key, rule, would_not));
        }
        problems.into_iter().map(invalid).collect()
    }

    /// What of it says nothing that can be carried out.
    fn unreadable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let written = self.written;
        if self.is_taken() {
            problems.push(format!(
                "spec.idempotency.header: {:?} says something else already: write another, such as \
                 Idempotency-Key.",
                written.header
            ));
        }
        for (place, path) in written.paths.iter().enumerate() {
            if let Err(why) = read_path(path) {
                problems.push(format!("spec.idempotency.paths[{place}].value: {why}."));
            }
        }
        if written.timeout.millis() > written.window.millis() {
            problems.push(
                "spec.idempotency.timeout: a call may not take longer than spec.idempotency.window, \
                 for which its key stands: lower it, or raise window."
                    .to_owned(),
            );
        }
        problems
    }

    fn is_taken(&self) -> bool {
        let header = self.written.header.to_ascii_lowercase();
        let credential = |place: CredentialPlace, name: &str| {
            place == CredentialPlace::Header && name.eq_ignore_ascii_case(&header)
        };
        let auth = self.spec.auth.iter();
        let keys = auth.clone().flat_map(|auth| &auth.api_key);
        let mut keys = keys.map(|key| (key.place, &key.name));
        let tokens = auth.clone().flat_map(|auth| &auth.jwt);
        let tokens = tokens.flat_map(|jwt| &jwt.from);
        let asked = auth.flat_map(|auth| &auth.introspection);
        let tokens = tokens.chain(asked.flat_map(|asked| &asked.from));
        let mut tokens = tokens.map(|token| (token.place, &token.name));
        TAKEN.contains(&&*header)
            || header.starts_with("meshwright-")
            || keys.any(|(place, name)| credential(place, name))
            || tokens.any(|(place, name)| credential(place, name))
    }

    /// Why its store can't be had.
    pub(crate) fn unresolved(&self) -> Option<Refusal> {
        self.store()?.1
    }

    fn store(&self) -> Option<(mesh::SharedStore, Option<Refusal>)> {
        let store = self.written.store.as_ref()?;
        let reader = store::Reader {
            key: self.key,
            credentials: self.credentials,
            unreadable: self.unreadable,
            settings: self.settings,
        };
        let (url, unresolved) = reader.url("spec.idempotency.store", store);
        let on_failure = match self.written.on_store_failure.unwrap_or_default() {
            KeptFailure::Deny => mesh::StoreFailure::Deny,
            KeptFailure::Allow => mesh::StoreFailure::Allow,
        };
        let sent = mesh::SharedStore {
            url,
            ca_certificates: store.redis.ca_certificates.clone().unwrap_or_default(),
            on_failure: on_failure.into(),
        };
        Some((sent, unresolved))
    }

    /// The resource.
    pub(crate) fn idempotency(&self, services: &BTreeSet<ObjectKey>) -> mesh::Idempotency {
        let written = self.written;
        let paths = written.paths.iter();
        // What can't be read of paths is about all of them: nothing is carried out twice for it.
        let readable = paths.clone().all(|path| read_path(path).is_ok());
        mesh::Idempotency {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            services: services.iter().map(service_ref).collect(),
            header: written.header.to_ascii_lowercase(),
            required: written.required,
            methods: {
                let methods = written.methods.iter();
                methods.map(|method| method.as_str().to_owned()).collect()
            },
            paths: match readable {
                true => paths.map(matches_path).collect(),
                false => Vec::new(),
            },
            window_ms: written.window.millis(),
            reject_concurrent: written.concurrent == Concurrent::Reject,
            timeout_ms: written.timeout.millis(),
            release_on: written.release_on.iter().map(|one| (*one).into()).collect(),
            max_request_bytes: written.max_request_bytes,
            max_answer_bytes: written.max_answer_bytes,
            max_bytes: written.max_bytes,
            store: self.store().map(|(store, _)| store),
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}
