//! What callers and systems outside have of events is in a cluster as on one machine, with each broker: uploads, topics
//! that are listened to, order, and what is replied.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use serde_json::{Value, json};
use tests::brokers::rabbitmq::Node;
use tests::cluster::{Cluster, wait_until};
use tests::outside::System;

use super::{Redis, beside, broker, carriers, delete, is_ready, told_to_ledger, until, with_nats};
use crate::installation::{PODS, installed};
use crate::shop::Shop;
use callers::{Listening, asks};

mod callers;

/// The port of a RabbitMQ beside the cluster.
const RABBITMQ: &str = "5672";
/// How many records an upload has beside the one that is none.
const RECORDS: usize = 300;

// === Uploads, to a Service ===

/// A RabbitMQ beside the cluster.
fn rabbitmq(cluster: &Cluster) -> Node {
    let definitions = json!({
        "users": [{ "name": "mesh", "password": "s3cret", "tags": [] }],
        "vhosts": [{ "name": "shop" }],
        "permissions": [
            { "user": "mesh", "vhost": "shop", "configure": ".*", "write": ".*", "read": ".*" },
        ],
    });
    Node::beside(cluster, RABBITMQ, &definitions)
}

/// What is uploaded to `orders` becomes an event for each line, and each is posted to the Service `billing`, which lets in
/// nobody but itself and has another path than its route says.
fn uploads(cluster: &Cluster, namespace: &str) -> String {
    let says = format!(
        "url: \"amqp://rabbitmq:{RABBITMQ}\", username: mesh, password: s3cret, virtualHost: shop"
    );
    format!(
        r#"{}{}
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  hosts: [orders]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /lines }} }}]
      publish:
        broker: events
        topic: lines
        split:
          format: NDJSON
          onRecordError: DeadLetter
          maxFailedRecords: 1
          deadLetter: {{ topic: lines.dead }}
    - {{}}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: billing, namespace: {namespace} }}
spec:
  hosts: [billing]
  authorization: {{ rules: [{{ principals: {{ serviceAccounts: [billing] }} }}] }}
  rules:
    - matches: [{{ path: {{ type: Exact, value: /lines }} }}]
      rewrite: {{ path: {{ type: ReplaceFull, value: /on/ledger }} }}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: lines, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: lines }} }}
  target: {{ type: Service, service: {{ name: billing, port: 80 }}, path: /lines }}
  delivery: {{ deadLetter: {{ topic: lines.dead }}, retries: {{ backoff: {{ initial: 100ms, max: 1s }} }} }}
"#,
        beside(cluster, namespace, ("rabbitmq", RABBITMQ)),
        broker(namespace, &says),
    )
}

/// Uploads lines of which the last is none, until each of the others is an event at the broker.
async fn uploaded(shop: &Shop, key: &str) -> Result<()> {
    let mut lines = String::from_iter((1..=RECORDS).map(|line| format!("{{\"line\":{line}}}\n")));
    lines.push_str("none\n");
    wait_until("all of it is read", PODS, async || {
        let headers = [
            ("idempotency-key", key),
            ("content-type", "application/x-ndjson"),
        ];
        let answer = asks(shop, "web", "http://orders/lines", &headers, Some(&lines)).await?;
        ensure!(answer.status == 202, "{answer:?}");
        let report: Value = serde_json::from_str(&answer.body)?;
        assert_eq!(report["accepted"], RECORDS, "{report}");
        assert_eq!(report["failed"][0]["record"], RECORDS + 1, "{report}");
        Ok(())
    })
    .await
}

