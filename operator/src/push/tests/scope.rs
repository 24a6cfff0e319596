//! What a sidecar is told of Services outside its namespace: what it asks about, and what that leads to.

use wire::capability;
use wire::discovery::Lookup;
use wire::lookup::Question;

use super::*;

const VIRTUAL: &str = "10.96.0.7";

/// A pod of another namespace than the Service's.
fn caller(pod: &str) -> Subscriber {
    Subscriber {
        pod: ObjectKey::new("web", pod),
        ..subscriber(pod)
    }
}

/// What a sidecar begins with that is older than questions are.
fn before_questions() -> Held {
    let known = capability::ALL.iter().copied();
    let known: Vec<_> = known.filter(|one| *one != capability::LOOKUP).collect();
    Held::new("0.1.0", &known)
}

fn address(address: &str) -> Question {
    Question::Address(address.parse().unwrap())
}

fn asks(wanted: &[Question], unwanted: &[Question]) -> Lookup {
    let ids = |questions: &[Question]| questions.iter().map(|one| one.id().to_string()).collect();
    Lookup {
        wanted: ids(wanted),
        unwanted: ids(unwanted),
    }
}

fn services(sidecar: &Sidecar, question: &Question) -> Option<Vec<String>> {
    let answer: wire::mesh::Lookup = sidecar.held.get(&question.id())?.decode().unwrap();
    let services = answer.services.into_iter();
    Some(
        services
            .map(|one| format!("{}/{}", one.namespace, one.name))
            .collect(),
    )
}

impl Mesh {
    /// A Service of any namespace, without pods.
    fn service(&mut self, namespace: &str, name: &str, address: &str) {
        let service = json!({
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "clusterIP": address, "ports": [{ "name": "http", "port": 80 }] } });
        let service = serde_json::from_value(service).unwrap();
        let key = ObjectKey::new(namespace, name);
        self.inputs.services.insert(key, Arc::new(service));
    }

    /// The ApiRoute of `orders`, leading to a Service in the namespace `bank`.
    fn leads_to(&mut self, name: &str) {
        let route = json!({
            "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": { "name": "orders", "namespace": "shop" },
            "spec": { "hosts": ["orders"], "rules": [{ "backendRefs": [
                { "name": name, "namespace": "bank", "port": 80 }] }] } });
        let route = serde_json::from_value(route).unwrap();
        self.inputs
            .api_routes
            .insert(key("orders"), Arc::new(route));
        self.publish();
    }
}

impl Sidecar {
    /// Takes deltas until it is so.
    async fn until(&mut self, is: impl Fn(&Sidecar) -> bool) {
        while !is(self) {
            self.step().await;
        }
    }
}

#[tokio::test]
async fn a_service_of_another_namespace_comes_with_its_route_when_it_is_asked_about_and_goes_again()
{
    let mesh = Mesh::new(&["orders-1"]);
    let mut own = mesh.connect("orders-1").await;
    own.step().await;
    let mut sidecar = mesh.connect_as(caller("web-1")).await;
    sidecar.step().await;
    let (endpoints, route) = (id(Kind::Endpoints, "orders"), id(Kind::Route, "orders"));
    assert!(!sidecar.holds(&endpoints) && !sidecar.holds(&route));
    mesh.until(1, 1).await;

    for question in [address(VIRTUAL), Question::of_host("orders.shop").unwrap()] {
        sidecar
            .say(asks(std::slice::from_ref(&question), &[]))
            .await;
        sidecar.step().await;
        let answer = services(&sidecar, &question);
        assert_eq!(answer.as_deref(), Some(&["shop/orders".to_owned()][..]));
        assert!(
            sidecar.holds(&endpoints) && sidecar.holds(&route),
            "with the answer"
        );
        mesh.until(2, 2).await;

        sidecar.say(asks(&[], &[question])).await;
        sidecar.until(|sidecar| !sidecar.holds(&route)).await;
        assert!(!sidecar.holds(&endpoints));
        mesh.until(1, 1).await;
    }
}

