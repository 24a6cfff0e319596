use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use crds::BalancingType;
use http::{Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// As much of an API server as a watch needs.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By plural name: what a list answers.
    lists: HashMap<String, Value>,
    /// By plural name: who watches.
    watches: HashMap<String, Sender<Bytes>>,
    /// Every list there was.
    listed: Vec<String>,
}

type Body = BoxBody<Bytes, Infallible>;

impl ApiServer {
    async fn start() -> (ApiServer, Client) {
        let server = ApiServer::default();
        for kind in [
            "apiroutes",
            "ratelimits",
            "retrypolicies",
            "services",
            "endpointslices",
            "pods",
            "namespaces",
            "secrets with consumer",
            "secrets with credential",
        ] {
            server.list(kind, "10", json!([]));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = answering.clone();
                let service = service_fn(move |request| {
                    let response = server.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(http1::Builder::new().serve_connection(io, service));
            }
        });
        let config = kube::Config::new(url.parse().unwrap());
        (server, Client::try_from(config).unwrap())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn list(&self, plural: &str, version: &str, items: Value) {
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": version }, "items": items });
        self.state().lists.insert(plural.to_owned(), list);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let watch = query.contains("watch=true");
        if let Some((_, label)) = query.split_once("labelSelector=meshwright.dev%2F") {
            plural = format!("{plural} with {}", label.split('&').next().unwrap());
        }
        let mut state = self.state();
        if watch {
            let (sender, body) = Channel::new(16);
            state.watches.insert(plural, sender);
            Response::new(body.boxed())
        } else {
            state.listed.push(plural.clone());
            let list = state.lists[&plural].to_string();
            Response::new(Full::new(Bytes::from(list)).boxed())
        }
    }

    /// Tells a watch of an event, once there is a watch.
    async fn tell(&self, plural: &str, type_: &str, object: Value) {
        let mut line = json!({ "type": type_, "object": object }).to_string();
        line.push('\n');
        let watched = async {
            loop {
                if let Some(sender) = self.state().watches.remove(plural) {
                    return sender;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut sender = timeout(LONG, watched).await.unwrap();
        sender.send_data(Bytes::from(line)).await.unwrap();
        self.state()
            .watches
            .entry(plural.to_owned())
            .or_insert(sender);
    }
}

fn route(version: &str, hosts: Value) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": "shop", "resourceVersion": version,
                      "generation": 1, "managedFields": [{ "manager": "kubectl" }] },
        "spec": { "hosts": hosts },
        "status": { "programmed": "1/2" } })
}

fn policy(version: &str, type_: &str) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "RetryPolicy",
        "metadata": { "name": "orders", "namespace": "shop", "resourceVersion": version },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "orders" }],
                  "loadBalancing": { "type": type_ } },
        "status": { "programmed": "1/2" } })
}

fn pod(version: &str, ready: &str, heartbeat: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "orders-1", "namespace": "shop", "resourceVersion": version },
        "spec": { "containers": [{ "name": "app", "image": "app", "env": [{ "name": "A" }] }] },
        "status": { "podIP": "10.0.0.1", "conditions": [
            { "type": "Ready", "status": ready, "lastProbeTime": null, "message": heartbeat },
            { "type": "PodScheduled", "status": "True" }] } })
}

fn bookmark(kind: &str, version: &str) -> Value {
    json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": version } })
}

fn cluster(client: &Client) -> Cluster {
    Cluster::new(client, Arc::new(|_, _| {}))
}

async fn changed(cluster: &mut Cluster) -> Inputs {
    timeout(LONG, cluster.changed())
        .await
        .unwrap()
        .unwrap()
        .inputs
}

/// The world once `is` holds of it.
async fn until(cluster: &mut Cluster, is: impl Fn(&Inputs) -> bool) -> Inputs {
    loop {
        let inputs = changed(cluster).await;
        if is(&inputs) {
            return inputs;
        }
    }
}

fn hosts(inputs: &Inputs) -> Vec<String> {
    let key = ObjectKey::new("shop", "orders");
    inputs
        .api_routes
        .get(&key)
        .map(|route| route.spec.hosts.clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn the_first_world_is_whole_and_as_new_as_the_lists() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "17", json!([route("12", json!(["orders"]))]));
    let mut cluster = cluster(&client);
    let inputs = changed(&mut cluster).await;
    assert_eq!(hosts(&inputs), ["orders"]);
    // Of the list, not of the newest object in it: something newer may have been deleted.
    assert_eq!(inputs.seen.at(Input::ApiRoute), 17);
    assert_eq!(inputs.seen.at(Input::Pod), 10);
    let route = &inputs.api_routes[&ObjectKey::new("shop", "orders")];
    assert_eq!(route.metadata.managed_fields, None);
    assert_eq!(route.metadata.generation, Some(1));
}

