//! How it goes with what a sidecar carries out, on the stream.

use wire::delta::Outcome;

use crate::{
    operator::{Operator, Running},
    snapshot::Snapshot,
};

/// Names and what is in flight, as they came.
fn told(reports: &[wire::discovery::SubscriptionReport]) -> Vec<(&str, u64)> {
    let told = reports.iter();
    told.map(|one| (one.name.as_str(), one.in_flight)).collect()
}

#[tokio::test(start_paused = true)]
async fn how_it_goes_is_told_and_all_of_it_on_each_new_stream() {
    let operator = Operator::start(Snapshot::at(1));
    let sidecar = Running::start(&operator);
    let reports = &sidecar.reports;
    reports.change("shop", "a", |report| report.in_flight = 1);
    reports.change("shop", "b", |report| report.in_flight = 2);
    assert_eq!(told(&operator.reported(2).await), [("a", 1), ("b", 2)]);
    reports.change("shop", "a", |report| report.in_flight = 3);
    assert_eq!(told(&operator.reported(3).await)[2..], [("a", 3)]);
    operator.hang_up();
    assert_eq!(told(&operator.reported(5).await)[3..], [("a", 3), ("b", 2)]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_does_not_read_how_it_goes_is_not_told() {
    let operator = Operator::start(Snapshot::at(1));
    operator.roll_back();
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    sidecar.reports.change("shop", "a", |_| {});
    operator.publish(|view| *view = view.clone().with("route/shop/orders", "v1"));
    let is_held = |outcome: &Outcome| matches!(outcome, Outcome::Held(_));
    operator.outcome("route/shop/orders", is_held).await;
    operator.streams(1).await;
    tokio::time::sleep(wire::report::SPACING * 2).await;
    assert_eq!(operator.reported(0).await.len(), 0);
}
