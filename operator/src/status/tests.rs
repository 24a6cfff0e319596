use super::*;
use crate::api_server::fake;
use crate::source::Seen;
use crate::verdicts::{Counts, Figures, ReportedCondition};
use compiler::{ObjectKey, Output, Verdict};
use serde_json::{Value, json};
use tokio::sync::mpsc;

fn report(programmed: &str, n: usize) -> Report {
    let condition = |type_: &str, status: &str| ReportedCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: type_.to_owned(),
        message: String::new(),
    };
    Report {
        kind: "ApiRoute".to_owned(),
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
        generation: 2,
        file: None,
        line: None,
        target: "orders.shop".to_owned(),
        conditions: vec![
            condition("Accepted", "True"),
            condition("Programmed", programmed),
        ],
        programmed: Counts { n, m: 3 },
        callers: 0,
        waiting: Vec::new(),
        unconnected: Vec::new(),
        events: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn object(name: &str) -> ObjectRef {
    ObjectRef::api_route(&ObjectKey::new("shop", name))
}

/// Of a world whose objects have verdicts.
fn statuses(client: Client, objects: &[ObjectRef]) -> Statuses {
    let streams = Arc::new(Streams::default());
    let replicas = Replicas::new(streams.clone(), None);
    let verdicts = Arc::new(Verdicts::new(replicas.clone()));
    let mut output = Output::default();
    for object in objects {
        let verdict = Verdict {
            object: object.clone(),
            generation: 1,
            target: "orders.shop".to_owned(),
            conditions: Vec::new(),
            resources: Vec::new(),
        };
        output.changed_verdicts.insert(object.clone());
        output.verdicts.insert(object.clone(), verdict);
    }
    verdicts.replace(&output, &Seen::default());
    let metrics = Metrics::new();
    Statuses {
        events: Events::new(client.clone(), "operator-0", metrics.clone()),
        client,
        verdicts,
        observed: Observed::new(streams.clone()),
        streams,
        leader: Leader::alone(),
        replicas,
        metrics,
    }
}

#[test]
fn a_status_that_is_there_is_not_written_again() {
    let written = status(&report("True", 3), None, at(100)).unwrap();
    assert_eq!(status(&report("True", 3), Some(&written), at(200)), None);
    let mut shuffled = written.clone();
    shuffled.object.conditions.reverse();
    assert_eq!(status(&report("True", 3), Some(&shuffled), at(200)), None);
}

#[test]
fn the_time_of_a_transition_is_kept_while_the_status_is_the_same() {
    let before = status(&report("False", 2), None, at(100)).unwrap();
    let after = status(&report("True", 3), Some(&before), at(200)).unwrap();
    let times: Vec<_> = after
        .object
        .conditions
        .iter()
        .map(|c| c.last_transition_time.0.as_second())
        .collect();
    assert_eq!(times, [100, 200], "Accepted stayed, Programmed changed");
    assert_eq!(after.object.programmed.as_deref(), Some("3/3"));
    assert_eq!(after.object.conditions[0].observed_generation, Some(2));
}

#[test]
fn counts_that_a_predecessor_wrote_are_told_from_what_is_wrong() {
    let before = status(&report("True", 3), None, at(100)).unwrap();
    let fewer = status(&report("Unknown", 0), Some(&before), at(200)).unwrap();
    assert!(only_counts_differ(&fewer.object, &before.object));
    let mut edited = report("Unknown", 0);
    edited.generation = 3;
    let edited = status(&edited, Some(&before), at(200)).unwrap();
    assert!(!only_counts_differ(&edited.object, &before.object));
    let mut refused = report("Unknown", 0);
    refused.conditions[0].status = "False".to_owned();
    let refused = status(&refused, Some(&before), at(200)).unwrap();
    assert!(!only_counts_differ(&refused.object, &before.object));
    assert!(!only_counts_differ(&fewer.object, &ObjectStatus::default()));
}

#[test]
fn figures_are_told_apart_from_what_a_person_waits_for() {
    let with = |lag: u64, ready: &str| {
        let mut report = report("True", 3);
        report.conditions.push(ReportedCondition {
            type_: "Ready".to_owned(),
            status: ready.to_owned(),
            reason: "Ready".to_owned(),
            message: String::new(),
        });
        report.events = Some(Figures {
            sidecars: 1,
            lag: Some(lag),
            ..Figures::default()
        });
        report
    };
    let before = status(&with(3, "True"), None, at(100)).unwrap();
    assert_eq!((before.lag, before.dead_lettered), (Some(3), Some(0)));
    let more = status(&with(4, "True"), Some(&before), at(200)).unwrap();
    assert!(only_figures_differ(&more, &before));
    let waits = status(&with(4, "False"), Some(&before), at(200)).unwrap();
    assert!(!only_figures_differ(&waits, &before));
    assert!(
        only_counts_differ(&waits.object, &before.object),
        "both are of sidecars"
    );
}

#[tokio::test]
async fn many_changes_of_an_object_are_one_write() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for n in 0..10 {
        schedule.touch([object("orders")].into(), now + FIRST / 20 * n, FIRST);
    }
    assert_eq!(schedule.next(), Some(now + FIRST));
    assert_eq!(schedule.start(now), None, "not yet");
    assert_eq!(schedule.start(now + FIRST), Some(object("orders")));
    schedule.done(object("orders"), &Written::Done, now + FIRST);
    assert_eq!(schedule.next(), None);
    schedule.touch([object("orders")].into(), now + FIRST, FIRST);
    assert_eq!(
        schedule.next(),
        Some(now + FIRST + SPACING),
        "two writes are apart"
    );
}

