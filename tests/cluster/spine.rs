//! The cluster itself: what every other test here takes for granted.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::cluster::{Cluster, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A Deployment and a Service called `orders`, port 80.
fn orders(namespace: &str, image: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  selector: {{ matchLabels: {{ app: orders }} }}
  template:
    metadata: {{ labels: {{ app: orders }} }}
    spec:
      containers:
        - name: orders
          image: {image}
          args: [serve, ":8080"]
          ports: [{{ containerPort: 8080 }}]
          readinessProbe: {{ httpGet: {{ path: /ready, port: 8080 }}, periodSeconds: 1 }}
---
apiVersion: v1
kind: Service
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  selector: {{ app: orders }}
  ports: [{{ port: 80, targetPort: 8080 }}]
"#
    )
}

#[tokio::test]
async fn a_pod_becomes_ready_and_answers_through_its_service_by_name() -> Result<()> {
    let cluster = Cluster::start().await?;
    let image = cluster.web_image().await?;
    let shop = cluster.namespace("shop").await?;

    cluster.apply(&orders(&shop, image)).await?;
    cluster.ready(&shop, "deployment/orders", SOON).await?;

    // It asks itself through its Service, which also proves that a pod reaches itself that way.
    for host in [
        "orders".to_owned(),
        format!("orders.{shop}.svc.cluster.local"),
    ] {
        let url = format!("http://{host}/hello");
        let answer = wait_until(&format!("{url} answers"), SOON, async || {
            cluster
                .exec(&shop, "deployment/orders", "orders", &["/web", "get", &url])
                .await
        })
        .await?;
        ensure!(
            answer.starts_with("200\norders-") && answer.ends_with(" GET /hello\n"),
            "{url} answered {answer:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_token_for_a_chosen_audience_is_reviewed_as_that_service_account() -> Result<()> {
    let cluster = Cluster::start().await?;
    let shop = cluster.namespace("shop").await?;
    let token = cluster
        .kubectl(&[
            "create",
            "token",
            "default",
            "-n",
            &shop,
            "--audience",
            "meshwright",
        ])
        .await?;
    let review = async |audience: &str| -> Result<Value> {
        let object = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token.trim(), "audiences": [audience] },
        });
        Ok(cluster.review(&object).await?["status"].take())
    };

    let meant = review("meshwright").await?;
    let other = review("another").await?;

    assert_eq!(meant["authenticated"], true, "{meant}");
    assert_eq!(
        meant["user"]["username"],
        format!("system:serviceaccount:{shop}:default")
    );
    assert_eq!(meant["audiences"], json!(["meshwright"]));
    assert_ne!(other["authenticated"], true, "{other}");
    Ok(())
}

#[tokio::test]
async fn a_killed_container_is_started_again_under_another_process() -> Result<()> {
    let cluster = Cluster::start().await?;
    let image = cluster.web_image().await?;
    let shop = cluster.namespace("shop").await?;
    cluster
        .kubectl(&[
            "run", "web", "-n", &shop, "--image", image, "--", "serve", ":8080",
        ])
        .await?;
    cluster.ready(&shop, "web", SOON).await?;
    let before = cluster.container_pid(&shop, "web", "web").await?;

    cluster.signal(&shop, "web", "web", Signal::SIGKILL).await?;

    let after = wait_until("the container runs again", SOON, async || {
        let pid = cluster.container_pid(&shop, "web", "web").await?;
        ensure!(pid != before, "still process {pid}");
        Ok(pid)
    })
    .await?;
    let addresses = cluster
        .command_in_pod(&shop, "web", "web", "ip")
        .await?
        .args(["-4", "address", "show", "eth0"])
        .output()
        .await?;
    assert!(
        String::from_utf8_lossy(&addresses.stdout).contains("inet 10.244."),
        "process {after} is not in the pod's network"
    );
    Ok(())
}
