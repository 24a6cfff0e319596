//! What is remembered from one compilation to the next: the inputs as they were, and who depends
//! on whom.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::iter::Peekable;
use std::sync::Arc;

use crds::{ApiRoute, EventSubscription, RateLimit, RetryPolicy};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use wire::mesh::Protocol;

use crate::api_route::layers::Layer;
use crate::attach::{Attachments, Precedence};
use crate::inputs::{ObjectKey, ObjectKind, ObjectRef, Settings, Unreadable};
use crate::network::Network;

/// What is remembered from one compilation to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo {
    pub(crate) settings: Option<Settings>,
    pub(crate) precedence: BTreeMap<ObjectRef, u64>,
    pub(crate) api_routes: Objects<ApiRoute>,
    pub(crate) retry_policies: Objects<RetryPolicy>,
    pub(crate) rate_limits: Objects<RateLimit>,
    pub(crate) event_subscriptions: Objects<EventSubscription>,
    pub(crate) services: Objects<Service>,
    pub(crate) endpoint_slices: Objects<EndpointSlice>,
    pub(crate) pods: Objects<Pod>,
    pub(crate) namespaces: Objects<Namespace>,
    pub(crate) consumers: Objects<Secret>,
    pub(crate) credentials: Objects<Secret>,
    pub(crate) brokers: Objects<Secret>,
    pub(crate) unreadable: BTreeMap<String, Unreadable>,
    pub(crate) links: Indexes,
    pub(crate) attachments: BTreeMap<ObjectKind, Attachments>,
    /// ApiRoutes, for those that lead to them; nothing for those that are not in force.
    pub(crate) layers: BTreeMap<ObjectKey, Option<Layer>>,
    /// Ports of Services' pods at which nobody enforces what an ApiRoute says of who may enter.
    pub(crate) bypassed: BTreeMap<ObjectKey, BTreeSet<(ObjectKey, u16)>>,
    /// What ApiRoutes in force say that undeclared ports of their Services carry.
    pub(crate) declared: BTreeMap<ObjectKey, Protocol>,
    /// ApiRoutes in force that say which answers are kept, in their order.
    pub(crate) caches: BTreeMap<ObjectKey, Precedence>,
}

/// Who depends on whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexes {
    /// A slice and the Service that it belongs to.
    pub(crate) slices: Links<ObjectKey, ObjectKey>,
    /// A Service and the pods that its slices name.
    pub(crate) endpoints: Links<ObjectKey, ObjectKey>,
    /// A Service and the pods that its selector selects.
    pub(crate) selected: Links<ObjectKey, ObjectKey>,
    /// A pod and its labels.
    pub(crate) pod_labels: Links<ObjectKey, Label>,
    /// A Service and one label of its selector: every pod that it selects has that label.
    pub(crate) selector_label: Links<ObjectKey, Label>,
    /// What a person wrote, and the Services that it names, whether they exist or not.
    pub(crate) mentions: Links<ObjectRef, ObjectKey>,
    /// The same that names Services that don't exist, and what their suggestions depend on.
    pub(crate) lost: Links<ObjectRef, Neighbourhood>,
    /// An ApiRoute and the Services of which it says what undeclared ports carry.
    pub(crate) declares: Links<ObjectKey, ObjectKey>,
    /// An ApiRoute and the Services at whose pods it says who may enter.
    pub(crate) access: Links<ObjectKey, ObjectKey>,
    /// An ApiRoute and the Services at whose pods answers are kept as it says, where no other one comes
    /// before it; none of one that is not in force.
    pub(crate) cached: Links<ObjectKey, ObjectKey>,
    /// An ApiRoute and the Services at whose pods its calls are carried out once.
    pub(crate) idempotent: Links<ObjectKey, ObjectKey>,
    /// An ApiRoute and the Services at whose pods its requests become events; none of one that is not in
    /// force.
    pub(crate) published: Links<ObjectKey, ObjectKey>,
    /// An EventSubscription and the Service that it is for, whether it exists or not.
    pub(crate) subscribed: Links<ObjectKey, ObjectKey>,
    /// A RateLimit and the Services at whose pods it holds; none of one that is not in force.
    pub(crate) limits: Links<ObjectKey, ObjectKey>,
    /// A RateLimit and the ApiRoutes that it names, whether they exist or not.
    pub(crate) limited_routes: Links<ObjectKey, ObjectKey>,
    /// An ApiRoute and the Services that its hosts name, in force or not.
    pub(crate) hosts: Links<ObjectKey, ObjectKey>,
    /// A Service and the networks that the addresses lie in by which it is called.
    pub(crate) networks: Links<ObjectKey, Network>,
    /// An ApiRoute and those that it leads to.
    pub(crate) leads: Links<ObjectKey, ObjectKey>,
    /// A RetryPolicy and the ApiRoutes that it names, whether they exist or not.
    pub(crate) governed: Links<ObjectKey, ObjectKey>,
    /// Services whose Endpoints are larger than what is sent.
    pub(crate) oversized: BTreeSet<ObjectKey>,
}

