//! Each thing that the chart lets the operator do, it does: without one of them it says which it misses.
//!
//! The rights are read in the cluster, as the chart has made them, so that one that is added there and
//! used nowhere fails here. For each, an operator runs outside of the cluster as somebody who has all of
//! them but that one, with something of everything that it may have to do with: objects whose status is
//! to be written, Secrets that are referred to, a certificate authority to be written anew, a sidecar
//! that asks for a certificate, a pod that is to get a sidecar.

mod right;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::{Cluster, run, wait_until};
use tests::mesh::binary;
use tokio::process::Child;

use self::right::Right;
use crate::installation::{PODS, SYSTEM, installed};
use crate::life::{back, operators, scale};
use crate::shop::Shop;
use crate::validation::object;

/// Operators at a time, on a machine with two cores.
const AT_A_TIME: usize = 4;
/// Who everybody here is.
const NAME: &str = "operator";
/// How long nothing must be missed by one who has all rights.
const QUIET: Duration = Duration::from_secs(15);

/// The port of the next operator's webhook, on the node's own address: below those that systems give out.
static WEBHOOK: AtomicU16 = AtomicU16::new(21_000);

/// An operator that lacks a right, and what is there for it.
struct Lacking {
    cluster: &'static Cluster,
    /// Of its own: it keeps its keys there.
    namespace: String,
    folder: TempDir,
    /// Where it is asked about pods.
    webhook: u16,
    operator: Child,
    sidecar: Option<Child>,
}

// === impl Lacking ===

impl Lacking {
    /// Starts one with these rights, which lacks `lacks`.
    async fn start(
        cluster: &'static Cluster,
        references: &str,
        rights: &[Right],
        lacks: Option<&Right>,
        authority: &Value,
    ) -> Result<Lacking> {
        let namespace = cluster.namespace("least").await?;
        let rights = rights.iter().filter(|right| Some(*right) != lacks);
        let rights = Vec::from_iter(rights);
        let rules = |is: &dyn Fn(&Right) -> bool| {
            let rules = rights.iter().filter(|right| is(right));
            Value::Array(rules.map(|right| right.rule()).collect())
        };
        let mut objects = vec![
            json!({ "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": { "name": NAME, "namespace": namespace } }),
            // It never runs: there is no such node. A sidecar outside says that it is beside it.
            json!({ "apiVersion": "v1", "kind": "Pod",
                    "metadata": { "name": "waits", "namespace": namespace },
                    "spec": { "nodeName": "", "nodeSelector": { "nowhere": "true" },
                              "containers": [{ "name": "a", "image": "a" }] } }),
            left_behind(&namespace),
        ];
        let cluster_wide = format!("{NAME}-{namespace}");
        objects.extend(bound(
            &namespace,
            None,
            &cluster_wide,
            rules(&|right| !right.own && !right.is_of_references()),
        ));
        objects.extend(bound(
            &namespace,
            Some(&namespace),
            NAME,
            rules(&|right| right.own),
        ));
        objects.extend(bound(
            &namespace,
            Some(references),
            &cluster_wide,
            rules(&Right::is_of_references),
        ));
        let makes_it = lacks.is_some_and(|right| right.own && right.verb == "create");
        if !makes_it {
            let mut authority = authority.clone();
            authority["metadata"]["namespace"] = json!(namespace);
            objects.push(authority);
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        cluster.apply(&list.to_string()).await?;

        let folder = tempfile::tempdir()?;
        let token = ["create", "token", NAME, "-n", &namespace];
        let token = cluster.kubectl(&token).await?;
        let mut config = cluster.json(&["config", "view", "--raw"]).await?;
        config["users"][0]["user"] = json!({ "token": token.trim() });
        std::fs::write(folder.path().join("kubeconfig"), config.to_string())?;
        let webhook = WEBHOOK.fetch_add(1, Ordering::Relaxed);
        let operator = spawn_operator(cluster, &namespace, &folder, webhook)?;
        Ok(Lacking {
            cluster,
            namespace,
            folder,
            webhook,
            operator,
            sidecar: None,
        })
    }

    /// What it has logged, without the escapes of JSON.
    fn log(&self) -> Result<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log"))?;
        Ok(log.replace('\\', ""))
    }

