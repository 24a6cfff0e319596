//! The cluster as a source: every kind followed into one store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compiler::{CONSUMER, CREDENTIAL, Inputs, ObjectKey, ObjectRef, permissive};
use crds::{ApiRoute, ObjectStatus, RateLimit, RetryPolicy};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use wire::generation::Input;

use super::follow::{Event, follow};
use super::{Nudge, Seen, Settling, Source, nudge};

/// Objects of a cluster.
#[derive(Debug)]
pub struct Cluster {
    store: Arc<Store>,
    settling: Settling,
    /// One task per kind; they end with this.
    tasks: JoinSet<()>,
}

/// Hears of what the cluster keeps of an object beside what it says, and of `None` when it is deleted.
pub type OnStatus = Arc<dyn Fn(&ObjectRef, Option<Stored>) + Send + Sync>;

/// What the cluster keeps of an object beside what a person wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Its status.
    pub status: Option<ObjectStatus>,
    /// Its `resourceVersion`.
    pub version: Option<String>,
    /// Its UID.
    pub uid: Option<String>,
}

#[derive(Debug)]
struct Store {
    world: Mutex<World>,
    nudge: Nudge,
}

#[derive(Debug, Default)]
struct World {
    inputs: Inputs,
    /// Kinds that were listed completely at least once.
    listed: BTreeSet<Input>,
}

/// How one kind is kept: the rows of the table in [`Cluster::new`].
struct Kind<K, Slim> {
    input: Input,
    objects: fn(&mut Inputs) -> &mut BTreeMap<ObjectKey, Arc<K>>,
    /// Only those with this label are asked for.
    labelled: Option<&'static str>,
    /// Drops what nobody reads: most of a Pod, and everybody's `managedFields`.
    slim: Slim,
}

// === impl Cluster ===

impl Cluster {
    /// Starts to follow every kind. `on_status` must not block.
    pub fn new(client: &Client, on_status: OnStatus) -> Cluster {
        let (nudge, settling) = nudge();
        let store = Arc::new(Store {
            world: Mutex::default(),
            nudge,
        });
        let mut tasks = JoinSet::new();
        // The table of kinds.
        let of_routes = on_status.clone();
        let routes = Kind {
            input: Input::ApiRoute,
            objects: |inputs| &mut inputs.api_routes,
            labelled: None,
            slim: move |key: &ObjectKey, route: Option<&mut ApiRoute>| {
                let stored = route.map(|route| Stored::of(&route.metadata, route.status.take()));
                of_routes(&ObjectRef::api_route(key), stored);
            },
        };
        let of_limits = on_status.clone();
        let limits = Kind {
            input: Input::RateLimit,
            objects: |inputs| &mut inputs.rate_limits,
            labelled: None,
            slim: move |key: &ObjectKey, limit: Option<&mut RateLimit>| {
                let stored = limit.map(|limit| Stored::of(&limit.metadata, limit.status.take()));
                of_limits(&ObjectRef::rate_limit(key), stored);
            },
        };
        let policies = Kind {
            input: Input::RetryPolicy,
            objects: |inputs| &mut inputs.retry_policies,
            labelled: None,
            slim: move |key: &ObjectKey, policy: Option<&mut RetryPolicy>| {
                let stored =
                    policy.map(|policy| Stored::of(&policy.metadata, policy.status.take()));
                on_status(&ObjectRef::retry_policy(key), stored);
            },
        };
        let services = Kind {
            input: Input::Service,
            objects: |inputs| &mut inputs.services,
            labelled: None,
            slim: |_: &ObjectKey, service: Option<&mut Service>| {
                service.map(|service| service.status.take());
            },
        };
        let slices = Kind {
            input: Input::EndpointSlice,
            objects: |inputs| &mut inputs.endpoint_slices,
            labelled: None,
            slim: |_: &ObjectKey, _: Option<&mut EndpointSlice>| {},
        };
        let pods = Kind {
            input: Input::Pod,
            objects: |inputs| &mut inputs.pods,
            labelled: None,
            slim: |_: &ObjectKey, pod: Option<&mut Pod>| {
                if let Some(pod) = pod {
                    slim_pod(pod);
                }
            },
        };
        let namespaces = Kind {
            input: Input::Namespace,
            objects: |inputs| &mut inputs.namespaces,
            labelled: None,
            slim: |key: &ObjectKey, namespace: Option<&mut Namespace>| {
                if let Some(namespace) = namespace {
                    slim_namespace(key, namespace);
                }
            },
        };
        let secrets = |label, input, objects| Kind {
            input,
            objects,
            labelled: Some(label),
            slim: |_: &ObjectKey, _: Option<&mut Secret>| {},
        };
        let consumers = secrets(CONSUMER, Input::Consumer, |inputs| &mut inputs.consumers);
        let credentials = secrets(CREDENTIAL, Input::Credential, |inputs| {
            &mut inputs.credentials
        });
        keep(&mut tasks, client, &store, consumers);
        keep(&mut tasks, client, &store, credentials);
        keep(&mut tasks, client, &store, routes);
        keep(&mut tasks, client, &store, policies);
        keep(&mut tasks, client, &store, limits);
        keep(&mut tasks, client, &store, services);
        keep(&mut tasks, client, &store, slices);
        keep(&mut tasks, client, &store, pods);
        keep(&mut tasks, client, &store, namespaces);
        Cluster {
            store,
            settling,
            tasks,
        }
    }
}

