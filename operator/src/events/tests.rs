use compiler::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::advance;

use super::*;
use crate::api_server::fake;

fn status(conditions: &[(&str, &str, &str)]) -> ObjectStatus {
    let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
        type_: (*type_).to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: format!("{reason}, in words"),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    ObjectStatus {
        conditions: conditions.iter().map(condition).collect(),
        ..ObjectStatus::default()
    }
}

const GOOD: [(&str, &str, &str); 2] = [
    ("Accepted", "True", "Accepted"),
    ("Programmed", "True", "Programmed"),
];
const CONFLICTED: [(&str, &str, &str); 2] = [
    ("Accepted", "False", "Conflicted"),
    ("Programmed", "False", "NotAccepted"),
];
const WAITING: [(&str, &str, &str); 2] = [
    ("Accepted", "True", "Accepted"),
    ("Programmed", "False", "Pending"),
];
const REJECTED: [(&str, &str, &str); 2] = [
    ("Accepted", "True", "Accepted"),
    ("Programmed", "False", "Rejected"),
];

type Conditions<'a> = &'a [(&'a str, &'a str, &'a str)];

/// Type, reason and note of what is noticed between two statuses.
fn noticed(before: Conditions<'_>, now: Conditions<'_>) -> Vec<(EventType, String, String)> {
    let notices = notices(Some(&status(before)), &status(now)).into_iter();
    notices.map(|n| (n.type_, n.reason, n.note)).collect()
}

fn is(type_: EventType, reason: &str, note: &str) -> Vec<(EventType, String, String)> {
    vec![(type_, reason.to_owned(), note.to_owned())]
}

#[test]
fn refusals_are_told_once_and_so_is_the_return_to_order() {
    let warned = is(EventType::Warning, "Conflicted", "Conflicted, in words");
    assert_eq!(noticed(&GOOD, &CONFLICTED), warned);
    assert_eq!(noticed(&CONFLICTED, &CONFLICTED), []);
    let back = is(EventType::Normal, "Accepted", "it is accepted again");
    assert_eq!(noticed(&CONFLICTED, &WAITING), back);

    let warned = is(EventType::Warning, "Rejected", "Rejected, in words");
    assert_eq!(noticed(&WAITING, &REJECTED), warned);
    let back = is(
        EventType::Normal,
        "Pending",
        "no sidecar rejects it any more",
    );
    assert_eq!(noticed(&REJECTED, &WAITING), back);
    let warned = is(EventType::Warning, "Conflicted", "Conflicted, in words");
    assert_eq!(noticed(&REJECTED, &CONFLICTED), warned, "and nothing else");
}

#[test]
fn counts_that_change_are_no_event() {
    for (before, now) in [(GOOD, WAITING), (WAITING, GOOD), (WAITING, WAITING)] {
        assert_eq!(noticed(&before, &now), []);
    }
    assert_eq!(notices(None, &status(&WAITING)), [], "nor is a new object");
}

#[test]
fn a_note_is_as_long_as_kubernetes_takes_it() {
    let note = shortened("é".repeat(2000));
    assert!(note.len() <= 1024 && note.ends_with("é…"), "{}", note.len());
    assert!(!shortened(String::new()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_goes_to_and_fro_makes_few_events_and_leaves_room_for_others() {
    let (asks, mut asked) = mpsc::unbounded_channel();
    let client = fake::client(move |request| {
        let event: Value = serde_json::from_slice(request.body()).unwrap();
        asks.send(event.clone()).unwrap();
        std::future::ready(fake::json(&event))
    });
    let metrics = Metrics::new();
    let events = Events::new(client, "operator-0", metrics.clone());
    let object = |name: &str| ObjectRef::api_route(&ObjectKey::new("shop", name));
    let tell = async |name: &str, uid: &str| {
        let uid = Some(uid.to_owned());
        let (before, now) = (status(&GOOD), status(&CONFLICTED));
        events.tell(&object(name), uid, Some(&before), &now).await;
    };
    for _ in 0..100 {
        tell("orders", "u1").await;
    }
    assert_eq!(metrics.events.get(), u64::from(OF_ONE.0));
    assert_eq!(metrics.events_dropped.get(), 100 - u64::from(OF_ONE.0));
    tell("carts", "u2").await;
    assert_eq!(metrics.events.get(), u64::from(OF_ONE.0) + 1);
    let first = asked.recv().await.unwrap();
    assert_eq!(first["type"], "Warning");
    assert_eq!(first["reason"], "Conflicted");
    assert_eq!(first["regarding"]["kind"], "ApiRoute");
    assert_eq!(first["regarding"]["uid"], "u1");
    assert_eq!(first["reportingController"], CONTROLLER);
    let again = asked.recv().await.unwrap();
    assert_eq!(
        again["series"]["count"], 2,
        "the same is one event, counted"
    );

    advance(OF_ONE.1).await;
    tell("orders", "u1").await;
    assert_eq!(
        metrics.events.get(),
        u64::from(OF_ONE.0) + 2,
        "one more by now"
    );
}

#[test]
fn events_that_nobody_delivers_are_told_unless_that_is_as_it_should_be() {
    let told = |reason: &str, status_: &str| {
        let now = status(&[("Ready", status_, reason)]);
        notices(None, &now).len()
    };
    assert_eq!(told("NotDelivering", "False"), 1);
    assert_eq!(told("TargetGone", "False"), 1);
    assert_eq!(told("Suspended", "False"), 0);
    assert_eq!(told("NotAccepted", "False"), 0);
    assert_eq!(told("Pending", "Unknown"), 0);
}
