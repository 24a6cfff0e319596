//! What one sidecar alone does at a time, whoever dies: who may, as a plain function of what is kept.
//!
//! Any replica of the operator decides, by a [`Record`] that it has read, and its answer counts once the
//! record that follows from it is kept in place of the one it was read from, and of no other. So the store decides
//! between replicas. Each holder has a greater token than those before it, which what it says later must bear.
//!
//! Nobody's clock is compared with anybody else's. A holder takes what it holds for lost [`HOLD`] after it
//! *began* to claim it; another one gets it when nobody has claimed it for [`LIFE`] while somebody looked on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::discovery::{Claim, Grant, Run};

/// For how long a claim is granted, from when the sidecar began to ask.
pub const HOLD: Duration = Duration::from_secs(10);
/// For how long nobody else gets it, from when the operator noticed the last claim.
pub const LIFE: Duration = Duration::from_secs(15);
/// When a holder asks again.
pub const RENEW: Duration = Duration::from_secs(4);
/// When others ask whether somebody still holds it.
pub const LOOK: Duration = Duration::from_secs(5);
/// When somebody asks again who was ahead of the operator.
const SOON: Duration = Duration::from_secs(1);
/// How far ahead of the operator's clock a sidecar's may be.
const AHEAD_MS: i64 = 2_000;

/// The most claims in one message.
pub const MAX_CLAIMS: usize = 64;
/// The most bytes of such a message.
pub const MAX_CLAIMS_BYTES: usize = 128 * 1024;
/// The most that is begun and not done at a time.
pub const MAX_OPEN: usize = 100;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The form of what is claimed.
    pub form: String,
    /// Who holds it: a pod.
    pub holder: Option<String>,
    /// Which of the pod's tasks.
    pub owner: u64,
    /// Counts holders.
    pub token: u64,
    /// Up to where all has begun: milliseconds of Unix time.
    pub begun_ms: i64,
    /// What is not done: when it was due, and how often it was tried.
    pub open: Vec<(i64, u32)>,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// What is claimed.
    pub claim: &'q Claim,
    /// Who claims it, as its certificate proves.
    pub pod: &'q str,
    /// The form that was published.
    pub form: &'q str,
    /// Since when something may be due: milliseconds of Unix time; now, when it is not known.
    pub since_ms: Option<i64>,
    /// Milliseconds of Unix time.
    pub now_ms: i64,
    /// Whether nobody has claimed what is kept for [`LIFE`].
    pub is_over: bool,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// As it is kept. Somebody may have written meanwhile: what says that it is somebody's must not be old.
    Answer(Grant),
    /// This is to be kept instead, and then the answer counts.
    Keep(Record, Grant),
}

// === decide ===

/// Decides about a claim by what is kept; `None`: nothing is.
pub fn decide(kept: Option<&Record>, question: &Question<'_>) -> Decision {
    let claim = question.claim;
    let refused = |record: &Record, again: Duration| Grant {
        number: claim.number,
        begun_ms: record.begun_ms,
        again_ms: millis(again),
        ..Grant::default()
    };
    let mut record = kept.cloned().unwrap_or_else(|| Record {
        form: question.form.to_owned(),
        begun_ms: question.since_ms.unwrap_or(question.now_ms),
        ..Record::default()
    });
    if claim.form != question.form {
        // One of the two has not heard of the other yet.
        return Decision::Answer(refused(&record, SOON));
    }
    if record.form != question.form {
        record.form = question.form.to_owned();
        record.begun_ms = record.begun_ms.max(question.now_ms);
    }
    let own = record.holder.as_deref() == Some(question.pod) && record.owner == claim.owner;
    let decided = match (own, record.holder.is_some() && !question.is_over) {
        // What was granted before the answer was lost is granted again.
        (true, _) if claim.token == record.token || claim.token == 0 => {
            Some(renewed(&mut record, question))
        }
        (_, true) => None,
        (_, false) => Some(taken(&mut record, question)),
    };
    let grant = match decided {
        Some(true) => Grant {
            number: claim.number,
            token: record.token,
            hold_ms: millis(HOLD),
            begun_ms: record.begun_ms,
            open: record.runs(),
            again_ms: 0,
        },
        Some(false) => {
            let ahead = claim.begin_ms.is_some_and(|due| due > latest(question));
            refused(&record, if ahead { SOON } else { Duration::ZERO })
        }
        None => refused(&record, LOOK),
    };
    // Whoever holds it is seen to do so.
    match decided == Some(true) || kept != Some(&record) {
        true => Decision::Keep(record, grant),
        false => Decision::Answer(grant),
    }
}

/// What a holder says of what it holds; whether it still does.
fn renewed(record: &mut Record, question: &Question<'_>) -> bool {
    let claim = question.claim;
    if claim.token != 0 {
        record.open.retain_mut(|(due_ms, attempts)| {
            let mut said = claim.runs.iter();
            let said = said.find(|run| run.due_ms == *due_ms);
            if let Some(run) = said {
                *attempts = run.attempts;
            }
            // Of what it does not name the answer was lost that would have told it.
            said.is_none_or(|run| !run.done)
        });
        begin(record, question);
    }
    let holds = !claim.released && !record.open.is_empty();
    if !holds {
        record.holder = None;
    }
    holds
}

