//! Whatever fails, ends and begins anew, and whoever is delivered to: an event is begun only when those before it
//! with its key are done. `PROPTEST_CASES=20000` looks harder.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MEMBERS: usize = 3;
/// How many keys there are; with one, the order is global.
const KEYS: [u128; 2] = [1, 3];
const WINDOW: usize = 4;

/// A broker that delivers to one member at a time, as JetStream does.
#[derive(Default)]
struct Broker {
    published: u128,
    /// Not delivered yet, from this one on.
    next: u128,
    /// Delivered and not done: to whom, and whether it is to be delivered again.
    pending: BTreeMap<u128, (usize, bool)>,
    /// How often each was delivered.
    attempts: BTreeMap<u128, u32>,
    done: BTreeSet<u128>,
    /// Who is delivered to, and as which.
    pinned: Option<usize>,
    pins: u64,
}

/// A member, in one of its lives.
#[derive(Default)]
struct Member {
    lanes: Lanes<u128>,
    /// Delivered, and not heard of yet.
    inbox: VecDeque<(u128, u32)>,
    /// As which it was delivered something.
    pin: Option<u64>,
    begun: Vec<Begun>,
    /// It could keep no lease for so long that they have ended, which it finds before it begins or counts anything.
    lapsed: bool,
}

/// What a member delivers, also what it began before it joined anew.
struct Begun {
    key: Key,
    position: u128,
    /// Since it joined last: its end is told to the lanes.
    since: bool,
    /// It has a lease on it.
    is_ours: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Publish,
    /// A member is delivered what there is, if it is its turn.
    Pull(usize),
    /// It hears of some of what it was delivered, and asks the broker how much is not done.
    Hear(usize, usize),
    Begin(usize),
    /// One of the deliveries of a member ends; one that is exhausted is done as well, once its dead letter is held.
    Succeed(usize, usize),
    Fail(usize, usize),
    /// It is to come again later, and rests with the member until then.
    Rest(usize, usize),
    /// What rests with a member has rested, and goes back to the broker.
    Rested(usize),
    /// Nobody knows whether the broker heard.
    Vague(usize, usize, bool),
    /// A lease ends that nobody keeps any more.
    Lapse(usize),
    /// All leases of a member end, which goes on: it was cut off, or stood still.
    Cut(usize),
    Kill(usize),
    /// A member has not asked for long.
    Unpin,
}

fn any_event() -> impl Strategy<Value = Event> {
    let member = 0..MEMBERS;
    let which = 0..WINDOW;
    prop_oneof![
        4 => Just(Event::Publish),
        5 => member.clone().prop_map(Event::Pull),
        5 => (member.clone(), 1..=WINDOW).prop_map(|(m, n)| Event::Hear(m, n)),
        5 => member.clone().prop_map(Event::Begin),
        4 => (member.clone(), which.clone()).prop_map(|(m, n)| Event::Succeed(m, n)),
        2 => (member.clone(), which.clone()).prop_map(|(m, n)| Event::Fail(m, n)),
        2 => (member.clone(), which.clone()).prop_map(|(m, n)| Event::Rest(m, n)),
        2 => member.clone().prop_map(Event::Rested),
        1 => (member.clone(), which.clone(), any::<bool>())
            .prop_map(|(m, n, heard)| Event::Vague(m, n, heard)),
        3 => which.prop_map(Event::Lapse),
        1 => member.clone().prop_map(Event::Cut),
        1 => member.prop_map(Event::Kill),
        1 => Just(Event::Unpin),
    ]
}

fn key(position: u128, keys: u128) -> Key {
    match keys {
        1 => Key::All,
        keys => Key::Of((position % keys).to_string()),
    }
}

#[derive(Default)]
struct World {
    keys: u128,
    broker: Broker,
    members: Vec<Member>,
}

