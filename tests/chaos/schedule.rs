//! When what is struck, as a seed says.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// For how long whatever is struck is away, at least.
const LASTS: Duration = Duration::from_millis(200);

/// Of so many faults one may last long: at most for this part of the whole, and not much longer than what a dead sidecar
/// had is kept for it.
const LONG: u32 = 8;
const PART: u32 = 6;
const LONGEST: Duration = Duration::from_secs(40);

/// What can be struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// `kill -9` of the sidecar beside one of the subscribed applications.
    Subscriber(usize),
    /// That sidecar stands still, and goes on later.
    Frozen(usize),
    /// `kill -9` of the sidecar that publishes.
    Producer,
    /// One of the subscribed applications ends at once, with what it has in hand.
    Application(usize),
    /// `kill -9` of the broker.
    Broker,
    /// `kill -9` of the sidecar beside the broker, through which all others reach it.
    BrokersSidecar,
    /// The network before the broker is cut.
    Network(Cut),
}

/// How a network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    /// Connections break, and there are none while it lasts.
    Broken,
    /// Nothing passes while it lasts; then all goes on.
    Held,
    /// What the broker says does not arrive any more, and in the end connections break.
    Answers,
    /// What is said to the broker does not arrive any more, and in the end connections break.
    Requests,
    /// Every other connection breaks, and those that follow.
    Some,
}

/// A fault at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
}

/// Faults, by their time. Whatever has one has no other meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule(pub(crate) Vec<Planned>);

/// All that can be struck.
pub(crate) const FAULTS: [Fault; 14] = [
    Fault::Subscriber(0),
    Fault::Subscriber(1),
    Fault::Frozen(0),
    Fault::Frozen(1),
    Fault::Producer,
    Fault::Application(0),
    Fault::Application(1),
    Fault::Broker,
    Fault::BrokersSidecar,
    Fault::Network(Cut::Broken),
    Fault::Network(Cut::Held),
    Fault::Network(Cut::Answers),
    Fault::Network(Cut::Requests),
    Fault::Network(Cut::Some),
];

// === impl Fault ===

impl Fault {
    /// What is away meanwhile: nothing has two faults at once.
    fn place(self) -> Self {
        match self {
            Self::Network(_) => Self::Network(Cut::Broken),
            Self::Frozen(place) => Self::Subscriber(place),
            other => other,
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// As many of these faults as there is room for when one begins each so often, and each of them before any comes again.
    pub(crate) fn draw(seed: u64, faults: &[Fault], length: Duration, each: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = length.as_millis() / each.as_millis().max(1);
        let count = usize::try_from(count).unwrap_or(usize::MAX).max(1);
        let (mut deck, mut planned) = (Vec::new(), Vec::new());
        let mut free: HashMap<Fault, Duration> = HashMap::new();
        let mut slot = Duration::ZERO;
        for _ in 0..count {
            if deck.is_empty() {
                deck = faults.to_vec();
                deck.shuffle(&mut random);
            }
            let Some(fault) = deck.pop() else {
                break;
            };
            let at = slot + each.mul_f64(random.random_range(0.0..1.0));
            let longest = match random.random_ratio(1, LONG) {
                true => LONGEST.min(length / PART),
                false => each,
            };
            let lasts = random.random_range(LASTS..=longest.max(LASTS));
            let free = free.entry(fault.place()).or_default();
            // After a moment: what was away is there before it is struck again.
            let at = at.max(*free);
            *free = at + lasts + LASTS;
            planned.push(Planned { fault, at, lasts });
            slot += each;
        }
        planned.sort_by_key(|one| one.at);
        Self(planned)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|one| {
            writeln!(
                f,
                "  at {:.1?} for {:.1?}: {:?}",
                one.at, one.lasts, one.fault
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(90);
    const EACH: Duration = Duration::from_secs(2);

    #[test]
    fn a_seed_says_all_of_a_schedule() {
        let draw = |seed| Schedule::draw(seed, &FAULTS, LENGTH, EACH);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let schedule = draw(7).0;
        assert_eq!(schedule.len(), 45);
        for fault in FAULTS {
            let times = schedule.iter().filter(|one| one.fault == fault).count();
            assert!(times >= 2, "{fault:?} comes {times} times");
        }
    }

    #[test]
    fn nothing_is_struck_again_before_it_is_back() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, &FAULTS, LENGTH, EACH).0;
            for (place, one) in schedule.iter().enumerate() {
                let same = |other: &&Planned| other.fault.place() == one.fault.place();
                let next = schedule[place + 1..].iter().find(same);
                assert!(
                    next.is_none_or(|next| next.at > one.at + one.lasts),
                    "{seed}"
                );
            }
        }
    }
}