#[tokio::test]
async fn a_sidecar_that_is_older_than_questions_is_told_of_every_service() {
    let mut mesh = Mesh::new(&["orders-1"]);
    let mut own = mesh.connect("orders-1").await;
    own.step().await;
    let mut older = mesh.dial(caller("web-1"));
    older.held = before_questions();
    let hello = older.held.hello();
    older.say(hello).await;
    let delta = older.delta().await;
    let sent = delta.resources.iter().map(|resource| resource.id.as_str());
    let beyond = |id: &&str| id.starts_with("networks/") || id.starts_with("lookup/");
    assert_eq!(sent.filter(beyond).collect::<Vec<_>>(), [""; 0]);
    older.take(delta).await;
    assert!(older.holds(&id(Kind::Endpoints, "orders")) && older.holds(&id(Kind::Route, "orders")));
    mesh.until(2, 2).await;

    mesh.service("bank", "ledger", "10.96.1.1");
    mesh.publish();
    let ledger = ResourceId::new(Kind::Endpoints, "bank", "ledger");
    older.until(|sidecar| sidecar.holds(&ledger)).await;
    mesh.leads_to("ledger");
    own.step().await;
    older.step().await;
    mesh.until(2, 2).await;
}

#[tokio::test]
async fn an_address_that_nobody_has_is_told_as_such_and_again_when_somebody_has_it() {
    let mut mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect_as(caller("web-1")).await;
    sidecar.step().await;
    let question = address("10.96.0.99");
    sidecar
        .say(asks(std::slice::from_ref(&question), &[]))
        .await;
    sidecar.step().await;
    assert_eq!(services(&sidecar, &question), Some(Vec::new()));

    mesh.service("bank", "ledger", "10.96.0.99");
    mesh.publish();
    sidecar.step().await;
    let answer = services(&sidecar, &question);
    assert_eq!(answer.as_deref(), Some(&["bank/ledger".to_owned()][..]));
    let ledger = ResourceId::new(Kind::Endpoints, "bank", "ledger");
    assert!(sidecar.holds(&ledger), "in the same delta");

    mesh.inputs
        .services
        .remove(&ObjectKey::new("bank", "ledger"));
    mesh.publish();
    sidecar.until(|sidecar| !sidecar.holds(&ledger)).await;
    assert_eq!(services(&sidecar, &question), Some(Vec::new()));
}

#[tokio::test]
async fn what_a_route_leads_to_comes_to_those_who_receive_the_route_and_changes_with_it() {
    let mut mesh = Mesh::new(&["orders-1"]);
    mesh.service("bank", "ledger", "10.96.1.1");
    mesh.service("bank", "archive", "10.96.1.2");
    mesh.leads_to("ledger");
    let bank = |name: &str| ResourceId::new(Kind::Endpoints, "bank", name);
    let mut own = mesh.connect("orders-1").await;
    own.step().await;
    let mut elsewhere = mesh.connect_as(caller("web-1")).await;
    elsewhere.step().await;
    assert!(own.holds(&bank("ledger")) && !own.holds(&bank("archive")));
    assert!(!elsewhere.holds(&bank("ledger")), "it calls nobody yet");
    elsewhere.say(asks(&[address(VIRTUAL)], &[])).await;
    elsewhere.step().await;
    assert!(elsewhere.holds(&bank("ledger")) && !elsewhere.holds(&bank("archive")));
    mesh.until(2, 2).await;
    assert_eq!(mesh.programmed().callers, 1, "the one of another namespace");

    mesh.leads_to("archive");
    for sidecar in [&mut own, &mut elsewhere] {
        sidecar
            .until(|sidecar| sidecar.holds(&bank("archive")))
            .await;
        sidecar
            .until(|sidecar| !sidecar.holds(&bank("ledger")))
            .await;
    }
    mesh.until(2, 2).await;
}