/// Objects of one kind by namespace and name.
pub(crate) type Objects<T> = BTreeMap<ObjectKey, Arc<T>>;

/// A label in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    pub(crate) namespace: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Services that may have been meant by the name of one that doesn't exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Neighbourhood {
    /// All in a namespace.
    Namespace(String),
    /// All of a name.
    Name(String),
}

/// An object that was added, removed or replaced.
#[derive(Clone, Debug)]
pub(crate) struct Difference<T> {
    pub(crate) key: ObjectKey,
    pub(crate) old: Option<Arc<T>>,
    pub(crate) new: Option<Arc<T>>,
}

/// A relation between two kinds of things that can be asked from both ends.
#[derive(Clone, Debug)]
pub(crate) struct Links<A, B> {
    forward: HashMap<A, BTreeSet<B>>,
    backward: HashMap<B, BTreeSet<A>>,
}

/// How the objects differ from those `before`, which then become the same. Objects that kept their
/// `Arc` are passed over without a look at their names: this walk is the one thing that each
/// compilation does for the whole world.
pub(crate) fn differences<T>(before: &mut Objects<T>, now: &Objects<T>) -> Vec<Difference<T>> {
    let mut found = Vec::new();
    let mut old = before.iter().peekable();
    let mut new = now.iter().peekable();
    while let Some(difference) = next_difference(&mut old, &mut new) {
        found.push(difference);
    }
    for difference in &found {
        match &difference.new {
            Some(object) => before.insert(difference.key.clone(), object.clone()),
            None => before.remove(&difference.key),
        };
    }
    found
}

fn next_difference<'a, T: 'a>(
    old: &mut Peekable<impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)>>,
    new: &mut Peekable<impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)>>,
) -> Option<Difference<T>> {
    loop {
        let (take_old, take_new) = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some((_, before)), Some((_, now))) if Arc::ptr_eq(before, now) => {
                old.next();
                new.next();
                continue;
            }
            (Some((old_key, _)), Some((new_key, _))) => (old_key <= new_key, new_key <= old_key),
        };
        let old = if take_old { old.next() } else { None };
        let new = if take_new { new.next() } else { None };
        let (key, _) = old.or(new)?;
        return Some(Difference {
            key: key.clone(),
            old: old.map(|(_, object)| object.clone()),
            new: new.map(|(_, object)| object.clone()),
        });
    }
}

// === impl Indexes ===

