//! Several replicas of the operator in one process, each with a folder of its own as its source, real
//! streams, and reports between them over TLS. Which of them leads is said by the test: folders have
//! no Lease.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // of the other tests
mod sidecar;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use operator::app::{self, Running};
use operator::args::Config;
use operator::leader::Leader;
use operator::verdicts::Report;
use serde_json::json;
use sidecar::{Identity, Sidecar};
use tempfile::TempDir;
use tokio::sync::watch;
use wire::delta::Held;

const LONG: Duration = Duration::from_secs(30);

const ROUTE: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders, namespace: shop }
spec: { hosts: [orders], rules: [{ matches: [{ path: { type: Prefix, value: /v1 } }] }] }
---
apiVersion: v1
kind: Service
metadata: { name: orders, namespace: shop }
spec: { selector: { app: orders }, clusterIP: 10.96.0.7, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

/// Replicas that share the certificate authority, and the pods `p0`, `p1`, …
struct Mesh {
    dir: TempDir,
    replicas: Vec<(Option<Running>, watch::Sender<Leader>)>,
    pods: usize,
}

impl Mesh {
    async fn start(replicas: usize, pods: usize) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        let line = |n: usize| {
            json!({ "sha256": "0".repeat(64), "namespace": "shop", "serviceAccount": "default",
                    "pod": format!("p{n}"), "uid": format!("u{n}"), "expires": 4_000_000_000_u64 })
        };
        let tokens = json!({ "tokens": (0..pods).map(line).collect::<Vec<_>>() });
        fs::write(dir.path().join("tokens.json"), tokens.to_string()).unwrap();
        let mut mesh = Mesh {
            dir,
            replicas: Vec::new(),
            pods,
        };
        for n in 0..replicas {
            fs::create_dir(mesh.folder(n)).unwrap();
            mesh.write(n, ROUTE);
            let (said, leader) = watch::channel(Leader::Nobody);
            let running = app::start_among(mesh.config(n), leader).await.unwrap();
            assert!(running.ready().await);
            mesh.replicas.push((Some(running), said));
        }
        mesh
    }

    fn folder(&self, replica: usize) -> PathBuf {
        self.dir.path().join(format!("files-{replica}"))
    }

    /// What a replica reads from now on, beside the pods.
    fn write(&self, replica: usize, text: &str) {
        let pod = |n: usize| {
            format!(
                "---
apiVersion: v1
kind: Pod
metadata: {{ name: p{n}, namespace: shop, uid: u{n}, labels: {{ app: orders }} }}
spec: {{ containers: [{{ name: app }}, {{ name: meshwright-sidecar }}] }}
status: {{ podIP: 10.0.0.{}, phase: Running, conditions: [{{ type: Ready, status: 'True' }}] }}
",
                n + 1
            )
        };
        let pods: String = (0..self.pods).map(pod).collect();
        // At once: a half would be a problem, and no change.
        let (new, path) = (
            self.dir.path().join("new"),
            self.folder(replica).join("world.yaml"),
        );
        fs::write(&new, format!("{text}{pods}")).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn config(&self, replica: usize) -> Config {
        let path = |name: &str| self.dir.path().join(name).to_string_lossy().into_owned();
        let files = self.folder(replica).to_string_lossy().into_owned();
        let name = format!("operator-{replica}");
        Config::parse_from([
            "meshwright-operator",
            "--files",
            &files,
            "--state",
            &path("state"),
            "--tokens",
            &path("tokens.json"),
            "--listen-grpc",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
            "--pod-name",
            &name,
        ])
    }

    fn replica(&self, n: usize) -> &Running {
        self.replicas[n].0.as_ref().unwrap()
    }

    /// Everybody hears that this one leads.
    fn elect(&self, leader: usize) {
        let other = Leader::Other {
            replica: format!("operator-{leader}"),
            address: Some(self.replica(leader).grpc),
        };
        let until = Instant::now() + Duration::from_secs(3600);
        for (n, (_, said)) in self.replicas.iter().enumerate() {
            said.send_replace(match n == leader {
                true => Leader::Us {
                    until: until.into(),
                },
                false => other.clone(),
            });
        }
    }

    /// A sidecar of the pod, with a stream from that replica, that holds all that it should.
    async fn sidecar(&self, pod: usize, replica: usize) -> Sidecar {
        let replica = self.replica(replica);
        let (pod, uid) = (format!("p{pod}"), format!("u{pod}"));
        let identity = Identity::issue(replica, "shop", &pod, &uid);
        let mut sidecar = Sidecar::start(replica, &identity);
        sidecar.until(Held::is_complete).await;
        sidecar
    }

    /// What a replica says of the ApiRoute.
    fn report(&self, replica: usize) -> Report {
        let reports = self.replica(replica).verdicts.reports();
        reports
            .into_iter()
            .find(|one| one.kind == "ApiRoute")
            .unwrap()
    }

    /// The same, once its `Programmed` says that.
    async fn says(&self, replica: usize, message: &str) {
        let start = Instant::now();
        loop {
            let said = programmed(&self.report(replica));
            if said == message {
                return;
            }
            assert!(start.elapsed() < LONG, "{said}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn programmed(report: &Report) -> String {
    report.conditions.last().unwrap().message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_that_leads_counts_the_sidecars_of_all() {
    let mesh = Mesh::start(3, 4).await;
    mesh.elect(1);
    let all = "0/4; shop/p0, shop/p1, shop/p2, shop/p3 are not connected";
    mesh.says(1, all).await;
    let _zero = mesh.sidecar(0, 0).await;
    let _one = mesh.sidecar(1, 1).await;
    let two = mesh.sidecar(2, 2).await;
    mesh.says(1, "3/4; shop/p3 is not connected").await;
    let _three = mesh.sidecar(3, 2).await;
    mesh.says(1, "4/4").await;
    assert_eq!(mesh.report(1).conditions.last().unwrap().status, "True");

    // What a sidecar of another replica refuses is told with its reason.
    *two.rejects.lock().unwrap() = Some("route/shop/orders".to_owned());
    for replica in 0..3 {
        mesh.write(replica, &ROUTE.replace("value: /v1", "value: /v2"));
    }
    mesh.says(1, "3/4; shop/p2 rejects it: this one can't do that")
        .await;
    drop(two);
    mesh.says(1, "3/4; shop/p2 is not connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_replica_lags_and_another_dies_the_count_is_never_more_than_is_true() {
    let mut mesh = Mesh::start(3, 3).await;
    mesh.elect(0);
    let mut sidecars = Vec::new();
    for n in 0..3 {
        sidecars.push(mesh.sidecar(n, n).await);
    }
    mesh.says(0, "3/3").await;

    // The edit reaches the one that leads, and one more. The third lags.
    let edited = ROUTE.replace("value: /v1", "value: /v2");
    mesh.write(0, &edited);
    mesh.write(1, &edited);
    mesh.says(0, "2/3; waiting for shop/p2").await;

    // The second dies, and its sidecar keeps what it has, and is counted until it should be back.
    let dead = mesh.replicas[1].0.take();
    drop(dead);
    let held = sidecars[1].held.borrow().clone();
    let moved = mesh.sidecar(1, 2).await;
    drop(sidecars.remove(1));
    // It moved to the one that lags, which has told it nothing older; but nobody knows.
    mesh.says(0, "1/3; waiting for shop/p1, shop/p2").await;
    assert!(held.get(&"route/shop/orders".parse().unwrap()).is_some());
    for _ in 0..50 {
        assert!(!programmed(&mesh.report(0)).starts_with("3/3"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    mesh.write(2, &edited);
    mesh.says(0, "3/3").await;
    drop(moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_that_leads_knows_the_same_after_a_moment() {
    let mut mesh = Mesh::start(3, 3).await;
    mesh.elect(0);
    let mut sidecars = Vec::new();
    for n in 0..3 {
        sidecars.push(mesh.sidecar(n, n).await);
    }
    mesh.says(0, "3/3").await;
    let leader = mesh.replicas[0].0.take().unwrap();
    leader.shutdown().await.unwrap();
    mesh.elect(2);
    mesh.says(2, "2/3; shop/p0 is not connected").await;
    sidecars[0] = mesh.sidecar(0, 1).await;
    mesh.says(2, "3/3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operators_own_identity_may_report_and_only_to_who_leads() {
    let mesh = Mesh::start(2, 1).await;
    let leader = mesh.replica(0);
    mesh.elect(0);
    let report = async |address: SocketAddr, identity: &Identity| {
        let reports = tokio_stream::empty::<wire::replicas::Report>();
        let channel = sidecar::channel(leader, address, identity).await;
        let mut client = wire::replicas::replicas_client::ReplicasClient::new(channel);
        match client.report(reports).await {
            Ok(answer) => answer.into_inner().message().await.err().map(|e| e.code()),
            Err(refused) => Some(refused.code()),
        }
    };
    let pod = Identity::issue(leader, "shop", "p0", "u0");
    let refused = report(leader.grpc, &pod).await;
    assert_eq!(refused, Some(tonic::Code::PermissionDenied));
    // The account's name alone is not the operator's identity: it is bound to a pod.
    let namesake = Identity::issue_as(
        leader,
        ("meshwright-system", "meshwright-operator"),
        "p1",
        "u1",
    );
    let refused = report(leader.grpc, &namesake).await;
    assert_eq!(refused, Some(tonic::Code::PermissionDenied));
    let operator = Identity::operator(leader);
    assert_eq!(report(leader.grpc, &operator).await, None);
    let refused = report(mesh.replica(1).grpc, &operator).await;
    assert_eq!(refused, Some(tonic::Code::FailedPrecondition));
}
