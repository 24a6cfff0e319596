//! The cluster as a source: every kind followed into one store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compiler::{Inputs, ObjectKey, ObjectKind, ObjectRef};
use crds::event_subscription::EventSubscriptionStatus;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use wire::generation::Input;

use super::follow::{Event, Only, Trouble, follow};
use super::secrets::{Known, Secrets};
use super::{Nudge, Seen, Settling, Source, nudge};

mod slim;

/// Objects of a cluster.
#[derive(Debug)]
pub struct Cluster {
    store: Arc<Store>,
    settling: Settling,
    secrets: Secrets,
    /// When Secrets that were asked for are waited for no longer.
    until: Option<Instant>,
    /// One task for each kind, and one for each namespace whose Secrets are followed; they end with
    /// this.
    tasks: JoinSet<()>,
}

/// Hears of what the cluster keeps of an object beside what it says, and of `None` when it is deleted.
pub type OnStatus = Arc<dyn Fn(&ObjectRef, Option<Stored>) + Send + Sync>;

/// What the cluster keeps of an object beside what a person wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Its status: of every kind a part of this one.
    pub status: Option<EventSubscriptionStatus>,
    /// Its `resourceVersion`.
    pub version: Option<String>,
    /// Its UID.
    pub uid: Option<String>,
}

#[derive(Debug)]
pub(super) struct Store {
    world: Mutex<World>,
    pub(super) nudge: Nudge,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) inputs: Inputs,
    /// Kinds that were listed completely at least once, or are known not to be there.
    listed: BTreeSet<Input>,
    /// Kinds that the API server has not known, since when.
    absent: BTreeMap<Input, Instant>,
    /// Objects that this build can't read, whatever holds in their place.
    unreadable: BTreeSet<(Input, ObjectKey)>,
    /// Whether anybody was told of a world.
    pub(super) told: bool,
    pub(super) secrets: Known,
}

/// How one kind is kept: the rows of the table in [`Cluster::new`].
struct Kind<K, Slim> {
    input: Input,
    objects: fn(&mut Inputs) -> &mut BTreeMap<ObjectKey, Arc<K>>,
    /// Drops what nobody reads: most of a Pod, and everybody's `managedFields`.
    slim: Slim,
}