#[tokio::test]
async fn events_change_the_world_and_bookmarks_only_how_new_it_is() {
    let (server, client) = ApiServer::start().await;
    let mut cluster = cluster(&client);
    changed(&mut cluster).await;
    server
        .tell("apiroutes", "ADDED", route("20", json!(["orders"])))
        .await;
    let inputs = until(&mut cluster, |inputs| hosts(inputs) == ["orders"]).await;
    assert_eq!(inputs.seen.at(Input::ApiRoute), 20);
    server
        .tell("services", "BOOKMARK", bookmark("Service", "25"))
        .await;
    let later = until(&mut cluster, |inputs| inputs.seen.at(Input::Service) == 25).await;
    let key = ObjectKey::new("shop", "orders");
    assert!(Arc::ptr_eq(
        &inputs.api_routes[&key],
        &later.api_routes[&key]
    ));
    server
        .tell("apiroutes", "DELETED", route("30", json!(["orders"])))
        .await;
    let inputs = until(&mut cluster, |inputs| hosts(inputs).is_empty()).await;
    assert_eq!(inputs.seen.at(Input::ApiRoute), 30);
}

#[tokio::test]
async fn a_pod_that_changed_in_what_nobody_reads_keeps_its_arc() {
    let (server, client) = ApiServer::start().await;
    server.list("pods", "10", json!([pod("9", "True", "a")]));
    let mut cluster = cluster(&client);
    let key = ObjectKey::new("shop", "orders-1");
    let before = changed(&mut cluster).await;
    server
        .tell("pods", "MODIFIED", pod("11", "True", "b"))
        .await;
    let after = until(&mut cluster, |inputs| inputs.seen.at(Input::Pod) == 11).await;
    assert!(Arc::ptr_eq(&before.pods[&key], &after.pods[&key]));
    server
        .tell("pods", "MODIFIED", pod("12", "False", "b"))
        .await;
    let after = until(&mut cluster, |inputs| inputs.seen.at(Input::Pod) == 12).await;
    assert!(!Arc::ptr_eq(&before.pods[&key], &after.pods[&key]));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_keeps_its_last_good_form_and_hides_no_other() {
    let (server, client) = ApiServer::start().await;
    let mut cluster = cluster(&client);
    changed(&mut cluster).await;
    server
        .tell("apiroutes", "ADDED", route("20", json!(["orders"])))
        .await;
    until(&mut cluster, |inputs| hosts(inputs) == ["orders"]).await;
    server
        .tell(
            "apiroutes",
            "MODIFIED",
            route("21", json!({ "a": "newer schema" })),
        )
        .await;
    let inputs = until(&mut cluster, |inputs| inputs.seen.at(Input::ApiRoute) == 21).await;
    assert_eq!(hosts(&inputs), ["orders"]);
}

#[tokio::test]
async fn a_watch_whose_version_expired_lists_again_and_forgets_what_is_gone() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "10", json!([route("9", json!(["orders"]))]));
    let mut cluster = cluster(&client);
    assert_eq!(hosts(&changed(&mut cluster).await), ["orders"]);
    server.list("apiroutes", "40", json!([]));
    let gone = json!({ "kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired" });
    server.tell("apiroutes", "ERROR", gone).await;
    let inputs = until(&mut cluster, |inputs| inputs.seen.at(Input::ApiRoute) == 40).await;
    assert!(hosts(&inputs).is_empty());
    let lists = server
        .state()
        .listed
        .iter()
        .filter(|kind| *kind == "apiroutes")
        .count();
    assert_eq!(lists, 2);
}

#[tokio::test]
async fn a_status_is_heard_of_and_is_no_change_of_the_world() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "10", json!([route("9", json!(["orders"]))]));
    server.list("retrypolicies", "10", json!([policy("9", "RoundRobin")]));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let on_status = move |object: &ObjectRef, stored: Option<Stored>| {
        let programmed = stored.and_then(|stored| stored.status?.programmed);
        hears.lock().unwrap().push((object.clone(), programmed));
    };
    let mut cluster = Cluster::new(&client, Arc::new(on_status));
    let before = changed(&mut cluster).await;
    let mut written = [route("11", json!(["orders"])), policy("11", "RoundRobin")];
    for object in &mut written {
        object["status"]["programmed"] = json!("2/2");
    }
    let [written_route, written_policy] = written;
    server.tell("apiroutes", "MODIFIED", written_route).await;
    server
        .tell("retrypolicies", "MODIFIED", written_policy)
        .await;
    let seen = |inputs: &Inputs, version| {
        let kinds = [Input::ApiRoute, Input::RetryPolicy];
        kinds.iter().all(|kind| inputs.seen.at(*kind) == version)
    };
    let after = until(&mut cluster, |inputs| seen(inputs, 11)).await;
    let key = ObjectKey::new("shop", "orders");
    assert!(Arc::ptr_eq(
        &before.api_routes[&key],
        &after.api_routes[&key]
    ));
    assert!(Arc::ptr_eq(
        &before.retry_policies[&key],
        &after.retry_policies[&key]
    ));
    server
        .tell("apiroutes", "DELETED", route("12", json!(["orders"])))
        .await;
    server
        .tell("retrypolicies", "DELETED", policy("12", "RoundRobin"))
        .await;
    until(&mut cluster, |inputs| seen(inputs, 12)).await;
    let heard = heard.lock().unwrap().clone();
    for object in [ObjectRef::api_route(&key), ObjectRef::retry_policy(&key)] {
        let of_it = heard.iter().filter(|(of, _)| *of == object);
        let of_it: Vec<_> = of_it
            .map(|(_, status): &(_, Option<String>)| status.as_deref())
            .collect();
        assert_eq!(of_it, [Some("1/2"), Some("2/2"), None], "{object}");
    }
}

