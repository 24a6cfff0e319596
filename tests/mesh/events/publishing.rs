//! What is published, and what is not.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::*;

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
