//! Events in order: those of one key wait for one another, and for nobody else.
//!
//! What is held here was delivered by the broker and is not acknowledged. An event that fails rests here, and then goes
//! back to the broker, which counts how often it comes; its lane waits until it is done.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod model;

/// Who waits for one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Those with this value.
    Of(String),
    /// Nobody waits for this one, which stands there in its topic.
    Alone(u128),
    /// All.
    All,
}

/// What became of an event that was in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The broker has confirmed that it is done.
    Done,
    /// It went back to the broker, and comes again after so long.
    ComesAgain(Duration),
    /// It is to come again after so long, and the broker was not told: it rests here meanwhile.
    Rests(Duration),
    /// It is not known whether it comes again.
    Unknown,
}

/// Where an event is that is not done.
#[derive(Debug)]
enum Place<T> {
    Here(T),
    Begun,
    /// Until then, when it goes back to the broker, which counts how often it comes.
    Resting(T, Instant),
    /// Until then.
    Away(Instant),
}

/// The events that a member holds, in their lanes.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: HashMap<Key, BTreeMap<u128, Place<T>>>,
    /// Lanes whose first event may be here. One may stand here in vain.
    ready: VecDeque<Key>,
    held: usize,
    /// Where those stand that did not come for the first time.
    again: HashSet<u128>,
    /// Whether all that the group was delivered and is not done is held here.
    alone: bool,
}

// === impl Lanes ===

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            held: 0,
            again: HashSet::new(),
            alone: false,
        }
    }
}

impl<T> Lanes<T> {
    /// How many events are not done, those included that are at the broker and come again.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether all that the group was delivered and is not done is held here: nothing is begun before, as
    /// what another member left is older than what came since.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// The broker says how many events the group was delivered that are not done, and how many of these more than
    /// once. It was asked when all that is held here had come. Nobody else is delivered any, which is known only by who
    /// was delivered something.
    pub(super) fn counted(&mut self, unacknowledged: u64, again: u64) {
        let held = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        // What another one has in hand is not made up for by what it had and is done by now.
        let first = unacknowledged.saturating_sub(again);
        let is_here = first <= held(self.held.saturating_sub(self.again.len()))
            && again <= held(self.again.len());
        self.alone |= self.held > 0 && is_here;
    }

    /// An event came, for the how manyth time `attempt` says. What is being delivered already is not delivered beside that.
    pub(super) fn came(&mut self, key: Key, (position, attempt): (u128, u32), event: T) {
        if attempt > 1 {
            self.again.insert(position);
        }
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.get_mut(&position) {
            Some(Place::Begun) => return,
            // The one that came last has the lease.
            Some(place) => *place = Place::Here(event),
            None => {
                lane.insert(position, Place::Here(event));
                self.held += 1;
            }
        }
        let first = lane.first_key_value().map(|(first, _)| *first);
        if first == Some(position) {
            self.ready.push_back(key);
        }
    }

    /// The next that may be delivered: nothing before it in its lane is left. Lanes take turns.
    pub(super) fn begin(&mut self) -> Option<(Key, u128, T)> {
        if !self.alone {
            return None;
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(mut first) = self.lanes.get_mut(&key).and_then(BTreeMap::first_entry) else {
                continue;
            };
            let position = *first.key();
            if let Place::Here(_) = first.get()
                && let Place::Here(event) = first.insert(Place::Begun)
            {
                return Some((key, position, event));
            }
        }
        None
    }