    /// Starts it again where it has given up, and a sidecar once it can be asked for a certificate; asks it
    /// about a pod.
    async fn go_on(&mut self) -> Result<()> {
        if self.operator.try_wait()?.is_some() {
            self.sidecar = None;
            self.operator =
                spawn_operator(self.cluster, &self.namespace, &self.folder, self.webhook)?;
        }
        if self.sidecar.is_none() {
            let log = self.log()?;
            let grpc = log.rsplit_once("\"grpc\":\"");
            if let Some((address, _)) = grpc.and_then(|(_, rest)| rest.split_once('"')) {
                self.sidecar = Some(self.spawn_sidecar(address).await?);
            }
        }
        // Its log says why it does not answer; before it listens nobody does.
        let _ = self.ask_about_a_pod().await;
        Ok(())
    }

    /// As the API server asks, when a pod is created.
    async fn ask_about_a_pod(&self) -> Result<String> {
        let pods = json!({ "group": "", "version": "v1", "resource": "pods" });
        let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "1", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "resource": pods,
            "namespace": self.namespace, "operation": "CREATE", "userInfo": {},
            "object": { "apiVersion": "v1", "kind": "Pod",
                        "metadata": { "name": "asks", "namespace": self.namespace },
                        "spec": { "containers": [{ "name": "a", "image": "a" }] } } } });
        let server = format!("--server=https://127.0.0.1:{}", self.webhook);
        let mut kubectl = self.cluster.command("kubectl");
        kubectl.args(["create", "--raw", "/inject", "-f", "-", &server]);
        kubectl.args(["--insecure-skip-tls-verify", "--request-timeout=5s"]);
        run(&mut kubectl, &review.to_string()).await
    }

    async fn spawn_sidecar(&self, operator: &str) -> Result<Child> {
        let (cluster, namespace) = (self.cluster, &*self.namespace);
        let secret = ["get", "secret", "meshwright-ca", "-n", namespace];
        let secret = cluster.json(&secret).await?;
        let roots = secret["data"]["roots.pem"].as_str().context("no roots")?;
        let roots = String::from_utf8(BASE64_STANDARD.decode(roots)?)?;
        let pod = cluster
            .json(&["get", "pod", "waits", "-n", namespace])
            .await?;
        let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
        let uid = format!("--bound-object-uid={uid}");
        let token = [
            "create",
            "token",
            "default",
            "-n",
            namespace,
            "--audience=meshwright.dev/ca",
            "--bound-object-kind=Pod",
            "--bound-object-name=waits",
            &uid,
        ];
        let file = self.folder.path().join("token");
        std::fs::write(&file, cluster.kubectl(&token).await?.trim())?;
        let mut command = cluster.command(binary("meshwright-sidecar")?);
        command
            .env("MESHWRIGHT_BUNDLE", roots)
            .args(["--operator", operator, "--token-file"])
            .arg(file)
            .arg("--state")
            .arg(self.folder.path().join("state"));
        for listener in ["outbound", "inbound", "admin", "metrics", "ready"] {
            command.args([&format!("--listen-{listener}"), "127.0.0.1:0"]);
        }
        let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(silent.kill_on_drop(true).spawn()?)
    }

    async fn end(mut self) -> Result<()> {
        self.operator.kill().await?;
        let name = format!("{NAME}-{}", self.namespace);
        for kind in ["clusterrole", "clusterrolebinding"] {
            let args = ["delete", kind, &name, "--ignore-not-found", "--wait=false"];
            self.cluster.kubectl(&args).await?;
        }
        Ok(())
    }
}

/// What was kept of an EventSubscription that is no more.
fn left_behind(namespace: &str) -> Value {
    let hash = blake3::hash(b"gone/gone").to_hex();
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": format!("es-{}", &hash[..40]), "namespace": namespace,
                      "labels": { "meshwright.dev/claim": "EventSubscription" },
                      "annotations": { "meshwright.dev/object": "gone/gone" } } })
}

/// A role with these rules, in a namespace or in all of them, and what gives it to the operator of
/// `namespace`.
fn bound(namespace: &str, place: Option<&str>, name: &str, rules: Value) -> [Value; 2] {
    let rbac = "rbac.authorization.k8s.io";
    let (role, binding) = match place {
        None => ("ClusterRole", "ClusterRoleBinding"),
        Some(_) => ("Role", "RoleBinding"),
    };
    let mut metadata = json!({ "name": name });
    if let Some(place) = place {
        metadata["namespace"] = json!(place);
    }
    [
        json!({ "apiVersion": format!("{rbac}/v1"), "kind": role, "metadata": metadata, "rules": rules }),
        json!({ "apiVersion": format!("{rbac}/v1"), "kind": binding, "metadata": metadata,
                "roleRef": { "apiGroup": rbac, "kind": role, "name": name },
                "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": namespace }] }),
    ]
}

