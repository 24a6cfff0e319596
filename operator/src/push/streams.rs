//! Every stream there is, and who of them is told what.

mod reach;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use compiler::{Audience, AudienceKey, Compiled, Inputs, ObjectKey, ObjectRef, Output};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::delta::{Outcome, Sent, View};
use wire::generation::Input;
use wire::lookup::MAX_LOOKUPS;
use wire::resource::Hash;
use wire::server::Mailbox;
use wire::{Kind, ResourceId};

use super::ledger::{Lag, Ledger, StreamId, Subscribers};
use super::remembered::{Owner, Remembered};
use super::reports::Reported;
use super::snapshot::{Asked, Snapshot, StreamView};
use reach::{keys, unask};

/// The most streams at once, however much memory there is: each costs some 40 KiB (docs/performance.md) and a
/// place in every publication.
pub const MAX_STREAMS: usize = 10_000;
/// How many sidecars are named where some are.
pub(crate) const NAMED: usize = 10;

/// All streams. Cheap to share.
#[derive(Debug, Default)]
pub struct Streams {
    inner: Mutex<Inner>,
    /// An object's count may have changed.
    touched: Notify,
    /// Streams have begun or ended, or pods have come or gone: counted.
    pub(super) comings: watch::Sender<u64>,
    /// How many streams there is room for; unknown, [`MAX_STREAMS`].
    room: Option<usize>,
}

/// Whom a stream serves, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Namespace and name.
    pub pod: ObjectKey,
    /// Tells a pod from its predecessor of the same name.
    pub uid: String,
    /// The pod's service account.
    pub service_account: String,
    /// When the certificate ends, and the stream with it.
    pub expires: SystemTime,
}

/// How far an object has come on its way to the sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Sidecars that enforce the object's newest form.
    pub n: usize,
    /// Sidecars that should.
    pub m: usize,
    /// How many of those that should are told of it because they call it from another namespace.
    pub callers: usize,
    /// Some that haven't answered yet, as `namespace/pod`; ten at most.
    pub waiting: Vec<String>,
    /// Some that refuse, as `namespace/pod`, and why; ten at most.
    pub rejected: Vec<(String, String)>,
    /// How many of those that should are connected to no replica.
    pub absent: usize,
    /// Some of them, as `namespace/pod`; ten at most.
    pub absentees: Vec<String>,
    /// Replicas that have read another form of the object than this one, with sidecars of which it
    /// is not known whether the object concerns them.
    pub behind: usize,
}

/// Why a stream can't begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("this replica serves {0} streams already; try another one")]
    Full(usize),
    #[error("this replica of the operator is going away")]
    Closed,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) streams: HashMap<StreamId, Stream>,
    /// The newest stream of each pod, by its key and UID: who has the certificate of a pod that is
    /// no more must not end the stream of the one that has its name now.
    pub(super) pods: HashMap<(ObjectKey, String), StreamId>,
    pub(super) subscribers: Subscribers,
    pub(super) ledger: Ledger,
    /// Who asked, by ids of kind Lookup.
    asked: BTreeMap<ResourceId, BTreeSet<StreamId>>,
    remembered: Remembered,
    last: StreamId,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) subscriber: Subscriber,
    keys: Audience,
    /// What it wants to be told beside, by ids of kind Lookup.
    asked: Asked,
    /// Whose pods call the same.
    owner: Owner,
    mailbox: Arc<Mailbox>,
    /// When it began.
    pub(super) since: Instant,
    /// The trust bundle that it holds.
    bundle: Option<Hash>,
    /// How it goes with what it is sent.
    pub(super) reports: Reported,
    /// A newer stream of the pod has taken its place. Until its task has noticed, it keeps its
    /// keys: with fewer, its view would look as if resources had been removed.
    ended: bool,
}

// === impl Streams ===

impl Streams {
    /// None yet, and room for so many at once, [`MAX_STREAMS`] at most.
    pub fn with_room(streams: usize) -> Streams {
        Streams {
            room: Some(streams.min(MAX_STREAMS)),
            ..Streams::default()
        }
    }

    /// Publishes what was compiled, and wakes the streams that it concerns.
    pub fn publish(&self, inputs: &Inputs, output: &Output) {
        let mut inner = self.lock();
        let before = inner.snapshot.clone();
        let after = Arc::new(before.next(inputs, output));
        inner.snapshot = after.clone();
        let inner = &mut *inner;
        let mut gained = inner.recheck_pods(&before, &after);
        gained.extend(inner.recheck_reach(&before, &after, &output.changed));
        let mut told: HashMap<StreamId, Vec<ResourceId>> = HashMap::new();
        for id in &output.changed {
            let old = before.get(id).map(|old| &old.audience);
            let new = after.get(id);
            // Whoever received it must hear that it no longer does.
            let keys = old
                .into_iter()
                .chain(new.map(|new| &new.audience))
                .flatten();
            for stream in inner.subscribers.of(keys) {
                told.entry(stream).or_default().push(id.clone());
            }
            inner
                .ledger
                .publish(id, new.map(|new| &**new), &inner.subscribers);
        }
        for (stream, ids) in gained {
            inner.ledger.joined(stream, ids.iter());
        }
        let advanced = !before.has_seen_the_same(&after);
        for (id, stream) in &inner.streams {
            if let Some(ids) = told.remove(id) {
                stream.mailbox.changed(ids);
            }
            if advanced {
                stream.mailbox.advanced();
            }
        }
        match before.seen().at(Input::Pod) == after.seen().at(Input::Pod) {
            true => self.touched.notify_one(),
            false => self.tell_comings(),
        }
    }