#[tokio::test]
async fn what_changes_while_it_is_written_is_written_again_later() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.touch([object("orders")].into(), now, FIRST);
    schedule.start(now + FIRST).unwrap();
    schedule.touch([object("orders")].into(), now + FIRST, FIRST);
    assert_eq!(schedule.next(), None, "one write at a time");
    schedule.done(object("orders"), &Written::Done, now + FIRST);
    assert_eq!(schedule.next(), Some(now + FIRST + SPACING));
}

#[tokio::test]
async fn what_was_too_early_is_looked_at_again_when_it_changes() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.touch([object("orders")].into(), now, FIRST);
    schedule.start(now + FIRST).unwrap();
    schedule.done(object("orders"), &Written::Early(now + RETURN), now + FIRST);
    assert_eq!(schedule.next(), Some(now + RETURN));
    schedule.touch([object("orders")].into(), now + SPACING, FIRST);
    assert_eq!(schedule.next(), Some(now + SPACING + FIRST));
}

#[tokio::test]
async fn what_changes_while_it_is_found_too_early_is_looked_at_soon() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.touch([object("orders")].into(), now, FIRST);
    schedule.start(now + FIRST).unwrap();
    schedule.touch([object("orders")].into(), now + FIRST, FIRST);
    schedule.done(object("orders"), &Written::Early(now + RETURN), now + FIRST);
    assert_eq!(schedule.next(), Some(now + FIRST + SPACING));
}

#[tokio::test]
async fn among_many_who_waits_longest_is_written_first_however_often_others_change() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.touch([object("a"), object("z")].into(), now, FIRST);
    let mut written = Vec::new();
    for round in 0..3 {
        let at = now + FIRST + SPACING * round;
        let started = schedule.start(at).unwrap();
        schedule.done(started.clone(), &Written::Done, at);
        written.push(started);
        // The first by name changes all the time.
        schedule.touch([object("a")].into(), at, FIRST);
    }
    assert!(written.contains(&object("z")), "{written:?}");
}

