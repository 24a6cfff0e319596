//! Events for whom no pod of the mesh is there: to systems outside, to other topics, and for pods that are to come.

use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use rcgen::KeyPair;
use tests::outside::{NAME, System};

use super::*;

mod killed;

/// A key that belongs to no certificate here.
fn other_key() -> Result<String> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// An EventSubscription of the topic `stock` for this target.
fn carried(target: &str, spec: &str) -> String {
    subscription("", spec).replace(
        "{ type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }",
        target,
    )
}

/// One that posts to this system, and the Secret with what it asks for, whose authority is this one.
fn posted_to(system: &System, authority: &str) -> String {
    posted_at(&system.address.to_string(), system, authority)
}

/// The same, at this host and port.
fn posted_at(address: &str, system: &System, authority: &str) -> String {
    let url = format!(
        "{{ type: URL, url: {{ address: \"https://{address}/hooks/stock?from=shop\", secretRef: {{ name: partner }} }} }}"
    );
    carried(&url, "") + &system.secret("shop", authority)
}

/// A pod that carries out what no pod does for itself.
async fn carrier(mesh: &Mesh) -> Result<Client> {
    let carrier = mesh.client("meshwright-system/events").await?;
    let pod = carrier.sidecar().pod().to_owned();
    mesh.mark(&pod, "labels", "meshwright.dev/carries-events", "true")?;
    Ok(carrier)
}

/// A mesh that publishes, with this subscription and whoever carries it out.
async fn started(subscription: &str) -> Result<(Mesh, Nats, Workload, Client)> {
    let mesh = Mesh::start(&format!(
        "{}{}{ROUTE}{subscription}",
        services(&["stock", "billing"]),
        nats::documents()
    ))
    .await?;
    let nats = Nats::start(&mesh).await?;
    let stock = mesh.workload("stock").await?;
    mesh.programmed("stock").await?;
    let carrier = carrier(&mesh).await?;
    Ok((mesh, nats, stock, carrier))
}

