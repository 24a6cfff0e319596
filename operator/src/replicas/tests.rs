use compiler::{Inputs, ObjectKey, Output, compile};
use serde_json::json;
use tokio::time::advance;

use super::*;
use crate::push::Fingerprint;

fn object() -> ObjectRef {
    ObjectRef::api_route(&ObjectKey::new("shop", "orders"))
}

fn pod(name: &str) -> PodId {
    (ObjectKey::new("shop", name), format!("uid-of-{name}"))
}

/// A replica that has read one ApiRoute, and pods that run.
fn replica(pods: &[&str]) -> Arc<Replicas> {
    let mut inputs = Inputs::default();
    let key = ObjectKey::new("shop", "orders");
    let read = |json| serde_json::from_value(json).unwrap();
    let route = json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": "shop" }, "spec": { "hosts": ["orders"] } });
    inputs.api_routes.insert(
        key.clone(),
        Arc::new(serde_json::from_value(route).unwrap()),
    );
    let service = json!({
        "metadata": { "name": "orders", "namespace": "shop" }, "spec": { "ports": [{ "port": 80 }] } });
    inputs
        .services
        .insert(key, Arc::new(serde_json::from_value(service).unwrap()));
    for name in pods {
        let pod = json!({
            "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-of-{name}") },
            "spec": { "containers": [{ "name": "meshwright-sidecar" }] },
            "status": { "phase": "Running" } });
        inputs
            .pods
            .insert(ObjectKey::new("shop", *name), Arc::new(read(pod)));
    }
    let output = compile(&inputs, Output::default());
    let streams = Arc::new(Streams::default());
    streams.publish(&inputs, &output);
    Replicas::new(streams, Some(Leader::alone()))
}

/// What a replica says which has read the same, and of whose `m` sidecars `n` have it.
fn digest(replicas: &Replicas, n: usize, m: usize) -> (ObjectRef, Option<Digest>) {
    let mut digest = replicas.streams.digest(&object());
    digest.programmed.n = n;
    digest.programmed.m = m;
    (object(), Some(digest))
}

fn older(replicas: &Replicas, n: usize, m: usize) -> (ObjectRef, Option<Digest>) {
    let (object, mut digest) = digest(replicas, n, m);
    digest.as_mut().unwrap().fingerprint = Fingerprint([7; 16]);
    (object, digest)
}

fn says(pods: &[&str], objects: Vec<(ObjectRef, Option<Digest>)>) -> Said {
    Said {
        objects,
        connected: pods
            .iter()
            .map(|name| (pod(name), Duration::ZERO))
            .collect(),
        disconnected: Vec::new(),
        complete: true,
    }
}

fn begin(replicas: &Arc<Replicas>, name: &str) -> (Reporting, mpsc::Receiver<PodId>) {
    let (moved, told) = mpsc::channel(16);
    (replicas.begin(name, moved).unwrap(), told)
}

/// `n/m`, those who are waited for, and those who are connected nowhere.
fn counts(replicas: &Replicas) -> (String, Vec<String>, Vec<String>) {
    replicas.look(Instant::now());
    let counted = replicas.programmed(&object());
    assert_eq!(counted.absent, counted.absentees.len());
    let count = format!("{}/{}", counted.n, counted.m);
    (count, counted.waiting, counted.absentees)
}

fn are(count: &str, waiting: &[&str], absent: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let names = |names: &[&str]| names.iter().map(|name| format!("shop/{name}")).collect();
    (count.to_owned(), names(waiting), names(absent))
}

#[tokio::test]
async fn counts_of_several_replicas_add_up_and_who_is_connected_nowhere_is_told_apart() {
    let replicas = replica(&["a", "b", "c", "d"]);
    assert_eq!(counts(&replicas), are("0/4", &[], &["a", "b", "c", "d"]));
    let (one, _told) = begin(&replicas, "one");
    one.say(
        says(&["a", "b"], vec![digest(&replicas, 2, 2)]),
        Instant::now(),
    )
    .unwrap();
    assert_eq!(counts(&replicas), are("2/4", &[], &["c", "d"]));
    let (two, _told) = begin(&replicas, "two");
    let (object, mut half) = digest(&replicas, 0, 1);
    half.as_mut().unwrap().programmed.waiting = vec!["shop/c".to_owned()];
    half.as_mut().unwrap().programmed.callers = 1;
    let told = (object.clone(), half);
    two.say(says(&["c"], vec![told]), Instant::now()).unwrap();
    assert_eq!(replicas.programmed(&object).callers, 1);
    assert_eq!(counts(&replicas), are("2/4", &["c"], &["d"]));
    assert_eq!(replicas.len(), 2);
    assert!(!replicas.is_settled());
}