    /// An event that was begun is done.
    pub(super) fn done(&mut self, key: &Key, position: u128) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.remove(&position).is_some() {
            self.held -= 1;
            self.again.remove(&position);
        }
        match lane.is_empty() {
            true => drop(self.lanes.remove(key)),
            false => self.ready.push_back(key.clone()),
        }
    }

    /// An event that was begun went back to the broker until then, and its lane waits for it.
    pub(super) fn went_back(&mut self, key: &Key, position: u128, until: Instant) {
        let lane = self.lanes.get_mut(key);
        if let Some(place) = lane.and_then(|lane| lane.get_mut(&position)) {
            *place = Place::Away(until);
        }
    }

    /// An event that was begun rests here until then, and its lane waits for it.
    pub(super) fn rests(&mut self, key: &Key, position: u128, event: T, until: Instant) {
        let lane = self.lanes.get_mut(key);
        if let Some(place) = lane.and_then(|lane| lane.get_mut(&position)) {
            *place = Place::Resting(event, until);
        }
    }

    /// When the first of those that rest goes back.
    pub(super) fn next_rested(&self) -> Option<Instant> {
        let places = self.lanes.values().flat_map(BTreeMap::values);
        let until = places.filter_map(|place| match place {
            Place::Resting(_, until) => Some(*until),
            _ => None,
        });
        until.min()
    }

    /// Those that have rested by now, which go back to the broker.
    pub(super) fn rested(&mut self, now: Instant) -> Vec<T> {
        let places = self.lanes.values_mut().flat_map(BTreeMap::values_mut);
        let rested = places.filter_map(|place| match place {
            Place::Resting(_, until) if *until <= now => {
                match std::mem::replace(place, Place::Away(now)) {
                    Place::Resting(event, _) => Some(event),
                    _ => None,
                }
            }
            _ => None,
        });
        rested.collect()
    }

    /// The events that wait here.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &T> {
        let places = self.lanes.values().flat_map(BTreeMap::values);
        places.filter_map(|place| match place {
            Place::Here(event) | Place::Resting(event, _) => Some(event),
            Place::Begun | Place::Away(_) => None,
        })
    }

    /// Those, when nothing is delivered any more.
    pub(super) fn into_waiting(self) -> Vec<T> {
        let places = self.lanes.into_values().flat_map(BTreeMap::into_values);
        let waiting = places.filter_map(|place| match place {
            Place::Here(event) | Place::Resting(event, _) => Some(event),
            Place::Begun | Place::Away(_) => None,
        });
        waiting.collect()
    }

    /// Whether something should have come again before that, and did not: a broker may have lost it, and its lane
    /// would wait for ever.
    pub(super) fn misses(&self, before: Instant) -> bool {
        let mut places = self.lanes.values().flat_map(BTreeMap::values);
        places.any(|place| matches!(place, Place::Away(until) if *until < before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str) -> Key {
        Key::Of(key.to_owned())
    }

    fn alone<T>() -> Lanes<T> {
        Lanes {
            alone: true,
            ..Lanes::default()
        }
    }

    fn begun<T>(lanes: &mut Lanes<T>) -> Vec<u128> {
        std::iter::from_fn(|| lanes.begin().map(|(_, position, _)| position)).collect()
    }

    #[test]
    fn an_event_waits_for_those_of_its_key_and_for_no_other() {
        let mut lanes = alone();
        for (key, position) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
            lanes.came(of(key), (position, 1), ());
        }
        lanes.came(Key::Alone(5), (5, 1), ());
        assert_eq!(begun(&mut lanes), [1, 3, 5]);
        assert_eq!(lanes.held(), 5);
        lanes.done(&of("b"), 3);
        lanes.done(&of("a"), 1);
        assert_eq!(begun(&mut lanes), [2]);
        lanes.done(&of("a"), 2);
        lanes.done(&Key::Alone(5), 5);
        assert_eq!(begun(&mut lanes), [4]);
        assert_eq!(lanes.held(), 1);
    }

    #[test]
    fn a_lane_waits_for_what_went_back_until_that_is_done() {
        let mut lanes = alone();
        lanes.came(of("a"), (1, 1), ());
        lanes.came(of("a"), (2, 1), ());
        assert_eq!(begun(&mut lanes), [1]);
        lanes.went_back(&of("a"), 1, Instant::now());
        assert!(lanes.misses(Instant::now() + Duration::from_secs(1)));
        lanes.came(of("a"), (3, 1), ());
        assert!(begun(&mut lanes).is_empty());
        assert_eq!(lanes.held(), 3);
        lanes.came(of("a"), (1, 1), ());
        assert_eq!(begun(&mut lanes), [1]);
        lanes.done(&of("a"), 1);
        assert_eq!(begun(&mut lanes), [2]);
    }

    #[test]
    fn what_comes_late_goes_before_what_followed_it() {
        let mut lanes = alone();
        lanes.came(of("a"), (7, 1), ());
        lanes.came(of("a"), (3, 1), ());
        lanes.came(of("a"), (5, 1), ());
        for position in [3, 5, 7] {
            assert_eq!(begun(&mut lanes), [position]);
            lanes.done(&of("a"), position);
        }
        assert_eq!(lanes.held(), 0);
    }

    #[test]
    fn what_comes_again_while_it_is_delivered_is_not_delivered_beside_that() {
        let mut lanes = alone();
        lanes.came(of("a"), (1, 1), "first");
        assert_eq!(begun(&mut lanes), [1]);
        lanes.came(of("a"), (1, 1), "again");
        assert!(begun(&mut lanes).is_empty());
        assert_eq!(lanes.held(), 1);
    }

    #[test]
    fn of_what_comes_twice_the_one_that_came_last_is_delivered() {
        let mut lanes = alone();
        lanes.came(of("a"), (1, 1), "first");
        lanes.came(of("a"), (1, 1), "again");
        assert_eq!(lanes.held(), 1);
        assert_eq!(lanes.begin(), Some((of("a"), 1, "again")));
        assert!(lanes.begin().is_none());
    }

    #[test]
    fn nothing_is_begun_before_all_is_here_that_others_left() {
        let mut lanes = Lanes::default();
        // Who was delivered nothing does not know whether others are.
        lanes.counted(0, 0);
        lanes.came(of("a"), (5, 1), ());
        lanes.counted(2, 0);
        assert!(begun(&mut lanes).is_empty());
        lanes.came(of("a"), (3, 2), ());
        // Of two that came for the first time another one has one, and the one that came again is done by now.
        lanes.counted(2, 0);
        assert!(begun(&mut lanes).is_empty());
        lanes.counted(2, 1);
        assert_eq!(begun(&mut lanes), [3]);
    }

    #[test]
    fn a_lane_waits_for_what_rests_and_goes_back_after_that() {
        let mut lanes = alone();
        lanes.came(of("a"), (1, 1), "first");
        lanes.came(of("a"), (2, 1), "second");
        assert_eq!(begun(&mut lanes), [1]);
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        lanes.rests(&of("a"), 1, "first", until);
        assert_eq!(lanes.next_rested(), Some(until));
        assert!(begun(&mut lanes).is_empty() && lanes.rested(now).is_empty());
        assert_eq!(lanes.waiting().count(), 2);
        assert_eq!(lanes.rested(until), ["first"]);
        assert!(begun(&mut lanes).is_empty() && lanes.next_rested().is_none());
        lanes.came(of("a"), (1, 2), "first");
        assert_eq!(begun(&mut lanes), [1]);
    }

    #[test]
    fn lanes_take_turns() {
        let mut lanes = alone();
        for position in 0..6 {
            lanes.came(of(if position < 4 { "a" } else { "b" }), (position, 1), ());
        }
        let mut order = Vec::new();
        while let Some((key, position, ())) = lanes.begin() {
            order.push(position);
            lanes.done(&key, position);
        }
        assert_eq!(order, [0, 4, 1, 5, 2, 3]);
    }
}
