//! Events in a cluster: a broker among its pods, a workload that is scaled to zero, and the chart's pods that carry out what
//! no pod does for itself.

mod alike;
mod nothing_lost;
mod schedules;

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::brokers;
use tests::cluster::{Cluster, run, wait_until};
use tests::mesh::binary;
use tokio::process::Child;

use crate::installation::{PODS, SYSTEM, installed, root};
use crate::shop::{Shop, condition};

const NATS: &str = "localhost/nats:1";
/// The port of a Redis beside the cluster.
const REDIS: &str = "6379";

/// A Redis of the node's, as somebody would run it beside the cluster.
struct Redis {
    folder: TempDir,
    process: Child,
}

/// A NATS in the mesh.
fn nats(namespace: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: nats, namespace: {namespace} }}
spec:
  selector: {{ matchLabels: {{ app: nats }} }}
  template:
    metadata: {{ labels: {{ app: nats }} }}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: nats
          image: {NATS}
          imagePullPolicy: Never
          args: [-js, -sd, /data, -p, "4222"]
          ports: [{{ containerPort: 4222 }}]
          volumeMounts: [{{ name: data, mountPath: /data }}]
      volumes: [{{ name: data, emptyDir: {{}} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: nats, namespace: {namespace} }}
spec:
  selector: {{ app: nats }}
  ports: [{{ name: tcp-nats, port: 4222 }}]
---
{}"#,
        broker(namespace, "url: \"nats://nats:4222\"")
    )
}

/// The Secret of the broker `events`.
fn broker(namespace: &str, says: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{ name: events, namespace: {namespace}, labels: {{ meshwright.dev/broker: events }} }}
stringData: {{ {says} }}
---"#
    )
}

/// What says that a broker's name is the node's address.
fn beside(cluster: &Cluster, namespace: &str, (name, port): (&str, &str)) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ ports: [{{ name: tcp-{name}, port: {port} }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: {namespace}
  labels: {{ kubernetes.io/service-name: {name} }}
addressType: IPv4
ports: [{{ name: tcp-{name}, port: {port}, protocol: TCP }}]
endpoints: [{{ addresses: [{address}], conditions: {{ ready: true }} }}]
---"#,
        address = cluster.node_ip()
    )
}

/// Starts a NATS in the mesh, which is the broker `events`.
async fn with_nats(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    cluster
        .import_image(NATS, &[&brokers::nats_server()])
        .await?;
    cluster.apply(&nats(&shop.namespace)).await?;
    cluster
        .ready(&shop.namespace, "deployment/nats", PODS)
        .await
}

/// A rule that publishes what is posted to `/updates` of `orders`, and two EventSubscriptions: for `billing`, and for
/// another topic.
fn objects(namespace: &str) -> String {
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
    - {{}}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: billing, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: stock }} }}
  target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }} }}
  delivery: {{ onExhausted: Block }}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: copies, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: stock }} }}
  target: {{ type: Topic, topic: {{ name: stock.copy }} }}
  delivery: {{ onExhausted: Block }}
"#
    )
}

/// Waits until the EventSubscription says of itself what it should, and returns it.
async fn until(shop: &Shop, name: &str, says: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(&format!("{name} says so"), PODS, async || {
        let object = shop.of_kind("eventsubscription", name).await?;
        ensure!(says(&object), "{}", object["status"]);
        Ok(object)
    })
    .await
}

fn is_ready(object: &Value, reason: &str) -> bool {
    condition(object, "Ready")["reason"] == reason
}

/// What `ledger` was told, in its order: ids of events that were posted to `/on/ledger` of somebody.
async fn told_to_ledger(shop: &Shop) -> Result<Vec<String>> {
    let ledger = "deployment/ledger";
    let said = shop.cluster.logs(&shop.namespace, ledger, "ledger").await?;
    let told = said.lines();
    let told = told.filter_map(|line| line.strip_prefix("called /hook/"));
    Ok(told.map(ToOwned::to_owned).collect())
}

/// Takes a pod away at once, as it is when its node fails.
async fn delete(cluster: &Cluster, namespace: &str, pod: &str) -> Result<()> {
    let at_once = ["--grace-period=0", "--force"];
    let of = ["delete", "pod", "-n", namespace, pod];
    cluster
        .kubectl(&[&of[..], &at_once].concat())
        .await
        .map(drop)
}

/// Has an event published.
async fn publishes(shop: &Shop) -> Result<()> {
    wait_until("it is accepted", PODS, async || {
        let (status, body) = shop.post("http://orders/updates").await?;
        ensure!(status == 202, "{status} {body}");
        Ok(())
    })
    .await
}

