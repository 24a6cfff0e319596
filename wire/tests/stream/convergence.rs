//! Whatever is lost, repeated or late, and however replicas lag: what is held never goes back,
//! and is right in the end. `PROPTEST_CASES=20000` looks harder.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::{
    Generation, ResourceId,
    delta::{Held, View},
    generation::Input,
    resource::Hash,
};

use crate::world::{Position, REPLICAS, Replica, SIDECARS, SLOTS, Sidecar, World, universe};

/// A value that is not among those that events write.
const NOVELTY: u8 = 2;

#[derive(Clone, Debug)]
enum Event {
    /// Someone applies or deletes an object.
    Write(Input, usize, Option<u8>),
    /// A replica's watches deliver some of the writes.
    Watch {
        replica: usize,
        inputs: Vec<Input>,
        upto: u8,
    },
    /// A replica tells its streams what changed.
    Notify(usize),
    Connect {
        sidecar: usize,
        replica: usize,
    },
    Disconnect(usize),
    Restart(usize),
    Send(usize),
    Deliver(usize),
    DeliverStale(usize, usize),
    Acknowledge(usize),
    /// Send, deliver, acknowledge: what mostly happens.
    Exchange(usize),
    Refresh(usize),
    /// From now on, the sidecar rejects some resources, or none.
    Mood(usize, bool),
}

fn any_event() -> impl Strategy<Value = Event> {
    let input = prop::sample::select(&Input::ALL[..]);
    let sidecar = 0..SIDECARS;
    let replica = 0..REPLICAS;
    prop_oneof![
        4 => (input.clone(), 0..SLOTS, prop::option::weighted(0.7, 0u8..2))
            .prop_map(|(input, slot, value)| Event::Write(input, slot, value)),
        4 => (replica.clone(), prop::collection::vec(input, 1..6), 1u8..6)
            .prop_map(|(replica, inputs, upto)| Event::Watch { replica, inputs, upto }),
        3 => replica.clone().prop_map(Event::Notify),
        3 => (sidecar.clone(), replica)
            .prop_map(|(sidecar, replica)| Event::Connect { sidecar, replica }),
        1 => sidecar.clone().prop_map(Event::Disconnect),
        1 => sidecar.clone().prop_map(Event::Restart),
        3 => sidecar.clone().prop_map(Event::Send),
        3 => sidecar.clone().prop_map(Event::Deliver),
        2 => (sidecar.clone(), any::<usize>()).prop_map(|(s, n)| Event::DeliverStale(s, n)),
        3 => sidecar.clone().prop_map(Event::Acknowledge),
        6 => sidecar.clone().prop_map(Event::Exchange),
        1 => sidecar.clone().prop_map(Event::Refresh),
        1 => (sidecar, prop::bool::weighted(0.3)).prop_map(|(s, bad)| Event::Mood(s, bad)),
    ]
}

struct Mesh {
    world: World,
    replicas: Vec<Replica>,
    sidecars: Vec<Sidecar>,
    /// Whether streams learn of a change in the same moment as the view changes. Otherwise a
    /// stream may read a view whose changes it has not been told of.
    prompt: bool,
}

impl Mesh {
    fn new(prompt: bool) -> Mesh {
        Mesh {
            world: World::default(),
            replicas: (0..REPLICAS).map(|_| Replica::default()).collect(),
            sidecars: (0..SIDECARS).map(|_| Sidecar::new()).collect(),
            prompt,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(input, slot, value) => self.world.write(input, slot, value),
            Event::Watch {
                replica,
                inputs,
                upto,
            } => {
                let newest = self.world.newest();
                let mut seen = self.replicas[replica].seen;
                for input in inputs {
                    let revision = seen.at(input) + u64::from(upto);
                    seen.observe(input, revision.min(newest.at(input)));
                }
                self.watched(replica, seen);
            }
            Event::Notify(replica) => self.notify(replica),
            Event::Connect { sidecar, replica } => {
                let view = position(&self.world, &self.replicas[replica]);
                self.sidecars[sidecar].connect(replica, &view);
            }
            Event::Disconnect(sidecar) => self.sidecars[sidecar].disconnect(),
            Event::Restart(sidecar) => {
                // What it already held may not be rejected now: it was fine before.
                self.sidecars[sidecar].enforced.bad_mood = false;
                self.sidecars[sidecar].restart();
            }
            Event::Send(sidecar) => {
                self.send(sidecar);
            }
            Event::Deliver(sidecar) => {
                self.sidecars[sidecar].deliver();
            }
            Event::DeliverStale(sidecar, which) => self.sidecars[sidecar].deliver_stale(which),
            Event::Acknowledge(sidecar) => {
                self.sidecars[sidecar].acknowledge();
            }
            Event::Exchange(sidecar) => {
                self.exchange(sidecar);
            }
            Event::Refresh(sidecar) => {
                if let Some(stream) = &mut self.sidecars[sidecar].stream {
                    stream.sent.refresh();
                }
            }
            Event::Mood(sidecar, bad) => self.sidecars[sidecar].enforced.bad_mood = bad,
        }
    }

