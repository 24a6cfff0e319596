//! What people ask a cluster with the `meshwright` command, by way of the user's kubectl.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::{run, wait_until};
use tests::mesh::binary;
use tokio::io::{AsyncBufReadExt as _, BufReader};
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

#[tokio::test]
async fn a_clusters_sidecars_are_asked_watched_and_checked_with_the_users_kubectl() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let meshwright = binary("meshwright")?;
    let command = |arguments: &[&str]| {
        let mut command = shop.cluster.command(&meshwright);
        command.args(arguments).args(["-n", &shop.namespace]);
        command
    };

    let config = run(&mut command(&["config", "deployment/web"]), "").await?;
    let config: Value = serde_json::from_str(&config)?;
    let own = config["inForce"]["workload"].as_str().unwrap_or_default();
    assert!(
        own.starts_with(&format!("{}/web-", shop.namespace)),
        "{config}"
    );

    let mut tap = command(&[
        "tap",
        "deployment/web",
        "-o",
        "json",
        "--count",
        "1",
        "--path",
        "/watched",
    ])
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::piped())
    .kill_on_drop(true)
    .spawn()?;
    let mut told = BufReader::new(tap.stderr.take().context("a pipe")?).lines();
    loop {
        let line = timeout(PODS, told.next_line()).await??;
        if line.context("the tap has ended")?.contains("watching ") {
            break;
        }
    }
    shop.answered_by("http://orders/watched?secret").await?;
    let output = timeout(PODS, tap.wait_with_output()).await??;
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(seen["path"], "/watched");
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
        run(&mut command(&["check", folder]), "").await
    })
    .await?;
    ensure!(
        checked.contains("4 documents compared") && checked.contains("2 of 2 sidecars asked"),
        "{checked}"
    );
    shop.cluster.apply(&shop.route("elsewhere")).await?;
    let edited = wait_until("the route is refused", PODS, async || {
        let output = command(&["check", folder]).output().await?;
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