fn spawn_operator(
    cluster: &Cluster,
    namespace: &str,
    folder: &TempDir,
    webhook: u16,
) -> Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.path().join("log"))?;
    let mut command = cluster.command(binary("meshwright-operator")?);
    command
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .args(["--namespace", namespace]);
    for listener in ["grpc", "http"] {
        command.args([&format!("--listen-{listener}"), "127.0.0.1:0"]);
    }
    command.args(["--listen-webhook", &format!("127.0.0.1:{webhook}")]);
    Ok(command.stderr(log).kill_on_drop(true).spawn()?)
}

/// The certificate authority of the mesh as whoever issues for an hour only would have kept it: an operator
/// that issues for a day writes that down before anything else.
async fn changed_authority(cluster: &Cluster) -> Result<Value> {
    let secret = ["get", "secret", "meshwright-ca", "-n", SYSTEM];
    let secret = cluster.json(&secret).await?;
    let decoded = |field: &str| -> Result<String> {
        let encoded = secret["data"][field].as_str().context("no such key")?;
        Ok(String::from_utf8(BASE64_STANDARD.decode(encoded)?)?)
    };
    let mut authority: Value = serde_json::from_str(&decoded("authority.json")?)?;
    ensure!(authority["leafLifeSeconds"] == 86_400, "another life");
    authority["leafLifeSeconds"] = json!(3600);
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "meshwright-ca" },
        "stringData": { "authority.json": authority.to_string(), "roots.pem": decoded("roots.pem")? },
    }))
}