// === impl World ===

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish => self.broker.published += 1,
            Event::Pull(member) => self.pull(member),
            Event::Hear(member, most) => self.hear(member, most),
            Event::Begin(member) => self.begin(member),
            Event::Succeed(member, which) => {
                let Some(ended) = self.ended(member, which) else {
                    return;
                };
                if ended.is_ours {
                    self.broker.is_done(ended.position);
                }
                let member_lanes = &mut self.members[member].lanes;
                match (ended.since, ended.is_ours) {
                    (true, true) => member_lanes.done(&ended.key, ended.position),
                    // It is not acknowledged, and comes again.
                    (true, false) => self.join_anew(member),
                    (false, _) => {}
                }
            }
            Event::Fail(member, which) => {
                if let Some(ended) = self.ended(member, which) {
                    self.broker.again(ended.position);
                    if ended.since {
                        let lanes = &mut self.members[member].lanes;
                        lanes.went_back(&ended.key, ended.position, Instant::now());
                    }
                }
            }
            Event::Rest(member, which) => {
                // What was begun before it joined anew has nobody any more who keeps its lease.
                if let Some(ended) = self.ended(member, which)
                    && ended.since
                {
                    let (key, position) = (&ended.key, ended.position);
                    let lanes = &mut self.members[member].lanes;
                    lanes.rests(key, position, position, Instant::now());
                }
            }
            Event::Rested(member) => {
                for position in self.members[member].lanes.rested(Instant::now()) {
                    self.broker.again(position);
                }
            }
            Event::Vague(member, which, heard) => {
                if let Some(ended) = self.ended(member, which) {
                    if heard && ended.is_ours {
                        self.broker.is_done(ended.position);
                    }
                    if ended.since {
                        self.join_anew(member);
                    }
                }
            }
            Event::Lapse(which) => self.lapse(which),
            Event::Cut(member) => self.cut(member),
            Event::Kill(member) => self.members[member] = Member::default(),
            Event::Unpin => self.broker.pinned = None,
        }
    }

    /// A delivery ends.
    fn ended(&mut self, member: usize, which: usize) -> Option<Begun> {
        let begun = &mut self.members[member].begun;
        (!begun.is_empty()).then(|| begun.swap_remove(which % begun.len()))
    }

    /// What waits goes back, what is being delivered goes on.
    fn join_anew(&mut self, member: usize) {
        let left = std::mem::take(&mut self.members[member]);
        for position in left.lanes.waiting() {
            self.broker.again(*position);
        }
        let begun = left.begun.into_iter();
        self.members[member].begun = begun
            .map(|one| Begun {
                since: false,
                ..one
            })
            .collect();
    }

    fn lapse(&mut self, which: usize) {
        let kept = |position: &u128, member: usize| {
            let member = &self.members[member];
            let mut waiting = member.lanes.waiting();
            waiting.any(|one| one == position)
                // It takes what it was sent before its lease ends, or not at all.
                || member.inbox.iter().any(|(one, _)| one == position)
                || member.begun.iter().any(|one| one.position == *position && one.is_ours)
        };
        let pending = self.broker.pending.iter();
        let lapsed = pending.filter(|(position, (member, _))| !kept(position, *member));
        let lapsed = Vec::from_iter(lapsed.map(|(position, _)| *position));
        if let Some(position) = lapsed.get(which % lapsed.len().max(1)) {
            self.broker.again(*position);
        }
    }

    fn cut(&mut self, member: usize) {
        for (whose, again) in self.broker.pending.values_mut() {
            *again |= *whose == member;
        }
        let member = &mut self.members[member];
        member.lapsed = true;
        for one in &mut member.begun {
            one.is_ours = false;
        }
    }

    fn pull(&mut self, member: usize) {
        let own = self.members[member].pin;
        let pins_anew = match self.broker.pinned {
            Some(pinned) if pinned == member && own.is_none_or(|own| own == self.broker.pins) => {
                false
            }
            // It asks as one that it is not any more.
            _ if own.is_some() => return self.join_anew(member),
            Some(_) => return,
            None => true,
        };
        let broker = &mut self.broker;
        let mut pending = broker.pending.iter();
        let again = pending.find(|(_, (_, again))| *again);
        let next = match again.map(|(position, _)| *position) {
            Some(position) => position,
            None if broker.next < broker.published && broker.pending.len() < WINDOW => {
                broker.next += 1;
                broker.next - 1
            }
            None => return,
        };
        // Nobody is the one before there is something to deliver.
        if pins_anew {
            broker.pinned = Some(member);
            broker.pins += 1;
        }
        broker.pending.insert(next, (member, false));
        let attempt = broker.attempts.entry(next).or_default();
        *attempt += 1;
        let member = &mut self.members[member];
        member.pin = Some(broker.pins);
        member.inbox.push_back((next, *attempt));
    }

    fn hear(&mut self, member: usize, most: usize) {
        if self.members[member].lapsed {
            return self.join_anew(member);
        }
        let member = &mut self.members[member];
        let most = most.min(member.inbox.len());
        for (position, attempt) in member.inbox.drain(..most) {
            member
                .lanes
                .came(key(position, self.keys), (position, attempt), position);
        }
        if !member.lanes.is_alone() {
            let pending = self.broker.pending.keys();
            let again = pending.filter(|one| self.broker.attempts[one] > 1).count();
            let unacknowledged = self.broker.pending.len() as u64;
            member.lanes.counted(unacknowledged, again as u64);
        }
    }

    fn begin(&mut self, member: usize) {
        if self.members[member].lapsed {
            return self.join_anew(member);
        }
        let Some((key, position, _)) = self.members[member].lanes.begin() else {
            return;
        };
        let before = (0..position).filter(|other| other % self.keys == position % self.keys);
        for other in before {
            let done = self.broker.done.contains(&other);
            assert!(done, "{position} is begun before {other} is done");
        }
        self.members[member].begun.push(Begun {
            key,
            position,
            since: true,
            is_ours: true,
        });
    }

    /// Left alone, everything is done in the end.
    fn comes_to_rest(&mut self) {
        for round in 0..1_000 {
            if self.broker.done.len() as u128 == self.broker.published {
                return;
            }
            for member in 0..MEMBERS {
                // It was done by another one that was thought dead.
                let later = Instant::now() + Duration::from_secs(1);
                if round % 10 == 0 && self.members[member].lanes.misses(later) {
                    self.join_anew(member);
                }
                self.happen(Event::Rested(member));
                self.happen(Event::Pull(member));
                self.happen(Event::Hear(member, WINDOW));
                self.happen(Event::Begin(member));
                self.happen(Event::Succeed(member, 0));
                self.happen(Event::Lapse(member));
            }
        }
        panic!(
            "{:?} of {} are done",
            self.broker.done, self.broker.published
        );
    }
}

// === impl Broker ===

impl Broker {
    fn is_done(&mut self, position: u128) {
        self.pending.remove(&position);
        self.done.insert(position);
    }

    fn again(&mut self, position: u128) {
        if let Some((_, again)) = self.pending.get_mut(&position) {
            *again = true;
        }
    }
}

proptest! {
    #[test]
    fn an_event_is_begun_only_when_those_before_it_with_its_key_are_done(
        keys in prop::sample::select(&KEYS[..]),
        events in prop::collection::vec(any_event(), 1..200),
    ) {
        let mut world = World {
            keys,
            members: (0..MEMBERS).map(|_| Member::default()).collect(),
            ..World::default()
        };
        for event in events {
            world.happen(event);
        }
        world.comes_to_rest();
    }
}
