//! Producers and consumers that are not ours: CloudEvents' SDKs for Python and JavaScript, and the brokers' usual clients
//! for Python (nats-py, redis-py, pika).

use std::net::SocketAddr;

use tests::{node, python};

use super::brokers::{START, with_rabbitmq, with_redis};
use super::*;

/// An event as SDKs show it, with an attribute of an extension. That for JavaScript writes and reads attributes that are not
/// ASCII as they are, which the binding for HTTP forbids: it is asked for none.
fn event(id: &str) -> Value {
    let mut event = json!({
        "attributes": {
            "id": id,
            "source": "/their/shop",
            "type": "com.shop.stock",
            "specversion": "1.0",
            "time": "2026-11-20T08:00:00Z",
            "datacontenttype": "application/json",
            "shard": "7",
            "correlationid": "order-7",
        },
        "data": { "sku": "größer", "left": 3 },
    });
    if !id.starts_with("JavaScript") {
        event["attributes"]["subject"] = json!("größer 100 %");
    }
    event
}

/// An SDK.
#[derive(Clone, Copy, Debug)]
enum Sdk {
    Python,
    JavaScript,
}

impl Sdk {
    async fn say(self, arguments: &[&str], input: &Value) -> Result<Value> {
        let input = input.to_string();
        let said = match self {
            Self::Python => python::run("events.py", arguments, &input).await?,
            Self::JavaScript => node::run("events.mjs", arguments, &input).await?,
        };
        Ok(serde_json::from_str(&said)?)
    }

    /// The event that was delivered.
    async fn reads(self, seen: &Seen) -> Result<Value> {
        let headers = seen.headers.iter().map(|(name, value)| {
            let value = value.to_str().unwrap_or_default();
            (name.as_str().to_owned(), json!(value))
        });
        // Nothing is published with a trace here, and each delivery has one.
        let headers = headers.filter(|(name, _)| !name.starts_with("ce-trace"));
        let headers = serde_json::Map::from_iter(headers);
        let body = std::str::from_utf8(&seen.body)?;
        let request = json!({ "headers": headers, "body": body });
        self.say(&["read"], &request).await
    }

    /// Publishes an event by the port of an application.
    async fn posts(self, sidecar: &Sidecar, event: &Value, mode: &str) -> Result<()> {
        let sent = self.say(&["message", mode], event).await?;
        let headers = sent["headers"].as_object().context("headers")?;
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| (&**name, value.as_str().unwrap_or_default()));
        let headers = Vec::from_iter(headers);
        let body = sent["body"].as_str().context("a body")?;
        let answer = publish(sidecar, "events/stock", &headers, body).await?;
        anyhow::ensure!(answer.status == 202, "{self:?} {mode}: {answer:?}");
        Ok(())
    }
}

/// The others' programs publish to a broker what we deliver, and read from it what we publish.
async fn is_understood(mesh: &Mesh, broker: &str, at: SocketAddr) -> Result<()> {
    let [stock, billing] = [
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    ];
    mesh.programmed("stock").await?;
    mesh.programmed("billing").await?;
    let series = "meshwright_events_subscribed{subscription=\"shop/billing\"}";
    wait_until("it is subscribed", START, async || {
        let is = billing.sidecar.metric(series).await?;
        anyhow::ensure!(is == Some(1.0), "{is:?}");
        Ok(())
    })
    .await?;
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let client = async |command: &str, more: &[&str], input: &str| {
        let place = [command, broker, &host, &port, "stock"];
        python::run("events.py", &[&place[..], more].concat(), input).await
    };
    client("group", &[], "").await?;

    let mut ids = Vec::new();
    for mode in ["binary", "structured"] {
        let id = format!("theirs-{mode}");
        let theirs = event(&id).to_string();
        client("produce", &[mode], &theirs).await?;
        ids.push(id);
        for sdk in [Sdk::Python, Sdk::JavaScript] {
            let id = format!("{sdk:?}-{mode}");
            sdk.posts(&stock.sidecar, &event(&id), mode).await?;
            ids.push(id);
        }
    }

    wait_until("all are delivered", SOON, async || {
        let seen = billing.upstream.seen();
        let seen = Vec::from_iter(seen.iter().map(id_of));
        anyhow::ensure!(seen.len() >= ids.len(), "{seen:?}");
        Ok(())
    })
    .await?;
    let seen = billing.upstream.seen();
    for id in &ids {
        let one = seen.iter().find(|one| id_of(one) == id);
        let one = one.with_context(|| format!("{id} was not delivered: {seen:?}"))?;
        assert_eq!(Sdk::Python.reads(one).await?, event(id));
        let (mut read, mut expected) = (Sdk::JavaScript.reads(one).await?, event(id));
        for one in [&mut read, &mut expected] {
            let attributes = one["attributes"].as_object_mut().context("attributes")?;
            attributes.remove("subject");
        }
        assert_eq!(read, expected);
    }

    let held = client("consume", &[], "").await?;
    let held = held.lines().map(serde_json::from_str::<Value>);
    let mut held: Vec<Value> = held.collect::<Result<_, _>>()?;
    for one in &mut held {
        let attributes = one["attributes"].as_object_mut().context("attributes")?;
        attributes.retain(|name, _| !name.starts_with("trace"));
    }
    held.sort_by_key(|one| one["attributes"]["id"].to_string());
    ids.sort();
    let expected = Vec::from_iter(ids.iter().map(|id| event(id)));
    assert_eq!(held, expected);
    Ok(())
}

#[tokio::test]
async fn nats_py_and_the_sdks_of_cloudevents_understand_us_and_are_understood() -> Result<()> {
    let mesh = Mesh::start(&format!(
        "{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        nats::documents(),
        subscription("", "")
    ))
    .await?;
    let nats = Nats::start(&mesh).await?;
    is_understood(&mesh, "nats", nats.address()).await
}

#[tokio::test]
async fn redis_py_and_the_sdks_of_cloudevents_understand_us_and_are_understood() -> Result<()> {
    let (mesh, redis) = with_redis().await?;
    is_understood(&mesh, "redis", redis.address()).await
}

#[tokio::test]
async fn pika_and_the_sdks_of_cloudevents_understand_us_and_are_understood() -> Result<()> {
    let (mesh, rabbit) = with_rabbitmq().await?;
    is_understood(&mesh, "rabbitmq", rabbit.address).await
}
