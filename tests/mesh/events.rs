//! Events: published, delivered, dead-lettered; with a real NATS in the mesh.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Sidecar, Workload};
use tests::upstream::Seen;
use tests::wait_until;

use crate::nats::{self, Nats};
use crate::routing::services;

mod answers;
mod batches;
mod brokers;
mod deliveries;
mod duplicates;
mod edits;
mod elsewhere;
mod ending;
mod failures;
mod foreign;
mod jobs;
mod order;
mod outside;
mod publishing;
mod refused;
mod replays;
mod replies;
mod schedules;
mod splitting;
mod status;
mod streaming;
mod unwaited;
mod websockets;

/// After how long an event comes again whose sidecar died with it.
const LEASE: Duration = Duration::from_secs(30);

/// The ApiRoute by which what is posted to `/updates` of the Service `stock` is published to the topic `stock`.
const ROUTE: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: stock, namespace: shop }\n\
    spec:\n  hosts: [stock]\n  rules:\n  \
    - matches: [{ path: { type: Exact, value: /updates }, method: POST }]\n    \
      publish: { broker: events, topic: stock, event: { type: com.shop.stock, source: /stock }, maxBytes: 4096 }\n  \
    - {}\n";

/// An EventSubscription of the topic `stock` that delivers to the pods of `billing`; `more` is of its delivery, and
/// `spec` of its spec.
fn subscription(more: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
         metadata: {{ name: billing, namespace: shop }}\n\
         spec:\n  source: {{ type: Broker, broker: {{ name: events, topic: stock, startFrom: {{ type: Earliest }} }} }}\n  \
         target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /events }}\n  \
         delivery: {{ deadLetter: {{ topic: stock.dlq }}, \
         retries: {{ maxRetries: 2, backoff: {{ initial: 10ms, max: 50ms, jitter: None }} }}{more} }}\n{spec}"
    )
}

/// A mesh with a broker, one who publishes and one who is subscribed.
struct World {
    mesh: Mesh,
    nats: Nats,
    stock: Workload,
    billing: Workload,
}

impl World {
    /// With what else is written.
    async fn start(more: &str) -> Result<Self> {
        let mesh = Mesh::start(&format!(
            "{}{}{ROUTE}{more}",
            services(&["stock", "billing"]),
            nats::documents()
        ))
        .await?;
        let nats = Nats::start(&mesh).await?;
        let [stock, billing] = [
            mesh.workload("stock").await?,
            mesh.workload("billing").await?,
        ];
        mesh.programmed("stock").await?;
        Ok(Self {
            mesh,
            nats,
            stock,
            billing,
        })
    }

    /// With the subscription, and its topic there.
    async fn subscribed(more: &str, spec: &str) -> Result<Self> {
        let world = Self::start(&subscription(more, spec)).await?;
        world.mesh.programmed("billing").await?;
        wait_until("the topics are there", SOON, async || {
            let mut direct = world.nats.direct().await?;
            for topic in ["stock", "stock.dlq"] {
                let asked = format!("{{\"subject\":\"{topic}\"}}");
                let names = direct.request("$JS.API.STREAM.NAMES", &asked).await?;
                names["streams"][0].as_str().context("no stream")?;
            }
            Ok(())
        })
        .await?;
        Ok(world)
    }

    /// Publishes by the port of the application beside `stock`.
    async fn publish(&self, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        publish(&self.stock.sidecar, "events/stock", headers, body).await
    }

    /// Publishes plain JSON with a key, until it is accepted.
    async fn accepted(&self, key: &str) -> Result<()> {
        let headers = [
            ("idempotency-key", key),
            ("content-type", "application/json"),
        ];
        wait_until("it is accepted", SOON, async || {
            let answer = self
                .publish(&headers, &json!({ "sku": key }).to_string())
                .await?;
            anyhow::ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await
    }

    /// What `billing` has seen, once these events are among it; each attempt counts.
    async fn delivered(&self, ids: &[&str]) -> Result<Vec<Seen>> {
        wait_until("the events are delivered", LEASE + SOON, async || {
            let seen = self.billing.upstream.seen();
            let lacks = |id: &&str| !seen.iter().any(|one| id_of(one) == *id);
            let missing = Vec::from_iter(ids.iter().filter(|id| lacks(id)));
            anyhow::ensure!(missing.is_empty(), "{missing:?} of {}", seen.len());
            Ok(())
        })
        .await?;
        Ok(self.billing.upstream.seen())
    }

    /// Takes a topic away, past the mesh.
    async fn delete_topic(&self, topic: &str) -> Result<()> {
        let mut direct = self.nats.direct().await?;
        let asked = format!("{{\"subject\":\"{topic}\"}}");
        let names = direct.request("$JS.API.STREAM.NAMES", &asked).await?;
        let stream = names["streams"][0].as_str().context("no stream")?;
        let delete = format!("$JS.API.STREAM.DELETE.{stream}");
        direct.request(&delete, "").await.map(drop)
    }

    /// The dead letters, once there are so many.
    async fn dead_letters(&self, count: usize) -> Result<Vec<(String, String)>> {
        wait_until("the dead letters are there", SOON, async || {
            let held = self.nats.held("stock.dlq").await?;
            anyhow::ensure!(held >= count, "{held}");
            Ok(())
        })
        .await?;
        self.nats.messages("stock.dlq").await
    }
}

async fn publish(
    sidecar: &Sidecar,
    to: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let url = format!("http://{}:15090/publish/{to}", sidecar.address());
    let body = Bytes::from(body.to_owned());
    Client::direct()
        .send(Method::POST, &url, headers, body)
        .await
}

/// A header of a delivery; empty when there is none.
fn header<'s>(seen: &'s Seen, name: &str) -> &'s str {
    let value = seen.headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn id_of(seen: &Seen) -> &str {
    header(seen, "ce-id")
}

fn problem(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_default()
}

/// The condition `Ready` of an EventSubscription: its status, its reason, and why.
async fn ready(mesh: &Mesh, name: &str) -> Result<(String, String, String)> {
    let verdict = mesh.verdict(name).await?;
    let conditions = verdict["conditions"].as_array().context("conditions")?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    let of = |field: &str| {
        let text = ready.and_then(|ready| ready[field].as_str());
        text.unwrap_or_default().to_owned()
    };
    Ok((of("status"), of("reason"), of("message")))
}

/// Has a sidecar do something with dead letters: the lines of its answer.
async fn order(sidecar: &Sidecar, words: &str) -> Result<Vec<Value>> {
    let url = format!("http://{}:15000/events", sidecar.address());
    let words = Bytes::from(words.to_owned());
    let answer = Client::direct().send(Method::PUT, &url, &[], words).await?;
    anyhow::ensure!(answer.status == 200, "{answer:?}");
    let lines = answer.body.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// What the last line says of how much was done.
fn done_in(lines: &[Value]) -> Result<u64> {
    let last = lines.last().context("no answer")?;
    anyhow::ensure!(last["finished"] == true, "{last}");
    last["done"].as_u64().context("no number")
}
