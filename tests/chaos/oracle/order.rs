//! Events in order, as docs/events.md promises it of each key: none is begun before those ahead of it are done, so none
//! that came again is older than one that was begun. Only a broker that was killed may have forgotten that some are done:
//! then those come again, and after them what followed them, in order.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::Violation;
use crate::history::{Delivery, History, Id};
use crate::schedule::Fault;

/// What is known of a key when its next event comes.
#[derive(Default)]
struct Lane {
    /// When each was done, for the first time and for the last.
    done: HashMap<u32, (SystemTime, SystemTime)>,
    /// The one that came last.
    last: u32,
}

/// All that is out of order, with a broker that may have forgotten so much when it was killed; and how often a key began
/// again with what was forgotten.
pub(super) fn check(history: &History, forgets: Duration) -> (Vec<Violation>, usize) {
    let dead = || history.letters.iter().map(|one| (one.id, one.at));
    let mut lanes: HashMap<u32, Lane> = HashMap::new();
    for (id, at) in dead() {
        let lane = lanes.entry(id.key).or_default();
        let (first, last) = lane.done.entry(id.number).or_insert((at, at));
        (*first, *last) = (at.min(*first), at.max(*last));
    }
    let dead: HashMap<Id, SystemTime> = dead().collect();
    let (mut violations, mut forgotten) = (Vec::new(), 0);
    for one in &history.deliveries {
        let lane = lanes.entry(one.id.key).or_default();
        let goes_back = one.id.number < lane.last;
        let violation = lane.comes(one, &dead, (history, forgets));
        forgotten += usize::from(goes_back && violation.is_none());
        violations.extend(violation);
    }
    (violations, forgotten)
}

// === impl Lane ===

impl Lane {
    /// An event of it came.
    fn comes(
        &mut self,
        one: &Delivery,
        dead: &HashMap<Id, SystemTime>,
        (history, forgets): (&History, Duration),
    ) -> Option<Violation> {
        let key = one.id.key;
        let number = one.id.number;
        let of = |number| Id { key, number };
        let is_done = |number: u32| {
            self.done
                .get(&number)
                .is_some_and(|(first, _)| *first <= one.at)
        };
        let violation = if let Some(open) = (1..number).find(|before| !is_done(*before)) {
            Some(Violation::Overtakes(one.id, of(open)))
        } else if number < self.last {
            let is_forgotten = self.is_forgotten(one, history, forgets);
            (!is_forgotten).then(|| Violation::Returns(one.id, of(self.last)))
        } else {
            // Between the last and this one, only what may not have come again.
            let skipped = (self.last + 1..number).find(|between| !dead.contains_key(&of(*between)));
            skipped.map(|_| Violation::Skips(one.id, of(self.last)))
        };
        self.last = number;
        let at = one.ended();
        match self.done.get_mut(&number) {
            // One that comes again is done once more then, whatever became of it.
            Some((_, last)) => *last = at.max(*last),
            None if one.is_taken() => drop(self.done.insert(number, (at, at))),
            None => {}
        }
        violation
    }

    /// Whether a broker was killed that may have forgotten that this one is done.
    fn is_forgotten(&self, one: &Delivery, history: &History, forgets: Duration) -> bool {
        let Some((_, last)) = self.done.get(&one.id.number) else {
            return false;
        };
        let mut struck = history.struck.iter();
        struck.any(|struck| {
            let is_since = *last + forgets >= struck.from && struck.from <= one.at;
            struck.fault == Fault::Broker && is_since
        })
    }
}