async fn accepted(stock: &Workload, key: &str) -> Result<()> {
    let headers = [
        ("idempotency-key", key),
        ("content-type", "application/json"),
    ];
    wait_until("it is accepted", SOON, async || {
        let body = json!({ "sku": key }).to_string();
        let answer = publish(&stock.sidecar, "events/stock", &headers, &body).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_goes_to_a_system_outside_is_posted_to_it_with_what_its_secret_says() -> Result<()> {
    let system = System::start().await?;
    let (mesh, nats, stock, carrier) = started(&posted_to(&system, &system.authority)).await?;
    mesh.programmed("billing").await?;
    for key in ["1", "2", "3"] {
        accepted(&stock, key).await?;
    }
    wait_until("all have come", SOON, async || {
        let posted = system.posted();
        ensure!(posted.len() == 3, "{posted:?}");
        Ok(())
    })
    .await?;
    for posted in system.posted() {
        assert_eq!(posted.uri, "/hooks/stock?from=shop");
        let header = |name: &str| posted.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("host"), system.address.to_string());
        assert_eq!(header("authorization"), "Bearer t0ken");
        assert_eq!(header("ce-type"), "com.shop.stock");
        assert_eq!(posted.body, json!({ "sku": header("ce-id") }).to_string());
    }
    // Connections are kept.
    assert!(system.connections.load(Ordering::SeqCst) <= 3);
    wait_until("it is ready", SOON, async || {
        ensure!(ready(&mesh, "billing").await?.1 == "Ready");
        Ok(())
    })
    .await?;

    // What it refuses for good is a dead letter, and what fails is posted again.
    system.status.store(422, Ordering::SeqCst);
    accepted(&stock, "4").await?;
    wait_until("it is a dead letter", SOON, async || {
        ensure!(nats.held("stock.dlq").await? == 1);
        Ok(())
    })
    .await?;
    system.status.store(503, Ordering::SeqCst);
    accepted(&stock, "5").await?;
    wait_until("it is a dead letter too", SOON, async || {
        ensure!(nats.held("stock.dlq").await? == 2);
        Ok(())
    })
    .await?;
    assert_eq!(system.posted().len(), 3 + 1 + 3);

    // Nobody is told what it is shown.
    let sidecar = carrier.sidecar();
    let told = [
        sidecar.log()?,
        mesh.operator_log()?,
        sidecar.config().await?.to_string(),
        mesh.verdict("billing").await?.to_string(),
    ];
    for told in told {
        assert!(!told.contains("t0ken") && !told.contains("PRIVATE KEY"));
    }
    Ok(())
}

#[tokio::test]
async fn a_system_outside_is_called_within_the_rate_limits_of_its_name_in_the_same_namespace()
-> Result<()> {
    let system = System::start().await?;
    let limit = |namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: partner, namespace: {namespace} }}\n\
             spec: {{ type: ExternalName, externalName: {NAME} }}\n\
             ---\napiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\n\
             metadata: {{ name: partner, namespace: {namespace} }}\n\
             spec: {{ targetRefs: [{{ kind: Service, name: partner }}], \
             limits: [{{ name: daily, requests: 2, per: 24h, burst: 2 }}] }}\n"
        )
    };
    let address = format!("{NAME}:{}", system.address.port());
    let own = posted_at(&address, &system, &system.authority);
    // Whose limits are known here as well, and are about its own deliveries.
    let elsewhere = "{ type: URL, url: { address: \"https://partner.example.com\" } }";
    let others = carried(elsewhere, "").replace("namespace: shop", "namespace: other");
    let written = own + &limit("shop") + &others + &limit("other");
    let (mesh, nats, stock, carrier) = started(&written).await?;
    mesh.programmed("billing").await?;
    mesh.programmed("partner").await?;
    // While it can't be reached, nothing is taken.
    accepted(&stock, "1").await?;
    let unreached =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"unreached\"}";
    wait_until("it was tried often", SOON, async || {
        let count = carrier.sidecar().metric(unreached).await?;
        ensure!(count > Some(2.0), "{count:?}");
        Ok(())
    })
    .await?;
    let hosts = format!("127.0.0.1 localhost {NAME}\n");
    let _hosts = carrier.sidecar().restart_with_hosts(&hosts).await?;
    for key in ["2", "3"] {
        accepted(&stock, key).await?;
    }
    let counted = |namespace: &str, outcome: &str| {
        format!(
            "meshwright_rate_limit_total{{rate_limit=\"{namespace}/partner\",limit=\"daily\",outcome=\"{outcome}\"}}"
        )
    };
    wait_until("the third is held up", LEASE + SOON, async || {
        let count = carrier
            .sidecar()
            .metric(&counted("shop", "limited"))
            .await?;
        ensure!(
            count >= Some(1.0),
            "{count:?}; {} posted",
            system.posted().len()
        );
        Ok(())
    })
    .await?;
    assert_eq!(system.posted().len(), 2);
    for outcome in ["passed", "limited"] {
        let others = carrier.sidecar().metric(&counted("other", outcome)).await?;
        assert!(others.is_none_or(|count| count == 0.0), "{others:?}");
    }
    assert_eq!(nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_system_that_can_not_prove_who_it_is_is_told_nothing_and_no_event_is_lost() -> Result<()>
{
    let (system, other) = (System::start().await?, System::start().await?);
    let (mesh, _nats, stock, _carrier) = started(&posted_to(&system, &other.authority)).await?;
    accepted(&stock, "1").await?;
    wait_until("it is told", SOON, async || {
        let (status, reason, why) = ready(&mesh, "billing").await?;
        ensure!((&*status, &*reason) == ("False", "NotDelivering"), "{why}");
        ensure!(why.contains("peer_not_verified"), "{why}");
        Ok(())
    })
    .await?;
    assert_eq!(system.posted().len(), 0);
    // It had no attempt meanwhile: else it would be exhausted.
    let all = format!(
        "{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        nats::documents(),
        posted_to(&system, &system.authority)
    );
    mesh.write("routes.yaml", &all)?;
    wait_until("it has come", LEASE + SOON, async || {
        ensure!(system.posted().len() == 1);
        Ok(())
    })
    .await?;
    wait_until("it is ready", SOON, async || {
        ensure!(ready(&mesh, "billing").await?.1 == "Ready");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_what_a_system_asks_for_nothing_is_pulled_and_it_is_said_what_is_missing()
-> Result<()> {
    let system = System::start().await?;
    let whole = posted_to(&system, &system.authority);
    let (without, _) = whole
        .split_once("---\napiVersion: v1\nkind: Secret")
        .context("a Secret")?;
    let (mesh, _nats, stock, _carrier) = started(without).await?;
    accepted(&stock, "1").await?;
    wait_until("it is told", SOON, async || {
        let verdict = mesh.verdict("billing").await?;
        let missing = "there is no Secret \\\"partner\\\"";
        ensure!(verdict.to_string().contains(missing), "{verdict}");
        let (_, reason, why) = ready(&mesh, "billing").await?;
        ensure!(
            reason == "NotDelivering" && why.contains("its Secret can't be used"),
            "{why}"
        );
        ensure!(verdict["events"]["lag"] == 1, "{verdict}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_goes_to_another_topic_is_held_there_once_and_belongs_to_the_same_trace() -> Result<()>
{
    let target = "{ type: Topic, topic: { name: stock.copy } }";
    let (mesh, nats, stock, _carrier) = started(&carried(target, "")).await?;
    mesh.programmed("billing").await?;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", parent), ("idempotency-key", "1")];
    wait_until("it is accepted", SOON, async || {
        let answer = publish(&stock.sidecar, "events/stock", &headers, "{}").await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await?;
    accepted(&stock, "2").await?;
    // Another event, whose sender chose the same id.
    accepted(&stock, "1").await?;
    wait_until("all are there", SOON, async || {
        let held = nats.held("stock.copy").await?;
        ensure!(held == 3, "{held}");
        Ok(())
    })
    .await?;
    let (head, body) = &nats.messages("stock.copy").await?[0];
    let head = head.to_lowercase();
    for line in [
        "ce-id: 1",
        "ce-meshwrighthops: 1",
        &format!("ce-traceparent: {parent}"),
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
    assert_eq!(body, "{}");
    assert_eq!(nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_event_that_copies_lead_back_to_where_it_was_ends_as_a_dead_letter() -> Result<()> {
    let there = carried("{ type: Topic, topic: { name: back } }", "");
    let back = there
        .replace("name: billing,", "name: back,")
        .replace("topic: stock,", "topic: back,")
        .replace("{ name: back } }", "{ name: stock } }");
    let (mesh, nats, stock, _carrier) = started(&(there + &back)).await?;
    mesh.programmed("back").await?;
    accepted(&stock, "1").await?;
    wait_until("it is a dead letter", SOON, async || {
        ensure!(nats.held("stock.dlq").await? == 1);
        Ok(())
    })
    .await?;
    let letters = nats.messages("stock.dlq").await?;
    assert!(letters[0].0.to_lowercase().contains("ce-dlqreason: loop"));
    // There and back until there were 32.
    assert_eq!(nats.held("back").await?, 16);
    Ok(())
}

#[tokio::test]
async fn what_is_due_becomes_an_event_of_a_topic() -> Result<()> {
    let nightly = "---\napiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
        metadata: { name: billing, namespace: shop }\n\
        spec:\n  source: { type: Schedule, schedule: { cron: \"* * * * * *\", timeZone: Etc/UTC } }\n  \
        target: { type: Topic, topic: { broker: events, name: nightly } }\n  \
        delivery: { onExhausted: Block }\n";
    let (_mesh, nats, _stock, _carrier) = started(nightly).await?;
    wait_until("some are held", SOON, async || {
        let held = nats.held("nightly").await?;
        ensure!(held >= 2, "{held}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn while_no_pod_is_there_what_waits_is_counted_and_comes_to_the_first_that_is() -> Result<()>
{
    let (mesh, _nats, stock, carrier) = started(&subscription("", "")).await?;
    wait_until("nobody is there", SOON, async || {
        let (status, reason, why) = ready(&mesh, "billing").await?;
        ensure!(
            (&*status, &*reason) == ("False", "NoTarget"),
            "{reason} {why}"
        );
        ensure!(why.contains("is counted"), "{why}");
        Ok(())
    })
    .await?;
    for key in ["1", "2", "3"] {
        accepted(&stock, key).await?;
    }
    wait_until("three wait", SOON, async || {
        let verdict = mesh.verdict("billing").await?;
        ensure!(verdict["events"]["lag"] == 3, "{verdict}");
        Ok(())
    })
    .await?;
    // What scales by it reads it there.
    let lag = "meshwright_events_lag{subscription=\"shop/billing\"}";
    let sidecar = carrier.sidecar();
    assert_eq!(sidecar.metric(lag).await?, Some(3.0));

    let billing = mesh.workload("billing").await?;
    wait_until("all have come", SOON, async || {
        let seen = billing.upstream.requests();
        ensure!(seen == 3, "{seen}");
        Ok(())
    })
    .await?;
    wait_until("it is the pod's own", SOON, async || {
        ensure!(ready(&mesh, "billing").await?.1 == "Ready");
        ensure!(sidecar.metric(lag).await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_without_a_sidecar_are_called_through_their_service() -> Result<()> {
    let target = "{ type: Service, service: { name: billing, port: 80 }, path: /events }";
    let (mesh, _nats, stock, _carrier) = started(&carried(target, "")).await?;
    let outsider = mesh.outsider("billing").await?;
    accepted(&stock, "1").await?;
    wait_until("it has come", SOON, async || {
        let seen = outsider.seen();
        ensure!(seen.iter().any(|one| one.target == "/events"), "{seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn where_nobody_carries_it_out_its_status_says_so() -> Result<()> {
    let target = "{ type: Topic, topic: { name: stock.copy } }";
    let mesh = Mesh::start(&format!(
        "{}{}{}",
        services(&["stock"]),
        nats::documents(),
        carried(target, "")
    ))
    .await?;
    // The label counts in the operator's namespace and nowhere else.
    let pretends = mesh.client("stock").await?;
    let pod = pretends.sidecar().pod().to_owned();
    mesh.mark(&pod, "labels", "meshwright.dev/carries-events", "true")?;
    wait_until("it says so", SOON, async || {
        let (status, reason, why) = ready(&mesh, "billing").await?;
        ensure!(
            (&*status, &*reason) == ("False", "NotCarriedOut"),
            "{reason} {why}"
        );
        ensure!(why.contains("meshwright-events"), "{why}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_that_becomes_worthless_is_shown_no_longer_and_its_events_wait() -> Result<()> {
    let mut system = System::start().await?;
    let (mesh, nats, stock, _carrier) = started(&posted_to(&system, &system.authority)).await?;
    accepted(&stock, "1").await?;
    wait_until("it has come", SOON, async || {
        ensure!(system.posted().len() == 1);
        Ok(())
    })
    .await?;
    let written = |system: &System| {
        let all = format!(
            "{}{}{ROUTE}{}",
            services(&["stock", "billing"]),
            nats::documents(),
            posted_to(system, &system.authority)
        );
        mesh.write("routes.yaml", &all)
    };
    let key = std::mem::replace(&mut system.shown.1, other_key()?);
    written(&system)?;
    wait_until("it is told", SOON, async || {
        let verdict = mesh.verdict("billing").await?.to_string();
        ensure!(verdict.contains("don't belong together"), "{verdict}");
        Ok(())
    })
    .await?;
    accepted(&stock, "2").await?;
    wait_until("it waits", SOON, async || {
        let verdict = mesh.verdict("billing").await?;
        ensure!(verdict["events"]["lag"] == 1, "{verdict}");
        Ok(())
    })
    .await?;
    assert_eq!(system.posted().len(), 1);
    system.shown.1 = key;
    written(&system)?;
    wait_until("the other has come", LEASE + SOON, async || {
        ensure!(system.posted().len() == 2);
        Ok(())
    })
    .await?;
    assert_eq!(nats.held("stock.dlq").await?, 0);
    Ok(())
}
