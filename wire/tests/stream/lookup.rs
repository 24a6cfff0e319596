//! What a sidecar asks about, on the stream.

use std::collections::BTreeSet;

use wire::{
    Kind, ResourceId,
    delta::{MAX_CHANGES, Sent},
    discovery::Hello,
    lookup::{MAX_LOOKUPS, Question},
};

use crate::{
    operator::{Operator, Running},
    snapshot::{Enforced, Snapshot},
};

const ADDRESS: &str = "lookup/address/10.96.0.7";

fn question(text: &str) -> Question {
    Question::of(&text.parse().unwrap()).unwrap()
}

fn ids(texts: &[&str]) -> Vec<ResourceId> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The answer with this id, as any content is one.
fn answer(view: &mut Snapshot, id: &str) {
    *view = view.clone().with(id, "v1");
}

#[tokio::test]
async fn a_question_is_asked_once_and_again_on_each_new_stream_until_it_is_answered() {
    let operator = Operator::start(Snapshot::at(1));
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    for _ in 0..3 {
        sidecar.questions.send(question(ADDRESS)).await.unwrap();
    }
    let once = (ids(&[ADDRESS]), Vec::new());
    assert_eq!(operator.asked(1).await, std::slice::from_ref(&once));

    operator.hang_up();
    assert_eq!(operator.asked(2).await, [once.clone(), once.clone()]);
    operator.publish(|view| answer(view, ADDRESS));
    operator
        .outcome(ADDRESS, |outcome| {
            matches!(outcome, wire::delta::Outcome::Held(_))
        })
        .await;
    // It holds the answer: that is what it says from now on.
    operator.hang_up();
    assert_eq!(operator.asked(3).await.last(), Some(&once));
    sidecar.questions.send(question(ADDRESS)).await.unwrap();
    let other = "lookup/service/orders.shop";
    sidecar.questions.send(question(other)).await.unwrap();
    let last = operator.asked(4).await.pop().unwrap();
    assert_eq!(last, (ids(&[other]), Vec::new()), "and nothing else");
}

#[tokio::test]
async fn a_killed_sidecar_says_what_it_wants_as_soon_as_it_is_back() {
    let mut view = Snapshot::at(1);
    answer(&mut view, ADDRESS);
    let operator = Operator::start(view);
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    operator
        .outcome(ADDRESS, |outcome| {
            matches!(outcome, wire::delta::Outcome::Held(_))
        })
        .await;
    sidecar.kill();
    let again = Running::with(&operator, sidecar.volume(), Enforced::default());
    again.state(|state| state.connected).await;
    assert_eq!(operator.asked(1).await, [(ids(&[ADDRESS]), Vec::new())]);
}

#[tokio::test]
async fn with_more_answers_than_are_kept_the_first_to_go_are_those_that_led_to_nothing() {
    let address = |number: usize| format!("lookup/address/10.96.{}.{}", number / 256, number % 256);
    let mut view = Snapshot::at(1);
    for number in 0..MAX_LOOKUPS {
        let id = address(number);
        view = match number % 2 {
            0 => view.with_message(&id, &wire::mesh::Lookup::default()),
            _ => {
                let services = vec![wire::mesh::ServiceRef {
                    namespace: "shop".into(),
                    name: "orders".into(),
                }];
                view.with_message(&id, &wire::mesh::Lookup { services })
            }
        };
    }
    let operator = Operator::start(view);
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    let new = "lookup/service/orders.shop";
    sidecar.questions.send(question(new)).await.unwrap();
    let (wanted, unwanted) = operator.asked(1).await.pop().unwrap();
    assert_eq!((wanted, unwanted), (ids(&[new]), ids(&[&address(0)])));
}

#[tokio::test]
async fn an_operator_that_knows_of_no_questions_is_asked_none_and_what_was_to_be_asked_is_forgotten()
 {
    const NETWORKS: &str = "networks/mesh/addresses";
    let mut view = Snapshot::at(1).with(NETWORKS, "v1");
    answer(&mut view, ADDRESS);
    let operator = Operator::start(view);
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    assert_eq!(sidecar.enforces().len(), 2);

    // First of all: what the stream before still told would be held at Hello, and not acknowledged.
    operator.roll_back();
    operator.publish(|view| {
        for gone in [NETWORKS, ADDRESS] {
            view.remove(gone);
        }
        *view = view.clone().with("route/shop/orders", "v1");
    });
    let other = "lookup/service/orders.shop";
    sidecar.questions.send(question(other)).await.unwrap();
    let route = "route/shop/orders";
    operator
        .outcome(route, |outcome| {
            matches!(outcome, wire::delta::Outcome::Held(_))
        })
        .await;
    let enforced: Vec<_> = sidecar.enforces().into_keys().collect();
    assert_eq!(enforced, ids(&[route]));
    operator.publish(|view| view.put("route/shop/orders", "v2"));
    let second = crate::snapshot::hash_of("v2");
    let is_second = move |outcome: &wire::delta::Outcome| matches!(outcome, wire::delta::Outcome::Held(hash) if *hash == second);
    operator.outcome(route, is_second).await;
    let asked = operator.asked(0).await;
    let asked: Vec<_> = asked.iter().flat_map(|(wanted, _)| wanted).collect();
    assert!(!asked.contains(&&ids(&[other])[0]), "{asked:?}");
    assert_eq!(sidecar.volume().resources().count(), 1);
}

#[test]
fn answers_are_sent_when_all_that_they_lead_to_has_been() {
    let mut view = Snapshot::at(5).with(ADDRESS, "v1");
    for number in 0..MAX_CHANGES + 10 {
        view = view.with(&format!("route/shop/r{number}"), "v1");
    }
    let mut sent = Sent::new(Hello::default(), &view).unwrap();
    let mut before = BTreeSet::new();
    while let Some(delta) = sent.next(&view) {
        for resource in &delta.resources {
            let id: ResourceId = resource.id.parse().unwrap();
            if id.kind == Kind::Lookup {
                assert_eq!(before.len(), MAX_CHANGES + 10, "{id} comes too soon");
            } else {
                before.insert(id);
            }
        }
        sent.on_ack(wire::discovery::Ack {
            nonce: delta.nonce,
            ..Default::default()
        });
    }
    assert_eq!(sent.held().count(), MAX_CHANGES + 11);
}