/// Waits until each line of that upload has come to `ledger`.
async fn has_come(shop: &Shop, key: &str) -> Result<()> {
    wait_until("each line has come", PODS, async || {
        let came = told_to_ledger(shop).await?;
        let mut lines = (1..=RECORDS).map(|line| format!("{key}-{line}"));
        let lacks = lines.find(|line| !came.contains(line));
        ensure!(lacks.is_none(), "{lacks:?} of {}", came.len());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn each_line_of_an_upload_comes_to_a_service_by_a_rabbitmq_beside_the_cluster_also_when_that_was_killed()
-> Result<()> {
    let cluster = installed().await?;
    let services = [("orders", 1), ("billing", 2), ("ledger", 1)];
    let shop = Shop::alone(cluster, &services).await?;
    let mut node = rabbitmq(cluster);
    cluster.apply(&uploads(cluster, &shop.namespace)).await?;
    for route in ["orders", "billing"] {
        shop.programmed(route).await?;
    }
    let ready = until(&shop, "lines", |object| is_ready(object, "Ready")).await;
    ready.with_context(|| node.said())?;
    uploaded(&shop, "first").await?;
    // What it has confirmed outlives it, and whoever publishes and delivers finds it again.
    node.kill();
    node.start_again();
    uploaded(&shop, "second").await?;
    for key in ["first", "second"] {
        has_come(&shop, key).await?;
    }
    until(&shop, "lines", |object| {
        is_ready(object, "Ready") && object["status"]["lag"] == 0
    })
    .await?;

    // A node serves before it says that it has started, and is asked nothing until then.
    node.control(&["await_startup"]);
    let columns = ["name", "messages"];
    let queues = ["list_queues", "--quiet", "--vhost", "shop"];
    // It counts now and then, and says none until it has counted.
    wait_until("what is none is a dead letter", PODS, async || {
        let queues = node.control(&[queues.as_slice(), &columns].concat());
        let mut dead = queues
            .lines()
            .filter_map(|line| line.strip_prefix("lines.dead\t"));
        let dead = dead.next().with_context(|| queues.clone())?;
        // What was none of either upload; the second may have been begun more than once.
        ensure!(dead.parse::<usize>()? >= 2, "{queues}");
        Ok(())
    })
    .await
}

// === Order, and who listens ===

/// Has an event of `web`'s accepted, of this id and with this key.
async fn accepted(shop: &Shop, id: &str, key: &str) -> Result<()> {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/web"),
        ("ce-type", "com.shop.stock"),
        ("ce-partitionkey", key),
        ("content-type", "application/json"),
    ];
    wait_until("it is accepted", PODS, async || {
        let answer = asks(shop, "web", "http://orders/updates", &headers, Some("{}")).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await
}

/// What is posted to `/updates` of `orders` is heard at `/live`, and passed on to `ledger` in the order of its keys.
fn in_order(namespace: &str) -> String {
    format!(
        r#"
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  hosts: [orders]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /updates }} }}]
      publish: {{ broker: events, topic: stock }}
    - matches: [{{ path: {{ type: Exact, value: /live }} }}]
      stream: {{ broker: events, topic: stock }}
    - {{}}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: stock, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: stock }} }}
  target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /on/ledger }}
  delivery:
    ordering: Key
    onExhausted: Block
    retries: {{ backoff: {{ initial: 100ms, max: 1s }} }}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: ledger, namespace: {namespace} }}
spec:
  hosts: [ledger]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /hook/a-1 }} }}]
      directResponse: {{ status: 503 }}
    - {{}}
"#
    )
}

#[tokio::test]
async fn events_wait_for_those_of_their_key_and_who_listens_goes_on_when_pods_are_deleted_and_rolled()
-> Result<()> {
    let cluster = installed().await?;
    let services = [("orders", 2), ("billing", 2), ("ledger", 1)];
    let shop = Shop::alone(cluster, &services).await?;
    let namespace = shop.namespace.as_str();
    with_nats(&shop).await?;
    cluster.apply(&in_order(namespace)).await?;
    for route in ["orders", "ledger"] {
        shop.programmed(route).await?;
    }
    until(&shop, "stock", |object| is_ready(object, "Ready")).await?;
    let told = async |last: &str| {
        wait_until("they have come", PODS, async || {
            let told = told_to_ledger(&shop).await?;
            ensure!(told.iter().any(|id| id == last), "{told:?}");
            Ok(told)
        })
        .await
    };
    accepted(&shop, "c-1", "c").await?;
    told("c-1").await?;
    let mut live = Listening::begins(&shop, None).await?;
    for id in ["a-1", "b-1", "a-2", "b-2"] {
        accepted(&shop, id, &id[..1]).await?;
    }
    live.hears_of(&["a-1", "b-1", "a-2", "b-2"]).await?;

    // As long as the first of a key fails, the others of it wait, and those of other keys don't.
    assert_eq!(told("b-2").await?, ["c-1", "b-1", "b-2"]);

    // They come while nobody listens, and whoever delivers is gone.
    let rolled = ["rollout", "restart", "deployment/orders", "-n", namespace];
    cluster.kubectl(&rolled).await?;
    cluster.ready(namespace, "deployment/orders", PODS).await?;
    ensure!(live.hears().await?.is_none(), "it ends with its pod");
    let object = until(&shop, "stock", |object| {
        object["status"]["active"].is_string()
    })
    .await?;
    let active = object["status"]["active"].as_str().unwrap_or_default();
    let (of, active) = active.split_once('/').context("a pod")?;
    assert_eq!(of, namespace);
    delete(cluster, namespace, active).await?;
    for id in ["a-3", "b-3"] {
        accepted(&shop, id, &id[..1]).await?;
    }
    let mended = ["delete", "apiroute", "ledger", "-n", namespace];
    cluster.kubectl(&mended).await?;
    told("b-3").await?;
    let told = told("a-3").await?;
    for key in ["a", "b"] {
        let mut newest = 0;
        for id in told.iter().filter(|id| id.starts_with(key)) {
            let number: usize = id[2..].parse()?;
            // What was in hand of who was deleted may come again, and nothing overtakes it.
            let follows = number == newest || number == newest + 1;
            ensure!(follows, "{id} came after {key}-{newest}: {told:?}");
            newest = number;
        }
        assert_eq!(newest, 3, "{told:?}");
    }
    let mut again = Listening::begins(&shop, Some(&live.place)).await?;
    again.hears_of(&["a-3", "b-3"]).await
}