impl Source for Cluster {
    async fn changed(&mut self) -> Option<Seen> {
        loop {
            tokio::select! {
                settled = self.settling.settled() => if !settled { return None },
                // A task that follows a kind never ends by itself. One that panicked would leave
                // its kind frozen, and the operator must not pretend that it is up to date.
                Some(ended) = self.tasks.join_next() => {
                    tracing::error!(?ended, "a kind is no longer followed");
                    return None;
                }
            }
            let world = self.store.world();
            // Half a world would take endpoints and routes from sidecars that have them.
            if world.listed.len() == KINDS {
                return Some(Seen {
                    inputs: world.inputs.clone(),
                    ..Seen::default()
                });
            }
        }
    }
}

const KINDS: usize = 9;

// === impl Stored ===

impl Stored {
    fn of(meta: &ObjectMeta, status: Option<ObjectStatus>) -> Stored {
        Stored {
            status,
            version: meta.resource_version.clone(),
            uid: meta.uid.clone(),
        }
    }
}

// === impl Store ===

impl Store {
    fn world(&self) -> MutexGuard<'_, World> {
        // Nothing that holds the lock leaves the world inconsistent when it panics.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows one kind into the store.
fn keep<K, Slim>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    store: &Arc<Store>,
    mut kind: Kind<K, Slim>,
) where
    K: Resource<DynamicType = ()>
        + DeserializeOwned
        + Clone
        + PartialEq
        + Debug
        + Send
        + Sync
        + 'static,
    Slim: FnMut(&ObjectKey, Option<&mut K>) + Send + 'static,
{
    let resource = ApiResource::erase::<K>(&());
    let name = resource.kind.clone();
    // Dynamic, so that one object that this build can't read (one of a newer schema) doesn't make
    // the whole list unreadable.
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let store = store.clone();
    tasks.spawn(async move {
        let mut listing = BTreeMap::new();
        let labelled = kind.labelled;
        let what = name.clone();
        let tell = |event| {
            let mut world = store.world();
            let changed = kind.take(&what, event, &mut world, &mut listing);
            drop(world);
            if changed {
                store.nudge.send();
            }
        };
        follow(api, labelled, &name, tell).await;
    });
}

// === impl Kind ===

impl<K, Slim> Kind<K, Slim>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + PartialEq,
    Slim: FnMut(&ObjectKey, Option<&mut K>),
{
    /// Whether there is something to tell.
    fn take(
        &mut self,
        name: &str,
        event: Event<DynamicObject>,
        world: &mut World,
        listing: &mut BTreeMap<ObjectKey, Arc<K>>,
    ) -> bool {
        let objects = (self.objects)(&mut world.inputs);
        let version = match event {
            Event::Listing => {
                listing.clear();
                return false;
            }
            Event::Page(page) => {
                for object in page {
                    let key = key_of(&object);
                    if let Some(object) = self.read(name, &key, object, objects.get(&key)) {
                        listing.insert(key, object);
                    }
                }
                return false;
            }
            Event::Listed(version) => {
                let before = std::mem::replace(objects, std::mem::take(listing));
                for key in before.keys().filter(|key| !objects.contains_key(*key)) {
                    (self.slim)(key, None);
                }
                world.listed.insert(self.input);
                version
            }
            Event::Applied(object, version) => {
                let key = key_of(&object);
                if let Some(object) = self.read(name, &key, object, objects.get(&key)) {
                    objects.insert(key, object);
                }
                version
            }
            Event::Deleted(object, version) => {
                let key = key_of(&object);
                objects.remove(&key);
                (self.slim)(&key, None);
                version
            }
            Event::Bookmark(version) => version,
        };
        world.inputs.seen.observe(self.input, version);
        true
    }

    /// The object as it is kept. One that is as it was keeps its `Arc`: most changes of a Pod are
    /// of fields that nobody reads. One that can't be read keeps its last good form.
    fn read(
        &mut self,
        name: &str,
        key: &ObjectKey,
        object: DynamicObject,
        before: Option<&Arc<K>>,
    ) -> Option<Arc<K>> {
        let typed = serde_json::to_value(object).and_then(serde_json::from_value::<K>);
        let mut object = match typed {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(
                    kind = name, object = %key, %error,
                    "can't be read; its last good form holds on. Is the operator older than the CRDs?"
                );
                return before.cloned();
            }
        };
        (self.slim)(key, Some(&mut object));
        slim_meta(object.meta_mut());
        match before {
            Some(before) if **before == object => Some(before.clone()),
            _ => Some(Arc::new(object)),
        }
    }
}

fn key_of(object: &DynamicObject) -> ObjectKey {
    ObjectKey {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

fn slim_meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    // The place in the generation says how new it is; here it would only make every write of a
    // status look like a change.
    meta.resource_version = None;
    meta.owner_references = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| key.starts_with("meshwright.dev/"));
    }
}

/// What the mesh is told by it. Nobody else hears of what can't be read: it has no status of ours.
fn slim_namespace(key: &ObjectKey, namespace: &mut Namespace) {
    namespace.spec = None;
    namespace.status = None;
    if let Some(labels) = &mut namespace.metadata.labels {
        labels.retain(|key, _| key.starts_with("meshwright.dev/"));
    }
    if let Err(unreadable) = permissive::check_namespace(&namespace.metadata) {
        tracing::warn!(namespace = %key, "{unreadable}");
    }
}

/// What identifies a pod, which ports it names, whether it is meshed, alive and ready.
fn slim_pod(pod: &mut Pod) {
    let ports = |container: Container| Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec.containers.into_iter().map(ports).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(ports).collect()),
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: status.conditions.map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "Ready");
            for condition in &mut conditions {
                condition.last_probe_time = None;
                condition.last_transition_time = None;
                condition.message = None;
                condition.reason = None;
            }
            conditions
        }),
        ..PodStatus::default()
    });
}

#[cfg(test)]
mod tests;