/// Objects of each kind, of which some refer to Secrets.
fn objects(namespace: &str) -> Value {
    let store = json!({ "redis": { "urlSecretRef": { "name": "redis", "key": "url" } } });
    let key = json!({ "apiKey": { "in": "Header", "name": "x-api-key" } });
    let targets = json!([{ "group": "", "kind": "Service", "name": "orders" }]);
    let items = [
        object(
            "ApiRoute",
            namespace,
            "a",
            &json!({ "hosts": ["orders"], "auth": key }),
        ),
        object(
            "RateLimit",
            namespace,
            "a",
            &json!({ "targetRefs": targets, "scope": "Shared", "store": store,
                     "limits": [{ "name": "all", "requests": 9, "per": "1m" }] }),
        ),
        object(
            "RetryPolicy",
            namespace,
            "a",
            &json!({ "targetRefs": targets, "maxRetries": 1 }),
        ),
        object(
            "EventSubscription",
            namespace,
            "a",
            &json!({ "source": { "type": "Broker", "broker": { "name": "events", "topic": "stock" } },
                     "target": { "type": "Workload",
                                 "workload": { "selector": { "app": "web" }, "port": 8080 } },
                     "delivery": { "onExhausted": "Drop" } }),
        ),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

#[tokio::test]
async fn the_operator_uses_every_right_that_the_chart_gives_it_and_needs_no_other() -> Result<()> {
    let cluster = installed().await?;
    let shop = Shop::alone(cluster, &[]).await?;
    // What it would have written into a status, another need not write.
    scale(cluster, 0).await?;
    let used = every_right_is_used(cluster).await;
    scale(cluster, 1).await?;
    back(&shop).await?;
    used
}

async fn every_right_is_used(cluster: &'static Cluster) -> Result<()> {
    wait_until("the operator is gone", PODS, async || {
        let pods = operators(cluster).await?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })
    .await?;
    let rights = Right::all(cluster).await?;
    ensure!(rights.len() > 20, "{rights:?}");
    let authority = changed_authority(cluster).await?;
    let without_any = rights.iter().map(Some).chain([None]);
    let runs = without_any.map(async |lacks| {
        let named = lacks.map_or("none".to_owned(), Right::to_string);
        let ran = run_without(cluster, &rights, lacks, &authority).await;
        ran.with_context(|| format!("without {named}"))
    });
    let ended: Vec<Result<()>> = stream::iter(runs)
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let failed = ended.into_iter().filter_map(Result::err);
    let failed: Vec<String> = failed.map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Runs an operator without a right until it has missed it; with all of them, until it is seen to miss
/// none.
async fn run_without(
    cluster: &'static Cluster,
    rights: &[Right],
    lacks: Option<&Right>,
    authority: &Value,
) -> Result<()> {
    let references = cluster.namespace("refers").await?;
    cluster.apply(&objects(&references).to_string()).await?;
    let mut lacking = Lacking::start(cluster, &references, rights, lacks, authority).await?;
    match lacks {
        Some(right) => {
            let missed = right.missed(&lacking.namespace, &references);
            wait_until("it says what it misses", PODS, async || {
                lacking.go_on().await?;
                let log = lacking.log()?;
                ensure!(log.contains(&missed), "not: {missed}\n{}", tail(&log));
                Ok(())
            })
            .await?;
        }
        None => {
            let elsewhere = cluster.namespace("elsewhere").await?;
            cluster.apply(&objects(&elsewhere).to_string()).await?;
            misses_nothing(&mut lacking, &references).await?;
            let deleted = ["delete", "namespace", &elsewhere, "--wait=false"];
            cluster.kubectl(&deleted).await?;
        }
    }
    let deleted = ["delete", "namespace", &references, "--wait=false"];
    cluster.kubectl(&deleted).await?;
    lacking.end().await
}

/// Once the API server knows of its rights, the operator misses none.
async fn misses_nothing(lacking: &mut Lacking, references: &str) -> Result<()> {
    // Secrets that something refers to elsewhere are not its to read.
    // The operator's own namespace is in every such line, as that of its ServiceAccount.
    let is_in = |line: &str, namespace: &str| {
        let place = format!("in the namespace \"{namespace}\"");
        line.contains(&place)
    };
    let own = lacking.namespace.clone();
    let is_missed = |line: &str| {
        let is_of_others = line.contains("resource \"secrets\"")
            && line.contains("in the namespace")
            && !is_in(line, references)
            && !is_in(line, &own);
        line.contains("cannot ") && !is_of_others
    };
    let log: PathBuf = lacking.folder.path().join("log");
    let mut quiet = Instant::now();
    let mut last = String::new();
    wait_until("it misses nothing", PODS, async || {
        lacking.go_on().await?;
        let said = lacking.log()?;
        if let Some(missed) = said.lines().find(|line| is_missed(line)) {
            missed.clone_into(&mut last);
            std::fs::File::options()
                .write(true)
                .open(&log)?
                .set_len(0)?;
            quiet = Instant::now();
        }
        ensure!(
            lacking.sidecar.is_some() && quiet.elapsed() >= QUIET,
            "missed last: {last}\n{}",
            tail(&said)
        );
        Ok(())
    })
    .await
}

fn tail(log: &str) -> &str {
    let from = log.len().saturating_sub(4000);
    log.get(log.ceil_char_boundary(from)..).unwrap_or_default()
}

#[tokio::test]
async fn secrets_may_be_read_in_the_namespaces_that_are_named_and_nowhere_else() -> Result<()> {
    let cluster = Cluster::start().await?;
    let chart = crate::installation::root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let bindings = async |values: &[&str]| {
        let rbac = "--show-only=templates/rbac.yaml";
        let version = "--kube-version=1.35.0";
        let args = ["template", "meshwright", chart, "-n", SYSTEM, rbac, version];
        let rendered = cluster.helm(&[&args[..], values].concat()).await?;
        let documents = rendered.split("\n---");
        let of_secrets = documents.filter(|document| {
            document.contains("Binding") && document.contains("meshwright-operator-secrets")
        });
        let line = |document: &str, field: &str| {
            let mut lines = document.lines();
            let line = lines.find_map(|line| line.trim().strip_prefix(field).map(str::to_owned));
            line.unwrap_or_default()
        };
        let bound = of_secrets.map(|one| (line(one, "kind: "), line(one, "namespace: ")));
        anyhow::Ok(Vec::from_iter(bound))
    };
    let everywhere = bindings(&[]).await?;
    let kinds: Vec<&str> = everywhere.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, ["ClusterRoleBinding"]);
    let named = bindings(&["--set", "secrets.namespaces={shop,bank}"]).await?;
    let binding = |namespace: &str| ("RoleBinding".to_owned(), namespace.to_owned());
    assert_eq!(named, [binding("shop"), binding("bank")]);
    Ok(())
}
