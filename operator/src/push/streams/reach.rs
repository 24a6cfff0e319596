//! What concerns each stream, as the world changes: pods appear and go, questions have other answers,
//! and what is received leads to other Services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compiler::{Audience, AudienceKey, Compiled, ObjectKey};
use wire::ResourceId;
use wire::generation::Input;
use wire::resource::Hash;

use super::super::ledger::StreamId;
use super::super::snapshot::Snapshot;
use super::{Inner, Subscriber};

// === impl Inner ===

impl Inner {
    /// Streams of pods that appeared or went gain or lose their pods' own resources; who gained.
    pub(super) fn recheck_pods(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Vec<(StreamId, Vec<ResourceId>)> {
        let mut all_gained = Vec::new();
        // Most publications are of something else, and there may be many streams.
        if before.seen().at(Input::Pod) == after.seen().at(Input::Pod) {
            return all_gained;
        }
        let mut changed = Vec::new();
        for (id, stream) in self.streams.iter().filter(|(_, stream)| !stream.ended) {
            let ObjectKey { namespace, name } = &stream.subscriber.pod;
            let own = AudienceKey::Pod(namespace.clone(), name.clone());
            let exists = exists(&stream.subscriber, after);
            if exists != stream.keys.contains(&own) {
                let mut keys = stream.keys.clone();
                match exists {
                    true => keys.insert(own),
                    false => keys.remove(&own),
                };
                changed.push((*id, keys));
            }
        }
        for (id, keys) in changed {
            let gained = self.regroup(id, keys, before, after);
            all_gained.push((id, gained));
        }
        all_gained
    }

    /// Streams whose questions have other answers, or that are told of other Services by what they
    /// receive, gain or lose what concerns calls to those; who gained, and what.
    pub(super) fn recheck_reach(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        changed: &BTreeSet<ResourceId>,
    ) -> Vec<(StreamId, Vec<ResourceId>)> {
        let mut affected = BTreeSet::new();
        for (question, asking) in after.answered_anew(before, changed, &self.asked) {
            for id in asking {
                if let Some(stream) = self.streams.get(id) {
                    stream.mailbox.changed([question.clone()]);
                    affected.insert(*id);
                }
            }
        }
        for id in changed {
            let (old, new) = (before.get(id), after.get(id));
            let leads = |compiled: Option<&Arc<Compiled>>| {
                compiled.is_some_and(|compiled| !compiled.around.services.is_empty())
            };
            if !leads(old) && !leads(new) {
                continue;
            }
            let same = old.zip(new).is_some_and(|(old, new)| {
                old.around.services == new.around.services && old.audience == new.audience
            });
            if !same {
                let both = old.into_iter().chain(new);
                let keys = both.flat_map(|compiled| &compiled.audience);
                affected.extend(self.subscribers.of(keys));
            }
        }
        let again = affected.into_iter();
        again
            .map(|id| (id, self.reach_again(id, before, after)))
            .collect()
    }

    /// What a stream reaches, anew; answers what it has gained.
    pub(super) fn reach_again(
        &mut self,
        id: StreamId,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Vec<ResourceId> {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.ended) else {
            return Vec::new();
        };
        let of_itself = |key: &&AudienceKey| !matches!(key, AudienceKey::Service(..));
        let mut keys: Audience = stream.keys.iter().filter(of_itself).cloned().collect();
        after.reach(&mut keys, &stream.asked, &stream.subscriber.pod.namespace);
        self.regroup(id, keys, before, after)
    }

    /// Gives a stream other keys, and tells it of what it loses and gains by them; answers what it gains.
    pub(super) fn regroup(
        &mut self,
        id: StreamId,
        keys: Audience,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Vec<ResourceId> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Vec::new();
        };
        let had = std::mem::replace(&mut stream.keys, keys);
        let (lost, gained) = (had.difference(&stream.keys), stream.keys.difference(&had));
        let gone = before.ids_beside(lost.clone(), &stream.keys);
        let come = after.ids_beside(gained.clone(), &had);
        lost.for_each(|key| self.subscribers.remove(key, id));
        gained.for_each(|key| self.subscribers.add(key.clone(), id));
        let told = gone.iter().chain(&come);
        stream.mailbox.changed(told.map(|id| (*id).clone()));
        self.ledger.left(id, gone.into_iter());
        come.into_iter().cloned().collect()
    }

    pub(super) fn holds_bundle(&mut self, id: StreamId, bundle: Option<Hash>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.bundle = bundle;
        }
    }

    /// The stream is no longer told or counted.
    pub(in crate::push) fn end(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended) else {
            return;
        };
        stream.ended = true;
        stream.mailbox.close();
        self.remembered.left(&stream.owner);
        for key in &stream.keys {
            self.subscribers.remove(key, id);
            self.ledger.left(id, self.snapshot.ids(key));
        }
        stream
            .asked
            .iter()
            .for_each(|question| unask(&mut self.asked, question, id));
        let pod = (stream.subscriber.pod.clone(), stream.subscriber.uid.clone());
        if self.pods.get(&pod) == Some(&id) {
            self.pods.remove(&pod);
        }
    }
}

/// The stream is told the answer no more.
pub(super) fn unask(
    asked: &mut BTreeMap<ResourceId, BTreeSet<StreamId>>,
    question: &ResourceId,
    id: StreamId,
) {
    if let Some(asking) = asked.get_mut(question) {
        asking.remove(&id);
        if asking.is_empty() {
            asked.remove(question);
        }
    }
}

/// What a subscriber may receive. Its pod's own resources only once the pod is known to exist as
/// its certificate says: a certificate outlives its pod, and another pod may take over the name.
pub(super) fn keys(subscriber: &Subscriber, snapshot: &Snapshot) -> Audience {
    let ObjectKey { namespace, name } = &subscriber.pod;
    let mut keys = Audience::from(AudienceKey::of_pod(namespace, name));
    if !exists(subscriber, snapshot) {
        keys.remove(&AudienceKey::Pod(namespace.clone(), name.clone()));
    }
    keys
}

fn exists(subscriber: &Subscriber, snapshot: &Snapshot) -> bool {
    snapshot.pod(&subscriber.pod).is_some_and(|pod| {
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref());
        pod.metadata.uid.as_deref() == Some(&subscriber.uid)
            && account.filter(|name| !name.is_empty()).unwrap_or("default")
                == subscriber.service_account
    })
}
