//! What is published, and what is not.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::*;
use crate::access::consumer;

#[tokio::test]
async fn an_event_is_accepted_once_the_broker_holds_it_and_reaches_who_is_subscribed() -> Result<()>
{
    let world = World::subscribed("", "").await?;

    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "\"7\""),
    ];
    let answer = world.publish(&headers, r#"{"sku":"a"}"#).await?;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (202, r#"{"id":"7","source":"/stock"}"#)
    );
    assert_eq!(world.nats.held("stock").await?, 1);

    let seen = world.delivered(&["7"]).await?;
    let [event] = &*seen else { panic!("{seen:?}") };
    assert_eq!(
        (event.method.as_str(), event.target.as_str()),
        ("POST", "/events")
    );
    assert_eq!(event.body, r#"{"sku":"a"}"#);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "com.shop.stock"),
        ("ce-source", "/stock"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(header(event, name), value, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_posted_to_the_api_is_published_instead_of_reaching_the_application() -> Result<()>
{
    let world = World::subscribed("", "").await?;
    let web = world.mesh.client("web").await?;

    let body = || Bytes::from_static(b"{}");
    let url = "http://stock.shop/updates";
    let headers = [
        ("idempotency-key", "9"),
        ("content-type", "application/json"),
    ];
    let answer = web.send(Method::POST, url, &headers, body()).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    world.delivered(&["9"]).await?;
    assert_eq!(world.stock.upstream.requests(), 0);

    // What no rule publishes goes where it went.
    assert_eq!(web.get(url).await?.status, 200);
    let other = web
        .send(Method::POST, "http://stock.shop/other", &[], body())
        .await?;
    assert_eq!(other.status, 200);
    assert_eq!(world.stock.upstream.requests(), 2);
    assert_eq!(world.nats.held("stock").await?, 1);
    Ok(())
}

/// A rule by which plain bodies say more of themselves; the records of an upload too.
const TOLD: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: billing, namespace: shop }\n\
    spec:\n  hosts: [billing]\n  rules:\n  \
    - matches: [{ path: { type: Exact, value: /told }, method: POST }]\n    \
      publish:\n      broker: events\n      topic: stock\n      event:\n        \
        idFrom: { header: x-order-id }\n        \
        subjectFrom: { data: \"$.order['number']\" }\n        \
        extensions: [{ name: partitionkey, from: { data: $.customer } }, { name: region, value: eu }]\n  \
    - matches: [{ path: { type: Exact, value: /lines }, method: POST }]\n    \
      publish:\n      broker: events\n      topic: stock\n      \
      split: { format: NDJSON, onRecordError: Skip, maxFailedRecords: 1 }\n      \
      event: { extensions: [{ name: partitionkey, from: { data: $.customer } }] }\n  \
    - {}\n";

#[tokio::test]
async fn plain_bodies_say_by_headers_and_data_which_events_they_are() -> Result<()> {
    let world = World::subscribed("", TOLD).await?;
    let web = world.mesh.client("web").await?;
    let post = async |path: &str, id: &[&str], body: &str| {
        let url = format!("http://billing.shop/{path}");
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(id.iter().map(|id| ("x-order-id", *id)));
        let body = Bytes::from(body.to_owned());
        web.send(Method::POST, &url, &headers, body).await
    };
    let order = r#"{"order":{"number":7},"customer":"c\u00e9-1"}"#;
    wait_until("it is published", SOON, async || {
        let answer = post("told", &["o-7"], order).await?;
        ensure!(answer.status == 202, "{answer:?}");
        assert_eq!(
            answer.body,
            r#"{"id":"o-7","source":"/apiroutes/shop/billing"}"#
        );
        Ok(())
    })
    .await?;
    let seen = world.delivered(&["o-7"]).await?;
    assert_eq!(seen[0].body, order);
    let of = |one: &Seen, name: &str| header(one, name).to_owned();
    assert_eq!(of(&seen[0], "ce-subject"), "7");
    assert_eq!(of(&seen[0], "ce-partitionkey"), "c%C3%A9-1");
    assert_eq!(of(&seen[0], "ce-region"), "eu");

    // The same once more is held once; something else of that id is another event.
    for (body, held) in [(order, 1), (r#"{"customer":["none"]}"#, 2)] {
        assert_eq!(post("told", &["o-7"], body).await?.status, 202);
        assert_eq!(world.nats.held("stock").await?, held);
    }
    wait_until("both are delivered", SOON, async || {
        ensure!(world.billing.upstream.seen().len() == 2);
        Ok(())
    })
    .await?;
    let other = &world.billing.upstream.seen()[1];
    for name in ["ce-subject", "ce-partitionkey"] {
        assert!(!other.headers.contains_key(name), "{other:?}");
    }

    // What tells it apart must be there, and what is taken must be something that an attribute can be.
    let answer = post("told", &[], order).await?;
    assert_eq!((answer.status, answer.reason()), (400, "event_malformed"));
    assert!(answer.body.contains("the header x-order-id"), "{answer:?}");
    let answer = post("told", &["o-8"], r#"{"customer":"a\u0000b"}"#).await?;
    assert_eq!((answer.status, answer.reason()), (400, "event_malformed"));
    assert!(answer.body.contains("partitionkey"), "{answer:?}");

    // Of an upload each record says its own.
    let lines = "{\"customer\":\"c-1\"}\n{\"customer\":\"a\\u0000b\"}\n{\"customer\":2}\n";
    let answer = post("lines", &[], lines).await?;
    let told: Value = serde_json::from_str(&answer.body)?;
    assert_eq!(
        (&told["accepted"], &told["rejected"]),
        (&json!(2), &json!(1)),
        "{told}"
    );
    assert_eq!(told["failed"][0]["record"], 2, "{told}");
    wait_until("all are delivered", SOON, async || {
        let seen = world.billing.upstream.seen();
        let keys = Vec::from_iter(seen.iter().map(|one| of(one, "ce-partitionkey")));
        let all = ["c-1", "2"]
            .iter()
            .all(|key| keys.iter().any(|one| one == key));
        ensure!(all, "{keys:?}");
        Ok(())
    })
    .await
}

/// A rule that publishes, behind all that governs calls.
const GUARDED: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: billing, namespace: shop }\n\
    spec:\n  hosts: [billing]\n  auth: { apiKey: {} }\n  \
    authorization: { rules: [{ principals: { consumers: [acme] } }] }\n  \
    idempotency: {}\n  rules:\n  \
    - { matches: [{ path: { type: Exact, value: /guarded } }], publish: { broker: events, topic: stock } }\n  \
    - {}\n\
    ---\napiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\nmetadata: { name: billing, namespace: shop }\n\
    spec: { targetRefs: [{ kind: Service, name: billing }], limits: [{ name: all, requests: 3, per: 24h, burst: 3, \
    paths: [{ type: Exact, value: /guarded }] }] }\n";

#[tokio::test]
async fn what_is_published_is_behind_all_that_governs_calls() -> Result<()> {
    let keys = [
        consumer("acme", "gold", "mk_acme1_a", "")?,
        consumer("poor", "free", "mk_poor1_a", "")?,
    ];
    let world = World::subscribed("", &(GUARDED.to_owned() + &keys.concat())).await?;
    let web = world.mesh.client("web").await?;
    let post = async |key: &str, body: &str| {
        let headers = [
            ("x-api-key", key),
            ("idempotency-key", "1"),
            ("content-type", "application/json"),
        ];
        let body = Bytes::from(body.to_owned());
        let url = "http://billing.shop/guarded";
        let answer = web.send(Method::POST, url, &headers, body).await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    let refused = |status: u16, reason: &str| (status, reason.to_owned());
    wait_until("it is guarded", SOON, async || {
        let answer = post("mk_none1_a", "{}").await?;
        ensure!(answer == refused(401, "credentials_invalid"), "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(
        post("mk_poor1_a", "{}").await?,
        refused(403, "not_permitted")
    );
    assert_eq!(world.nats.held("stock").await?, 0);
    // What was answered is answered again.
    for _ in 0..2 {
        assert_eq!(post("mk_acme1_a", "{}").await?.0, 202);
    }
    assert_eq!(
        post("mk_acme1_a", "[]").await?,
        refused(409, "idempotency_conflict")
    );
    assert_eq!(
        post("mk_acme1_a", "{}").await?,
        refused(429, "rate_limited")
    );
    world.delivered(&["1"]).await?;
    assert_eq!(world.nats.held("stock").await?, 1);
    Ok(())
}

#[tokio::test]
async fn cloud_events_of_every_mode_are_published_as_they_are() -> Result<()> {
    let world = World::subscribed("", "").await?;

    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-region", "e%C3%BC"),
        ("content-type", "text/plain"),
    ];
    assert_eq!(world.publish(&binary, "hello").await?.status, 202);
    let structured = json!({
        "specversion": "1.0", "id": "s", "source": "/s", "type": "t", "data": { "n": 1 },
    });
    let media = [("content-type", "application/cloudevents+json")];
    let answer = world.publish(&media, &structured.to_string()).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    let of_batch =
        |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/s", "type": "t" });
    let batch = json!([of_batch("1"), of_batch("2")]);
    let media = [("content-type", "application/cloudevents-batch+json")];
    let answer = world.publish(&media, &batch.to_string()).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(problem(&answer)["accepted"], 2);

    let seen = world.delivered(&["b", "s", "1", "2"]).await?;
    let of = |id: &str| seen.iter().find(|one| id_of(one) == id).unwrap();
    assert_eq!(
        (of("b").body.as_ref(), header(of("b"), "ce-region")),
        (&b"hello"[..], "e%C3%BC")
    );
    assert_eq!(of("s").body, r#"{"n":1}"#);
    assert_eq!(header(of("s"), "content-type"), "application/json");
    Ok(())
}

#[tokio::test]
async fn a_bad_event_of_a_batch_keeps_no_other_and_is_told_for_itself() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let batch = json!([
        { "specversion": "1.0", "id": "good", "source": "/s", "type": "t" },
        { "specversion": "1.0", "id": "bad", "source": "/s" },
    ]);
    let media = [("content-type", "application/cloudevents-batch+json")];
    let answer = world.publish(&media, &batch.to_string()).await?;
    assert_eq!(answer.status, 207, "{answer:?}");
    let told = problem(&answer);
    assert_eq!(
        (&told["accepted"], &told["rejected"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(told["events"][0]["status"], 202);
    assert_eq!(told["events"][1]["reason"], "event_malformed");
    let detail = told["events"][1]["detail"].as_str().unwrap();
    assert!(detail.starts_with("type: it is missing"), "{detail}");
    world.delivered(&["good"]).await?;
    assert_eq!(world.nats.held("stock").await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_sent_twice_is_held_once() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.accepted("1").await?;
    world.accepted("1").await?;
    world.accepted("2").await?;
    world.delivered(&["1", "2"]).await?;
    assert_eq!(world.nats.held("stock").await?, 2);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_published_is_refused_with_what_is_wrong_and_nothing_of_it_is_held()
-> Result<()> {
    let world = World::subscribed("", "").await?;
    let event = |name, value| {
        let usual = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
        ];
        usual.map(|(own, usual)| (own, if own == name { value } else { usual }))
    };
    let told = async |headers: &[(&str, &str)], body: &str| {
        let answer = world.publish(headers, body).await?;
        let detail = problem(&answer)["errors"][0]["detail"].clone();
        let detail = detail.as_str().unwrap_or_default().to_owned();
        anyhow::Ok((answer.status, answer.reason().to_owned(), detail))
    };
    for (headers, body, expected, says) in [
        (
            &event("ce-specversion", "0.3")[..],
            "",
            (400, "event_malformed"),
            "specversion: ",
        ),
        (
            &event("ce-id", "")[..],
            "",
            (400, "event_malformed"),
            "id: ",
        ),
        (
            &event("ce-source", "a b")[..],
            "",
            (400, "event_malformed"),
            "source: ",
        ),
        (
            &[("content-type", "application/cloudevents+avro")][..],
            "",
            (415, "event_unsupported"),
            "content-type: ",
        ),
        (
            &[("content-type", "application/cloudevents+json")][..],
            "{\"specversion\":",
            (400, "event_malformed"),
            "",
        ),
        (&[][..], &"x".repeat(4097), (413, "request_too_large"), ""),
        (
            &[("content-encoding", "gzip")][..],
            "{}",
            (415, "event_unsupported"),
            "content-encoding: ",
        ),
    ] {
        let (status, reason, detail) = told(headers, body).await?;
        assert_eq!((status, reason.as_str()), expected, "{headers:?}");
        assert!(detail.starts_with(says), "{detail}");
    }
    let answer = publish(&world.stock.sidecar, "events/other", &[], "{}").await?;
    assert_eq!(
        (answer.status, answer.reason()),
        (403, "publish_not_granted")
    );
    let answer = publish(&world.billing.sidecar, "events/stock", &[], "{}").await?;
    assert_eq!(
        (answer.status, answer.reason()),
        (403, "publish_not_granted")
    );
    let answer = publish(&world.stock.sidecar, "events", &[], "{}").await?;
    assert_eq!((answer.status, answer.reason()), (404, "no_route"));
    assert_eq!(world.nats.held("stock").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_topic_that_nobody_holds_is_told() -> Result<()> {
    // Nobody is subscribed, and nobody has made the topic.
    let world = World::start("").await?;
    wait_until("the broker says so", SOON, async || {
        let answer = world.publish(&[], "{}").await?;
        ensure!(
            (answer.status, answer.reason()) == (404, "topic_unknown"),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_its_broker_a_sidecar_refuses_events_and_serves_calls() -> Result<()> {
    let mut world = World::subscribed("", "").await?;
    world.accepted("1").await?;
    world.nats.kill();
    wait_until("it is known to be away", SOON, async || {
        let answer = world.publish(&[], "{}").await?;
        ensure!(
            (answer.status, answer.reason()) == (503, "broker_unavailable"),
            "{answer:?}"
        );
        ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
        Ok(())
    })
    .await?;
    let web = world.mesh.client("web").await?;
    assert_eq!(web.get("http://stock.shop/").await?.status, 200);
    world.stock.sidecar.ready().await?;
    // One that begins while it is away is ready too.
    world.stock.sidecar.kill().await?;
    world.stock.sidecar.start()?;
    world.stock.sidecar.ready().await?;
    assert_eq!(web.get("http://stock.shop/").await?.status, 200);

    world.nats.run().await?;
    world.accepted("2").await?;
    world.delivered(&["1", "2"]).await.map(drop)
}

#[tokio::test]
async fn what_a_silent_broker_does_not_confirm_is_not_accepted() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.accepted("1").await?;
    world.nats.signal(Signal::SIGSTOP)?;
    let started = std::time::Instant::now();
    let answer = world
        .publish(&[("idempotency-key", "2")], r#"{"sku":"2"}"#)
        .await;
    world.nats.signal(Signal::SIGCONT)?;
    let answer = answer?;
    assert_eq!(
        (answer.status, answer.reason()),
        (503, "publish_unconfirmed")
    );
    assert!(started.elapsed() < Duration::from_secs(9), "it waits 5 s");
    assert!(answer.headers.contains_key("retry-after"));
    // Sent again with its key it is there once, whatever became of the first.
    world.accepted("2").await?;
    world.delivered(&["1", "2"]).await?;
    assert_eq!(world.nats.held("stock").await?, 2);
    Ok(())
}

#[tokio::test]
async fn one_event_for_two_topics_is_held_by_both() -> Result<()> {
    let second = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                  metadata: { name: billing, namespace: shop }\n\
                  spec: { hosts: [billing], rules: [{ publish: { broker: events, topic: both.b } }] }\n";
    let world = World::start(second).await?;
    // A stream of somebody's, with several topics, which tells duplicates among all of them.
    let stream = json!({ "name": "both", "subjects": ["both.*", "stock"], "storage": "memory" });
    let mut direct = world.nats.direct().await?;
    let made = direct
        .request("$JS.API.STREAM.CREATE.both", &stream.to_string())
        .await?;
    ensure!(made["config"].is_object(), "{made}");
    world.mesh.programmed("billing").await?;
    let event = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
    ];
    let to = [
        (&world.stock, "events/stock"),
        (&world.billing, "events/both.b"),
    ];
    for (workload, topic) in to {
        wait_until("it is accepted", SOON, async || {
            let answer = publish(&workload.sidecar, topic, &event, "").await?;
            ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await?;
    }
    assert_eq!(world.nats.held("both.b").await?, 2);
    Ok(())
}

#[tokio::test]
async fn nobody_s_event_is_lost_to_a_key_that_another_chose() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let [web, other] = [
        world.mesh.client("web").await?,
        world.mesh.client("other").await?,
    ];
    let url = "http://stock.shop/updates";
    let key = [("idempotency-key", "1")];
    for (client, body) in [(&web, "a"), (&web, "b"), (&other, "a"), (&web, "a")] {
        let answer = client
            .send(Method::POST, url, &key, Bytes::from(body))
            .await?;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // The last one is the first once more.
    assert_eq!(world.nats.held("stock").await?, 3);
    Ok(())
}
