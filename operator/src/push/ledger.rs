//! Who holds what: the count behind `Programmed`.
//!
//! Only those who *don't* hold the newest version are kept, so that a thousand sidecars that are
//! up to date with a thousand routes cost nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use compiler::{Audience, AudienceKey, Compiled, ObjectRef};
use wire::ResourceId;
use wire::delta::Outcome;
use wire::resource::Hash;

/// Names one stream; never used again.
pub(super) type StreamId = u64;

/// Streams by what they may receive.
#[derive(Debug, Default)]
pub(super) struct Subscribers(HashMap<AudienceKey, BTreeSet<StreamId>>);

/// What is known of the resources that carry out objects which people wrote.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    resources: HashMap<ResourceId, Tracked>,
    objects: BTreeMap<ObjectRef, BTreeSet<ResourceId>>,
    /// Objects whose count may have changed since this was last taken.
    touched: BTreeSet<ObjectRef>,
}

#[derive(Debug)]
struct Tracked {
    object: ObjectRef,
    /// Of the newest version.
    hash: Hash,
    audience: Audience,
    lagging: BTreeMap<StreamId, Lagging>,
}

/// What a stream that doesn't hold the newest version has instead. A version may come back before
/// its successor was sent, and then nothing is sent or answered: hence hashes, not a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lagging {
    holds: Option<Hash>,
    refused: Option<(Hash, String)>,
}

/// Why a stream doesn't hold the newest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lag {
    /// It hasn't answered yet.
    Waiting,
    /// It refused; the reason is its own.
    Rejected(String),
}

/// How many of an object's sidecars enforce it, and who doesn't.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Count {
    /// Streams that hold all of the object's resources that they are to receive.
    pub(super) n: usize,
    /// Streams that are to receive any of them.
    pub(super) m: usize,
    /// Those of them that are to receive all of that because of what they call, and for no other reason.
    pub(super) callers: usize,
    /// The rest. A rejection of one resource outweighs waiting for another.
    pub(super) lagging: BTreeMap<StreamId, Lag>,
}

// === impl Subscribers ===

impl Subscribers {
    pub(super) fn add(&mut self, key: AudienceKey, stream: StreamId) {
        self.0.entry(key).or_default().insert(stream);
    }

