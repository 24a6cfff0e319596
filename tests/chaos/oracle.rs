//! What must be so of every history, whatever was struck: what docs/events.md promises, and no more.

mod order;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::history::{Delivery, History, Id, Letter, Published, Said};
use crate::schedule::Fault;

/// For how long a broker that tells duplicates does.
const TELLS: Duration = Duration::from_secs(120);

/// How long after it was done the broker may not have heard so: what is struck later is no reason that it comes again.
pub(crate) const HEARS: Duration = Duration::from_secs(3);

/// Violations that are told; the rest is counted.
const TOLD: usize = 20;

/// What is promised of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// How many sidecars share the work, and how many events each may have in hand.
    pub(crate) replicas: usize,
    pub(crate) in_flight: usize,
    /// Deliveries after which an event that fails is exhausted.
    pub(crate) most_deliveries: u32,
    /// Whether the broker holds what is published twice once.
    pub(crate) tells_duplicates: bool,
    /// Of how much time before it is killed the broker may have forgotten what it was told of deliveries.
    pub(crate) forgets: Duration,
    /// Whether events of a key are delivered in order.
    pub(crate) in_order: bool,
}

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// It was answered 202, and was neither taken nor is it a dead letter.
    Lost(Id),
    /// Nobody published it.
    Invented(Id),
    /// Its data are others than those that were published.
    Spoilt(Id),
    /// It became a dead letter for no reason: the reason, and after how many deliveries.
    Condemned(Id, String, u32),
    /// It came again oftener than it was given reason to: how often, and for how many reasons.
    Again(Id, usize, usize),
    /// Its dead letter is there twice, in a topic that tells duplicates.
    TwiceDead(Id),
    /// Events came again oftener than all that was in hand when something was struck: how often, and how often they may.
    TooManyAgain(usize, usize),
    /// The first was begun when the second, which is before it with its key, was not done.
    Overtakes(Id, Id),
    /// The first came again after the second, and nothing was struck for which it may.
    Returns(Id, Id),
    /// The first followed on the second, which had come again, when one between them had not.
    Skips(Id, Id),
}

/// What a history was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) accepted: usize,
    /// Sent and never answered 202.
    pub(crate) unknown: usize,
    pub(crate) taken: usize,
    pub(crate) dead: usize,
    pub(crate) deliveries: usize,
    /// Deliveries of what somebody had taken, or of what was a dead letter; and how many there may be.
    pub(crate) again: usize,
    pub(crate) bound: usize,
    /// Dead letters of what has one already.
    pub(crate) twice_dead: usize,
    /// In order: how often a key began again with what a killed broker had forgotten.
    pub(crate) forgotten: usize,
    pub(crate) faults: usize,
}

/// What a history says of one event.
#[derive(Default)]
struct Story<'h> {
    published: Option<&'h Published>,
    deliveries: Vec<&'h Delivery>,
    letters: Vec<&'h Letter>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violations(pub(crate) Vec<Violation>);

/// Whether a history is as promised.
///
/// # Errors
/// With all that is not.
pub(crate) fn judge(history: &History, promise: Promise) -> Result<Report, Violations> {
    let stories = stories(history);
    let mut violations = Vec::new();
    for (id, story) in &stories {
        story.check(*id, history, promise, &mut violations);
    }
    let mut report = report(&stories, history, promise);
    if report.again > report.bound {
        violations.push(Violation::TooManyAgain(report.again, report.bound));
    }
    if promise.in_order {
        let (out_of_order, forgotten) = order::check(history, promise.forgets);
        violations.extend(out_of_order);
        report.forgotten = forgotten;
    }
    match violations.is_empty() {
        true => Ok(report),
        false => Err(Violations(violations)),
    }
}

/// Those that were answered 202 and are not done yet.
pub(crate) fn missing(history: &History) -> Vec<Id> {
    let stories = stories(history);
    let missing = stories.iter().filter(|(_, story)| story.is_lost());
    missing.map(|(id, _)| *id).collect()
}

fn stories(history: &History) -> BTreeMap<Id, Story<'_>> {
    let mut stories: BTreeMap<Id, Story<'_>> = BTreeMap::new();
    for one in &history.published {
        stories.entry(one.id).or_default().published = Some(one);
    }
    for one in &history.deliveries {
        stories.entry(one.id).or_default().deliveries.push(one);
    }
    for one in &history.letters {
        stories.entry(one.id).or_default().letters.push(one);
    }
    stories
}

