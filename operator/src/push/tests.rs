use std::collections::BTreeMap;
use std::time::SystemTime;

use compiler::{Inputs, ObjectRef, Output, compile};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::Kind;
use wire::delta::{Apply, Change, Held, Rejected};
use wire::discovery::Delta;
use wire::generation::Input;

use super::*;

mod claims;
mod places;
mod scope;
mod trust;

const LONG: Duration = Duration::from_secs(20);

/// A world, and the streams that it is published to.
struct Mesh {
    inputs: Inputs,
    output: Output,
    streams: Arc<Streams>,
    claims: Arc<Claims>,
}

/// The sidecar's end of a stream, without a network.
struct Sidecar {
    to: mpsc::Sender<Result<FromSidecar, Status>>,
    deltas: Deltas,
    held: Held,
    /// Rejects this id.
    rejects: Option<ResourceId>,
}

struct Rejects(Option<ResourceId>);

impl Apply for Rejects {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let rejected = changes
            .iter()
            .map(Change::id)
            .filter(|id| Some(*id) == self.0.as_ref());
        rejected
            .map(|id| Rejected {
                id: id.clone(),
                reason: "no such thing".to_owned(),
            })
            .collect()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn id(kind: Kind, name: &str) -> ResourceId {
    ResourceId::new(kind, "shop", name)
}

fn later() -> SystemTime {
    SystemTime::now() + LONG
}

fn subscriber(pod: &str) -> Subscriber {
    Subscriber {
        pod: key(pod),
        uid: pod.to_owned(),
        service_account: "default".to_owned(),
        expires: later(),
    }
}

fn route() -> ObjectRef {
    ObjectRef::api_route(&key("orders"))
}

impl Mesh {
    /// A Service, its ApiRoute, and these meshed pods, all of which the Service selects.
    fn new(pods: &[&str]) -> Mesh {
        let mut mesh = Mesh::default();
        let service = json!({
            "metadata": { "name": "orders", "namespace": "shop" },
            "spec": { "selector": { "app": "orders" }, "clusterIP": "10.96.0.7",
                      "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } });
        let service = serde_json::from_value(service).unwrap();
        mesh.inputs
            .services
            .insert(key("orders"), Arc::new(service));
        for name in pods {
            mesh.pod(name, "orders");
        }
        mesh.route("/v1");
        mesh
    }

    fn pod(&mut self, name: &str, app: &str) {
        let pod = json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "app": app } },
            "spec": { "containers": [{ "name": "app" }, { "name": "meshwright-sidecar" }] } });
        self.inputs
            .pods
            .insert(key(name), Arc::new(serde_json::from_value(pod).unwrap()));
    }

    /// The ApiRoute with this path, published.
    fn route(&mut self, path: &str) {
        let route = json!({
            "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": { "name": "orders", "namespace": "shop" },
            "spec": { "hosts": ["orders"],
                      "rules": [{ "matches": [{ "path": { "type": "Prefix", "value": path } }] }] } });
        let route = serde_json::from_value(route).unwrap();
        self.inputs
            .api_routes
            .insert(key("orders"), Arc::new(route));
        self.publish();
    }

    fn publish(&mut self) {
        for input in Input::ALL {
            self.inputs
                .seen
                .observe(input, self.inputs.seen.at(input) + 1);
        }
        self.output = compile(&self.inputs, std::mem::take(&mut self.output));
        self.streams.publish(&self.inputs, &self.output);
    }

    async fn connect(&self, pod: &str) -> Sidecar {
        self.connect_as(subscriber(pod)).await
    }

    async fn connect_as(&self, subscriber: Subscriber) -> Sidecar {
        let mut sidecar = self.dial(subscriber);
        let hello = sidecar.held.hello();
        sidecar.say(hello).await;
        sidecar
    }

    /// A stream on which nothing has been said yet.
    fn dial(&self, subscriber: Subscriber) -> Sidecar {
        let mailbox = Mailbox::new();
        let id = self.streams.join(subscriber, mailbox.clone()).unwrap();
        let subscription = Subscription {
            streams: self.streams.clone(),
            id,
            pod: "shop/pod/uid".to_owned(),
            mailbox: mailbox.clone(),
            claims: self.claims.clone(),
            places: Arc::new(Semaphore::new(MAX_CLAIMS)),
        };
        let (to, messages) = mpsc::channel(4);
        let deltas = serve(ReceiverStream::new(messages), mailbox, subscription);
        Sidecar {
            to,
            deltas,
            held: Held::default(),
            rejects: None,
        }
    }

    fn programmed(&self) -> Programmed {
        self.streams.programmed(&route())
    }

    async fn until(&self, n: usize, m: usize) {
        let counts = async {
            while (self.programmed().n, self.programmed().m) != (n, m) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(LONG, counts).await;
        assert!(
            in_time.is_ok(),
            "{n}/{m} was expected, not {:?}",
            self.programmed()
        );
    }
}

impl Sidecar {
    async fn say(&self, message: impl Into<FromSidecar>) {
        self.to.send(Ok(message.into())).await.unwrap();
    }