// === Replies of a system outside ===

/// What is posted to `orders` is a job that a system outside does, and the result is fetched at `orders`.
fn jobs(cluster: &Cluster, namespace: &str, system: &System) -> String {
    let address = system.address;
    format!(
        r#"{}
apiVersion: v1
kind: Secret
metadata: {{ name: store, namespace: {namespace}, labels: {{ meshwright.dev/credential: "" }} }}
stringData: {{ url: "redis://redis:{port}/1" }}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  hosts: [orders]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /imports }}, method: POST }}]
      publish:
        broker: events
        topic: imports
        asyncReply:
          resultPath: /imports/jobs
          topic: imported
          store: {{ redis: {{ urlSecretRef: {{ name: store, key: url }} }} }}
    - {{}}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: imports, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: imports }} }}
  target:
    type: URL
    url: {{ address: "https://{address}/imports?from=shop", secretRef: {{ name: partner }} }}
  delivery: {{ onExhausted: Block, retries: {{ backoff: {{ initial: 100ms, max: 1s }} }} }}
  reply: {{ topic: imported }}
{}"#,
        Redis::broker(cluster, namespace),
        system.secret(namespace, &system.authority),
        port = super::REDIS,
    )
}

#[tokio::test]
async fn what_a_system_outside_replies_is_fetched_by_who_posted_it_and_nobody_else_from_pods_that_are_new()
-> Result<()> {
    let cluster = installed().await?;
    let services = [("orders", 2), ("billing", 1)];
    let shop = Shop::alone(cluster, &services).await?;
    carriers(cluster, 1).await?;
    let done = a_job_is_done(&shop).await;
    // However that went, the other tests have the chart as they expect it.
    carriers(cluster, 0).await?;
    done
}

async fn a_job_is_done(shop: &Shop) -> Result<()> {
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let system = System::at(cluster.listen()?)?;
    system.status.store(503, Ordering::SeqCst);
    let _redis = Redis::start(cluster).await?;
    cluster.apply(&jobs(cluster, namespace, &system)).await?;
    shop.programmed("orders").await?;
    until(shop, "imports", |object| is_ready(object, "Ready")).await?;
    let posted = wait_until("it is accepted", PODS, async || {
        let headers = [
            ("idempotency-key", "7"),
            ("content-type", "application/json"),
        ];
        let answer = asks(shop, "web", "http://orders/imports", &headers, Some("[7]")).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(answer)
    })
    .await?;
    let place = posted.headers["location"].to_str()?;
    ensure!(place.starts_with("/imports/jobs/"), "{place}");
    let url = format!("http://orders{place}");
    let fetched = async |caller: &str| asks(shop, caller, &url, &[], None).await;

    // It is posted again as long as it fails, and there is no result meanwhile.
    wait_until("it has come twice", PODS, async || {
        ensure!(system.posted().len() >= 2, "{:?}", system.posted());
        Ok(())
    })
    .await?;
    let waits = fetched("web").await?;
    assert_eq!(
        (waits.status, &waits.headers["retry-after"]),
        (202, &HeaderValue::from_static("1"))
    );
    system.replies(&json!({
        "specversion": "1.0", "id": "1", "source": "/partner", "type": "com.partner.imported",
        "datacontenttype": "application/json", "data": { "imported": 7 },
    }));
    system.status.store(200, Ordering::SeqCst);
    wait_until("the result is there", PODS, async || {
        let answer = fetched("web").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    for posted in system.posted() {
        assert_eq!(posted.uri, "/imports?from=shop");
        assert_eq!(posted.headers["authorization"], "Bearer t0ken");
        assert_eq!(
            (&posted.headers["ce-id"], &*posted.body),
            (&HeaderValue::from_static("7"), "[7]")
        );
    }

    // No pod keeps it, and it is told to nobody who has merely heard of the place.
    let rolled = ["rollout", "restart", "deployment/orders", "-n", namespace];
    cluster.kubectl(&rolled).await?;
    cluster.ready(namespace, "deployment/orders", PODS).await?;
    let result = wait_until("a new pod has it", PODS, async || {
        let answer = fetched("web").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    })
    .await?;
    assert_eq!(result.headers["ce-type"], "com.partner.imported");
    assert_eq!(result.body, "{\"imported\":7}");
    let other = fetched("billing").await?;
    assert_eq!((other.status, other.reason()), (404, "job_unknown"));
    Ok(())
}
