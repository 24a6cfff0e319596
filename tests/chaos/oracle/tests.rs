//! The oracle, asked about histories that are as promised and about others that are not.

use std::slice::from_ref;

use super::*;
use crate::history::Struck;
use crate::schedule::Cut;

const PROMISE: Promise = Promise {
    replicas: 2,
    in_flight: 2,
    most_deliveries: 3,
    tells_duplicates: true,
    forgets: Duration::from_secs(2),
    in_order: false,
};

const IN_ORDER: Promise = Promise {
    in_order: true,
    ..PROMISE
};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn id(number: u32) -> Id {
    Id { key: 1, number }
}

/// A history in which events were published and accepted.
fn published(numbers: std::ops::RangeInclusive<u32>) -> History {
    let published = numbers.map(|number| Published {
        id: id(number),
        at: at(0),
        accepted: true,
        unconfirmed: 0,
    });
    History {
        published: published.collect(),
        ..History::default()
    }
}

impl History {
    fn delivered(mut self, number: u32, second: u64, said: Said) -> Self {
        self.deliveries.push(Delivery {
            id: id(number),
            at: at(second),
            said,
            intact: true,
        });
        self
    }

    /// An event comes then, and is taken at once.
    fn taken(self, number: u32, second: u64) -> Self {
        self.delivered(number, second, Said::Taken(at(second)))
    }

    fn failed(self, number: u32, second: u64) -> Self {
        self.delivered(number, second, Said::Failed)
    }

    fn dead(mut self, number: u32, second: u64, reason: &str, attempts: u32) -> Self {
        self.letters.push(Letter {
            id: id(number),
            reason: reason.to_owned(),
            attempts,
            at: at(second),
            intact: true,
        });
        self
    }

    /// It is away for a second from then on.
    fn struck(mut self, fault: Fault, second: u64) -> Self {
        self.struck.push(Struck {
            fault,
            from: at(second),
            begun: at(second),
            until: at(second + 1),
        });
        self
    }

    fn violations(&self, promise: Promise) -> Vec<Violation> {
        judge(self, promise)
            .err()
            .map_or_else(Vec::new, |all| all.0)
    }
}

#[test]
fn a_history_that_is_as_promised_is_counted() {
    let history = published(1..=3)
        .taken(1, 1)
        .failed(2, 2)
        .failed(2, 3)
        .failed(2, 4);
    let mut history = history.dead(2, 5, "Exhausted", 3).taken(3, 6);
    // Nobody was told that this one is held, and it came or not.
    history.published.push(Published {
        id: id(4),
        at: at(0),
        accepted: false,
        unconfirmed: 1,
    });
    for promise in [PROMISE, IN_ORDER] {
        let report = judge(&history, promise);
        let expected = Report {
            accepted: 3,
            unknown: 1,
            taken: 2,
            dead: 1,
            deliveries: 5,
            again: 0,
            bound: 0,
            twice_dead: 0,
            forgotten: 0,
            faults: 0,
        };
        assert_eq!(report, Ok(expected));
    }
    assert_eq!(missing(&history), []);
}

#[test]
fn an_event_that_is_lost_is_noticed() {
    let history = published(1..=3).taken(1, 1).failed(2, 2);
    let lost = [2, 3].map(|number| Violation::Lost(id(number)));
    assert_eq!(history.violations(PROMISE), lost);
    assert_eq!(missing(&history), [id(2), id(3)]);
}

#[test]
fn what_nobody_published_and_what_is_not_as_it_was_is_noticed() {
    let history = published(1..=1).taken(1, 1);
    let invented = history.clone().taken(9, 2);
    assert_eq!(invented.violations(PROMISE), [Violation::Invented(id(9))]);
    let mut spoilt = history.clone();
    spoilt.deliveries[0].intact = false;
    assert_eq!(spoilt.violations(PROMISE), [Violation::Spoilt(id(1))]);
    let mut spoilt = published(1..=1).failed(1, 1).dead(1, 2, "Refused", 1);
    assert_eq!(spoilt.violations(PROMISE), []);
    spoilt.letters[0].intact = false;
    assert_eq!(spoilt.violations(PROMISE), [Violation::Spoilt(id(1))]);
}

#[test]
fn a_dead_letter_that_was_given_up_too_soon_is_noticed() {
    for (reason, attempts) in [("Exhausted", 2), ("Malformed", 3)] {
        let history = published(1..=1).failed(1, 1).dead(1, 2, reason, attempts);
        let condemned = Violation::Condemned(id(1), reason.to_owned(), attempts);
        assert_eq!(history.violations(PROMISE), [condemned]);
    }
    let undelivered = published(1..=1).dead(1, 2, "Refused", 1);
    let condemned = Violation::Condemned(id(1), "Refused".to_owned(), 1);
    assert_eq!(undelivered.violations(PROMISE), [condemned]);
}

