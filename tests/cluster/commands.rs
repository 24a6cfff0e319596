//! What people ask a cluster with the `meshwright` command, by way of the user's kubectl.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::{run, wait_until};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::installation::{PODS, installed};
use crate::shop::Shop;

/// What the API server completes and writes in words of its own.
fn plain(namespace: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{ name: plain, namespace: {namespace} }}
data: {{ empty: "" }}
---
apiVersion: v1
kind: Service
metadata: {{ name: plain, namespace: {namespace}, annotations: {{ team: a }} }}
spec:
  selector: {{ app: plain }}
  ports: [{{ name: web, port: 80 }}, {{ name: smtp, port: 25, appProtocol: tcp }}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: plain, namespace: {namespace} }}
spec:
  replicas: 0
  selector: {{ matchLabels: {{ app: plain }} }}
  template:
    metadata: {{ labels: {{ app: plain }} }}
    spec:
      hostNetwork: false
      volumes: []
      containers:
        - name: plain
          image: localhost/plain:1
          env: [{{ name: EMPTY, value: "" }}, {{ name: FULL, value: "1" }}]
          readinessProbe: {{ httpGet: {{ path: /, port: 80 }} }}
          resources: {{ limits: {{ cpu: 1, memory: 1024Mi }}, requests: {{ cpu: "0.250" }} }}
"#
    )
}

/// What a tap of the callers of `orders` shows of one request.
pub(crate) async fn tapped(shop: &Shop, mut tap: Command) -> Result<Value> {
    let mut tap = tap
        .args(["-o", "json", "--count", "1", "--path", "/watched"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut told = BufReader::new(tap.stderr.take().context("a pipe")?).lines();
    loop {
        let line = timeout(PODS, told.next_line()).await??;
        let line = line.context("the tap has ended")?;
        if line.contains("watching ") {
            break;
        }
    }
    shop.first_answered_by("http://orders/watched?secret")
        .await?;
    let output = timeout(PODS, tap.wait_with_output()).await??;
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(seen["path"], "/watched");
    Ok(seen)
}

/// What a GET to a port is answered that a command forwards; Ctrl-C ends it.
pub(crate) async fn forwarded(shop: &Shop, mut command: Command) -> Result<(u16, String)> {
    let mut command = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(command.stdout.take().context("a pipe")?).lines();
    let line = timeout(PODS, lines.next_line()).await??;
    let line = line.context("nothing is forwarded")?;
    let here = line.split(' ').next().unwrap_or_default();
    ensure!(line.contains(" leads to port 8080 of "), "{line}");
    let answer = shop
        .get_from_node(&format!("http://{here}/forwarded"))
        .await?;
    let id = command.id().context("it has ended")?;
    kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGINT)?;
    let status = timeout(PODS, command.wait()).await??;
    ensure!(status.success(), "{status}");
    Ok(answer)
}

#[tokio::test]
async fn a_clusters_sidecars_are_asked_watched_and_checked_with_the_users_kubectl() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let command = |arguments: &[&str]| shop.meshwright(arguments);

    let config = run(&mut command(&["config", "deployment/web"])?, "").await?;
    let config: Value = serde_json::from_str(&config)?;
    let own = config["inForce"]["workload"].as_str().unwrap_or_default();
    assert!(
        own.starts_with(&format!("{}/web-", shop.namespace)),
        "{config}"
    );

    let seen = tapped(&shop, command(&["tap", "deployment/web"])?).await?;
    assert_eq!(seen["service"], format!("{}/orders", shop.namespace));

    // As it was sent, and then as somebody has edited it.
    let folder = tempfile::tempdir()?;
    let route = shop.route("orders");
    std::fs::write(folder.path().join("route.yaml"), &route)?;
    let plain = plain(&shop.namespace);
    std::fs::write(folder.path().join("plain.yaml"), &plain)?;
    shop.cluster.apply(&format!("{route}---{plain}")).await?;
    let folder = folder.path().to_str().context("a path")?;
    let checked = wait_until("the route is accepted", PODS, async || {
        run(&mut command(&["check", folder])?, "").await
    })
    .await?;
    ensure!(
        checked.contains("4 documents compared") && checked.contains("2 of 2 sidecars asked"),
        "{checked}"
    );
    shop.cluster.apply(&shop.route("elsewhere")).await?;
    let edited = wait_until("the route is refused", PODS, async || {
        let output = command(&["check", folder])?.output().await?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.code() == Some(1) && said.contains(" is False: "),
            "{said}"
        );
        Ok(said)
    })
    .await?;
    let expected =
        "spec.rules[0].backendRefs[0].name: the file says `\"orders\"`, stored is `\"elsewhere\"`";
    assert!(
        edited.contains("route.yaml:9: ") && edited.contains(expected),
        "{edited}"
    );
    Ok(())
}

#[tokio::test]
async fn where_calls_lead_in_a_cluster_is_told_and_explained_by_the_callers_sidecar() -> Result<()>
{
    let shop = Shop::open(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    shop.cluster.apply(&shop.route("two")).await?;
    shop.programmed("orders").await?;
    let namespace = &shop.namespace;

    let routes = run(&mut shop.meshwright(&["routes", "deployment/web"])?, "").await?;
    let rows: Vec<Vec<&str>> = routes
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let (orders, two) = (format!("{namespace}/orders"), format!("{namespace}/two"));
    for row in [
        ["SERVICE", "PORT", "PROTOCOL", "APIROUTE", "ENDPOINTS"],
        [&orders, "80", "http", &orders, "1"],
        [&two, "80", "http", "-", "1"],
    ] {
        assert!(rows.iter().any(|told| *told == row), "{row:?}\n{routes}");
    }

    let explain = [
        "explain",
        "GET",
        "http://orders/",
        "--from",
        "deployment/web",
    ];
    let explained = run(&mut shop.meshwright(&explain)?, "").await?;
    for line in [
        format!("Service {orders}, port 80 (http): governed by ApiRoute {orders}"),
        "rule all: governs it".to_owned(),
        format!("goes to {two}:80, weight 1, 1 endpoint"),
    ] {
        assert!(explained.lines().any(|told| told == line), "{explained}");
    }
    assert!(
        shop.answered_by("http://orders/")
            .await?
            .starts_with("two-")
    );

    // What would be refused is an answer too, and the exit code says so.
    let explain = ["explain", "http://orders:81/", "--from", "deployment/web"];
    let refused = shop.meshwright(&explain)?.output().await?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8(refused.stdout)?;
    let closed = format!("closed: Service {orders} has no port 81");
    assert!(said.contains(&closed), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_port_is_forwarded_to_a_pod_of_a_cluster_past_its_sidecar() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let orders = shop.pod("orders").await?;
    for workload in ["deployment/orders", &orders] {
        let command = shop.meshwright(&["port-forward", workload, ":8080"])?;
        // The sidecar, which takes nothing but mutual TLS, would have refused it.
        let answer = forwarded(&shop, command).await?;
        assert_eq!(answer, (200, format!("{orders} GET /forwarded")));
    }
    Ok(())
}
