//! Which of several ApiRoutes says what is kept at the pods that they lead to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use compiler::{Inputs, ObjectKey, ObjectRef, Output, compile};
use crds::status::{ConditionType, Reason};
use wire::{Kind, ResourceId, mesh};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

/// The Services `orders` and `legacy` with a pod each, and these ApiRoutes.
fn inputs(routes: &str) -> Inputs {
    let service = |name: &str, address: u8| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.0.{address}, selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n\
             ---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}-1, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{containers: [{{name: meshwright-sidecar}}]}}\nstatus: {{phase: Running}}\n"
        )
    };
    let (orders, legacy) = (service("orders", 10), service("legacy", 11));
    world::inputs("shop.yaml", &format!("{orders}{legacy}{routes}"))
}

fn route(name: &str, month: u8, spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-0{month}-01T00:00:00Z\"}}\n\
         spec: {{{spec}}}\n"
    )
}

/// The Services at whose pods answers are kept as an ApiRoute says.
fn kept_at(output: &Output, name: &str) -> Vec<String> {
    let sent = output
        .resources
        .get(&ResourceId::new(Kind::Cache, "shop", name));
    let sent: Option<mesh::Cache> = sent.map(|sent| sent.resource.decode().unwrap());
    let services = sent.into_iter().flat_map(|sent| sent.services);
    services.map(|service| service.name).collect()
}

fn told(output: &Output, name: &str) -> (Reason, String) {
    let verdict = &output.verdicts[&ObjectRef::api_route(&key(name))];
    assert!(verdict.accepted(), "it routes as it says");
    let condition = verdict.condition(ConditionType::ResolvedRefs).unwrap();
    (condition.reason, condition.message.clone())
}

#[test]
fn of_two_caches_that_lead_to_the_same_pods_the_older_holds_and_the_younger_is_told() {
    let to_orders =
        "hosts: [legacy], rules: [{backendRefs: [{name: orders, port: 80}]}], cache: {}";
    let own = "hosts: [orders], cache: {}";
    let mut inputs = inputs(&(route("a", 2, to_orders) + &route("b", 1, own)));
    let output = compile(&inputs, Output::default());
    assert_eq!(kept_at(&output, "b"), ["orders"]);
    assert_eq!(kept_at(&output, "a"), ["legacy"]);
    assert_eq!(told(&output, "b").0, Reason::ResolvedRefs);
    let (reason, message) = told(&output, "a");
    assert_eq!(reason, Reason::Conflicted);
    assert!(
        message.contains("ApiRoute shop/b is older") && message.contains("Service \"orders\""),
        "{message}"
    );

    // When the older one keeps nothing any more, the younger one's word holds, and nothing is told.
    let without = world::inputs("b.yaml", &route("b", 1, "hosts: [orders]"));
    inputs.api_routes.extend(without.api_routes);
    let output = compile(&inputs, output);
    assert_eq!(kept_at(&output, "a"), ["legacy", "orders"]);
    assert_eq!(told(&output, "a"), (Reason::ResolvedRefs, String::new()));

    let with = world::inputs("b.yaml", &route("b", 1, own));
    inputs.api_routes.extend(with.api_routes);
    let output = compile(&inputs, output);
    assert_eq!(kept_at(&output, "a"), ["legacy"]);
    // Made anew it is the younger one.
    let anew = world::inputs("b.yaml", &route("b", 3, own));
    inputs.api_routes.extend(anew.api_routes);
    let output = compile(&inputs, output);
    assert_eq!(kept_at(&output, "a"), ["legacy", "orders"]);
    assert!(kept_at(&output, "b").is_empty());
    assert_eq!(told(&output, "b").0, Reason::Conflicted);
    inputs.api_routes.remove(&key("a"));
    let output = compile(&inputs, output);
    assert_eq!(kept_at(&output, "b"), ["orders"]);
    assert_eq!(told(&output, "b").0, Reason::ResolvedRefs);
}

#[test]
fn an_api_route_made_anew_does_not_yield_to_what_it_was() {
    let own = "hosts: [orders], cache: {}";
    let mut inputs = inputs(&route("a", 1, own));
    let output = compile(&inputs, Output::default());
    // Between two compilations it was removed and created again.
    let anew = world::inputs("a.yaml", &route("a", 2, own));
    inputs.api_routes.extend(anew.api_routes);
    let output = compile(&inputs, output);
    assert_eq!(told(&output, "a"), (Reason::ResolvedRefs, String::new()));
    assert_eq!(kept_at(&output, "a"), ["orders"]);
}

/// What callers of an ApiRoute's Services are told that they keep.
fn at_callers(output: &Output, name: &str) -> mesh::CacheAtCaller {
    let id = ResourceId::new(Kind::Route, "shop", name);
    let sent: mesh::Route = output.resources[&id].resource.decode().unwrap();
    sent.cache_at_caller.unwrap()
}

/// What callers and destinations are told alike, or one of them would keep nothing.
fn revision(output: &Output, name: &str) -> Vec<u8> {
    let id = ResourceId::new(Kind::Cache, "shop", name);
    let there: mesh::Cache = output.resources[&id].resource.decode().unwrap();
    let here = at_callers(output, name).cache.unwrap();
    assert_eq!(here.revision, there.revision);
    here.revision.to_vec()
}

#[test]
fn callers_that_keep_answers_are_told_of_every_edit_of_who_may_enter_in_the_namespace() {
    let keeping = "hosts: [orders], cache: {atCaller: {}}";
    let legacy = |access: &str| route("legacy", 2, &format!("hosts: [legacy]{access}"));
    let mut inputs = inputs(&(route("orders", 1, keeping) + &legacy("")));
    let mut output = compile(&inputs, Output::default());
    let mut known = vec![revision(&output, "orders")];
    let elsewhere = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                     metadata: {name: web, namespace: web}\n\
                     spec: {hosts: [web], authorization: {rules: []}}\n";
    for (edit, tells) in [
        (legacy(", protocol: HTTP"), false),
        (elsewhere.to_owned(), false),
        (
            legacy(", authorization: {rules: [{principals: {namespaces: [web]}}]}"),
            true,
        ),
        (
            legacy(", authorization: {rules: [{principals: {namespaces: [shop]}}]}"),
            true,
        ),
        (legacy(", auth: {apiKey: {name: X-Key}}"), true),
        // Who reaches what is edited by the ApiRoute itself, too.
        (
            route(
                "orders",
                1,
                "hosts: [orders], cache: {atCaller: {}}, rules: [{name: a}]",
            ),
            true,
        ),
    ] {
        inputs
            .api_routes
            .extend(world::inputs("edit.yaml", &edit).api_routes);
        output = compile(&inputs, output);
        let now = revision(&output, "orders");
        assert_eq!(!known.contains(&now), tells, "{edit}");
        known.push(now);
    }
    assert_eq!(at_callers(&output, "orders").credential_headers, ["x-key"]);
    inputs.api_routes.remove(&key("legacy"));
    output = compile(&inputs, output);
    assert!(!known.contains(&revision(&output, "orders")));
    assert!(at_callers(&output, "orders").credential_headers.is_empty());
}
