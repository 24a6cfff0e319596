//! How events are delivered.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::*;

/// A second EventSubscription, of its own group and name.
pub(super) fn also(name: &str, more: &str) -> String {
    subscription("", more)
        .replace(
            "name: billing, namespace",
            &format!("name: {name}, namespace"),
        )
        .replace("/events }", &format!("/{name} }}"))
}

#[tokio::test]
async fn each_subscription_gets_every_event_and_those_that_share_a_group_share_them() -> Result<()>
{
    let world = World::start(&format!("{}{}", subscription("", ""), also("second", ""))).await?;
    let another = world.mesh.workload("billing").await?;
    for name in ["billing", "second"] {
        world.mesh.programmed(name).await?;
    }
    for number in 0..40 {
        world.accepted(&number.to_string()).await?;
    }
    let seen = || [world.billing.upstream.seen(), another.upstream.seen()].concat();
    wait_until("every event has come to both", SOON, async || {
        for number in 0..40 {
            for path in ["/events", "/second"] {
                let of = |one: &&Seen| one.target == path && id_of(one) == number.to_string();
                ensure!(seen().iter().filter(of).count() == 1, "{number} at {path}");
            }
        }
        Ok(())
    })
    .await?;
    assert_eq!(seen().len(), 80);
    Ok(())
}

#[tokio::test]
async fn replicas_come_and_go_under_load_and_nothing_is_lost_comes_twice_or_starves() -> Result<()>
{
    let world = World::subscribed("", "").await?;
    let first = &world.billing;
    first.upstream.takes(Duration::from_millis(5));
    let mut published = 0;
    let mut publish_until = async |is_so: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !is_so() {
            ensure!(since.elapsed() < SOON, "it did not come to that");
            published += 1;
            world.accepted(&published.to_string()).await?;
        }
        anyhow::Ok(())
    };
    publish_until(&|| first.upstream.requests() > 20).await?;
    // Scaled up: who comes is given its share.
    let second = world.mesh.workload("billing").await?;
    let third = world.mesh.workload("billing").await?;
    for one in [&second, &third] {
        one.upstream.takes(Duration::from_millis(5));
    }
    publish_until(&|| second.upstream.requests().min(third.upstream.requests()) > 20).await?;
    // Rolled, and scaled down: who ends finishes what it has begun, and gives the rest back.
    first.sidecar.terminate().await?;
    let begun = second.upstream.requests();
    publish_until(&|| second.upstream.requests() > begun + 20).await?;
    second.sidecar.terminate().await?;
    let begun = third.upstream.requests();
    publish_until(&|| third.upstream.requests() > begun + 20).await?;
    let all = [first, &second, &third];
    wait_until("every event is delivered", SOON, async || {
        let seen: usize = all.iter().map(|one| one.upstream.requests()).sum();
        ensure!(seen >= published, "{seen} of {published}");
        Ok(())
    })
    .await?;
    let seen = all.map(|one| one.upstream.seen()).concat();
    let ids = BTreeSet::from_iter(seen.iter().map(id_of));
    assert_eq!((ids.len(), seen.len()), (published, published));
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_event_is_written_as_json_where_that_is_asked_for() -> Result<()> {
    let world = World::subscribed(", mode: Structured", "").await?;
    world.accepted("1").await?;
    wait_until("it is delivered", SOON, async || {
        ensure!(world.billing.upstream.requests() > 0);
        Ok(())
    })
    .await?;
    let seen = &world.billing.upstream.seen()[0];
    assert_eq!(header(seen, "content-type"), "application/cloudevents+json");
    let event: Value = serde_json::from_slice(&seen.body)?;
    assert_eq!(
        (&event["id"], &event["data"]),
        (&json!("1"), &json!({ "sku": "1" }))
    );
    Ok(())
}

