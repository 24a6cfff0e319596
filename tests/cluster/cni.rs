//! Pods that may have no NET_ADMIN: the node's CNI plugin captures them, and one that nobody captured
//! never becomes ready.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, wait_until};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::installation::{PODS, SYSTEM, import_built, installed, meshed_namespace, root};
use crate::shop::{Shop, Stranger};

const DAEMON_SET: &str = "daemonset/meshwright-cni";
/// How often the network is looked at while the plugin's installer is replaced.
const LOOK: Duration = Duration::from_millis(20);

/// The node's only network: what a container runtime calls for each pod.
struct Network {
    file: PathBuf,
    /// As whoever made it wrote it.
    before: String,
}

/// A Deployment that Pod Security lets into `restricted`, and its Service.
pub(crate) fn restricted(name: &str, namespace: &str, image: &str) -> String {
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
      terminationGracePeriodSeconds: 5
      securityContext: {{ runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
        - name: {name}
          image: {image}
          imagePullPolicy: Never
          args: [serve, ":8080"]
          ports: [{{ name: http, containerPort: 8080 }}]
          securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ name: http, port: 80, targetPort: http }}]
---
"#
    )
}

/// Waits until a pod of the Deployment `app` says that nobody captured it, and sees that nothing of
/// its own was ever started.
async fn says_that_it_is_not_captured(cluster: &Cluster, namespace: &str, app: &str) -> Result<()> {
    let selector = format!("app={app}");
    let pod = wait_until("a pod says that it is not captured", PODS, async || {
        let pods = cluster
            .json(&["get", "pods", "-n", namespace, "-l", &selector])
            .await?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        let said = pods.iter().find(|pod| {
            let status = &pod["status"]["initContainerStatuses"][0];
            ["state", "lastState"].iter().any(|state| {
                let message = status[state]["terminated"]["message"].as_str();
                message.is_some_and(|message| {
                    message.contains("not redirected to the sidecar")
                        && message.contains("DaemonSet meshwright-cni")
                })
            })
        });
        let statuses: Vec<&Value> = pods.iter().map(|pod| &pod["status"]).collect();
        Ok(said.with_context(|| format!("{statuses:?}"))?.clone())
    })
    .await?;
    let own = &pod["status"]["containerStatuses"][0];
    ensure!(own["ready"] == false && own["started"] == false, "{own}");
    ensure!(
        own["state"]["waiting"]["reason"] == "PodInitializing",
        "{own}"
    );
    Ok(())
}

/// The plugin and its installer, as the chart has them, for the test cluster's own folders.
async fn rendered(cluster: &Cluster) -> Result<String> {
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let state = cluster.state().display();
    let folders = format!("cni.binDir={state}/cni-bin,cni.confDir={state}/cni");
    cluster
        .helm(&[
            "template",
            "meshwright",
            chart,
            "--namespace",
            SYSTEM,
            "--kube-version",
            "1.35.0",
            "--show-only",
            "templates/cni.yaml",
            "--set",
            "cni.enabled=true",
            "--set",
            &folders,
        ])
        .await
}

// === impl Network ===

impl Network {
    fn of(cluster: &Cluster) -> Result<Self> {
        let file = cluster.state().join("cni/10-bridge.conflist");
        let before = std::fs::read_to_string(&file)?;
        Ok(Self { file, before })
    }

    fn now(&self) -> Result<Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(&self.file)?)?)
    }

    /// The plugin is called for each pod, after all others.
    fn has_plugin(&self) -> Result<()> {
        let network = self.now()?;
        let plugins = network["plugins"].as_array().context("a list")?;
        let last = plugins.last().map(|plugin| &plugin["type"]);
        ensure!(
            last.is_some_and(|last| last == "meshwright-cni"),
            "{network}"
        );
        Ok(())
    }

    async fn has_plugin_soon(&self) -> Result<()> {
        wait_until("the plugin is in the network", PODS, async || {
            self.has_plugin()
        })
        .await
    }
}