/// What becomes of what nobody holds; whether it is granted.
fn taken(record: &mut Record, question: &Question<'_>) -> bool {
    record.holder = None;
    // Who says what it has done, and has lost it, takes nothing.
    let left = !record.open.is_empty();
    if question.claim.token != 0 || question.claim.released || (!left && !begin(record, question)) {
        return false;
    }
    if left {
        // What was under way when it was left counts.
        for (_, attempts) in &mut record.open {
            *attempts = attempts.saturating_add(1);
        }
    }
    record.token += 1;
    record.holder = Some(question.pod.to_owned());
    record.owner = question.claim.owner;
    true
}

/// Begins what is to begin, if it may.
fn begin(record: &mut Record, question: &Question<'_>) -> bool {
    let due = question.claim.begin_ms;
    let due = due.filter(|due| *due > record.begun_ms && *due <= latest(question));
    let due = due.filter(|_| record.open.len() < MAX_OPEN);
    if let Some(due) = due {
        record.begun_ms = due;
        record.open.push((due, 1));
    }
    due.is_some()
}

fn latest(question: &Question<'_>) -> i64 {
    question.now_ms.saturating_add(AHEAD_MS)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

// === impl Record ===

impl Record {
    fn runs(&self) -> Vec<Run> {
        let runs = self.open.iter().map(|&(due_ms, attempts)| Run {
            due_ms,
            attempts,
            done: false,
        });
        runs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "form";

    /// A store that several replicas share, and a clock.
    struct Store {
        record: Option<Record>,
        now_ms: i64,
    }

    impl Store {
        fn new() -> Self {
            Self {
                record: None,
                now_ms: 100_000,
            }
        }

        fn question<'q>(&self, pod: &'q str, claim: &'q Claim) -> Question<'q> {
            Question {
                claim,
                pod,
                form: FORM,
                since_ms: Some(50_000),
                now_ms: self.now_ms,
                is_over: false,
            }
        }

        fn say(&mut self, pod: &str, claim: &Claim) -> Grant {
            self.say_when(pod, claim, false)
        }

        fn say_when(&mut self, pod: &str, claim: &Claim, is_over: bool) -> Grant {
            let question = Question {
                is_over,
                ..self.question(pod, claim)
            };
            match decide(self.record.as_ref(), &question) {
                Decision::Answer(grant) => grant,
                Decision::Keep(record, grant) => {
                    self.record = Some(record);
                    grant
                }
            }
        }
    }

    fn look() -> Claim {
        Claim {
            number: 7,
            owner: 1,
            form: FORM.into(),
            ..Claim::default()
        }
    }

    fn begins(due_ms: i64) -> Claim {
        Claim {
            begin_ms: Some(due_ms),
            ..look()
        }
    }

    fn runs(due: &[i64]) -> Vec<Run> {
        let runs = due.iter().map(|due_ms| Run {
            due_ms: *due_ms,
            attempts: 1,
            done: false,
        });
        runs.collect()
    }

    /// Of who holds it, and has these under way.
    fn holds(token: u64, open: &[i64]) -> Claim {
        Claim {
            token,
            runs: runs(open),
            ..look()
        }
    }

    fn has_done(token: u64, due: &[i64]) -> Claim {
        let mut claim = holds(token, due);
        claim.runs.iter_mut().for_each(|run| run.done = true);
        claim
    }

    #[test]
    fn what_is_due_is_begun_by_one_and_by_nobody_again() {
        let mut store = Store::new();
        let granted = store.say("a", &begins(60_000));
        assert_eq!((granted.number, granted.token), (7, 1));
        assert_eq!((granted.begun_ms, granted.open), (60_000, runs(&[60_000])));
        assert_eq!(granted.hold_ms, 10_000);
        let refused = store.say("b", &begins(60_000));
        assert_eq!((refused.token, refused.again_ms), (0, 5_000));
        // It is done: nobody holds anything, and it does not begin again.
        let done = store.say("a", &has_done(1, &[60_000]));
        assert_eq!((done.token, done.begun_ms), (0, 60_000));
        let refused = store.say("b", &begins(60_000));
        assert_eq!(
            (refused.token, refused.begun_ms, refused.again_ms),
            (0, 60_000, 0)
        );
        assert_eq!(store.say("b", &begins(70_000)).token, 2);
    }

    #[test]
    fn an_answer_that_was_lost_is_given_again_and_a_late_word_of_a_former_holder_is_none() {
        let mut store = Store::new();
        let first = store.say("a", &begins(60_000));
        assert_eq!(store.say("a", &begins(60_000)).token, first.token);
        let other_task = Claim {
            owner: 2,
            ..begins(60_000)
        };
        assert_eq!(
            store.say("a", &other_task).token,
            0,
            "of another task of the pod"
        );

        let next = store.say_when("b", &look(), true);
        assert_eq!(next.token, 2, "somebody else has it");
        let before = store.record.clone();
        let late = has_done(1, &[60_000]);
        assert_eq!(store.say("a", &late).token, 0);
        assert_eq!(
            store.record, before,
            "and what it has done is not taken from that one"
        );
        assert_eq!(store.say_when("a", &late, true).token, 0);
    }

    #[test]
    fn what_began_and_was_not_heard_of_is_not_taken_for_done() {
        let mut store = Store::new();
        store.say("a", &begins(60_000));
        let more = Claim {
            begin_ms: Some(70_000),
            ..holds(1, &[60_000])
        };
        assert_eq!(store.say("a", &more).open.len(), 2);
        let again = store.say("a", &more);
        assert_eq!(again.open, runs(&[60_000, 70_000]));
        let one_done = Claim {
            begin_ms: Some(70_000),
            ..has_done(1, &[60_000])
        };
        assert_eq!(store.say("a", &one_done).open, runs(&[70_000]));
    }

    #[test]
    fn what_a_holder_leaves_undone_goes_to_the_next_with_its_attempts() {
        let mut store = Store::new();
        store.say("a", &begins(60_000));
        let mut renewal = holds(1, &[60_000]);
        renewal.runs[0].attempts = 3;
        renewal.begin_ms = Some(70_000);
        assert_eq!(store.say("a", &renewal).open.len(), 2, "two are under way");
        assert_eq!(store.say("b", &look()).token, 0);

        let taken = store.say_when("b", &begins(80_000), true);
        let attempts = taken.open.iter().map(|run| (run.due_ms, run.attempts));
        assert_eq!(attempts.collect::<Vec<_>>(), [(60_000, 4), (70_000, 2)]);
        assert_eq!(
            (taken.token, taken.begun_ms),
            (2, 70_000),
            "and nothing is begun before it says so"
        );

        let released = Claim {
            released: true,
            ..has_done(2, &[60_000])
        };
        assert_eq!(store.say("b", &released).token, 0);
        let next = store.say("c", &look());
        assert_eq!(
            (next.token, next.open.len()),
            (3, 1),
            "at once, and what was done is done"
        );
    }

    #[test]
    fn nothing_begins_before_it_is_due_whatever_a_sidecars_clock_says() {
        let mut store = Store::new();
        let early = store.say("a", &begins(103_000));
        assert_eq!((early.token, early.again_ms), (0, 1_000));
        assert_eq!(store.record.as_ref().unwrap().begun_ms, 50_000);
        store.now_ms += 1_000;
        assert_eq!(store.say("a", &begins(103_000)).token, 1);
        assert_eq!(store.say("a", &begins(i64::MAX)).begun_ms, 103_000);
    }

    #[test]
    fn what_is_written_anew_makes_up_for_nothing_and_is_not_mixed_with_what_it_was() {
        let mut store = Store::new();
        store.say("a", &begins(60_000));
        let refused = Claim {
            form: "older".into(),
            ..holds(1, &[60_000])
        };
        assert_eq!(store.say("a", &refused).again_ms, 1_000);

        store.record.as_mut().unwrap().form = "older".into();
        let renewed = store.say("a", &holds(1, &[60_000]));
        assert_eq!((renewed.token, renewed.begun_ms), (1, 100_000));
        assert_eq!(renewed.open, runs(&[60_000]), "what has begun is finished");
        assert_eq!(store.say("a", &has_done(1, &[60_000])).begun_ms, 100_000);
        assert_eq!(store.say("a", &begins(90_000)).token, 0);
    }

    #[test]
    fn where_nothing_is_kept_what_was_due_since_it_was_written_may_begin() {
        let store = Store::new();
        let looked = look();
        let question = Question {
            since_ms: None,
            ..store.question("a", &looked)
        };
        let Decision::Keep(record, grant) = decide(None, &question) else {
            panic!("nothing is kept");
        };
        assert_eq!(
            (record.begun_ms, grant.begun_ms, grant.token),
            (100_000, 100_000, 0)
        );
        let Decision::Answer(_) = decide(Some(&record), &question) else {
            panic!("it is kept for nothing");
        };
        let mut store = Store::new();
        assert_eq!(store.say("a", &look()).begun_ms, 50_000);
    }

    #[test]
    fn what_is_kept_outlives_a_version_that_says_more() {
        let mut store = Store::new();
        store.say("a", &begins(60_000));
        let text = serde_json::to_string(&store.record).unwrap();
        assert_eq!(
            serde_json::from_str::<Record>(&text).unwrap(),
            store.record.unwrap()
        );
        let sparse: Record = serde_json::from_str("{\"begun_ms\":5,\"later\":true}").unwrap();
        assert_eq!(sparse.begun_ms, 5);
    }
}