#[tokio::test]
async fn a_failed_write_is_tried_again_with_growing_pauses() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        schedule.done(object("orders"), &Written::Failed, now);
        pauses.push(schedule.next().unwrap() - now);
    }
    assert!(pauses.is_sorted() && pauses[0] >= SPACING && pauses[7] == LONGEST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_never_answered_is_given_up_and_tried_again() {
    let (asks, mut asked) = mpsc::unbounded_channel();
    let client = fake::client(move |request| {
        asks.send((Instant::now(), request.uri().path().to_owned()))
            .unwrap();
        fake::silence()
    });
    let statuses = statuses(client, &[object("orders")]);
    let (metrics, streams) = (statuses.metrics.clone(), statuses.streams.clone());
    tokio::spawn(Arc::new(statuses).write());
    streams.touch([object("orders")]);

    let (first, path) = asked.recv().await.unwrap();
    assert!(path.ends_with("/apiroutes/orders/status"), "{path}");
    let again = tokio::time::timeout(ANSWER * 3, asked.recv()).await;
    let (again, _) = again.unwrap().unwrap();
    assert!(again - first >= ANSWER && again - first <= ANSWER + SPACING * 2);
    assert_eq!(metrics.status_failures.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn objects_of_one_name_and_several_kinds_have_each_their_own_status() {
    let (asks, mut asked) = mpsc::unbounded_channel();
    let client = fake::client(move |request| {
        let patch: Value = serde_json::from_slice(request.body()).unwrap();
        let path = request.uri().path().to_owned();
        asks.send((path, patch["kind"].clone())).unwrap();
        std::future::ready(fake::json(&patch))
    });
    let key = ObjectKey::new("shop", "orders");
    let objects = ObjectKind::ALL.map(|kind| ObjectRef::new(kind, &key));
    let statuses = statuses(client, &objects);
    let (metrics, streams) = (statuses.metrics.clone(), statuses.streams.clone());
    let observed = statuses.observed.clone();
    tokio::spawn(Arc::new(statuses).write());
    streams.touch(objects.clone());

    let mut written = Vec::new();
    for _ in &objects {
        let ask = tokio::time::timeout(ANSWER, asked.recv()).await;
        written.push(ask.unwrap().unwrap());
    }
    written.sort_by(|(one, _), (other, _)| one.cmp(other));
    let path =
        |plural| format!("/apis/meshwright.dev/v1alpha1/namespaces/shop/{plural}/orders/status");
    assert_eq!(
        written,
        [
            (path("apiroutes"), json!("ApiRoute")),
            (path("eventsubscriptions"), json!("EventSubscription")),
            (path("ratelimits"), json!("RateLimit")),
            (path("retrypolicies"), json!("RetryPolicy")),
        ]
    );
    while metrics.status_writes.get() < 4 {
        tokio::time::sleep(FIRST).await;
    }
    let [route, policy, limit, subscription] = objects;
    observed.saw(&route, None);
    assert!(observed.get(&route).is_none());
    assert!(observed.get(&policy).is_some(), "another object's status");
    assert!(observed.get(&limit).is_some());
    assert!(observed.get(&subscription).is_some());
}

#[test]
fn a_status_of_a_newer_generation_is_not_written_over() {
    let mut newer = report("True", 3);
    newer.generation = 3;
    let newer = status(&newer, None, at(100)).unwrap();
    assert_eq!(status(&report("Unknown", 0), Some(&newer), at(200)), None);
}

/// What is asked of an API server that refuses whatever isn't written over version 7.
fn over_version_seven() -> (Client, mpsc::UnboundedReceiver<Value>) {
    let (asks, asked) = mpsc::unbounded_channel();
    let client = fake::client(move |request| {
        let mut patch: Value = serde_json::from_slice(request.body()).unwrap();
        asks.send(patch.clone()).unwrap();
        let over = patch["metadata"]["resourceVersion"] == "7";
        patch["metadata"]["resourceVersion"] = json!("8");
        std::future::ready(match over {
            true => fake::json(&patch),
            false => fake::refusal(409),
        })
    });
    (client, asked)
}

fn stored(version: &str) -> Stored {
    Stored {
        version: Some(version.to_owned()),
        ..Stored::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_over_what_was_seen_and_over_nothing_newer() {
    let (client, mut asked) = over_version_seven();
    let statuses = statuses(client, &[object("orders")]);
    let (metrics, observed) = (statuses.metrics.clone(), statuses.observed.clone());
    observed.saw(&object("orders"), Some(stored("6")));
    tokio::spawn(Arc::new(statuses).write());
    let first = asked.recv().await.unwrap();
    assert_eq!(first["metadata"]["resourceVersion"], "6");
    observed.saw(&object("orders"), Some(stored("7")));
    let again = asked.recv().await.unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], "7");
    while metrics.status_writes.get() < 1 {
        tokio::time::sleep(FIRST).await;
    }
    let known = || observed.get(&object("orders")).unwrap();
    assert_eq!(known().version.as_deref(), Some("8"));
    observed.saw(&object("orders"), Some(stored("7")));
    assert!(known().status.is_some(), "the watch is behind");
}

#[tokio::test(start_paused = true)]
async fn who_leads_no_more_writes_nothing() {
    let (client, mut asked) = over_version_seven();
    let mut statuses = statuses(client, &[object("orders")]);
    let until = Instant::now() + SPACING / 10;
    statuses.leader = watch::channel(Leader::Us { until }).1;
    tokio::spawn(Arc::new(statuses).write());
    let asked = tokio::time::timeout(LONGEST_PAUSE, asked.recv()).await;
    assert!(asked.is_err(), "{asked:?}");
}