#[tokio::test]
async fn a_retry_policy_comes_changes_and_goes() {
    let (server, client) = ApiServer::start().await;
    let mut cluster = cluster(&client);
    changed(&mut cluster).await;
    let key = ObjectKey::new("shop", "orders");
    let type_ = |inputs: &Inputs| {
        let policy = inputs.retry_policies.get(&key)?;
        Some(policy.spec.load_balancing.as_ref()?.type_)
    };
    for (version, event, type_written, expected) in [
        ("20", "ADDED", "RoundRobin", Some(BalancingType::RoundRobin)),
        (
            "21",
            "MODIFIED",
            "LeastRequest",
            Some(BalancingType::LeastRequest),
        ),
        // Of a newer schema: what was last good holds on.
        ("22", "MODIFIED", "Newer", Some(BalancingType::LeastRequest)),
        ("23", "DELETED", "LeastRequest", None),
    ] {
        let object = policy(version, type_written);
        server.tell("retrypolicies", event, object).await;
        let version: u64 = version.parse().unwrap();
        let inputs = until(&mut cluster, |inputs| {
            inputs.seen.at(Input::RetryPolicy) == version
        })
        .await;
        assert_eq!(type_(&inputs), expected, "{event}");
        assert_eq!(inputs.seen.at(Input::ApiRoute), 10);
    }
}

#[tokio::test]
async fn of_a_namespace_only_what_it_tells_the_mesh_is_kept() {
    let namespace = |version: &str, mode: &str| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "shop", "resourceVersion": version,
                          "labels": { "team": version, "meshwright.dev/mode": mode } },
            "status": { "phase": "Active" } })
    };
    let (server, client) = ApiServer::start().await;
    server.list("namespaces", "10", json!([namespace("9", "permissive")]));
    let mut cluster = Cluster::new(&client, Arc::new(|_, _| {}));
    let key = ObjectKey::namespace("shop");
    let before = until(&mut cluster, |inputs| inputs.namespaces.contains_key(&key)).await;
    let labels = before.namespaces[&key].metadata.labels.clone().unwrap();
    assert_eq!(Vec::from_iter(labels.keys()), ["meshwright.dev/mode"]);

    // Another team's label is no change.
    let other = namespace("11", "permissive");
    server.tell("namespaces", "MODIFIED", other).await;
    let after = until(&mut cluster, |inputs| {
        inputs.seen.at(Input::Namespace) == 11
    })
    .await;
    assert!(Arc::ptr_eq(
        &before.namespaces[&key],
        &after.namespaces[&key]
    ));
    server
        .tell("namespaces", "MODIFIED", namespace("12", "strict"))
        .await;
    let after = until(&mut cluster, |inputs| {
        inputs.seen.at(Input::Namespace) == 12
    })
    .await;
    let labels = after.namespaces[&key].metadata.labels.clone().unwrap();
    assert_eq!(labels["meshwright.dev/mode"], "strict");
}

#[tokio::test]
async fn of_secrets_only_those_with_a_label_of_the_meshs_are_asked_for() {
    let secret = |version: &str, text: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "acme", "namespace": "shop", "resourceVersion": version },
            "data": { "keyID": text } })
    };
    let (server, client) = ApiServer::start().await;
    let mut cluster = cluster(&client);
    changed(&mut cluster).await;
    let asked = server.state().listed.clone();
    let mut of_secrets = Vec::from_iter(asked.iter().filter(|kind| kind.starts_with("secrets")));
    of_secrets.sort();
    assert_eq!(
        of_secrets,
        ["secrets with consumer", "secrets with credential"]
    );

    let told = "secrets with consumer";
    server.tell(told, "ADDED", secret("20", "YWNtZTE=")).await;
    let seen = until(&mut cluster, |inputs| inputs.seen.at(Input::Consumer) == 20).await;
    assert!(seen.consumers.contains_key(&ObjectKey::new("shop", "acme")));
    assert!(seen.credentials.is_empty());
    assert_eq!(seen.seen.at(Input::Credential), 10);
    server.tell(told, "DELETED", secret("21", "YWNtZTE=")).await;
    let seen = until(&mut cluster, |inputs| inputs.seen.at(Input::Consumer) == 21).await;
    assert!(seen.consumers.is_empty());
}