#[tokio::test]
async fn a_replica_that_has_read_another_form_never_makes_the_count_say_more_than_is_true() {
    let replicas = replica(&["a", "b"]);
    let (ahead, _told) = begin(&replicas, "ahead");
    ahead
        .say(says(&["a"], vec![digest(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    let (lags, _told) = begin(&replicas, "lags");
    // All of its sidecars have it: in the form that it knows.
    lags.say(says(&["b"], vec![older(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    assert_eq!(counts(&replicas), are("1/2", &["b"], &[]));
    assert_eq!(replicas.programmed(&object()).behind, 1);
    // It has not heard of the object at all.
    let gone = Said {
        objects: vec![(object(), None)],
        ..Said::default()
    };
    lags.say(gone, Instant::now()).unwrap();
    assert_eq!(counts(&replicas), are("1/2", &["b"], &[]));
    lags.say(says(&[], vec![digest(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    assert_eq!(counts(&replicas), are("2/2", &[], &[]));
    assert_eq!(replicas.programmed(&object()).behind, 0);
    assert!(replicas.is_settled());
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_that_went_last_said_holds_until_its_sidecars_should_be_back() {
    let replicas = replica(&["a", "b"]);
    let (one, _told) = begin(&replicas, "one");
    one.say(says(&["a"], vec![digest(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    let (two, _told) = begin(&replicas, "two");
    two.say(says(&["b"], vec![digest(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    drop(two);
    assert_eq!(counts(&replicas), are("2/2", &[], &[]));
    assert!(!replicas.is_settled());
    // Its sidecar comes to another, and has yet to be told there.
    let (object, mut both) = digest(&replicas, 1, 2);
    both.as_mut().unwrap().programmed.waiting = vec!["shop/b".to_owned()];
    let said = Said {
        complete: false,
        ..says(&["b"], vec![(object, both)])
    };
    one.say(said, Instant::now()).unwrap();
    assert_eq!(counts(&replicas), are("1/2", &["b"], &[]));
    one.say(says(&[], vec![digest(&replicas, 2, 2)]), Instant::now())
        .unwrap();
    assert_eq!(counts(&replicas), are("2/2", &[], &[]), "it counts once");
    advance(RETURN).await;
    assert_eq!(counts(&replicas), are("2/2", &[], &[]));
    assert!(replicas.is_settled());
}

#[tokio::test(start_paused = true)]
async fn sidecars_of_a_replica_that_went_are_unconnected_when_they_do_not_come_back() {
    let replicas = replica(&["a"]);
    let (one, _told) = begin(&replicas, "one");
    one.say(says(&["a"], vec![digest(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    drop(one);
    advance(RETURN).await;
    assert_eq!(counts(&replicas), are("0/1", &[], &["a"]));
}

#[tokio::test]
async fn an_edit_is_not_taken_for_held_by_the_sidecars_of_a_replica_that_went() {
    let replicas = replica(&["a"]);
    let (one, _told) = begin(&replicas, "one");
    one.say(says(&["a"], vec![older(&replicas, 1, 1)]), Instant::now())
        .unwrap();
    drop(one);
    assert_eq!(counts(&replicas), are("0/1", &["a"], &[]));
}

#[tokio::test]
async fn a_replica_that_begins_anew_counts_as_before_until_it_has_said_everything() {
    let replicas = replica(&["a", "b"]);
    let (before, _told) = begin(&replicas, "one");
    let said = says(&["a", "b"], vec![digest(&replicas, 2, 2)]);
    before.say(said, Instant::now()).unwrap();
    let (anew, _told) = begin(&replicas, "one");
    assert_eq!(
        before.say(Said::default(), Instant::now()),
        Err(Refused::Replaced)
    );
    drop(before);
    let half = Said {
        complete: false,
        ..says(&["a"], Vec::new())
    };
    anew.say(half, Instant::now()).unwrap();
    assert_eq!(counts(&replicas), are("2/2", &[], &[]));
    anew.say(says(&["b"], vec![digest(&replicas, 1, 2)]), Instant::now())
        .unwrap();
    assert_eq!(counts(&replicas).0, "1/2");
    assert_eq!(replicas.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_connected_twice_has_gone_from_where_its_stream_is_older() {
    let replicas = replica(&["a"]);
    let (one, mut told_one) = begin(&replicas, "one");
    let (two, mut told_two) = begin(&replicas, "two");
    let aged = |age: u64| Said {
        connected: vec![(pod("a"), Duration::from_secs(age))],
        complete: true,
        ..Said::default()
    };
    let now = Instant::now() + Duration::from_secs(600);
    one.say(aged(60), now).unwrap();
    two.say(aged(5), now).unwrap();
    replicas.look(now);
    assert_eq!(told_one.try_recv(), Ok(pod("a")));
    assert!(told_two.try_recv().is_err());
}

/// How long it takes to count an object so many times.
fn counting(replicas: &Replicas, m: usize) -> std::time::Duration {
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        assert_eq!(replicas.programmed(&object()).m, m);
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn counting_takes_no_longer_when_a_replica_with_thousands_of_pods_has_gone() {
    let replicas = replica(&[]);
    let names: Vec<_> = (0..MAX_PODS).map(|n| n.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (one, _told) = begin(&replicas, "one");
    let said = || {
        let all = digest(&replicas, MAX_PODS, MAX_PODS);
        says(&names, vec![all])
    };
    one.say(said(), Instant::now()).unwrap();
    let before = counting(&replicas, MAX_PODS);
    let (two, _told) = begin(&replicas, "two");
    drop(one);
    two.say(said(), Instant::now()).unwrap();
    // All have moved, and each object is counted without them.
    let after = counting(&replicas, MAX_PODS);
    assert!(after < before * 20, "{after:?} instead of {before:?}");
}

#[tokio::test]
async fn what_replicas_say_is_bounded() {
    let replicas = replica(&[]);
    let all: Vec<_> = (0..MAX_REPLICAS)
        .map(|n| begin(&replicas, &n.to_string()))
        .collect();
    let (moved, _told) = mpsc::channel(1);
    assert_eq!(replicas.begin("more", moved).err(), Some(Refused::Replicas));
    let pods = (0..=MAX_PODS).map(|n| (pod(&n.to_string()), Duration::ZERO));
    let many = Said {
        connected: pods.collect(),
        ..Said::default()
    };
    assert_eq!(all[0].0.say(many, Instant::now()), Err(Refused::Much));
}

#[tokio::test]
async fn who_does_not_lead_counts_its_own_sidecars_alone() {
    let replicas = replica(&["a", "b"]);
    let (said, leader) = watch::channel(Leader::Nobody);
    let replicas = Replicas::new(replicas.streams.clone(), Some(leader));
    assert_eq!(counts(&replicas), are("0/0", &[], &[]));
    assert!(!replicas.is_settled());
    let until = Instant::now() + RETURN;
    said.send_replace(Leader::Us { until });
    assert_eq!(counts(&replicas), are("0/2", &[], &["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_lead_during_a_look_looks_again() {
    let replicas = replica(&["a", "b"]);
    let (said, leader) = watch::channel(Leader::Nobody);
    let replicas = Replicas::new(replicas.streams.clone(), Some(leader));
    let keeping = tokio::spawn(replicas.clone().keep());
    // Its look is over, and what came together with it has its time.
    tokio::time::sleep(SPACING / 2).await;
    let until = Instant::now() + RETURN * 10;
    said.send_replace(Leader::Us { until });
    tokio::time::sleep(SPACING * 2).await;
    let counted = replicas.programmed(&object());
    assert_eq!((counted.n, counted.m, counted.absent), (0, 2, 2));
    keeping.abort();
}