    async fn delta(&mut self) -> Delta {
        timeout(LONG, self.deltas.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    async fn take(&mut self, delta: Delta) {
        let ack = self
            .held
            .receive(delta, &mut Rejects(self.rejects.clone()))
            .unwrap();
        self.say(ack).await;
    }

    async fn step(&mut self) {
        let delta = self.delta().await;
        self.take(delta).await;
    }

    fn holds(&self, id: &ResourceId) -> bool {
        self.held.get(id).is_some()
    }
}

#[tokio::test]
async fn a_sidecar_receives_what_is_meant_for_it() {
    let mesh = Mesh::new(&["orders-1", "orders-2"]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    assert!(sidecar.holds(&id(Kind::Route, "orders")));
    assert!(sidecar.holds(&id(Kind::Guard, "orders")));
    assert!(sidecar.holds(&id(Kind::Workload, "orders-1")));
    assert!(
        !sidecar.holds(&id(Kind::Workload, "orders-2")),
        "another pod's"
    );
}

#[tokio::test]
async fn a_resource_whose_audience_shrinks_is_removed_from_those_who_lost_it() {
    let mut mesh = Mesh::new(&["orders-1", "orders-2"]);
    let mut first = mesh.connect("orders-1").await;
    let mut second = mesh.connect("orders-2").await;
    first.step().await;
    second.step().await;
    mesh.until(2, 2).await;
    mesh.pod("orders-2", "another");
    mesh.publish();
    let delta = second.delta().await;
    let removed: Vec<_> = delta
        .removed
        .iter()
        .map(|removed| removed.id.as_str())
        .collect();
    assert_eq!(removed, ["guard/shop/orders"]);
    second.take(delta).await;
    assert!(!second.holds(&id(Kind::Guard, "orders")));
    assert!(first.holds(&id(Kind::Guard, "orders")));
}

#[tokio::test]
async fn only_those_whom_a_change_concerns_hear_of_it() {
    let mut mesh = Mesh::new(&["orders-1", "orders-2"]);
    let mut first = mesh.connect("orders-1").await;
    let mut second = mesh.connect("orders-2").await;
    first.step().await;
    second.step().await;
    mesh.pod("orders-2", "another");
    mesh.publish();
    mesh.route("/v2");
    second.step().await;
    let delta = first.delta().await;
    let ids: Vec<_> = delta
        .resources
        .iter()
        .map(|resource| resource.id.as_str())
        .collect();
    assert!(!ids.contains(&"workload/shop/orders-2"), "{ids:?}");
}

#[tokio::test]
async fn programmed_counts_those_who_answered_and_names_those_who_did_not() {
    let mut mesh = Mesh::new(&["orders-1", "orders-2", "orders-3"]);
    let mut sidecars = Vec::new();
    for pod in ["orders-1", "orders-2", "orders-3"] {
        let mut sidecar = mesh.connect(pod).await;
        sidecar.step().await;
        sidecars.push(sidecar);
    }
    mesh.until(3, 3).await;
    mesh.route("/v2");
    mesh.until(0, 3).await;
    let stalled = sidecars.pop().unwrap();
    for sidecar in &mut sidecars {
        sidecar.step().await;
    }
    mesh.until(2, 3).await;
    assert_eq!(mesh.programmed().waiting, ["shop/orders-3"]);
    drop(stalled);
    mesh.until(2, 2).await;
}

#[tokio::test]
async fn a_rejection_is_counted_and_named_until_a_newer_version_is_taken() {
    let mut mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    mesh.until(1, 1).await;
    sidecar.rejects = Some(id(Kind::Route, "orders"));
    mesh.route("/v2");
    sidecar.step().await;
    mesh.until(0, 1).await;
    let named = async {
        while mesh.programmed().rejected.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, named).await.unwrap();
    let rejected = [("shop/orders-1".to_owned(), "no such thing".to_owned())];
    assert_eq!(mesh.programmed().rejected, rejected);
    assert_eq!(mesh.streams.rejections(), 1);
    sidecar.rejects = None;
    mesh.route("/v3");
    sidecar.step().await;
    mesh.until(1, 1).await;
}

#[tokio::test]
async fn a_change_that_is_taken_back_before_it_was_sent_leaves_nobody_waited_for() {
    let mut mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    mesh.until(1, 1).await;
    // Something else is in flight and not answered, so that nothing more is sent.
    mesh.pod("orders-1", "another");
    mesh.publish();
    let in_flight = sidecar.delta().await;
    mesh.route("/v2");
    mesh.until(0, 1).await;
    mesh.route("/v1");
    mesh.until(1, 1).await;
    sidecar.take(in_flight).await;
    mesh.route("/v3");
    let newest = mesh.output.resources[&id(Kind::Route, "orders")]
        .resource
        .hash;
    while sidecar
        .held
        .get(&id(Kind::Route, "orders"))
        .map(|held| held.hash)
        != Some(newest)
    {
        sidecar.step().await;
    }
    mesh.until(1, 1).await;
}

#[tokio::test]
async fn a_sidecar_that_comes_before_its_pod_is_known_receives_its_own_resources_later() {
    let mut mesh = Mesh::new(&[]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    assert!(sidecar.holds(&id(Kind::Route, "orders")));
    assert!(!sidecar.holds(&id(Kind::Workload, "orders-1")));
    mesh.pod("orders-1", "orders");
    mesh.publish();
    while !sidecar.holds(&id(Kind::Workload, "orders-1")) {
        sidecar.step().await;
    }
    assert!(sidecar.holds(&id(Kind::Guard, "orders")));
    mesh.until(1, 1).await;
}

#[tokio::test]
async fn a_certificate_that_outlived_its_pod_does_not_open_the_next_one_of_its_name() {
    let mesh = Mesh::new(&["orders-1"]);
    let subscriber = |uid: &str, account: &str| Subscriber {
        pod: key("orders-1"),
        uid: uid.to_owned(),
        service_account: account.to_owned(),
        expires: later(),
    };
    for stranger in [
        subscriber("an-older-pod", "default"),
        subscriber("orders-1", "admin"),
    ] {
        let mut sidecar = mesh.connect_as(stranger).await;
        sidecar.step().await;
        assert!(!sidecar.holds(&id(Kind::Workload, "orders-1")));
        assert!(!sidecar.holds(&id(Kind::Guard, "orders")));
    }
}

#[tokio::test]
async fn a_certificate_that_outlived_its_pod_does_not_end_the_next_ones_stream() {
    let mut mesh = Mesh::new(&["orders-1"]);
    let mut present = mesh.connect("orders-1").await;
    present.step().await;
    let older = Subscriber {
        pod: key("orders-1"),
        uid: "an-older-pod".to_owned(),
        service_account: "default".to_owned(),
        expires: later(),
    };
    let mut stranger = mesh.connect_as(older).await;
    stranger.step().await;
    mesh.route("/v2");
    present.step().await;
    stranger.step().await;
    mesh.until(2, 2).await;
}

#[tokio::test]
async fn a_second_stream_of_a_pod_ends_the_first_and_is_counted_once() {
    let mesh = Mesh::new(&["orders-1"]);
    let mut first = mesh.connect("orders-1").await;
    first.step().await;
    let mut second = mesh.connect("orders-1").await;
    second.step().await;
    mesh.until(1, 1).await;
    assert_eq!(mesh.streams.len(), 1);
    let ended = async { while first.deltas.next().await.is_some_and(|delta| delta.is_ok()) {} };
    timeout(LONG, ended).await.unwrap();
}

#[tokio::test]
async fn closing_ends_every_stream_and_takes_no_more() {
    let mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    mesh.streams.close();
    let ended = async {
        while sidecar
            .deltas
            .next()
            .await
            .is_some_and(|delta| delta.is_ok())
        {}
    };
    timeout(LONG, ended).await.unwrap();
    let subscriber = Subscriber {
        pod: key("x"),
        uid: String::new(),
        service_account: String::new(),
        expires: later(),
    };
    assert!(mesh.streams.join(subscriber, Mailbox::new()).is_err());
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect("orders-1").await;
    sidecar.step().await;
    mesh.streams.end_expired(SystemTime::now());
    mesh.until(1, 1).await;
    mesh.streams.end_expired(later());
    let ended = async {
        while sidecar
            .deltas
            .next()
            .await
            .is_some_and(|delta| delta.is_ok())
        {}
    };
    timeout(LONG, ended).await.unwrap();
    mesh.until(0, 0).await;
}

#[tokio::test]
async fn the_compiled_output_and_the_index_agree_after_many_changes() {
    let mut mesh = Mesh::new(&["orders-1", "orders-2"]);
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..6 {
        let app = if round % 2 == 0 { "orders" } else { "another" };
        mesh.pod("orders-2", app);
        mesh.publish();
        let sidecar = mesh.connect("orders-2").await;
        let view = mesh.streams.view(
            mesh.streams
                .join(
                    Subscriber {
                        pod: key("orders-2"),
                        uid: "orders-2".to_owned(),
                        service_account: "default".to_owned(),
                        expires: later(),
                    },
                    Mailbox::new(),
                )
                .unwrap(),
        );
        let by_index = wire::delta::View::ids(&view);
        let by_scan: Vec<_> = mesh
            .output
            .resources
            .iter()
            .filter(|(_, compiled)| {
                let keys = compiler::AudienceKey::of_pod("shop", "orders-2");
                keys.iter().any(|key| compiled.audience.contains(key))
            })
            .map(|(id, _)| id.clone())
            .collect();
        assert_eq!(by_index, by_scan);
        *expected.entry(app).or_default() = by_index.len();
        drop(sidecar);
    }
    assert!(expected["orders"] > expected["another"]);
}
