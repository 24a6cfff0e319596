//! Secrets, followed in the namespaces where something refers to them, and read nowhere else.
//!
//! Each namespace has a watch of its own, and a version up to which it was seen; what is compiled of
//! Secrets is for the pods of their namespace alone and is as new as that. Where nothing refers to any,
//! nothing is compiled of them, so that whatever is known of how new Secrets are is true: one Secret of
//! the operator's own is watched for that, of which nothing is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use compiler::{
    BROKER, CONSUMER, CREDENTIAL, Inputs, OF_SECRETS, ObjectKey, Unreadable, refer_to_brokers,
    refer_to_consumers, refer_to_credentials,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wire::Generation;
use wire::generation::Input;

use super::cluster::{Store, World, key_of, read};
use super::follow::{Event, Only, Trouble, follow};
use crate::ca::secret::NAME as AUTHORITY;

/// The most watches of Secrets: each costs the API server and the operator a connection's worth.
const MOST: usize = 2000;
/// How long everything else waits for the Secrets of a namespace that is new.
const PATIENCE: Duration = Duration::from_secs(3);

/// Follows Secrets where they are wanted.
pub(super) struct Secrets {
    client: Client,
    store: Arc<Store>,
    following: BTreeMap<Place, AbortHandle>,
    /// Of the next watch.
    id: u64,
}

/// Which Secrets: consumers', credentials or brokers, and the namespace.
type Place = (Input, String);

/// What is known of Secrets, beside themselves.
#[derive(Debug, Default)]
pub(super) struct Known {
    followed: BTreeMap<Place, Followed>,
    /// Up to which version Secrets were seen where that is not what is known of all. It only grows.
    seen: BTreeMap<Place, u64>,
}

#[derive(Debug)]
struct Followed {
    /// Of the watch: what an earlier one of the same place still says is void.
    id: u64,
    since: Instant,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Forbidden,
    Read,
}

// === impl Secrets ===

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Secrets");
        shown.field("following", &self.following.keys());
        shown.finish_non_exhaustive()
    }
}

impl Secrets {
    pub(super) fn new(client: Client, store: Arc<Store>) -> Secrets {
        Secrets {
            client,
            store,
            following: BTreeMap::new(),
            id: 0,
        }
    }

    /// Tells how new Secrets are, for ever. The one that is asked for has no such label: nothing is
    /// ever read.
    pub(super) fn tell_the_time(&self, namespace: &str) -> impl Future<Output = ()> + use<> {
        let (api, store) = (self.api(namespace), self.store.clone());
        async move {
            let only = Only {
                labelled: Some(CONSUMER),
                named: Some(AUTHORITY),
            };
            let tell = |event| {
                if let Some(version) = version_of(&event) {
                    store.world().time(version);
                    store.nudge.send();
                }
            };
            follow(api, only, "Secret", tell).await;
        }
    }

    /// Follows what is wanted by now, and no more. Answers until when it is to be waited for; nothing
    /// when everything is there, or was waited for long enough.
    pub(super) fn follow(&mut self, world: &mut World, tasks: &mut JoinSet<()>) -> Option<Instant> {
        let wanted = wanted(&world.inputs);
        let gone: Vec<Place> = {
            let following = self.following.keys();
            following
                .filter(|place| !wanted.contains(*place))
                .cloned()
                .collect()
        };
        for place in gone {
            if let Some(watch) = self.following.remove(&place) {
                watch.abort();
            }
            world.secrets.followed.remove(&place);
            replace(world, &place, BTreeMap::new());
        }
        for place in &wanted {
            // Before anybody was told of anything, nothing has been claimed.
            let claimed = match world.told {
                true => world.inputs.seen.at(place.0),
                false => 0,
            };
            world.secrets.seen.entry(place.clone()).or_insert(claimed);
            if !self.following.contains_key(place) && self.following.len() < MOST {
                let watch = self.watch(place.clone(), world);
                self.following.insert(place.clone(), tasks.spawn(watch));
            }
        }
        world.inputs.unreadable = unreadable(&world.secrets, &wanted);
        world.secrets.forget(&wanted, &world.inputs.seen);
        world.inputs.seen_secrets = world.secrets.seen_by_namespace(&world.inputs.seen);
        let waited_for = world.secrets.followed.values();
        let waited_for = waited_for.filter(|followed| followed.answer == Answer::None);
        let until = waited_for.map(|followed| followed.since + PATIENCE).max();
        until.filter(|until| *until > Instant::now())
    }

    fn watch(&mut self, place: Place, world: &mut World) -> impl Future<Output = ()> + use<> {
        self.id += 1;
        let id = self.id;
        let followed = Followed {
            id,
            since: Instant::now(),
            answer: Answer::None,
        };
        world.secrets.followed.insert(place.clone(), followed);
        let (api, store) = (self.api(&place.1), self.store.clone());
        let label = match place.0 {
            Input::Consumer => CONSUMER,
            Input::Broker => BROKER,
            _ => CREDENTIAL,
        };
        async move {
            let only = Only {
                labelled: Some(label),
                named: None,
            };
            let mut listing = BTreeMap::new();
            let tell = |event| {
                let mut world = store.world();
                let changed = take(&mut world, &place, id, event, &mut listing);
                drop(world);
                if changed {
                    store.nudge.send();
                }
            };
            follow(api, only, "Secret", tell).await;
        }
    }

