//! Events that are due at times, in a mesh whose sidecars and operator die.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Result, ensure};
use tokio::net::TcpListener;

use super::*;

/// An EventSubscription that is due as `cron` says, for the pods of `billing`; `more` is of its schedule.
fn due(cron: &str, more: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
         metadata: {{ name: nightly, namespace: shop }}\n\
         spec:\n  source: {{ type: Schedule, schedule: {{ cron: \"{cron}\", timeZone: Europe/Madrid{more} }} }}\n  \
         target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /nightly }}\n  \
         delivery: {{ onExhausted: Drop, \
         retries: {{ maxRetries: 2, backoff: {{ initial: 10ms, max: 50ms, jitter: None }} }} }}\n"
    )
}

/// What these have seen, by id: how often each event came.
fn counted(workloads: &[&Workload]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for seen in workloads.iter().flat_map(|one| one.upstream.seen()) {
        *counted.entry(id_of(&seen).to_owned()).or_default() += 1;
    }
    counted
}

/// Waits until these have seen so many events.
async fn until(workloads: &[&Workload], count: usize) -> Result<BTreeMap<String, usize>> {
    wait_until("so many events have come", LEASE + SOON, async || {
        let counted = counted(workloads);
        ensure!(counted.len() >= count, "{counted:?}");
        Ok(())
    })
    .await?;
    Ok(counted(workloads))
}

/// The moments that ids end with, in their order, as seconds.
fn moments(ids: impl IntoIterator<Item = String>) -> Result<BTreeSet<i64>> {
    let ids = ids.into_iter().map(|id| {
        let (_, moment) = id.split_at_checked(33).context("no moment")?;
        Ok(moment.parse::<jiff::Timestamp>()?.as_second())
    });
    ids.collect()
}

#[tokio::test]
async fn what_is_due_comes_once_to_one_of_those_that_it_is_for() -> Result<()> {
    let more = ", data: { region: eu }, event: { type: com.shop.nightly }";
    let mesh = Mesh::start(&format!(
        "{}{}",
        services(&["billing"]),
        due("*/2 * * * * *", more)
    ))
    .await?;
    let workloads = mesh.workloads::<3>("billing").await?;
    mesh.programmed("nightly").await?;
    let workloads = workloads.each_ref();
    let counted = until(&workloads, 5).await?;
    assert!(counted.values().all(|count| *count == 1), "{counted:?}");
    let due = Vec::from_iter(moments(counted.into_keys())?);
    assert!(due.windows(2).all(|two| two[1] - two[0] == 2), "{due:?}");

    let seen = workloads.iter().flat_map(|one| one.upstream.seen());
    let seen = seen.collect::<Vec<_>>();
    let first = &seen[0];
    assert_eq!(first.target, "/nightly");
    assert_eq!(header(first, "ce-type"), "com.shop.nightly");
    assert_eq!(
        header(first, "ce-source"),
        "/eventsubscriptions/shop/nightly"
    );
    assert!(id_of(first).ends_with(header(first, "ce-time")));
    assert_eq!(header(first, "content-type"), "application/json");
    assert_eq!(first.body, "{\"region\":\"eu\"}");
    assert!(!header(first, "traceparent").is_empty());
    Ok(())
}

#[tokio::test]
async fn what_fails_comes_again_as_the_same_event_until_it_is_exhausted() -> Result<()> {
    let mesh = Mesh::start(&format!(
        "{}{}",
        services(&["billing"]),
        due("*/5 * * * * *", "")
    ))
    .await?;
    let billing = mesh.workload("billing").await?;
    billing.upstream.answers(503);
    wait_until("one is exhausted", SOON, async || {
        let dropped =
            "meshwright_events_delivered_total{subscription=\"shop/nightly\",outcome=\"dropped\"}";
        let count = billing.sidecar.metric(dropped).await?;
        ensure!(count >= Some(1.0), "{count:?}");
        Ok(())
    })
    .await?;
    let counted = counted(&[&billing]);
    assert_eq!(counted.values().next(), Some(&3), "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn whoever_dies_nothing_is_due_under_another_id_and_another_one_goes_on() -> Result<()> {
    let mesh = Mesh::start(&format!(
        "{}{}",
        services(&["billing"]),
        due("*/2 * * * * *", "")
    ))
    .await?;
    let mut first = mesh.workload("billing").await?;
    mesh.programmed("nightly").await?;
    until(&[&first], 1).await?;
    // It has one in hand that is never answered.
    let gone = first.upstream.requests();
    first.upstream.close();
    let stuck = wait_until("its port is free", SOON, async || {
        Ok(TcpListener::bind(first.upstream.address()).await?)
    })
    .await?;
    let (_held, _) = stuck.accept().await?;
    let before = counted(&[&first]);
    let second = mesh.workload("billing").await?;
    first.sidecar.kill().await?;

    // The second one has it, as the same event, and what is due from then on.
    let after = until(&[&second], 3).await?;
    assert_eq!(first.upstream.requests(), gone);
    let [before, after] = [before, after].map(|counted| moments(counted.into_keys()));
    let (before, after) = (before?, after?);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    let (last, next) = (before.last().copied(), after.first().copied());
    assert_eq!(next, last.map(|last| last + 2), "the one that was in hand");

    // Without an operator nothing begins; a new one knows what had begun.
    mesh.kill_operator().await?;
    let count = counted(&[&second]).len();
    mesh.start_operator().await?;
    let counted = until(&[&second], count + 3).await?;
    assert!(counted.values().all(|count| *count == 1), "{counted:?}");
    let due = moments(counted.into_keys())?;
    let now = jiff::Timestamp::try_from(SystemTime::now())?.as_second();
    assert!(due.iter().all(|due| due % 2 == 0 && *due <= now), "{due:?}");
    Ok(())
}

#[tokio::test]
async fn a_schedule_by_which_nobody_can_go_is_refused_with_its_field() -> Result<()> {
    let mesh = Mesh::start(&format!(
        "{}{}",
        services(&["billing"]),
        due("0 25 * * *", "")
    ))
    .await?;
    let verdict = mesh.verdict("nightly").await?.to_string();
    let said = "spec.source.schedule.cron: the hour \\\"25\\\" is none: it is 0 to 23";
    assert!(verdict.contains(said), "{verdict}");
    Ok(())
}