#[tokio::test]
async fn under_restricted_the_nodes_plugin_captures_and_a_pod_that_nobody_captured_is_never_ready()
-> Result<()> {
    let cluster = installed().await?;
    import_built(cluster, "cni").await?;
    let image = cluster.web_image().await?;
    let network = Network::of(cluster)?;
    let namespace = meshed_namespace(cluster, "restricted").await?;
    let level = "pod-security.kubernetes.io/enforce=restricted";
    cluster
        .kubectl(&["label", "namespace", &namespace, level])
        .await?;
    let shop = Shop::elsewhere(cluster, &namespace).await;

    // A node without the plugin: Pod Security lets the pod in, and its sidecar ends with the reason.
    cluster
        .apply(&restricted("orders", &namespace, image))
        .await?;
    says_that_it_is_not_captured(cluster, &namespace, "orders").await?;

    let objects = rendered(cluster).await?;
    cluster.apply(&objects).await?;
    cluster.ready(SYSTEM, DAEMON_SET, PODS).await?;
    network.has_plugin()?;

    // Another pod of it, as the reason says.
    cluster
        .kubectl(&["delete", "pod", "-n", &namespace, "-l", "app=orders"])
        .await?;
    cluster.apply(&restricted("web", &namespace, image)).await?;
    for name in ["deployment/orders", "deployment/web"] {
        cluster.ready(&namespace, name, PODS).await?;
    }
    let orders = shop.pod("orders").await?;
    let pod = cluster
        .json(&["get", "pod", &orders, "-n", &namespace])
        .await?;
    let init = pod["spec"]["initContainers"].as_array();
    assert_eq!(init.map(Vec::len), Some(1), "{}", pod["spec"]);
    // What web calls goes through its sidecar, and to the sidecar of orders, which takes no plaintext.
    wait_until("orders answers", PODS, async || {
        shop.answered_by("http://orders/").await
    })
    .await?;
    let stranger = Stranger::start(cluster).await?;
    let url = format!("http://orders.{namespace}/");
    let (status, body) = stranger.get(&url).await?;
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("plaintext_refused"), "{body}");

    // An upgrade of the DaemonSet leaves no moment without the plugin.
    let (replaced, until) = watch::channel(false);
    let look = async {
        while !*until.borrow() {
            network.has_plugin()?;
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    let replace = async {
        let restart = ["rollout", "restart", "-n", SYSTEM, DAEMON_SET];
        let done = match cluster.kubectl(&restart).await {
            Ok(_) => cluster.ready(SYSTEM, DAEMON_SET, PODS).await,
            Err(error) => Err(error),
        };
        replaced.send_replace(true);
        done
    };
    let (looked, done) = tokio::join!(look, replace);
    done?;
    looked?;

    // Whoever made the network writes it again.
    std::fs::write(&network.file, &network.before)?;
    network.has_plugin_soon().await?;

    // Uninstalled: the network is as before, and pods are not captured, and say so.
    let component = "app.kubernetes.io/component=cni";
    let kinds = "daemonset,role,rolebinding,serviceaccount";
    cluster
        .kubectl(&["delete", kinds, "-n", SYSTEM, "-l", component])
        .await?;
    let before: Value = serde_json::from_str(&network.before)?;
    wait_until("the network is as before", PODS, async || {
        let now = network.now()?;
        ensure!(now == before, "{now}");
        Ok(())
    })
    .await?;
    cluster
        .apply(&restricted("late", &namespace, image))
        .await?;
    says_that_it_is_not_captured(cluster, &namespace, "late").await?;
    // Those that were captured before still are.
    shop.answered_by("http://orders/").await?;
    let (status, _) = stranger.get(&url).await?;
    assert_eq!(status, 403);
    cluster
        .kubectl(&["delete", "namespace", &namespace, "--timeout=60s"])
        .await?;
    Ok(())
}