    pub(super) fn remove(&mut self, key: &AudienceKey, stream: StreamId) {
        if let Some(streams) = self.0.get_mut(key) {
            streams.remove(&stream);
            if streams.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Everyone whom one of the keys means.
    pub(super) fn of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a AudienceKey>,
    ) -> BTreeSet<StreamId> {
        keys.into_iter()
            .filter_map(|key| self.0.get(key))
            .flatten()
            .copied()
            .collect()
    }

    /// Whether one of the keys means the stream.
    pub(super) fn meant(&self, keys: &Audience, stream: StreamId) -> bool {
        keys.iter().any(|key| {
            self.0
                .get(key)
                .is_some_and(|streams| streams.contains(&stream))
        })
    }

    fn count(&self, keys: &Audience) -> usize {
        let mut means = keys.iter().filter_map(|key| self.0.get(key));
        match (means.next(), means.next(), means.next()) {
            (None, _, _) => 0,
            (Some(one), None, _) => one.len(),
            // By far the most: a namespace, and those elsewhere who call one of its Services.
            (Some(one), Some(other), None) => {
                let (few, many) = match one.len() < other.len() {
                    true => (one, other),
                    false => (other, one),
                };
                many.len() + few.difference(many).count()
            }
            _ => self.of(keys).len(),
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// A resource was compiled anew, or is gone.
    pub(super) fn publish(
        &mut self,
        id: &ResourceId,
        compiled: Option<&Compiled>,
        subscribers: &Subscribers,
    ) {
        let before = self.resources.remove(id);
        if let Some(before) = &before {
            self.touched.insert(before.object.clone());
            let ids = self.objects.get_mut(&before.object);
            if ids.is_some_and(|ids| ids.remove(id) && ids.is_empty()) {
                self.objects.remove(&before.object);
            }
        }
        let Some((compiled, object)) = compiled.and_then(|c| Some((c, c.object.clone()?))) else {
            return;
        };
        let hash = compiled.resource.hash;
        let lagging = subscribers
            .of(&compiled.audience)
            .into_iter()
            .map(|stream| {
                let known = before
                    .as_ref()
                    .filter(|before| subscribers.meant(&before.audience, stream))
                    .map(|before| before.of(stream));
                (stream, known.unwrap_or_default())
            })
            .filter(|(_, lagging)| lagging.holds != Some(hash))
            .collect();
        self.touched.insert(object.clone());
        self.objects
            .entry(object.clone())
            .or_default()
            .insert(id.clone());
        let audience = compiled.audience.clone();
        self.resources.insert(
            id.clone(),
            Tracked {
                object,
                hash,
                audience,
                lagging,
            },
        );
    }

    /// A stream is to receive these: new, or its view has grown. It holds none of them, until it
    /// says otherwise.
    pub(super) fn joined<'a>(
        &mut self,
        stream: StreamId,
        ids: impl Iterator<Item = &'a ResourceId>,
    ) {
        for id in ids {
            if let Some(tracked) = self.resources.get_mut(id) {
                self.touched.insert(tracked.object.clone());
                tracked.lagging.insert(stream, Lagging::default());
            }
        }
    }

    /// A stream no longer receives these: it ended, or its view has shrunk.
    pub(super) fn left<'a>(&mut self, stream: StreamId, ids: impl Iterator<Item = &'a ResourceId>) {
        for id in ids {
            if let Some(tracked) = self.resources.get_mut(id) {
                self.touched.insert(tracked.object.clone());
                tracked.lagging.remove(&stream);
            }
        }
    }

    /// A stream has answered.
    pub(super) fn answered(
        &mut self,
        stream: StreamId,
        id: &ResourceId,
        outcome: &Outcome,
        subscribers: &Subscribers,
    ) {
        let Some(tracked) = self.resources.get_mut(id) else {
            return;
        };
        if !subscribers.meant(&tracked.audience, stream) {
            return; // it has just left the audience
        }
        let before = tracked.of(stream);
        let after = match outcome {
            Outcome::Held(hash) => Lagging {
                holds: Some(*hash),
                refused: None,
            },
            Outcome::Rejected(reason) => Lagging {
                refused: Some((tracked.hash, reason.clone())),
                ..before.clone()
            },
            Outcome::Removed => Lagging::default(),
        };
        let changed = before != after;
        if after.holds == Some(tracked.hash) {
            tracked.lagging.remove(&stream);
        } else {
            tracked.lagging.insert(stream, after);
        }
        if changed {
            self.touched.insert(tracked.object.clone());
        }
    }

    /// How many of the object's sidecars enforce it.
    pub(super) fn count(&self, object: &ObjectRef, subscribers: &Subscribers) -> Count {
        let ids = self.objects.get(object).into_iter().flatten();
        let tracked: Vec<&Tracked> = ids.filter_map(|id| self.resources.get(id)).collect();
        let mut lagging: BTreeMap<StreamId, Lag> = BTreeMap::new();
        for tracked in &tracked {
            for stream in tracked.lagging.keys() {
                let place = lagging.entry(*stream).or_insert(Lag::Waiting);
                if *place == Lag::Waiting {
                    *place = tracked.lag(*stream);
                }
            }
        }
        let audience: Audience = match tracked.as_slice() {
            [one] => one.audience.clone(),
            all => all
                .iter()
                .flat_map(|one| one.audience.iter().cloned())
                .collect(),
        };
        let m = subscribers.count(&audience);
        let is_call = |key: &AudienceKey| matches!(key, AudienceKey::Service(..));
        let callers = match audience.iter().any(is_call) {
            true => {
                let unasked: Audience = audience.into_iter().filter(|key| !is_call(key)).collect();
                m.saturating_sub(subscribers.count(&unasked))
            }
            false => 0,
        };
        Count {
            n: m.saturating_sub(lagging.len()),
            m,
            callers,
            lagging,
        }
    }

    /// The objects that are carried out, and of each the ids of its resources.
    pub(super) fn objects(&self) -> &BTreeMap<ObjectRef, BTreeSet<ResourceId>> {
        &self.objects
    }

    /// The object that a resource carries out.
    pub(super) fn object_of(&self, id: &ResourceId) -> Option<&ObjectRef> {
        Some(&self.resources.get(id)?.object)
    }

    /// Something else about these objects has changed.
    pub(super) fn touch(&mut self, objects: impl IntoIterator<Item = ObjectRef>) {
        self.touched.extend(objects);
    }

    /// Objects whose count may have changed since the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.touched)
    }

    /// Rejections that stand, for metrics.
    pub(super) fn rejections(&self) -> usize {
        let all = self.resources.values();
        all.map(|tracked| {
            let refused = |lagging: &&Lagging| tracked.refusal(lagging).is_some();
            tracked.lagging.values().filter(refused).count()
        })
        .sum()
    }
}

// === impl Tracked ===

impl Tracked {
    /// What a stream of the audience has.
    fn of(&self, stream: StreamId) -> Lagging {
        let current = || Lagging {
            holds: Some(self.hash),
            refused: None,
        };
        self.lagging.get(&stream).cloned().unwrap_or_else(current)
    }

    fn lag(&self, stream: StreamId) -> Lag {
        match self
            .lagging
            .get(&stream)
            .and_then(|lagging| self.refusal(lagging))
        {
            Some(reason) => Lag::Rejected(reason.to_owned()),
            None => Lag::Waiting,
        }
    }

    /// Why the newest version is refused, if it is.
    fn refusal<'a>(&self, lagging: &'a Lagging) -> Option<&'a str> {
        let (hash, reason) = lagging.refused.as_ref()?;
        (*hash == self.hash).then_some(reason.as_str())
    }
}