impl Indexes {
    /// The pods that a selector selects; an empty one selects none.
    pub(crate) fn pods_with(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        pods: &Objects<Pod>,
    ) -> BTreeSet<ObjectKey> {
        // The rarest of the labels leaves the fewest pods to look at.
        let rarest = Label::each(namespace, selector)
            .map(|label| self.pod_labels.to(&label))
            .min_by_key(|pods| pods.map_or(0, BTreeSet::len));
        rarest
            .flatten()
            .into_iter()
            .flatten()
            .filter(|key| pods.get(key).is_some_and(|pod| selects(selector, pod)))
            .cloned()
            .collect()
    }

    /// The Services that select a pod.
    pub(crate) fn services_selecting<'a>(
        &'a self,
        key: &'a ObjectKey,
        pod: &'a Pod,
        services: &'a Objects<Service>,
    ) -> impl Iterator<Item = &'a ObjectKey> {
        let labels = pod.metadata.labels.iter();
        labels
            .flat_map(|labels| Label::each(&key.namespace, labels))
            .filter_map(|label| self.selector_label.to(&label))
            .flatten()
            .filter(move |key| {
                let selector = services.get(key).and_then(|service| selector(service));
                selector.is_some_and(|selector| selects(selector, pod))
            })
    }

    /// Notes a Service's selector, by the label that the fewest others are noted by: many share
    /// one that says what they are part of.
    pub(crate) fn index_selector(
        &mut self,
        key: &ObjectKey,
        selector: Option<&BTreeMap<String, String>>,
    ) {
        self.selector_label.set(key, BTreeSet::new());
        let rarest = selector
            .into_iter()
            .flat_map(|selector| Label::each(&key.namespace, selector))
            .min_by_key(|label| self.selector_label.to(label).map_or(0, BTreeSet::len));
        self.selector_label.set(key, rarest.into_iter().collect());
    }
}

/// A Service's selector.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}

/// Whether the selector selects the pod; an empty one selects none.
pub(crate) fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

// === impl Neighbourhood ===

impl Neighbourhood {
    /// The two that the Service is in, or would be.
    pub(crate) fn of(service: &ObjectKey) -> [Neighbourhood; 2] {
        [
            Neighbourhood::Namespace(service.namespace.clone()),
            Neighbourhood::Name(service.name.clone()),
        ]
    }
}

// === impl Label ===

impl Label {
    /// The labels of a map, in a namespace.
    pub(crate) fn each<'a>(
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = Label> + 'a {
        labels.iter().map(|(key, value)| Label {
            namespace: namespace.to_owned(),
            key: key.clone(),
            value: value.clone(),
        })
    }
}

// === impl Links ===

impl<A, B> Default for Links<A, B> {
    fn default() -> Self {
        Links {
            forward: HashMap::new(),
            backward: HashMap::new(),
        }
    }
}

impl<A: Clone + Ord + Hash, B: Clone + Ord + Hash> Links<A, B> {
    /// Replaces everything that `from` is linked to; answers what it was linked to before.
    pub(crate) fn set(&mut self, from: &A, to: BTreeSet<B>) -> BTreeSet<B> {
        let before = match to.is_empty() {
            true => self.forward.remove(from).unwrap_or_default(),
            false => self
                .forward
                .insert(from.clone(), to.clone())
                .unwrap_or_default(),
        };
        for gone in before.difference(&to) {
            if let Some(back) = self.backward.get_mut(gone) {
                back.remove(from);
                if back.is_empty() {
                    self.backward.remove(gone);
                }
            }
        }
        for come in to.difference(&before) {
            self.backward
                .entry(come.clone())
                .or_default()
                .insert(from.clone());
        }
        before
    }

    /// Everything that `from` is linked to.
    pub(crate) fn from(&self, from: &A) -> Option<&BTreeSet<B>> {
        self.forward.get(from)
    }

    /// Everything that something is linked to.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &B> {
        self.backward.keys()
    }

    /// Everything that is linked to `to`.
    pub(crate) fn to<Q: Hash + Eq + ?Sized>(&self, to: &Q) -> Option<&BTreeSet<A>>
    where
        B: Borrow<Q>,
    {
        self.backward.get(to)
    }
}