    /// A replica moves to `seen`, and marks what is different there.
    fn watched(&mut self, replica: usize, seen: Generation) {
        let before = position(&self.world, &self.replicas[replica]);
        let after = Position {
            world: &self.world,
            seen,
        };
        let changed: Vec<ResourceId> = universe()
            .filter(|id| before.get(id).map(|r| r.hash) != after.get(id).map(|r| r.hash))
            .collect();
        self.replicas[replica].seen = seen;
        self.replicas[replica].unannounced.extend(changed);
        if self.prompt {
            self.notify(replica);
        }
    }

    fn notify(&mut self, replica: usize) {
        let changed = std::mem::take(&mut self.replicas[replica].unannounced);
        for stream in self.sidecars.iter_mut().filter_map(|s| s.stream.as_mut()) {
            if stream.replica == replica {
                stream.mailbox.extend(changed.iter().cloned());
                stream.advanced = true;
            }
        }
    }

    fn send(&mut self, sidecar: usize) -> bool {
        let sidecar = &mut self.sidecars[sidecar];
        let Some(stream) = &sidecar.stream else {
            return false;
        };
        let view = position(&self.world, &self.replicas[stream.replica]);
        sidecar.send(&view)
    }

    fn exchange(&mut self, sidecar: usize) -> bool {
        let sent = self.send(sidecar);
        let delivered = self.sidecars[sidecar].deliver();
        let acknowledged = self.sidecars[sidecar].acknowledge();
        sent || delivered || acknowledged
    }

    /// Everyone catches up, and every sidecar that has no stream finds a replica. The others keep
    /// theirs, whatever has been rejected on it.
    fn quiesce(&mut self) {
        let newest = self.world.newest();
        for replica in 0..REPLICAS {
            self.watched(replica, newest);
            self.notify(replica);
        }
        for sidecar in 0..SIDECARS {
            let view = Position {
                world: &self.world,
                seen: newest,
            };
            let to = &mut self.sidecars[sidecar];
            to.enforced.bad_mood = false;
            if to.stream.is_none() {
                to.connect(0, &view);
            }
            let mut rounds = 0;
            while self.exchange(sidecar) {
                rounds += 1;
                assert!(rounds < 1000, "never comes to rest");
            }
        }
    }

    fn reconnect(&mut self) {
        for sidecar in &mut self.sidecars {
            sidecar.disconnect();
        }
    }

    /// What everyone is to hold in the end, room permitting.
    fn wanted(&self) -> BTreeMap<ResourceId, Hash> {
        let newest = Position {
            world: &self.world,
            seen: self.world.newest(),
        };
        let hash = |id: ResourceId| Some((id.clone(), newest.get(&id)?.hash));
        newest.ids().into_iter().filter_map(hash).collect()
    }
}

fn position<'a>(world: &'a World, replica: &Replica) -> Position<'a> {
    Position {
        world,
        seen: replica.seen,
    }
}

/// For each id, how new what is known of it is.
fn known(held: &Held) -> BTreeMap<ResourceId, Generation> {
    universe().map(|id| (id.clone(), held.known(&id))).collect()
}