    fn api(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<Secret>(&());
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

/// Where something refers to Secrets.
fn wanted(inputs: &Inputs) -> BTreeSet<Place> {
    let consumers = refer_to_consumers(inputs).into_iter();
    let consumers = consumers.map(|namespace| (Input::Consumer, namespace.to_owned()));
    let credentials = refer_to_credentials(inputs).into_iter();
    let credentials = credentials.map(|namespace| (Input::Credential, namespace.to_owned()));
    let brokers = refer_to_brokers(inputs).into_iter();
    let brokers = brokers.map(|namespace| (Input::Broker, namespace.to_owned()));
    consumers.chain(credentials).chain(brokers).collect()
}

/// Where they can't be read.
fn unreadable(known: &Known, wanted: &BTreeSet<Place>) -> BTreeMap<String, Unreadable> {
    let why = wanted.iter().filter_map(|place| {
        let why = match known.followed.get(place).map(|followed| followed.answer) {
            None => Unreadable::TooMany,
            Some(Answer::None) => Unreadable::Unanswered,
            Some(Answer::Forbidden) => Unreadable::Forbidden,
            Some(Answer::Read) => return None,
        };
        Some((place.1.clone(), why))
    });
    why.collect()
}

/// Whether there is something to tell.
fn take(
    world: &mut World,
    place: &Place,
    id: u64,
    event: Event<DynamicObject>,
    listing: &mut BTreeMap<ObjectKey, Arc<Secret>>,
) -> bool {
    let followed = world.secrets.followed.get_mut(place);
    let Some(followed) = followed.filter(|followed| followed.id == id) else {
        return false;
    };
    if let Event::Failed(trouble) = event {
        // What was read before holds on.
        let forbidden = trouble == Trouble::Forbidden && followed.answer != Answer::Forbidden;
        if forbidden {
            followed.answer = Answer::Forbidden;
        }
        return forbidden;
    }
    let version = version_of(&event);
    if version.is_some() {
        followed.answer = Answer::Read;
    }
    let objects = objects(&mut world.inputs, place.0);
    let mut object = |object: DynamicObject| {
        let key = key_of(&object);
        let read = read("Secret", &key, object, objects.get(&key), |_| ());
        Some((key, read.object?))
    };
    match event {
        Event::Listing => listing.clear(),
        Event::Page(page) => listing.extend(page.into_iter().filter_map(&mut object)),
        Event::Listed(_) => {
            let listed = std::mem::take(listing);
            replace(world, place, listed);
        }
        Event::Applied(applied, _) => {
            if let Some((key, secret)) = object(applied) {
                objects.insert(key, secret);
            }
        }
        Event::Deleted(deleted, _) => drop(objects.remove(&key_of(&deleted))),
        Event::Bookmark(_) | Event::Failed(_) => {}
    }
    let Some(version) = version else { return false };
    let seen = world.secrets.seen.entry(place.clone()).or_default();
    *seen = version.max(*seen);
    true
}

/// The version up to which everything was told with this.
fn version_of(event: &Event<DynamicObject>) -> Option<u64> {
    match event {
        Event::Listing | Event::Page(_) | Event::Failed(_) => None,
        Event::Listed(version)
        | Event::Applied(_, version)
        | Event::Deleted(_, version)
        | Event::Bookmark(version) => Some(*version),
    }
}

/// All Secrets of a place, instead of those that were there.
fn replace(world: &mut World, place: &Place, all: BTreeMap<ObjectKey, Arc<Secret>>) {
    let (input, namespace) = place;
    let objects = objects(&mut world.inputs, *input);
    let before = objects.range(ObjectKey::new(&**namespace, "")..);
    let before = before.map(|(key, _)| key.clone());
    let before: Vec<_> = before
        .take_while(|key| key.namespace == *namespace)
        .collect();
    for key in before {
        objects.remove(&key);
    }
    objects.extend(all);
}

fn objects(inputs: &mut Inputs, input: Input) -> &mut BTreeMap<ObjectKey, Arc<Secret>> {
    match input {
        Input::Consumer => &mut inputs.consumers,
        Input::Broker => &mut inputs.brokers,
        _ => &mut inputs.credentials,
    }
}

// === impl Known ===

impl Known {
    /// Drops what says less than what is known of all, where nothing is wanted any more.
    fn forget(&mut self, wanted: &BTreeSet<Place>, all: &Generation) {
        self.seen
            .retain(|place, seen| wanted.contains(place) || *seen > all.at(place.0));
    }

    fn seen_by_namespace(&self, all: &Generation) -> BTreeMap<String, Generation> {
        let mut seen = BTreeMap::new();
        for ((input, namespace), version) in &self.seen {
            let own = seen.entry(namespace.clone()).or_insert_with(|| {
                let known = OF_SECRETS.iter().map(|input| (*input, all.at(*input)));
                known.fold(Generation::ZERO, |own, (input, version)| {
                    own.with(input, version)
                })
            });
            *own = own.with(*input, *version);
        }
        seen
    }
}

#[cfg(test)]
mod tests;
