//! The kubelet's questions under strict mutual TLS: it asks the sidecars, and they the applications.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::shop::Shop;

/// A Deployment of one pod with these lines in its container.
fn probed(namespace: &str, image: &str, name: &str, lines: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 2
      initContainers:
        # It is there before the hook that calls it: the application itself may not listen yet.
        - name: helper
          image: {image}
          imagePullPolicy: Never
          restartPolicy: Always
          args: [serve, ":7000"]
          startupProbe: {{ tcpSocket: {{ port: 7000 }}, periodSeconds: 1 }}
      containers:
        - name: {name}
          image: {image}
          imagePullPolicy: Never
          args: [serve, ":8080"]
          ports: [{{ name: http, containerPort: 8080 }}]
{lines}
---
"#
    )
}

/// One of every way of asking.
const EVERY: &str = r#"
          startupProbe: { tcpSocket: { port: http }, periodSeconds: 1, failureThreshold: 60 }
          readinessProbe: { grpc: { port: 8080, service: orders }, periodSeconds: 1 }
          livenessProbe: { httpGet: { port: http, path: /live }, periodSeconds: 1, failureThreshold: 2 }
          lifecycle:
            postStart: { httpGet: { port: 7000, path: /hook/began } }
            preStop: { httpGet: { port: http, path: /hook/ends } }
"#;

/// A command, and an application that will hang.
const HANGS: &str = r#"
          readinessProbe: { httpGet: { port: http, path: / }, periodSeconds: 1, failureThreshold: 2 }
          livenessProbe: { exec: { command: [/web, get, "http://127.0.0.1:8080/"] }, periodSeconds: 60, timeoutSeconds: 5 }
"#;

#[tokio::test]
async fn a_pod_with_probes_and_hooks_of_every_kind_is_ready_and_a_dead_application_is_seen_as_dead()
-> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let (cluster, namespace) = (shop.cluster, &shop.namespace);
    let image = cluster.web_image().await?;
    let both =
        probed(namespace, image, "orders", EVERY) + &probed(namespace, image, "hangs", HANGS);
    cluster.apply(&both).await?;
    for name in ["orders", "hangs"] {
        cluster
            .ready(namespace, &format!("deployment/{name}"), PODS)
            .await?;
    }
    let [orders, hangs] = [shop.pod("orders").await?, shop.pod("hangs").await?];

    // Commands are the kubelet's own business.
    let pod = cluster
        .json(&["get", "pod", &hangs, "-n", namespace])
        .await?;
    let probe = &pod["spec"]["containers"][0]["livenessProbe"];
    ensure!(probe["exec"]["command"][0] == "/web", "{probe}");
    let probe = &pod["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    ensure!(probe["path"] == "/app-health/hangs/readyz", "{probe}");

    let logs = cluster.logs(namespace, &orders, "helper").await?;
    ensure!(logs.contains("called /hook/began"), "{logs}");

    // Who only knows the path, and not what the kubelet shows, calls nothing.
    let address = crate::shop::address(cluster, namespace, &orders).await?;
    let url = format!("http://{address}:15021/app-health/orders/prestop");
    let (status, said) = shop.get_from_node(&url).await?;
    ensure!(status == 403, "{status} {said}");
    let logs = cluster.logs(namespace, &orders, "orders").await?;
    ensure!(!logs.contains("called /hook/ends"), "{logs}");

    // One that fails is ended, by its hook first, and begun anew; one that hangs is not ready any more.
    let fail = ["/web", "get", "http://127.0.0.1:8080/fail"];
    cluster.exec(namespace, &orders, "orders", &fail).await?;
    cluster
        .signal(namespace, &hangs, "hangs", Signal::SIGSTOP)
        .await?;
    wait_until("orders is begun anew and ready", PODS, async || {
        let container = container(&shop, &orders).await?;
        ensure!(
            container["restartCount"] == 1 && container["ready"] == true,
            "{container}"
        );
        Ok(())
    })
    .await?;
    let last = [
        "logs",
        &orders,
        "-n",
        namespace,
        "-c",
        "orders",
        "--previous",
    ];
    let last = cluster.kubectl(&last).await?;
    ensure!(last.contains("called /hook/ends"), "{last}");
    wait_until("hangs is not ready", PODS, async || {
        let container = container(&shop, &hangs).await?;
        ensure!(container["ready"] == false, "{container}");
        Ok(())
    })
    .await?;
    let sidecar = cluster
        .logs(namespace, &hangs, "meshwright-sidecar")
        .await?;
    ensure!(
        sidecar.contains("the application gave no answer"),
        "{sidecar}"
    );
    cluster
        .signal(namespace, &hangs, "hangs", Signal::SIGCONT)
        .await?;
    cluster.ready(namespace, "deployment/hangs", PODS).await
}

/// What the kubelet says of a pod's only container.
async fn container(shop: &Shop, pod: &str) -> Result<Value> {
    let pod = shop
        .cluster
        .json(&["get", "pod", pod, "-n", &shop.namespace])
        .await?;
    let container = pod["status"]["containerStatuses"].get(0);
    container.cloned().context("a status")
}