#[test]
fn an_event_that_comes_again_without_a_reason_of_its_own_is_noticed() {
    let twice = published(1..=1).taken(1, 5).taken(1, 40);
    let again = |times, reasons| Violation::Again(id(1), times, reasons);
    assert_eq!(
        twice.violations(PROMISE),
        [again(1, 0), Violation::TooManyAgain(1, 0)]
    );
    // Whoever publishes has nothing in hand, and what is struck later is no reason.
    let producer = twice.clone().struck(Fault::Producer, 4);
    assert_eq!(
        producer.violations(PROMISE),
        [again(1, 0), Violation::TooManyAgain(1, 0)]
    );
    let later = twice.clone().struck(Fault::Subscriber(0), 50);
    assert_eq!(later.violations(PROMISE), [again(1, 0)]);
    let struck = twice.struck(Fault::Subscriber(0), 4);
    assert_eq!(struck.violations(PROMISE), []);
    // Nor is what was struck when the broker had heard of it long since, before or after it came again.
    for second in [9, 39] {
        let later = published(1..=1).taken(1, 5).taken(1, 40);
        let later = later.struck(Fault::Subscriber(0), second);
        assert_eq!(later.violations(PROMISE), [again(1, 0)]);
    }
    let thrice = struck.taken(1, 41);
    assert_eq!(thrice.violations(PROMISE), [again(2, 1)]);
    // What a broker holds twice comes twice.
    let mut sent = published(1..=1).taken(1, 1).taken(1, 2);
    sent.published[0].unconfirmed = 1;
    let tells_none = Promise {
        tells_duplicates: false,
        ..PROMISE
    };
    assert_eq!(sent.violations(tells_none), []);
    assert_eq!(sent.violations(PROMISE).len(), 2);
}

#[test]
fn more_that_comes_again_than_was_in_hand_is_noticed() {
    let all = |history: History| (1..=5).fold(history, |history, number| history.taken(number, 40));
    let first = (1..=5).fold(published(1..=5), |history, number| history.taken(number, 5));
    // One sidecar has two in hand, both have four.
    let too_many = |bound| vec![Violation::TooManyAgain(5, bound)];
    let killed = all(first.clone().struck(Fault::Subscriber(1), 5));
    assert_eq!(killed.violations(PROMISE), too_many(2));
    let cut = all(first.clone().struck(Fault::Network(Cut::Held), 5));
    assert_eq!(cut.violations(PROMISE), too_many(4));
    let twice = cut.struck(Fault::Application(0), 5);
    assert_eq!(twice.violations(PROMISE), []);
    // A broker that is killed forgets also what it was told just before, and no more.
    let broker = |second| all(first.clone().struck(Fault::Broker, second));
    assert_eq!(broker(6).violations(PROMISE), []);
    assert_eq!(broker(8).violations(PROMISE), too_many(4));
}

#[test]
fn a_dead_letter_that_is_there_twice_is_noticed_where_duplicates_are_told() {
    let dead = |history: History, second| history.failed(1, second).dead(1, second, "Refused", 1);
    let once = dead(published(1..=1).struck(Fault::Subscriber(0), 1), 1);
    let twice = dead(once.clone(), 40);
    assert_eq!(twice.violations(PROMISE), [Violation::TwiceDead(id(1))]);
    let tells_none = Promise {
        tells_duplicates: false,
        ..PROMISE
    };
    assert_eq!(twice.violations(tells_none), []);
    assert_eq!(dead(once, 200).violations(PROMISE), []);
}

#[test]
fn an_event_that_overtakes_another_one_is_noticed() {
    let overtakes = published(1..=2).taken(2, 1).taken(1, 2);
    assert_eq!(overtakes.violations(PROMISE), []);
    let returns = Violation::Returns(id(1), id(2));
    let first = Violation::Overtakes(id(2), id(1));
    assert_eq!(overtakes.violations(IN_ORDER), [first.clone(), returns]);
    // One that was begun and is not done, or not until then, keeps those after it.
    let open = published(1..=2).failed(1, 1).taken(2, 2).taken(1, 3);
    assert_eq!(open.violations(IN_ORDER)[0], first);
    let late = published(1..=2)
        .delivered(1, 1, Said::Taken(at(5)))
        .taken(2, 3);
    assert_eq!(late.violations(IN_ORDER)[..], *from_ref(&first));
    let dead_late = published(1..=2)
        .failed(1, 1)
        .taken(2, 2)
        .dead(1, 3, "Refused", 1);
    assert_eq!(dead_late.violations(IN_ORDER), [first]);
    let dead = published(1..=2)
        .failed(1, 1)
        .dead(1, 2, "Refused", 1)
        .taken(2, 3);
    assert_eq!(dead.violations(IN_ORDER), []);
}

#[test]
fn an_event_that_returns_after_newer_ones_is_noticed_unless_its_broker_forgot_it() {
    let all = published(1..=3).taken(1, 10).taken(2, 11).taken(3, 12);
    let returns = Violation::Returns(id(2), id(3));
    let killed = all.clone().struck(Fault::Subscriber(0), 12).taken(2, 40);
    assert_eq!(killed.violations(IN_ORDER), [returns]);
    // The last may come again.
    let last = all.clone().struck(Fault::Subscriber(0), 12).taken(3, 40);
    assert_eq!(last.violations(IN_ORDER), []);
    let forgotten = all.clone().struck(Fault::Broker, 13);
    let again = forgotten.clone().taken(2, 40).taken(3, 41);
    assert_eq!(
        judge(&again, IN_ORDER).map(|report| report.forgotten),
        Ok(1)
    );
    assert_eq!(
        forgotten
            .clone()
            .taken(2, 40)
            .taken(3, 41)
            .violations(IN_ORDER),
        []
    );
    // What was done longer ago it has not forgotten, and what followed comes again as well.
    let long_ago = forgotten.clone().taken(1, 40).taken(2, 41).taken(3, 42);
    assert_eq!(
        long_ago.violations(IN_ORDER),
        [Violation::Returns(id(1), id(3))]
    );
    let mut skips = forgotten.taken(2, 40);
    skips.published = published(1..=4).published;
    let skips = skips.taken(4, 41);
    assert_eq!(skips.violations(IN_ORDER), [Violation::Skips(id(4), id(2))]);
}