/// Has so many of the chart's pods carry out what no pod does for itself.
async fn carriers(cluster: &Cluster, replicas: u32) -> Result<()> {
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let set = format!("events.replicas={replicas}");
    let upgrade = ["upgrade", "meshwright", chart, "-n", SYSTEM];
    let how = ["--reuse-values", "--set", &set];
    cluster.helm(&[&upgrade[..], &how].concat()).await?;
    // Without pods the chart has no Deployment of them.
    if replicas == 0 {
        return Ok(());
    }
    let deployment = "deployment/meshwright-events";
    cluster.ready(SYSTEM, deployment, PODS).await
}

// === impl Redis ===

impl Redis {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let folder = TempDir::new()?;
        let process = Self::begin(cluster, &folder)?;
        let redis = Self { folder, process };
        redis.is_up(cluster).await?;
        Ok(redis)
    }

    /// What says that the broker `events` is at the node.
    fn broker(cluster: &Cluster, namespace: &str) -> String {
        beside(cluster, namespace, ("redis", REDIS))
            + &broker(namespace, &format!("url: \"redis://redis:{REDIS}\""))
    }

    fn begin(cluster: &Cluster, folder: &TempDir) -> Result<Child> {
        let mut command = cluster.command("redis-server");
        command
            .args(["--port", REDIS, "--bind", cluster.node_ip()])
            .args(["--protected-mode", "no", "--save", ""])
            // What it has confirmed it has on its disk.
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
            .spawn()
            .context("redis-server: apt-get install redis-server")
    }

    async fn is_up(&self, cluster: &Cluster) -> Result<()> {
        wait_until("Redis answers", PODS, async || {
            let mut ping = cluster.command("redis-cli");
            ping.args(["-h", cluster.node_ip(), "-p", REDIS, "ping"]);
            let said = run(&mut ping, "").await?;
            ensure!(said.contains("PONG"), "{said}");
            Ok(())
        })
        .await
    }

    async fn dies_and_is_started_again(&mut self, cluster: &Cluster) -> Result<()> {
        self.process.kill().await?;
        self.process = Self::begin(cluster, &self.folder)?;
        self.is_up(cluster).await
    }
}

#[tokio::test]
async fn what_waits_for_a_workload_that_is_scaled_to_zero_is_counted_by_the_chart_s_pods_and_delivered_when_it_is_back()
-> Result<()> {
    let cluster = installed().await?;
    let shop = Shop::alone(cluster, &[("orders", 1), ("billing", 1)]).await?;
    with_nats(&shop).await?;
    cluster.apply(&objects(&shop.namespace)).await?;
    until(&shop, "billing", |object| is_ready(object, "Ready")).await?;
    publishes(&shop).await?;
    let billing = shop.pod("billing").await?;
    let delivered = format!(
        "meshwright_events_delivered_total{{subscription=\"{}/billing\",outcome=\"acknowledged\"}}",
        shop.namespace
    );
    wait_until("it is delivered", PODS, async || {
        ensure!(shop.metric(&billing, &delivered).await? == 1);
        Ok(())
    })
    .await?;

    // Without the chart's pods nobody is there for either.
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let of = ["scale", "deployment/billing", "-n", &shop.namespace];
        cluster.kubectl(&[&of[..], &[&replicas]].concat()).await
    };
    scale("0").await?;
    for name in ["billing", "copies"] {
        until(&shop, name, |object| is_ready(object, "NotCarriedOut")).await?;
    }
    carriers(cluster, 1).await?;
    until(&shop, "copies", |object| is_ready(object, "Ready")).await?;
    until(&shop, "billing", |object| is_ready(object, "NoTarget")).await?;
    for _ in 0..2 {
        publishes(&shop).await?;
    }
    until(&shop, "billing", |object| object["status"]["lag"] == 2).await?;
    let copies = shop.of_kind("eventsubscription", "copies").await?;
    assert_eq!(copies["status"]["target"], "topic stock.copy");
    // Whoever asks for it by name finds the pods that do it, in the operator's namespace.
    let named = format!("{}/copies", shop.namespace);
    let mut peek = cluster.command(binary("meshwright")?);
    let said = run(peek.args(["events", "peek", &named]), "").await;
    let said = said.unwrap_or_else(|error| format!("{error:#}"));
    assert!(said.contains("it has no dead letter topic"), "{said}");

    scale("1").await?;
    until(&shop, "billing", |object| {
        is_ready(object, "Ready") && object["status"]["lag"] == 0
    })
    .await?;
    let billing = shop.pod("billing").await?;
    wait_until("both are delivered", PODS, async || {
        ensure!(shop.metric(&billing, &delivered).await? == 2);
        Ok(())
    })
    .await?;
    carriers(cluster, 0).await?;
    until(&shop, "copies", |object| is_ready(object, "NotCarriedOut"))
        .await
        .map(drop)
}