#[tokio::test]
async fn an_event_is_its_data_alone_where_that_is_asked_for() -> Result<()> {
    let world = World::subscribed(", mode: Raw", "").await?;
    let headers = [
        ("idempotency-key", "1"),
        ("content-type", "application/xml"),
        ("x-request-id", "basket-77"),
    ];
    assert_eq!(world.publish(&headers, "<order/>").await?.status, 202);
    wait_until("it has come", SOON, async || {
        ensure!(world.billing.upstream.requests() == 1);
        Ok(())
    })
    .await?;
    let seen = &world.billing.upstream.seen()[0];
    assert_eq!(seen.body, "<order/>");
    assert_eq!(header(seen, "content-type"), "application/xml");
    assert_eq!(header(seen, "x-request-id"), "basket-77");
    assert!(!header(seen, "traceparent").is_empty());
    let mut names = seen.headers.keys();
    assert!(
        !names.any(|name| name.as_str().starts_with("ce-")),
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test]
async fn only_what_passes_the_filters_is_delivered() -> Result<()> {
    let filters = "  filters:\n  - prefix: { type: com.shop }\n  \
                   - any: [{ exact: { region: eu } }, { sql: \"amount > 10\" }, \
                   { data: { path: \"$.items[*].qty\", lessThan: \"10\" } }]\n  \
                   - not: { suffix: { subject: test } }\n";
    let world = World::subscribed("", filters).await?;
    let send = async |id: &str, kind: &str, more: &[(&str, &str)], data: &str| {
        let head = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/s"),
            ("ce-type", kind),
        ];
        let answer = world.publish(&[&head, more].concat(), data).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    };
    send("other-type", "org.shop", &[("ce-region", "eu")], "").await?;
    send("no-region", "com.shop.a", &[], "").await?;
    send(
        "a-test",
        "com.shop.a",
        &[("ce-region", "eu"), ("ce-subject", "a/test")],
        "",
    )
    .await?;
    send("small", "com.shop.a", &[("ce-amount", "9")], "").await?;
    send("no-number", "com.shop.a", &[("ce-amount", "x")], "").await?;
    send("region", "com.shop.a", &[("ce-region", "eu")], "").await?;
    send("large", "com.shop.a", &[("ce-amount", "11")], "").await?;
    let json = [("content-type", "application/json")];
    let text = [("content-type", "text/plain")];
    send("many", "com.shop.a", &json, r#"{"items": [{"qty": 10}]}"#).await?;
    send(
        "few-in-text",
        "com.shop.a",
        &text,
        r#"{"items": [{"qty": 9}]}"#,
    )
    .await?;
    send(
        "few",
        "com.shop.a",
        &json,
        r#"{"items": [{"qty": 10}, {"qty": 9.99}]}"#,
    )
    .await?;
    let seen = world.delivered(&["region", "large", "few"]).await?;
    assert_eq!(seen.len(), 3, "{seen:?}");
    // The others are done with.
    let filtered =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"filtered\"}";
    wait_until("the rest is filtered", SOON, async || {
        let count = world.billing.sidecar.metric(filtered).await?;
        ensure!(count == Some(7.0), "{count:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_is_called_by_its_name_with_all_that_governs_it() -> Result<()> {
    let world = World::start("").await?;
    let target =
        "target: { type: Service, service: { name: billing-events, port: 9090 }, path: /events }";
    let workload = "target: { type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }";
    let limited = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                   metadata: { name: billing-api, namespace: shop }\n\
                   spec: { hosts: [billing-events], rules: [{ requestHeaders: { set: [{ name: x-by, value: rule }] } }] }\n\
                   ---\napiVersion: v1\nkind: Service\nmetadata: { name: billing-events, namespace: shop }\n\
                   spec: { selector: { app: billing }, ports: [{ name: other, port: 80, targetPort: 8081 }, \
                   { name: http, port: 9090, targetPort: 8080 }] }\n";
    let written = subscription("", "").replace(workload, target);
    assert!(written.contains(target));
    world
        .mesh
        .write("events.yaml", &format!("{written}{limited}"))?;
    world.mesh.programmed("billing").await?;
    world.mesh.programmed("billing-api").await?;
    wait_until("the topic is there", SOON, async || {
        let answer = world.publish(&[("idempotency-key", "1")], "{}").await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await?;
    let seen = world.delivered(&["1"]).await?;
    assert_eq!(header(&seen[0], "x-by"), "rule");
    assert_eq!(header(&seen[0], "host"), "billing-events.shop:9090");
    Ok(())
}

#[tokio::test]
async fn what_is_delivered_to_a_service_is_let_in_for_who_delivers_it_and_tried_again_as_any_call()
-> Result<()> {
    let world = World::start("").await?;
    let target =
        "target: { type: Service, service: { name: billing-events, port: 9090 }, path: /events }";
    let workload = "target: { type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }";
    let written = subscription("", "").replace(workload, target);
    assert!(written.contains(target));
    let around = |may: &str| {
        format!(
            "{written}---\napiVersion: v1\nkind: Service\nmetadata: {{ name: billing-events, namespace: shop }}\n\
             spec: {{ selector: {{ app: billing }}, ports: [{{ name: http, port: 9090, targetPort: 8080 }}] }}\n\
             ---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{ name: for-{may}, namespace: shop }}\n\
             spec: {{ hosts: [billing-events], authorization: {{ rules: [{{ principals: {{ serviceAccounts: [{may}] }} }}] }} }}\n\
             ---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{ name: billing, namespace: shop }}\n\
             spec: {{ targetRefs: [{{ kind: Service, name: billing-events }}], maxRetries: 2, methods: [POST], \
             retryOn: {{ statusCodes: [503] }}, backoff: {{ initial: 10ms, max: 20ms }} }}\n"
        )
    };
    let written = async |may: &str| {
        world.mesh.write("events.yaml", &around(may))?;
        for name in ["billing", &format!("for-{may}")] {
            world.mesh.programmed(name).await?;
        }
        Ok::<_, anyhow::Error>(())
    };

    // Who delivers is who it is, and what fails is tried again without a word to the broker.
    written("billing").await?;
    world.billing.upstream.fails(2, 503);
    world.accepted("1").await?;
    wait_until("it is done", SOON, async || {
        let count = async |outcome: &str| {
            let series = format!(
                "meshwright_events_delivered_total{{subscription=\"shop/billing\",outcome=\"{outcome}\"}}"
            );
            world.billing.sidecar.metric(&series).await
        };
        let (done, again) = (count("acknowledged").await?, count("retried").await?);
        ensure!(done == Some(1.0) && again.is_none(), "{done:?} {again:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.billing.upstream.requests(), 3);

    // Anybody else is not let in, whatever it delivers.
    written("somebody").await?;
    world.accepted("2").await?;
    let letters = world.dead_letters(1).await?;
    let head = letters[0].0.to_lowercase();
    assert!(head.contains("ce-dlqcode: 403"), "{head}");
    assert_eq!(world.billing.upstream.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn what_others_publish_without_a_word_of_cloud_events_is_delivered_as_one() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let mut direct = world.nats.direct().await?;
    direct
        .publish(
            "stock",
            &[("Content-Type", "application/json")],
            "{\"a\":1}",
        )
        .await?;
    let seen = world.delivered(&["1"]).await?;
    assert_eq!(header(&seen[0], "ce-type"), "stock");
    assert_eq!(header(&seen[0], "ce-source"), "/topics/stock");
    assert_eq!(header(&seen[0], "content-type"), "application/json");
    assert_eq!(seen[0].body, "{\"a\":1}");
    Ok(())
}

/// At most one event a second is let in by whoever has the target; `to` says which it is.
async fn holds_up_and_costs_nothing(to: &str) -> Result<()> {
    let world = World::start("").await?;
    let workload = "target: { type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }";
    let limit = "---\napiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\n\
                 metadata: { name: billing, namespace: shop }\n\
                 spec: { targetRefs: [{ kind: Service, name: billing }], \
                 limits: [{ name: all, requests: 1, per: 1s, burst: 1 }] }\n";
    let written = subscription("", "").replace(workload, to);
    assert!(written.contains(to));
    world
        .mesh
        .write("events.yaml", &format!("{written}{limit}"))?;
    world.mesh.programmed("billing").await?;
    // Each is refused oftener than an event may fail.
    for id in ["1", "2", "3", "4"] {
        world.accepted(id).await?;
    }
    world.delivered(&["1", "2", "3", "4"]).await?;
    let unreached =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"unreached\"}";
    let count = world.billing.sidecar.metric(unreached).await?;
    assert!(
        count.is_some_and(|count| count > 0.0),
        "nothing was limited"
    );
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_a_rate_limit_holds_up_waits_and_costs_no_attempt() -> Result<()> {
    holds_up_and_costs_nothing(
        "target: { type: Service, service: { name: billing, port: 80 }, path: /events }",
    )
    .await
}

#[tokio::test]
async fn what_is_delivered_to_a_workload_is_within_the_rate_limits_of_its_services() -> Result<()> {
    holds_up_and_costs_nothing(
        "target: { type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }",
    )
    .await
}

#[tokio::test]
async fn one_trace_joins_the_request_the_event_and_its_delivery() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [
        ("traceparent", parent.as_str()),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/stock"),
        ("ce-type", "com.shop.stock"),
        ("ce-correlationid", "order-7"),
    ];
    assert_eq!(world.publish(&headers, "{}").await?.status, 202);
    let seen = world.delivered(&["1"]).await?;
    assert_eq!(header(&seen[0], "ce-correlationid"), "order-7");
    assert_eq!(header(&seen[0], "x-request-id"), "order-7");
    assert_eq!(header(&seen[0], "traceparent"), parent);
    assert_eq!(header(&seen[0], "ce-traceparent"), parent);
    for sidecar in [&world.stock.sidecar, &world.billing.sidecar] {
        wait_until("it is in the access log", SOON, async || {
            ensure!(sidecar.log()?.contains(trace));
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_id_joins_the_request_the_event_its_deliveries_and_its_dead_letter() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let asked = [("x-request-id", "basket-77"), ("idempotency-key", "1")];
    assert_eq!(world.publish(&asked, "{}").await?.status, 202);
    let seen = world.delivered(&["1"]).await?;
    assert_eq!(header(&seen[0], "ce-correlationid"), "basket-77");
    assert_eq!(header(&seen[0], "x-request-id"), "basket-77");

    // Whoever names none is given one by the sidecar beside it; of a batch all have it.
    world.billing.upstream.answers(422);
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let event = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/stock", "type": "t", "data": 1 });
    let body = json!([event("2"), event("3")]).to_string();
    assert_eq!(world.publish(&batch, &body).await?.status, 202);
    let letters = world.dead_letters(2).await?;
    let seen = world.billing.upstream.seen();
    let id = header(&seen[1], "x-request-id").to_owned();
    assert_eq!(header(&seen[2], "x-request-id"), id);
    let trace = header(&seen[1], "ce-traceparent").to_owned();
    assert!(
        trace.len() == 55 && header(&seen[1], "traceparent") == trace,
        "{trace}"
    );
    for (head, _) in letters {
        for said in [
            format!("ce-correlationid: {id}"),
            format!("ce-traceparent: {trace}"),
        ] {
            assert!(head.to_lowercase().contains(&said), "{said}\n{head}");
        }
    }
    for sidecar in [&world.stock.sidecar, &world.billing.sidecar] {
        wait_until("it is in the access log", SOON, async || {
            let log = sidecar.log()?;
            ensure!(log.contains(&id) && log.contains("basket-77"), "{id}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
