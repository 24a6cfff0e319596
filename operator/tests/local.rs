//! The operator with a folder as its source, and sidecars that talk to it over TLS.

#![allow(clippy::unwrap_used)]

mod sidecar;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use operator::app::{self, Running};
use operator::args::Config;
use operator::verdicts::Report;
use serde_json::json;
use sidecar::{Identity, Sidecar};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::delta::Held;
use wire::mesh;

const LONG: Duration = Duration::from_secs(20);

const WORLD: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders, namespace: shop }
spec: { hosts: [orders], rules: [{ matches: [{ path: { type: Prefix, value: /v1 } }] }] }
---
apiVersion: v1
kind: Service
metadata: { name: orders, namespace: shop }
spec: { selector: { app: orders }, clusterIP: 10.96.0.7, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: orders-1, namespace: shop, uid: u1, labels: { app: orders } }
spec: { containers: [{ name: app }, { name: meshwright-sidecar }] }
status: { podIP: 10.0.0.1, phase: Running, conditions: [{ type: Ready, status: 'True' }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, uid: u2 }
spec: { containers: [{ name: app }, { name: meshwright-sidecar }] }
status: { podIP: 10.0.0.2, phase: Running, conditions: [{ type: Ready, status: 'True' }] }
";

struct World {
    dir: TempDir,
    operator: Running,
}

impl World {
    async fn start() -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/world.yaml"), WORLD).unwrap();
        let line = |token: &str, pod: &str, uid: &str| {
            json!({ "sha256": hash(token), "namespace": "shop", "serviceAccount": "default",
                    "pod": pod, "uid": uid, "expires": 4_000_000_000_u64 })
        };
        let tokens = json!({ "tokens": [line("a", "orders-1", "u1"), line("b", "web-1", "u2")] });
        fs::write(dir.path().join("tokens.json"), tokens.to_string()).unwrap();
        let operator = app::start(config(dir.path())).await.unwrap();
        assert!(operator.ready().await);
        World { dir, operator }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("files/world.yaml"), text).unwrap();
    }

    async fn sidecar(&self, token: &str) -> Sidecar {
        let identity = Identity::ask(&self.operator, token).await.unwrap();
        Sidecar::start(&self.operator, &identity)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.operator.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: operator\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    /// The ApiRoute's report, once `is` holds of it.
    async fn report(&self, is: impl Fn(&Report) -> bool) -> Report {
        self.report_of("ApiRoute", is).await
    }

    /// The report of the one object of a kind, once `is` holds of it.
    async fn report_of(&self, kind: &str, is: impl Fn(&Report) -> bool) -> Report {
        let start = Instant::now();
        loop {
            let (_, body) = self.get("/verdicts").await;
            let reports: Vec<Report> = serde_json::from_str(&body).unwrap();
            let mut reports = reports.into_iter();
            let report = reports.find(|report| report.kind == kind);
            match report {
                Some(report) if is(&report) => return report,
                report => assert!(start.elapsed() < LONG, "{report:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn config(dir: &Path) -> Config {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    Config::parse_from([
        "meshwright-operator",
        "--files",
        &path("files"),
        "--state",
        &path("state"),
        "--tokens",
        &path("tokens.json"),
        "--listen-grpc",
        "127.0.0.1:0",
        "--listen-http",
        "127.0.0.1:0",
    ])
}

fn hash(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn holds(held: &Held, id: &str) -> bool {
    held.get(&id.parse().unwrap()).is_some()
}

fn prefix(held: &Held) -> Option<String> {
    let route: mesh::Route = held
        .get(&"route/shop/orders".parse().unwrap())?
        .decode()
        .unwrap();
    match route.rules.first()?.matches.first()?.path.clone()? {
        mesh::r#match::Path::Prefix(prefix) => Some(prefix),
        _ => None,
    }
}

#[tokio::test]
async fn a_sidecar_with_a_token_is_given_a_leaf_and_then_its_resources() {
    let world = World::start().await;
    let mut orders = world.sidecar("a").await;
    orders.until(Held::is_complete).await;
    let held = orders.held.borrow().clone();
    for id in [
        "route/shop/orders",
        "endpoints/shop/orders",
        "guard/shop/orders",
    ] {
        assert!(holds(&held, id), "{id}");
    }
    assert!(holds(&held, "workload/shop/orders-1"));
    assert!(!holds(&held, "workload/shop/web-1"));
    assert!(holds(&held, "identity/cluster.local/bundle"));
    let endpoints: mesh::Endpoints = held
        .get(&"endpoints/shop/orders".parse().unwrap())
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(endpoints.ports[0].endpoints[0].address, "10.0.0.1");
    world.operator.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_retry_policy_reaches_callers_and_is_counted_beside_the_route_of_its_name() {
    const POLICY: &str = "
---
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: { name: orders, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: orders }], loadBalancing: { type: RoundRobin } }
";
    let world = World::start().await;
    let mut web = world.sidecar("b").await;
    web.until(Held::is_complete).await;
    world.write(&format!("{WORLD}{POLICY}"));
    web.until(|held| holds(held, "retry-policy/shop/orders"))
        .await;
    let held = web.held.borrow().clone();
    let policy = held.get(&"retry-policy/shop/orders".parse().unwrap());
    let policy: mesh::RetryPolicy = policy.unwrap().decode().unwrap();
    assert_eq!(policy.services[0].name, "orders");
    assert!(!policy.consumer);
    let report = world
        .report_of("RetryPolicy", |report| report.programmed.n == 1)
        .await;
    assert_eq!((report.programmed.m, &*report.target), (1, "orders.shop"));
    assert!(report.conditions.iter().all(|c| c.status == "True"));
    assert_eq!(
        world.report(|report| report.programmed.n == 1).await.name,
        "orders"
    );

    let misspelt = POLICY.replace("name: orders }]", "name: ordres }]");
    world.write(&format!("{WORLD}{misspelt}"));
    web.until(|held| !holds(held, "retry-policy/shop/orders"))
        .await;
    let refused = |report: &Report| report.conditions[0].reason == "TargetNotFound";
    let report = world.report_of("RetryPolicy", refused).await;
    let message = &report.conditions[0].message;
    assert!(message.contains("did you mean \"orders\"?"), "{message}");
}

#[tokio::test]
async fn an_unknown_token_is_given_nothing_and_without_a_leaf_there_is_no_stream() {
    let world = World::start().await;
    let refused = Identity::ask(&world.operator, "x").await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let refused = sidecar::anonymous(&world.operator).await;
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert!(world.operator.streams.is_empty());
}

#[tokio::test]
async fn one_connection_carries_a_few_calls_at_a_time() {
    let world = World::start().await;
    let identity = Identity::ask(&world.operator, "a").await.unwrap();
    let most = sidecar::calls_at_a_time(&world.operator, &identity).await;
    assert!(most.is_some_and(|most| most <= 8), "{most:?}");
}

#[tokio::test]
async fn an_edit_reaches_the_sidecars_and_is_counted() {
    let world = World::start().await;
    let mut orders = world.sidecar("a").await;
    let mut web = world.sidecar("b").await;
    orders.until(Held::is_complete).await;
    web.until(Held::is_complete).await;
    let report = world.report(|report| report.programmed.n == 2).await;
    assert_eq!(report.programmed.m, 2);
    assert_eq!(report.target, "orders.shop");
    assert!(report.file.unwrap().ends_with("world.yaml"));
    let statuses: Vec<_> = report
        .conditions
        .iter()
        .map(|c| (&*c.type_, &*c.status))
        .collect();
    let all = [
        ("Accepted", "True"),
        ("ResolvedRefs", "True"),
        ("Programmed", "True"),
    ];
    assert_eq!(statuses, all);

    let edited = Instant::now();
    world.write(&WORLD.replace("value: /v1", "value: /v2"));
    orders
        .until(|held| prefix(held).as_deref() == Some("/v2"))
        .await;
    assert!(
        edited.elapsed() < Duration::from_secs(5),
        "{:?}",
        edited.elapsed()
    );
    web.until(|held| prefix(held).as_deref() == Some("/v2"))
        .await;
    world.report(|report| report.programmed.n == 2).await;

    *web.rejects.lock().unwrap() = Some("route/shop/orders".to_owned());
    world.write(&WORLD.replace("value: /v1", "value: /v3"));
    let report = world
        .report(|report| report.conditions[2].reason == "Rejected")
        .await;
    assert_eq!(
        report.conditions[2].message,
        "1/2; shop/web-1 rejects it: this one can't do that"
    );
    assert_eq!(
        prefix(&web.held.borrow()).as_deref(),
        Some("/v2"),
        "the last good one"
    );
}

#[tokio::test]
async fn half_written_yaml_is_a_problem_and_changes_nothing() {
    let world = World::start().await;
    let mut orders = world.sidecar("a").await;
    orders.until(Held::is_complete).await;
    assert_eq!(world.get("/problems").await, (200, "[]\n".to_owned()));
    world.write(&WORLD[..WORLD.len() / 2]);
    let start = Instant::now();
    loop {
        let (_, problems) = world.get("/problems").await;
        if problems.contains("world.yaml") {
            assert!(problems.contains("\"line\""), "{problems}");
            break;
        }
        assert!(start.elapsed() < LONG, "{problems}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(holds(&orders.held.borrow(), "route/shop/orders"));
    world.report(|report| report.programmed.n == 1).await;
}

#[tokio::test]
async fn it_says_whether_it_is_ready_and_what_it_counts() {
    let world = World::start().await;
    let mut orders = world.sidecar("a").await;
    orders.until(Held::is_complete).await;
    assert_eq!(world.get("/ready").await.0, 200);
    assert_eq!(world.get("/nowhere").await.0, 404);
    let (status, metrics) = world.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("meshwright_operator_streams 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("meshwright_operator_compile_seconds_count"),
        "{metrics}"
    );
}

#[tokio::test]
async fn it_stops_within_five_seconds_with_streams_open() {
    let world = World::start().await;
    let mut orders = world.sidecar("a").await;
    orders.until(Held::is_complete).await;
    let start = Instant::now();
    world.operator.shutdown().await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let ended = orders.state.wait_for(|state| !state.connected);
    tokio::time::timeout(LONG, ended).await.unwrap().unwrap();
    assert!(
        holds(&orders.held.borrow(), "route/shop/orders"),
        "it keeps what it has"
    );
}

#[tokio::test]
async fn a_folder_needs_to_be_told_where_keys_and_tokens_are() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        state: None,
        ..config(dir.path())
    };
    let error = app::start(config).await.err().unwrap();
    assert!(error.to_string().contains("--state"), "{error}");
}