fn check(mesh: &Mesh, sidecar: &Sidecar, before: &BTreeMap<ResourceId, Generation>) {
    let Sidecar {
        held,
        enforced,
        rejected,
        ..
    } = sidecar;
    let removals: BTreeMap<String, Generation> = held
        .clone()
        .hello()
        .holding
        .into_iter()
        .map(|holding| (holding.id, holding.generation.into()))
        .collect();
    for (id, before) in before {
        let known = held.known(id);
        assert!(
            known.covers(before),
            "{id} went back from {before} to {known}"
        );
        assert_eq!(
            held.get(id).map(|r| r.hash),
            enforced.resources.get(id).copied()
        );
        if let Some(resource) = held.get(id) {
            let real = mesh.world.compile(id, resource.generation).map(|r| r.hash);
            assert_eq!(Some(resource.hash), real, "{id} was never so");
        }
        // What is held is not only real but the present as of the newest position that the sidecar
        // has been told of: nothing that changed and changed back in between can be brought back.
        if mesh.prompt && !rejected.contains(id) {
            let floor = held.seen().of(id.kind);
            let own = removals.get(&id.to_string()).copied().unwrap_or_default();
            let as_of = if floor.covers(&own) { floor } else { own };
            let real = mesh.world.compile(id, as_of).map(|r| r.hash);
            assert_eq!(
                held.get(id).map(|r| r.hash),
                real,
                "{id} is not as of {as_of}"
            );
        }
    }
}

/// What every sidecar is at rest with: it holds what is wanted, but for what it rejected in this very
/// version. Of that, what had no room still has none.
fn check_rest(mesh: &Mesh) {
    let wanted = mesh.wanted();
    for sidecar in &mesh.sidecars {
        check(mesh, sidecar, &known(&sidecar.held));
        assert!(sidecar.held.is_complete());
        let stream = sidecar.stream.as_ref().unwrap();
        assert_eq!(stream.sent.withheld(), 0);
        for id in universe() {
            let (holds, wants) = (sidecar.enforced.resources.get(&id), wanted.get(&id));
            let had_no_room = stream.too_much.get(&id).map(|(hash, _)| hash) == wants;
            let is_rejected = stream.disliked.get(&id) == wants || had_no_room;
            let is_closed = sidecar.enforced.closed.contains(&id);
            assert!(
                !is_closed || (wants.is_some() && is_rejected),
                "{id} stays closed"
            );
            if holds == wants || stream.disliked.get(&id) == wants {
                continue;
            }
            let (hash, needs) = stream.too_much.get(&id).expect("it was not even sent");
            assert_eq!(Some(hash), wants, "{id} is not the newest version");
            let room = stream.room;
            let fits = needs.resources <= room.resources && needs.bytes <= room.bytes;
            assert!(!fits, "{id} needs {needs:?} of {room:?}");
        }
    }
}

fn check_converged(mesh: &Mesh) {
    check_rest(mesh);
    let wanted = mesh.wanted();
    for sidecar in &mesh.sidecars {
        assert_eq!(sidecar.enforced.resources, wanted);
        let sent = &sidecar.stream.as_ref().unwrap().sent;
        let held: BTreeMap<_, _> = sent.held().map(|(id, hash)| (id.clone(), *hash)).collect();
        assert_eq!(held, wanted, "what the operator believes");
    }
}

fn run(prompt: bool, events: Vec<Event>) {
    let mut mesh = Mesh::new(prompt);
    for event in events {
        let before: Vec<_> = mesh.sidecars.iter().map(|s| known(&s.held)).collect();
        mesh.happen(event);
        for (sidecar, before) in mesh.sidecars.iter().zip(&before) {
            check(&mesh, sidecar, before);
        }
    }
    mesh.quiesce();
    check_rest(&mesh);

    // Without another stream: what is left has room and is sent, though it was rejected before.
    for input in Input::ALL {
        mesh.world.write(input, SLOTS - 1, None);
    }
    mesh.quiesce();
    check_rest(&mesh);
    for sidecar in &mesh.sidecars {
        let stream = sidecar.stream.as_ref().unwrap();
        for (id, wants) in mesh.wanted() {
            let holds = sidecar.enforced.resources.get(&id);
            assert!(holds == Some(&wants) || stream.disliked.get(&id) == Some(&wants));
        }
    }

    // And what was disliked, once it changes.
    for input in Input::ALL {
        mesh.world.write(input, 0, Some(NOVELTY));
    }
    mesh.quiesce();
    check_converged(&mesh);

    mesh.reconnect();
    mesh.quiesce();
    check_converged(&mesh);
}

proptest! {
    #[test]
    fn what_is_held_never_goes_back_and_always_converges(
        events in prop::collection::vec(any_event(), 1..120),
    ) {
        run(true, events);
    }

    #[test]
    fn so_it_does_when_streams_learn_of_changes_late(
        events in prop::collection::vec(any_event(), 1..120),
    ) {
        run(false, events);
    }
}