    /// Begins a stream that serves `subscriber`: from now on its changes go to `mailbox`. An older
    /// stream of the same pod ends: its connection is dead, or soon will be.
    pub(super) fn join(
        &self,
        subscriber: Subscriber,
        mailbox: Arc<Mailbox>,
    ) -> Result<StreamId, Refused> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refused::Closed);
        }
        let pod = (subscriber.pod.clone(), subscriber.uid.clone());
        if let Some(older) = inner.pods.get(&pod).copied() {
            inner.end(older);
        }
        // Those that have ended are on their way out: however often a pod calls, it takes one place.
        let room = self.room.unwrap_or(MAX_STREAMS);
        if inner.pods.len() >= room {
            return Err(Refused::Full(room));
        }
        inner.last += 1;
        let id = inner.last;
        let owner = Owner::of(&subscriber, inner.snapshot.pod(&subscriber.pod));
        // What others of its Deployment call it will call too.
        let asked: Asked = Arc::new(inner.remembered.joined(&owner));
        for question in &*asked {
            let asking = inner.asked.entry(question.clone()).or_default();
            asking.insert(id);
        }
        let mut keys = keys(&subscriber, &inner.snapshot);
        let namespace = &subscriber.pod.namespace;
        inner.snapshot.reach(&mut keys, &asked, namespace);
        for key in &keys {
            inner.subscribers.add(key.clone(), id);
        }
        let view = StreamView {
            snapshot: inner.snapshot.clone(),
            keys: keys.clone(),
            asked: asked.clone(),
        };
        inner.ledger.joined(id, view.ids().iter());
        inner.pods.insert(pod, id);
        inner.streams.insert(
            id,
            Stream {
                subscriber,
                keys,
                asked,
                owner,
                mailbox,
                since: Instant::now(),
                bundle: None,
                reports: Reported::new(),
                ended: false,
            },
        );
        self.tell_comings();
        Ok(id)
    }

    /// What is said of some objects may have changed.
    pub(super) fn tell_touched(&self) {
        self.touched.notify_one();
    }

    /// The newest of what a stream may receive.
    pub(super) fn view(&self, id: StreamId) -> StreamView {
        let inner = self.lock();
        let stream = inner.streams.get(&id);
        StreamView {
            snapshot: inner.snapshot.clone(),
            keys: stream.map(|stream| stream.keys.clone()).unwrap_or_default(),
            asked: stream
                .map(|stream| stream.asked.clone())
                .unwrap_or_default(),
        }
    }

    /// A stream wants these answers, and no longer those; it has them, and what they lead to, in its view
    /// from now on. Of more than [`MAX_LOOKUPS`] the rest is not answered.
    pub(super) fn asked(&self, id: StreamId, wanted: Vec<ResourceId>, unwanted: &[ResourceId]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(stream) = inner.streams.get_mut(&id).filter(|stream| !stream.ended) else {
            return;
        };
        let mut asked = BTreeSet::clone(&stream.asked);
        let mut changed = Vec::new();
        for question in unwanted {
            if asked.remove(question) {
                changed.push(question.clone());
                unask(&mut inner.asked, question, id);
            }
        }
        for question in wanted {
            if asked.len() < MAX_LOOKUPS && asked.insert(question.clone()) {
                let asking = inner.asked.entry(question.clone()).or_default();
                asking.insert(id);
                changed.push(question);
            }
        }
        if changed.is_empty() {
            return;
        }
        stream.asked = Arc::new(asked);
        let wanted = changed.iter().filter(|id| stream.asked.contains(*id));
        let wanted: Vec<_> = wanted.cloned().collect();
        let owner = stream.owner.clone();
        inner.remembered.note(owner, &wanted, unwanted);
        stream.mailbox.changed(changed);
        let snapshot = inner.snapshot.clone();
        let gained = inner.reach_again(id, &snapshot, &snapshot);
        inner.ledger.joined(id, gained.iter());
        self.touched.notify_one();
    }

    /// The stream's sidecar is older than questions are: it is told of every Service unasked, and of no
    /// answers, which it could not read.
    pub(super) fn cannot_ask(&self, id: StreamId) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(stream) = inner.streams.get_mut(&id).filter(|stream| !stream.ended) else {
            return;
        };
        let keys = stream.keys.iter();
        let keys = keys.filter(|key| !matches!(key, AudienceKey::Service(..)));
        let mut keys: Audience = keys.cloned().collect();
        keys.insert(AudienceKey::AnyService);
        // What others of its Deployment asked for stays remembered: those that are newer want it.
        for question in &*std::mem::take(&mut stream.asked) {
            unask(&mut inner.asked, question, id);
        }
        let snapshot = inner.snapshot.clone();
        let gained = inner.regroup(id, keys, &snapshot, &snapshot);
        inner.ledger.joined(id, gained.iter());
        self.touched.notify_one();
    }

    /// A stream has said what it holds.
    pub(super) fn opened(&self, id: StreamId, sent: &Sent) {
        let mut inner = self.lock();
        let held = sent.held();
        let held = held.filter(|(resource, _)| resource.kind == Kind::Identity);
        inner.holds_bundle(id, held.last().map(|(_, hash)| *hash));
        let Inner {
            ledger,
            subscribers,
            ..
        } = &mut *inner;
        for (resource, hash) in sent.held() {
            ledger.answered(id, resource, &Outcome::Held(*hash), subscribers);
        }
        self.touched.notify_one();
    }

    /// A stream has answered.
    pub(super) fn answered(&self, id: StreamId, outcomes: &[(ResourceId, Outcome)]) {
        let mut inner = self.lock();
        let Inner {
            ledger,
            subscribers,
            streams,
            ..
        } = &mut *inner;
        for (resource, outcome) in outcomes {
            if let (Kind::Identity, Outcome::Held(hash)) = (resource.kind, outcome)
                && let Some(stream) = streams.get_mut(&id)
            {
                stream.bundle = Some(*hash);
            }
            ledger.answered(id, resource, outcome, subscribers);
        }
        self.touched.notify_one();
    }

    /// A stream has ended.
    pub(super) fn leave(&self, id: StreamId) {
        let mut inner = self.lock();
        inner.end(id);
        inner.streams.remove(&id);
        self.tell_comings();
    }

    /// Ends the streams whose certificate has ended: a sidecar that renews has a newer one.
    pub fn end_expired(&self, now: SystemTime) {
        let mut inner = self.lock();
        let expired = |stream: &Stream| !stream.ended && stream.subscriber.expires <= now;
        let ids: Vec<_> = inner
            .streams
            .iter()
            .filter(|(_, s)| expired(s))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            inner.end(id);
        }
        self.tell_comings();
    }

    /// Ends every stream, and those that still come.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        for stream in inner.streams.values() {
            stream.mailbox.close();
        }
    }

    /// How far an object has come.
    pub fn programmed(&self, object: &ObjectRef) -> Programmed {
        let inner = self.lock();
        let count = inner.ledger.count(object, &inner.subscribers);
        let mut programmed = Programmed {
            n: count.n,
            m: count.m,
            callers: count.callers,
            ..Programmed::default()
        };
        for (id, lag) in &count.lagging {
            let Some(stream) = inner.streams.get(id) else {
                continue;
            };
            let pod = || stream.subscriber.pod.to_string();
            match lag {
                Lag::Waiting if programmed.waiting.len() < NAMED => programmed.waiting.push(pod()),
                Lag::Rejected(reason) if programmed.rejected.len() < NAMED => {
                    programmed.rejected.push((pod(), reason.clone()));
                }
                _ => {}
            }
        }
        programmed
    }

    /// What is to be said of these objects has changed.
    pub fn touch(&self, objects: impl IntoIterator<Item = ObjectRef>) {
        self.lock().ledger.touch(objects);
        self.touched.notify_one();
    }

    /// Waits until what is to be said of some objects may have changed, and names them. For one
    /// caller; cancel safe.
    pub async fn touched(&self) -> BTreeSet<ObjectRef> {
        loop {
            let touched = self.lock().ledger.take_touched();
            if !touched.is_empty() {
                return touched;
            }
            self.touched.notified().await;
        }
    }

    /// How many streams have not acknowledged the trust bundle of that revision; `None` when it was
    /// not published to them yet.
    pub fn without_bundle(&self, revision: u64) -> Option<usize> {
        let inner = self.lock();
        if inner.snapshot.seen().at(Input::Settings) < revision {
            return None;
        }
        let everyone = inner.snapshot.ids(&AudienceKey::Everyone);
        let mut bundles = everyone.filter(|id| id.kind == Kind::Identity);
        let bundle = inner.snapshot.get(bundles.next()?)?.resource.hash;
        let lacks = |stream: &&Stream| !stream.ended && stream.bundle != Some(bundle);
        Some(inner.streams.values().filter(lacks).count())
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.lock().pods.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many resources are published, of every audience together.
    pub fn resources(&self) -> usize {
        self.lock().snapshot.len()
    }

    /// What was last published.
    pub fn published(&self) -> BTreeMap<ResourceId, Arc<Compiled>> {
        self.lock().snapshot.resources().clone()
    }

    /// How many rejections stand: a resource and a sidecar each.
    pub fn rejections(&self) -> usize {
        self.lock().ledger.rejections()
    }

    /// Wakes who keeps track of streams and pods, and of counts.
    pub(super) fn tell_comings(&self) {
        self.comings
            .send_modify(|count| *count = count.wrapping_add(1));
        self.touched.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it is held would be a bug in a few lines of index keeping; the streams
        // that others use are better served with what is there than not at all.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
