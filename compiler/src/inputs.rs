//! What is compiled: the world as the source (a cluster's watches, or a folder) sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crds::{ApiRoute, EventSubscription, RateLimit, RetryPolicy};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};
use wire::generation::Input;
use wire::{Generation, Kind};

use crate::access::keys::{CONSUMER, CREDENTIAL};
use crate::broker::BROKER;

/// The world at one moment. Objects are shared: one that did not change keeps its `Arc`, which is
/// how [`crate::compile`] knows that it need not look at it again.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// ApiRoutes by namespace and name.
    pub api_routes: BTreeMap<ObjectKey, Arc<ApiRoute>>,
    /// RetryPolicies by namespace and name.
    pub retry_policies: BTreeMap<ObjectKey, Arc<RetryPolicy>>,
    /// RateLimits by namespace and name.
    pub rate_limits: BTreeMap<ObjectKey, Arc<RateLimit>>,
    /// EventSubscriptions by namespace and name.
    pub event_subscriptions: BTreeMap<ObjectKey, Arc<EventSubscription>>,
    /// Services by namespace and name.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices by namespace and name.
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Namespaces by name, in no namespace.
    pub namespaces: BTreeMap<ObjectKey, Arc<Namespace>>,
    /// Secrets that are consumers' keys (the label `meshwright.dev/consumer`), by namespace and name.
    pub consumers: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Secrets of the mesh's own credentials (the label `meshwright.dev/credential`).
    pub credentials: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Secrets that say where brokers are (the label `meshwright.dev/broker`).
    pub brokers: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Namespaces where something refers to a Secret, and none can be read.
    pub unreadable: BTreeMap<String, Unreadable>,
    /// Which of two conflicting objects comes first, whatever `metadata.creationTimestamp` says: in
    /// a folder, the order of paths. The lower one does; objects that aren't named here come after
    /// those that are, the oldest first.
    pub precedence: BTreeMap<ObjectRef, u64>,
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// How far each kind has been seen, in every place.
    pub seen: Generation,
    /// How far Secrets have been seen in namespaces where that is not what `seen` has in the places of
    /// consumers, credentials and brokers; all of them stand here. See [`Inputs::seen_in`].
    pub seen_secrets: BTreeMap<String, Generation>,
}

/// Why the Secrets of a namespace can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// The operator may not.
    Forbidden,
    /// The API server has not answered yet.
    Unanswered,
    /// More namespaces refer to Secrets than the operator follows.
    TooMany,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The trust domain of every identity, such as `cluster.local`.
    pub trust_domain: String,
    /// The domain that the cluster's DNS names end in, such as `cluster.local`.
    pub cluster_domain: String,
    /// The roots of trust, DER: the current one, and the next while a rotation is under way.
    pub roots: Vec<Vec<u8>>,
    /// The namespace that the operator is installed in: whoever may make pods there is trusted with all of the mesh.
    pub namespace: String,
}

/// Namespace and name of an object whose kind is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The object's namespace; empty for a Namespace, which is in none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// A kind of object that people write and that gets a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// `crds::ApiRoute`.
    ApiRoute,
    /// `crds::RetryPolicy`.
    RetryPolicy,
    /// `crds::RateLimit`.
    RateLimit,
    /// `crds::EventSubscription`.
    EventSubscription,
}

/// An object that people wrote. Shown as `ApiRoute shop/orders`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: ObjectKind,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

// === impl Inputs ===

impl Inputs {
    /// Keeps a Secret as each of what its labels say that it is. One without a label of the mesh's is somebody
    /// else's.
    pub fn keep_secret(&mut self, key: &ObjectKey, secret: &Arc<Secret>) {
        let labels = secret.metadata.labels.as_ref();
        for (label, kept) in [
            (CONSUMER, &mut self.consumers),
            (CREDENTIAL, &mut self.credentials),
            (BROKER, &mut self.brokers),
        ] {
            if labels.is_some_and(|labels| labels.contains_key(label)) {
                kept.insert(key.clone(), secret.clone());
            }
        }
    }

