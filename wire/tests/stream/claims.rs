//! Claims over a stream: each is answered, or nobody is kept waiting for ever.

use tokio::sync::oneshot;
use wire::client::Claiming;
use wire::delta::Outcome;
use wire::discovery::{Claim, Claims, FromSidecar, Grant, Run};
use wire::message::Unfit;

use crate::operator::{Operator, Running};
use crate::snapshot::Snapshot;

fn claim(token: u64) -> (Claiming, oneshot::Receiver<Grant>) {
    let (answer, answered) = oneshot::channel();
    let claim = Claim {
        id: "subscription/shop/nightly".into(),
        token,
        ..Claim::default()
    };
    (Claiming { claim, answer }, answered)
}

#[tokio::test]
async fn each_claim_has_its_own_answer_however_many_are_made_at_once() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let sidecar = Running::start(&operator);
    let mut waiting = Vec::new();
    // More than a message has room for.
    for token in 0..200 {
        let (claiming, answered) = claim(token);
        sidecar.claims.send(claiming).await.unwrap();
        waiting.push((token, answered));
    }
    for (token, answered) in waiting {
        assert_eq!(answered.await.unwrap().token, token + 1);
    }
    // What is told beside them is told.
    operator.publish(|view| *view = Snapshot::at(2).with("route/shop/orders", "v2"));
    let held = |outcome: &Outcome| matches!(outcome, Outcome::Held(_));
    operator.outcome("route/shop/orders", held).await;
}

#[tokio::test]
async fn who_waits_for_an_answer_is_told_when_there_will_be_none() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let sidecar = Running::start(&operator);
    let (claiming, answered) = claim(1);
    sidecar.claims.send(claiming).await.unwrap();
    answered.await.unwrap();

    // An operator that does not know of claims is not sent any; the next one is.
    operator.roll_back();
    operator.streams(0).await;
    operator.streams(1).await;
    let (given_up, answered) = claim(2);
    drop(answered);
    sidecar.claims.send(given_up).await.unwrap();
    let (claiming, mut answered) = claim(3);
    sidecar.claims.send(claiming).await.unwrap();
    operator.outcome("route/shop/orders", |_| true).await;
    assert!(answered.try_recv().is_err());
    operator.roll_forward();
    assert_eq!(answered.await.unwrap().token, 4);
}

#[test]
fn a_message_of_claims_has_bounds() {
    let claim = |runs| Claim {
        runs: vec![Run::default(); runs],
        ..Claim::default()
    };
    let said = |claims: Vec<Claim>| FromSidecar::from(Claims { claims }).into_said();
    assert!(said(vec![claim(100); 64]).is_ok());
    let many = said(vec![claim(0); 1000]);
    assert!(matches!(many, Err(Unfit::TooMany(_))), "{many:?}");
    let long = said(vec![claim(100_000)]);
    assert!(matches!(long, Err(Unfit::TooLong(_))), "{long:?}");
}