/// A kind that people write. What is stored of its status is told apart.
fn written<K>(
    kind: ObjectKind,
    objects: fn(&mut Inputs) -> &mut BTreeMap<ObjectKey, Arc<K>>,
    on_status: &OnStatus,
) -> Kind<K, impl Fn(&ObjectKey, Option<&mut K>) + use<K>>
where
    K: kube::Resource + HasStatus<Status: Into<EventSubscriptionStatus>>,
{
    let on_status = on_status.clone();
    Kind {
        input: kind.input(),
        objects,
        slim: move |key: &ObjectKey, object: Option<&mut K>| {
            let stored = object.map(|object| {
                let status = object.status_mut().take().map(Into::into);
                Stored::of(object.meta(), status)
            });
            on_status(&ObjectRef::new(kind, key), stored);
        },
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts to follow every kind, for an operator in `namespace`. `on_status` must not block.
    pub fn new(client: &Client, namespace: &str, on_status: OnStatus) -> Cluster {
        let (nudge, settling) = nudge();
        let store = Arc::new(Store {
            world: Mutex::default(),
            nudge,
        });
        let mut tasks = JoinSet::new();
        // The table of kinds.
        let routes = written(
            ObjectKind::ApiRoute,
            |inputs| &mut inputs.api_routes,
            &on_status,
        );
        let policies = written(
            ObjectKind::RetryPolicy,
            |inputs| &mut inputs.retry_policies,
            &on_status,
        );
        let limits = written(
            ObjectKind::RateLimit,
            |inputs| &mut inputs.rate_limits,
            &on_status,
        );
        let subscriptions = written(
            ObjectKind::EventSubscription,
            |inputs| &mut inputs.event_subscriptions,
            &on_status,
        );
        let services = Kind {
            input: Input::Service,
            objects: |inputs| &mut inputs.services,
            slim: |_: &ObjectKey, service: Option<&mut Service>| {
                service.map(|service| service.status.take());
            },
        };
        let slices = Kind {
            input: Input::EndpointSlice,
            objects: |inputs| &mut inputs.endpoint_slices,
            slim: |_: &ObjectKey, _: Option<&mut EndpointSlice>| {},
        };
        let pods = Kind {
            input: Input::Pod,
            objects: |inputs| &mut inputs.pods,
            slim: |_: &ObjectKey, pod: Option<&mut Pod>| {
                if let Some(pod) = pod {
                    slim::pod(pod);
                }
            },
        };
        let namespaces = Kind {
            input: Input::Namespace,
            objects: |inputs| &mut inputs.namespaces,
            slim: |key: &ObjectKey, namespace: Option<&mut Namespace>| {
                if let Some(namespace) = namespace {
                    slim::namespace(key, namespace);
                }
            },
        };
        let secrets = Secrets::new(client.clone(), store.clone());
        tasks.spawn(secrets.tell_the_time(namespace));
        keep(&mut tasks, client, &store, routes);
        keep(&mut tasks, client, &store, policies);
        keep(&mut tasks, client, &store, limits);
        keep(&mut tasks, client, &store, subscriptions);
        keep(&mut tasks, client, &store, services);
        keep(&mut tasks, client, &store, slices);
        keep(&mut tasks, client, &store, pods);
        keep(&mut tasks, client, &store, namespaces);
        Cluster {
            store,
            settling,
            secrets,
            until: None,
            tasks,
        }
    }
}

impl Source for Cluster {
    async fn changed(&mut self) -> Option<Seen> {
        loop {
            let until = self.until;
            tokio::select! {
                settled = self.settling.settled() => if !settled { return None },
                // A task that follows a kind never ends by itself. One that panicked would leave
                // its kind frozen, and the operator must not pretend that it is up to date.
                Some(ended) = self.tasks.join_next() => {
                    // Nothing refers to a namespace's Secrets any more.
                    if ended.as_ref().is_err_and(JoinError::is_cancelled) {
                        continue;
                    }
                    tracing::error!(?ended, "a kind is no longer followed");
                    return None;
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            let mut world = self.store.world();
            // Half a world would take endpoints and routes from sidecars that have them, and callers
            // their keys.
            if world.listed.len() < KINDS {
                continue;
            }
            self.until = self.secrets.follow(&mut world, &mut self.tasks);
            if self.until.is_none() {
                world.told = true;
                return Some(Seen {
                    inputs: world.inputs.clone(),
                    unreadable: world.unreadable.len(),
                    ..Seen::default()
                });
            }
        }
    }
}

/// Those of the table in [`Cluster::new`], and Secrets, which are there as soon as it is known how new
/// they are.
const KINDS: usize = 9;
/// How long the API server must not have known a kind before there is none of it: one that starts
/// doesn't know all at once.
const ABSENT: Duration = Duration::from_secs(5);

// === impl Stored ===

impl Stored {
    fn of(meta: &ObjectMeta, status: Option<EventSubscriptionStatus>) -> Stored {
        Stored {
            status,
            version: meta.resource_version.clone(),
            uid: meta.uid.clone(),
        }
    }
}

// === impl Store ===

impl Store {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
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
        let what = name.clone();
        let tell = |event| {
            let mut world = store.world();
            let changed = kind.take(&what, event, &mut world, &mut listing);
            drop(world);
            if changed {
                store.nudge.send();
            }
        };
        follow(api, Only::default(), &name, tell).await;
    });
}

// === impl World ===

impl World {
    /// Secrets have been seen up to this version where nothing refers to any.
    pub(super) fn time(&mut self, version: u64) {
        self.listed.insert(Input::Consumer);
        self.inputs.seen.observe(Input::Consumer, version);
        self.inputs.seen.observe(Input::Credential, version);
        self.inputs.seen.observe(Input::Broker, version);
    }

    /// The API server knows no such kind. Answers whether that settles it: where none was ever seen,
    /// after a while. What was seen holds on. Of ApiRoutes it never does: they say who may enter, and new
    /// pods that were told of none would let everybody in.
    fn not_installed(&mut self, input: Input) -> bool {
        if input == Input::ApiRoute {
            return false;
        }
        let since = *self.absent.entry(input).or_insert_with(Instant::now);
        since.elapsed() >= ABSENT && self.listed.insert(input)
    }
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
        let input = self.input;
        let version = match event {
            Event::Listing => {
                listing.clear();
                return false;
            }
            Event::Page(page) => {
                for object in page {
                    let key = key_of(&object);
                    let place = (input, key.clone());
                    let read = self.read(name, &key, object, objects.get(&key));
                    match read.is_good {
                        true => world.unreadable.remove(&place),
                        false => world.unreadable.insert(place),
                    };
                    if let Some(object) = read.object {
                        listing.insert(key, object);
                    }
                }
                return false;
            }
            Event::Failed(Trouble::NotInstalled) => return world.not_installed(input),
            Event::Failed(_) => return false,
            Event::Listed(version) => {
                let before = std::mem::replace(objects, std::mem::take(listing));
                for key in before.keys().filter(|key| !objects.contains_key(*key)) {
                    (self.slim)(key, None);
                    world.unreadable.remove(&(input, key.clone()));
                }
                world.listed.insert(input);
                world.absent.remove(&input);
                version
            }
            Event::Applied(object, version) => {
                let key = key_of(&object);
                let place = (input, key.clone());
                let read = self.read(name, &key, object, objects.get(&key));
                match read.is_good {
                    true => world.unreadable.remove(&place),
                    false => world.unreadable.insert(place),
                };
                if let Some(object) = read.object {
                    objects.insert(key, object);
                }
                version
            }
            Event::Deleted(object, version) => {
                let key = key_of(&object);
                objects.remove(&key);
                (self.slim)(&key, None);
                world.unreadable.remove(&(input, key));
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
    ) -> Read<K> {
        read(name, key, object, before, |object| {
            (self.slim)(key, Some(object));
        })
    }
}

/// An object as it is kept.
pub(super) struct Read<K> {
    pub(super) object: Option<Arc<K>>,
    /// Whether this is what was to be read, and not its last good form.
    is_good: bool,
}

/// Reads an object, and keeps the `Arc` of one that is as it was `before`.
pub(super) fn read<K: Resource + DeserializeOwned + PartialEq>(
    name: &str,
    key: &ObjectKey,
    object: DynamicObject,
    before: Option<&Arc<K>>,
    slim: impl FnOnce(&mut K),
) -> Read<K> {
    let typed = serde_json::to_value(object).and_then(serde_json::from_value::<K>);
    let mut object = match typed {
        Ok(object) => object,
        Err(error) => {
            tracing::error!(
                kind = name, object = %key, %error,
                "can't be read; its last good form holds on. Is the operator older than the CRDs?"
            );
            let object = before.cloned();
            let is_good = false;
            return Read { object, is_good };
        }
    };
    slim(&mut object);
    slim::meta(object.meta_mut());
    let object = match before {
        Some(before) if **before == object => before.clone(),
        _ => Arc::new(object),
    };
    Read {
        object: Some(object),
        is_good: true,
    }
}

pub(super) fn key_of(object: &DynamicObject) -> ObjectKey {
    ObjectKey {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;