    /// How far each kind has been seen, as what concerns the pods of a namespace alone depends on it.
    /// Secrets are followed namespace by namespace, and what is compiled of them is for the pods of
    /// their own namespace only: what others have seen or not makes it neither newer nor older.
    pub fn seen_in(&self, namespace: &str) -> Generation {
        seen_in(self.seen, &self.seen_secrets, namespace)
    }
}

/// The places of what is read of Secrets.
pub const OF_SECRETS: [Input; 3] = [Input::Consumer, Input::Credential, Input::Broker];

/// [`Inputs::seen_in`], of what was kept of inputs.
pub fn seen_in(
    seen: Generation,
    secrets: &BTreeMap<String, Generation>,
    namespace: &str,
) -> Generation {
    let Some(own) = secrets.get(namespace) else {
        return seen;
    };
    OF_SECRETS
        .iter()
        .fold(seen, |seen, input| seen.with(*input, own.at(*input)))
}

// === impl Unreadable ===

impl Unreadable {
    /// Why, and what to do about it, as a sentence.
    pub(crate) fn sentence(self, namespace: &str) -> String {
        match self {
            Unreadable::Forbidden => format!(
                "the operator may not read the Secrets of namespace {namespace}: add it to \
                 secrets.namespaces of the chart."
            ),
            Unreadable::Unanswered => format!(
                "the API server has not answered yet what Secrets namespace {namespace} has; the \
                 operator asks again."
            ),
            Unreadable::TooMany => format!(
                "so many namespaces refer to Secrets that the operator does not follow those of \
                 namespace {namespace}: put objects that need any into fewer namespaces."
            ),
        }
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Settings {
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            roots: Vec::new(),
            namespace: "meshwright-system".to_owned(),
        }
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of `namespace`/`name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a Namespace.
    pub fn namespace(name: impl Into<String>) -> Self {
        ObjectKey::new("", name)
    }

    /// The key of an object that has metadata; an absent namespace or name is empty.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        ObjectKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

// === impl ObjectKind ===

impl ObjectKind {
    /// Every kind.
    pub const ALL: [ObjectKind; 4] = [
        ObjectKind::ApiRoute,
        ObjectKind::RetryPolicy,
        ObjectKind::RateLimit,
        ObjectKind::EventSubscription,
    ];

    /// The place that objects of this kind have in a generation.
    pub fn input(self) -> Input {
        match self {
            ObjectKind::ApiRoute => Input::ApiRoute,
            ObjectKind::RetryPolicy => Input::RetryPolicy,
            ObjectKind::RateLimit => Input::RateLimit,
            ObjectKind::EventSubscription => Input::EventSubscription,
        }
    }

    /// The kind of resource that objects of this kind become.
    pub(crate) fn resource(self) -> Kind {
        match self {
            ObjectKind::ApiRoute => Kind::Route,
            ObjectKind::RetryPolicy => Kind::RetryPolicy,
            ObjectKind::RateLimit => Kind::RateLimit,
            ObjectKind::EventSubscription => Kind::Subscription,
        }
    }

    /// As written in an object's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectKind::ApiRoute => "ApiRoute",
            ObjectKind::RetryPolicy => "RetryPolicy",
            ObjectKind::RateLimit => "RateLimit",
            ObjectKind::EventSubscription => "EventSubscription",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl ObjectRef ===

impl ObjectRef {
    /// The object of this kind with this key.
    pub fn new(kind: ObjectKind, key: &ObjectKey) -> Self {
        ObjectRef {
            kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    /// The ApiRoute with this key.
    pub fn api_route(key: &ObjectKey) -> Self {
        ObjectRef::new(ObjectKind::ApiRoute, key)
    }

    /// The RetryPolicy with this key.
    pub fn retry_policy(key: &ObjectKey) -> Self {
        ObjectRef::new(ObjectKind::RetryPolicy, key)
    }

    /// The RateLimit with this key.
    pub fn rate_limit(key: &ObjectKey) -> Self {
        ObjectRef::new(ObjectKind::RateLimit, key)
    }

    /// The EventSubscription with this key.
    pub fn event_subscription(key: &ObjectKey) -> Self {
        ObjectRef::new(ObjectKind::EventSubscription, key)
    }

    /// Namespace and name alone.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&*self.namespace, &*self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