#[tokio::test]
async fn a_sidecar_that_comes_back_has_what_it_asked_for_without_asking() {
    let mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect_as(caller("web-1")).await;
    sidecar.step().await;
    sidecar.say(asks(&[address(VIRTUAL)], &[])).await;
    sidecar.step().await;
    let held = sidecar.held.clone();
    drop(sidecar);

    // Of another replica, which has never heard of it.
    let mut other = Mesh::new(&["orders-1"]);
    other.route("/v2");
    let mut again = other.dial(caller("web-1"));
    again.held = held;
    let hello = again.held.hello();
    again.say(hello).await;
    let delta = again.delta().await;
    assert!(delta.removed.is_empty(), "{:?}", delta.removed);
    again.take(delta).await;
    other.until(1, 1).await;
}

#[tokio::test]
async fn a_new_pod_of_a_deployment_has_what_the_others_asked_for() {
    let mut mesh = Mesh::new(&["orders-1"]);
    for pod in ["web-a", "web-b", "other-c"] {
        let prefix = format!("{}-", pod.split_once('-').unwrap().0);
        let pod = json!({ "metadata": {
            "name": pod, "namespace": "web", "uid": pod, "generateName": prefix } });
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
        let name = pod.metadata.name.clone().unwrap();
        mesh.inputs
            .pods
            .insert(ObjectKey::new("web", name), Arc::new(pod));
    }
    mesh.publish();
    let mut first = mesh.connect_as(caller("web-a")).await;
    first.step().await;
    first.say(asks(&[address(VIRTUAL)], &[])).await;
    first.step().await;
    drop(first);
    // One that can't read answers comes between, and what they asked for is remembered all the same.
    let mut older = mesh.dial(caller("web-a"));
    older.held = before_questions();
    let hello = older.held.hello();
    older.say(hello).await;
    older.step().await;
    let route = id(Kind::Route, "orders");
    let mut second = mesh.connect_as(caller("web-b")).await;
    second.step().await;
    assert!(second.holds(&route), "before its first call");
    let mut other = mesh.connect_as(caller("other-c")).await;
    other.step().await;
    assert!(!other.holds(&route), "of another Deployment");
    let mut of_another_account = mesh
        .connect_as(Subscriber {
            service_account: "else".to_owned(),
            ..caller("web-b")
        })
        .await;
    of_another_account.step().await;
    assert!(!of_another_account.holds(&route), "another program");
}

#[tokio::test]
async fn of_more_questions_than_are_answered_the_rest_is_not_and_what_is_none_is_passed_over() {
    let mesh = Mesh::new(&["orders-1"]);
    let mut sidecar = mesh.connect_as(caller("web-1")).await;
    sidecar.step().await;
    let wrong = Lookup {
        wanted: [
            "route/shop/orders",
            "lookup/address/nonsense",
            "",
            "lookup/x",
        ]
        .map(str::to_owned)
        .into(),
        unwanted: vec!["lookup/address/10.9.9.9".to_owned()],
    };
    sidecar.say(wrong).await;
    let number = |number: usize| address(&format!("10.97.{}.{}", number / 256, number % 256));
    let all: Vec<_> = (0..wire::lookup::MAX_LOOKUPS + 7).map(number).collect();
    for some in all.chunks(wire::lookup::MAX_ASKED) {
        sidecar.say(asks(some, &[])).await;
    }
    let answers = |sidecar: &Sidecar| {
        let held = sidecar.held.resources();
        held.filter(|held| held.id.kind == Kind::Lookup).count()
    };
    sidecar
        .until(|sidecar| answers(sidecar) == wire::lookup::MAX_LOOKUPS)
        .await;
    assert!(!sidecar.holds(&id(Kind::Route, "orders")));
    // One that is given up makes room for another.
    sidecar.say(asks(&[], &all[..1])).await;
    sidecar.say(asks(&[address(VIRTUAL)], &[])).await;
    sidecar
        .until(|sidecar| sidecar.holds(&id(Kind::Route, "orders")))
        .await;
    let mut view = mesh.streams.published();
    view.retain(|id, _| id.kind == Kind::Lookup);
    assert!(view.is_empty(), "answers are each stream's own");
}
