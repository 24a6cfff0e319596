use crds::BalancingType;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::fake::{ApiServer, LONG};
use super::*;

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
    Cluster::new(client, "meshwright-system", Arc::new(|_, _| {}))
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
        let programmed = stored.and_then(|stored| stored.status?.object.programmed);
        hears.lock().unwrap().push((object.clone(), programmed));
    };
    let mut cluster = Cluster::new(&client, "meshwright-system", Arc::new(on_status));
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
    let mut cluster = Cluster::new(&client, "meshwright-system", Arc::new(|_, _| {}));
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
async fn a_kind_that_is_not_installed_keeps_no_other_waiting_and_is_followed_once_it_is_there() {
    let (server, client) = ApiServer::start().await;
    server.refuse("ratelimits", 404);
    server.list("apiroutes", "17", json!([route("12", json!(["orders"]))]));
    let mut cluster = cluster(&client);
    let start = Instant::now();
    let inputs = changed(&mut cluster).await;
    assert!(start.elapsed() >= ABSENT, "it may be there in a moment");
    assert_eq!(hosts(&inputs), ["orders"]);
    // Nothing was seen of it, so that no sidecar loses any that it has.
    assert_eq!(inputs.seen.at(Input::RateLimit), 0);

    let limit = json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "RateLimit",
        "metadata": { "name": "orders", "namespace": "shop", "resourceVersion": "30" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "orders", "group": "" }], "limits": [] } });
    server.list("ratelimits", "31", json!([limit]));
    server.refuse("ratelimits", None);
    let inputs = until(&mut cluster, |inputs| {
        inputs.seen.at(Input::RateLimit) == 31
    })
    .await;
    assert_eq!(inputs.rate_limits.len(), 1);
}

#[tokio::test]
async fn nothing_is_compiled_as_long_as_nobody_knows_who_may_enter() {
    let (server, client) = ApiServer::start().await;
    server.refuse("apiroutes", 404);
    let mut cluster = cluster(&client);
    let waited = timeout(ABSENT * 3, cluster.changed()).await;
    assert!(waited.is_err(), "{waited:?}");
    server.list("apiroutes", "17", json!([route("12", json!(["orders"]))]));
    server.refuse("apiroutes", None);
    // Asked for again by then: the pauses between attempts have grown to half a minute at most.
    let seen = timeout(LONG * 2, cluster.changed()).await.unwrap().unwrap();
    assert_eq!(hosts(&seen.inputs), ["orders"]);
}

#[tokio::test]
async fn objects_that_cannot_be_read_are_counted_until_they_can_or_are_gone() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "17", json!([route("12", json!(7))]));
    let mut cluster = cluster(&client);
    let seen = timeout(LONG, cluster.changed()).await.unwrap().unwrap();
    assert_eq!((seen.unreadable, seen.inputs.api_routes.len()), (1, 0));
    let good = route("18", json!(["orders"]));
    server.tell("apiroutes", "MODIFIED", good).await;
    let seen = timeout(LONG, cluster.changed()).await.unwrap().unwrap();
    assert_eq!((seen.unreadable, seen.inputs.api_routes.len()), (0, 1));
    server
        .tell("apiroutes", "MODIFIED", route("19", json!(7)))
        .await;
    let seen = timeout(LONG, cluster.changed()).await.unwrap().unwrap();
    assert_eq!((seen.unreadable, hosts(&seen.inputs).len()), (1, 1));
    server
        .tell("apiroutes", "DELETED", route("20", json!(7)))
        .await;
    let seen = timeout(LONG, cluster.changed()).await.unwrap().unwrap();
    assert_eq!((seen.unreadable, seen.inputs.api_routes.len()), (0, 0));
}

/// Ten thousand objects at once are one world, and what changes among them is told in a few more.
#[tokio::test]
async fn ten_thousand_objects_at_once_are_told_together() {
    const MANY: usize = 10_000;
    let (server, client) = ApiServer::start().await;
    let one = |number: usize, version: usize, host: &str| {
        let mut route = route(&version.to_string(), json!([host]));
        route["metadata"]["name"] = json!(format!("orders-{number}"));
        route
    };
    let all = (0..MANY).map(|number| one(number, 12, "orders")).collect();
    server.list("apiroutes", "17", all);
    let mut cluster = cluster(&client);
    let before = changed(&mut cluster).await;
    assert_eq!(before.api_routes.len(), MANY);
    for number in 0..100 {
        let changed = one(number, 100 + number, "others");
        server.tell("apiroutes", "MODIFIED", changed).await;
    }
    let mut worlds = 0;
    let after = loop {
        worlds += 1;
        let inputs = changed(&mut cluster).await;
        if inputs.seen.at(Input::ApiRoute) == 199 {
            break inputs;
        }
    };
    assert!(worlds <= 20, "{worlds} worlds for a hundred changes");
    let same = |(key, route): &(&ObjectKey, &Arc<crds::ApiRoute>)| {
        Arc::ptr_eq(route, &before.api_routes[*key])
    };
    assert_eq!(after.api_routes.iter().filter(same).count(), MANY - 100);
}

#[test]
fn of_a_pod_it_is_kept_which_ports_were_excluded_when_it_was_injected() {
    let excluded = |containers: Value| {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "orders-1", "namespace": "shop" },
            "spec": { "containers": [{ "name": "orders", "args": ["--exclude-inbound-port", "1"] }],
                      "initContainers": containers } }))
        .unwrap();
        slim::pod(&mut pod);
        serde_json::to_value(pod.spec.unwrap()).unwrap()
    };
    let redirect = json!([{ "name": "meshwright-redirect", "args": [
        "redirect", "--inbound-port", "15006", "--exclude-inbound-port", "9090", "--exclude-inbound-port", "9091"] }]);
    let kept = excluded(redirect);
    let args = [
        "--exclude-inbound-port",
        "9090",
        "--exclude-inbound-port",
        "9091",
    ];
    assert_eq!(kept["initContainers"][0]["args"], json!(args));
    assert_eq!(kept["containers"][0]["args"], Value::Null, "of nobody else");
    let name = wire::capture::EXCLUDED_INBOUND;
    let sidecar = json!([{ "name": "meshwright-sidecar", "env": [
        { "name": "MESHWRIGHT_LOG", "value": "info" }, { "name": name, "value": "9090" }] }]);
    let kept = excluded(sidecar);
    assert_eq!(
        kept["initContainers"][0]["env"],
        json!([{ "name": name, "value": "9090" }])
    );
}