fn report(stories: &BTreeMap<Id, Story<'_>>, history: &History, promise: Promise) -> Report {
    let count = |is: fn(&Story<'_>) -> bool| stories.values().filter(|one| is(one)).count();
    let again = stories.values().map(|one| one.again().len()).sum();
    Report {
        accepted: count(|one| one.is_accepted()),
        unknown: count(|one| one.published.is_some() && !one.is_accepted()),
        taken: count(|one| one.is_taken()),
        dead: count(|one| !one.letters.is_empty()),
        deliveries: history.deliveries.len(),
        again,
        bound: bound(history, promise),
        twice_dead: stories
            .values()
            .map(|one| one.letters.len().saturating_sub(1))
            .sum(),
        forgotten: 0,
        faults: history.struck.len(),
    }
}

/// How often events may come again that are done. Whoever is struck has so many in hand, and the broker may not have heard
/// of them; of a broker that is killed also what it had heard and not written down. What a broker holds twice comes twice.
fn bound(history: &History, promise: Promise) -> usize {
    let all = promise.replicas * promise.in_flight;
    let struck = history.struck.iter().map(|struck| match struck.fault {
        Fault::Producer => 0,
        Fault::Subscriber(_) | Fault::Frozen(_) | Fault::Application(_) => promise.in_flight,
        Fault::BrokersSidecar | Fault::Network(_) => all,
        Fault::Broker => {
            let ended = history.deliveries.iter().filter(|one| {
                let since = struck.from - promise.forgets;
                one.at <= struck.begun && one.said != Said::Nothing && one.ended() >= since
            });
            all + ended.count()
        }
    });
    let twice = history.published.iter().map(|one| one.unconfirmed);
    let twice = match promise.tells_duplicates {
        true => 0,
        false => twice.sum(),
    };
    struck.sum::<usize>() + twice
}

// === impl Story ===

impl Story<'_> {
    fn check(&self, id: Id, history: &History, promise: Promise, violations: &mut Vec<Violation>) {
        if self.is_lost() {
            violations.push(Violation::Lost(id));
        }
        if self.published.is_none() {
            violations.push(Violation::Invented(id));
        }
        let spoilt = self.deliveries.iter().any(|one| !one.intact);
        if spoilt || self.letters.iter().any(|one| !one.intact) {
            violations.push(Violation::Spoilt(id));
        }
        for letter in &self.letters {
            let is_due = match &*letter.reason {
                "Refused" => true,
                "Exhausted" => letter.attempts >= promise.most_deliveries,
                _ => false,
            };
            // Nothing is refused by whom it has never come to.
            if !is_due || self.deliveries.is_empty() {
                let (reason, attempts) = (letter.reason.clone(), letter.attempts);
                violations.push(Violation::Condemned(id, reason, attempts));
            }
        }
        let mut times = Vec::from_iter(self.letters.iter().map(|one| one.at));
        times.sort();
        let close = |pair: &[SystemTime]| pair[1] < pair[0] + TELLS;
        if promise.tells_duplicates && times.windows(2).any(close) {
            violations.push(Violation::TwiceDead(id));
        }
        self.check_again(id, history, promise, violations);
    }

    /// Each time that it comes again once it is done has a reason of its own.
    fn check_again(
        &self,
        id: Id,
        history: &History,
        promise: Promise,
        violations: &mut Vec<Violation>,
    ) {
        let Some(published) = self.published else {
            return;
        };
        let twice = match promise.tells_duplicates {
            true => 0,
            false => published.unconfirmed,
        };
        for (place, again) in self.again().into_iter().enumerate() {
            let done = self.done_before(again) + HEARS.max(promise.forgets);
            let struck = history.struck.iter().filter(|one| {
                let is_there = one.until >= published.at && one.from <= again.at.min(done);
                one.fault != Fault::Producer && is_there
            });
            let reasons = struck.count() + twice;
            if place >= reasons {
                return violations.push(Violation::Again(id, place + 1, reasons));
            }
        }
    }

    fn is_accepted(&self) -> bool {
        self.published.is_some_and(|one| one.accepted)
    }

    fn is_taken(&self) -> bool {
        self.deliveries.iter().any(|one| one.is_taken())
    }

    fn is_lost(&self) -> bool {
        self.is_accepted() && !self.is_taken() && self.letters.is_empty()
    }

    /// When it was done last, before it came again.
    fn done_before(&self, again: &Delivery) -> SystemTime {
        let before = self
            .deliveries
            .iter()
            .filter(|one| one.at <= again.at && one.is_taken());
        let taken = before
            .filter(|one| !std::ptr::eq(**one, again))
            .map(|one| one.ended());
        let dead = self.letters.iter().map(|one| one.at);
        let done = taken.chain(dead.filter(|at| *at <= again.at)).max();
        done.unwrap_or(again.at)
    }

    /// The deliveries after one that was taken, or after it was a dead letter.
    fn again(&self) -> Vec<&Delivery> {
        let first = self.deliveries.iter().position(|one| one.is_taken());
        let dead = self.letters.iter().map(|one| one.at).min();
        let all = self.deliveries.iter().enumerate();
        let again = all.filter(|(place, one)| {
            first.is_some_and(|first| *place > first) || dead.is_some_and(|dead| one.at > dead)
        });
        again.map(|(_, one)| *one).collect()
    }
}

// === impl Delivery ===

impl Delivery {
    fn is_taken(&self) -> bool {
        matches!(self.said, Said::Taken(_))
    }

    /// When it was answered, as far as that is known.
    fn ended(&self) -> SystemTime {
        match self.said {
            Said::Taken(at) => at,
            Said::Failed | Said::Nothing => self.at,
        }
    }
}

// === impl Violations ===

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violations:", self.0.len())?;
        let mut told = self.0.iter().take(TOLD);
        told.try_for_each(|one| write!(f, "\n  {one:?}"))
    }
}

// === impl Report ===

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} accepted ({} unknown), {} taken, {} dead letters ({} twice), {} deliveries, of which {} of what was done \
             (at most {}), {} keys begun again, {} faults",
            self.accepted,
            self.unknown,
            self.taken,
            self.dead,
            self.twice_dead,
            self.deliveries,
            self.again,
            self.bound,
            self.forgotten,
            self.faults
        )
    }
}
