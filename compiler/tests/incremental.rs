//! What is remembered changes nothing: the result is the same as from scratch, whatever was
//! compiled before and in whatever order the world came to be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use compiler::{
    Around, Audience, Compiled, Inputs, ObjectKey, ObjectRef, Output, Verdict, compile,
};
use crds::status::Reason;
use proptest::prelude::*;
use wire::generation::Input;
use wire::resource::Hash;
use wire::{Kind, ResourceId};
use world::random::{Edit, edits};

/// Everything about a resource but its generation, which depends on when it last changed.
type Content = (Hash, Vec<String>, Audience, Option<ObjectRef>, Around);

fn content(compiled: &Compiled) -> Content {
    let resource = &compiled.resource;
    (
        resource.hash,
        resource.capabilities.to_vec(),
        compiled.audience.clone(),
        compiled.object.clone(),
        compiled.around.clone(),
    )
}

fn contents(output: &Output) -> BTreeMap<ResourceId, Content> {
    let resources = output.resources.iter();
    resources
        .map(|(id, compiled)| (id.clone(), content(compiled)))
        .collect()
}

fn check(inputs: &Inputs, before: &Output, after: &Output) -> Result<(), TestCaseError> {
    let scratch = compile(inputs, Output::default());
    prop_assert_eq!(
        world::show::output(after),
        world::show::output(&scratch),
        "incremental on the left, from scratch on the right"
    );
    prop_assert_eq!(contents(after), contents(&scratch));
    prop_assert_eq!(&after.verdicts, &scratch.verdicts);

    let (was, is) = (contents(before), contents(after));
    for id in was.keys().chain(is.keys()) {
        let differs = was.get(id) != is.get(id);
        prop_assert_eq!(after.changed.contains(id), differs, "{} in changed", id);
        let (Some(old), Some(new)) = (before.resources.get(id), after.resources.get(id)) else {
            continue;
        };
        let expected = match old.resource.hash == new.resource.hash {
            true => old.resource.generation,
            false => inputs.seen.of(id.kind),
        };
        prop_assert_eq!(
            new.resource.generation,
            expected,
            "the generation of {}",
            id
        );
    }
    let verdict = |output: &Output, object: &ObjectRef| -> Option<Verdict> {
        output.verdicts.get(object).cloned()
    };
    for object in before.verdicts.keys().chain(after.verdicts.keys()) {
        let differs = verdict(before, object) != verdict(after, object);
        prop_assert_eq!(
            after.changed_verdicts.contains(object),
            differs,
            "{}",
            object
        );
    }
    Ok(())
}

fn apply(edits: &[Edit], inputs: &mut Inputs) {
    edits.iter().for_each(|edit| edit.apply(inputs));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
    ))]

    #[test]
    fn edit_by_edit_is_the_same_as_from_scratch(
        edits in edits(40),
        together in 1..6usize,
        memory_lost in 0..10usize,
    ) {
        let mut inputs = Inputs::default();
        let mut output = Output::default();
        for (number, edits) in edits.chunks(together).enumerate() {
            apply(edits, &mut inputs);
            let before = output.clone();
            if number == memory_lost {
                output = Output::without_memory(output.resources, output.verdicts);
            }
            output = compile(&inputs, output);
            check(&inputs, &before, &output)?;
        }
    }

    #[test]
    fn the_order_in_which_objects_come_changes_nothing(
        (edits, shuffled, together) in edits_and_orders(30),
    ) {
        let mut inputs = Inputs::default();
        apply(&edits, &mut inputs);
        let forward = compile(&inputs, Output::default());

        let mut inputs = Inputs::default();
        let mut output = Output::default();
        let mut rest = shuffled.as_slice();
        for together in together.into_iter().cycle() {
            let Some((now, later)) = rest.split_at_checked(together) else {
                break;
            };
            apply(now, &mut inputs);
            output = compile(&inputs, output);
            rest = later;
        }
        apply(rest, &mut inputs);
        output = compile(&inputs, output);
        prop_assert_eq!(contents(&output), contents(&forward));
        prop_assert_eq!(&output.verdicts, &forward.verdicts);
    }

    /// Or two replicas of the operator that see different worlds would not know which is newer.
    #[test]
    fn what_changes_depends_on_an_input_that_changed(edits in edits(40)) {
        let mut inputs = Inputs::default();
        let mut output = compile(&inputs, Output::default());
        for edit in edits {
            let seen = inputs.seen;
            edit.apply(&mut inputs);
            output = compile(&inputs, output);
            for id in &output.changed {
                prop_assert_ne!(inputs.seen.of(id.kind), seen.of(id.kind), "{} by {:?}", id, edit);
            }
        }
    }

    #[test]
    fn objects_that_come_anew_without_a_change_change_nothing(edits in edits(30)) {
        let mut inputs = Inputs::default();
        apply(&edits, &mut inputs);
        let before = compile(&inputs, Output::default());
        let after = compile(&world::without_sharing(&inputs), before.clone());
        prop_assert_eq!(&after.resources, &before.resources);
        prop_assert!(after.changed.is_empty());
        prop_assert!(after.changed_verdicts.is_empty());
    }
}

#[test]
fn a_port_that_comes_to_a_service_concerns_those_who_are_led_to_its_route() {
    let world = |ports: &str| {
        world::inputs(
            "shop.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: app, namespace: shop}}\n\
                 spec: {{ports: [{{port: 80}}]}}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{name: orders, namespace: shop}}\n\
                 spec: {{ports: {ports}}}\n---\n\
                 apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: {{name: inner, namespace: shop}}\nspec: {{hosts: [orders]}}\n---\n\
                 apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: {{name: outer, namespace: shop}}\n\
                 spec: {{hosts: [app], rules: [{{backendRefs: [{{kind: ApiRoute, name: inner, port: 81}}]}}]}}\n"
            ),
        )
    };
    let (few, more) = (
        "[{name: a, port: 80}]",
        "[{name: a, port: 80}, {name: b, port: 81}]",
    );
    for (before, after) in [(few, more), (more, few)] {
        let (before, mut after) = (world(before), world(after));
        // But for the Service nothing has changed.
        let services = std::mem::take(&mut after.services);
        after = Inputs {
            services,
            ..before.clone()
        };
        let edited = compile(&after, compile(&before, Output::default()));
        let anew = compile(&after, Output::default());
        assert_eq!(contents(&edited), contents(&anew));
        assert_eq!(edited.verdicts, anew.verdicts);
    }
}

/// Which Service a policy is for that names an ApiRoute depends on the domain, and how new it is as well.
#[test]
fn another_cluster_domain_makes_new_what_names_a_route_of_its_services() {
    let before = world::inputs(
        "shop.yaml",
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {name: orders, namespace: shop}\n\
         spec: {hosts: [orders.shop.svc.cluster.local]}\n---\n\
         apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {name: orders, namespace: shop}\n\
         spec: {targetRefs: [{kind: ApiRoute, name: orders}], maxRetries: 1}\n",
    );
    let mut after = before.clone();
    after.settings.cluster_domain = "example.org".to_owned();
    after.seen = after
        .seen
        .with(Input::Settings, before.seen.at(Input::Settings) + 1);
    let output = compile(&after, compile(&before, Output::default()));
    let kind = Kind::RetryPolicy;
    assert!(output.changed.iter().any(|id| id.kind == kind));
    assert_ne!(after.seen.of(kind), before.seen.of(kind));
}

#[test]
fn a_new_service_concerns_only_those_who_look_for_one_of_its_namespace_or_name() {
    let text: String = ["shop", "bank"]
        .map(|namespace| {
            let own = world::application(namespace, "web", 1);
            own.replace("{name: web, port: 80}", "{name: accounts, port: 80}")
        })
        .concat();
    let before = world::inputs("shop.yaml", &text);
    let first = compile(&before, Output::default());
    let routes_after = |namespace: &str, name: &str| {
        let mut inputs = before.clone();
        let key = ObjectKey::new(namespace, name);
        inputs.services.insert(key, Arc::default());
        let output = compile(&inputs, first.clone());
        let routes = output.compiled.get(&Kind::Route).copied();
        (routes.unwrap_or_default(), output.changed_verdicts.len())
    };
    assert_eq!(routes_after("other", "anything"), (0, 0));
    assert_eq!(routes_after("bank", "anything"), (1, 0));
    assert_eq!(routes_after("bank", "account"), (1, 1));
    assert_eq!(routes_after("other", "accounts"), (2, 2));
}

/// Edits, the last one of each object alone in any order, and how many of these come together.
fn edits_and_orders(longest: usize) -> impl Strategy<Value = (Vec<Edit>, Vec<Edit>, Vec<usize>)> {
    edits(longest).prop_flat_map(|edits| {
        let last: BTreeMap<String, Edit> = edits
            .iter()
            .map(|edit| (name(edit), edit.clone()))
            .collect();
        let shuffled = Just(Vec::from_iter(last.into_values())).prop_shuffle();
        (
            Just(edits),
            shuffled,
            prop::collection::vec(1..6usize, 1..6),
        )
    })
}

fn name(edit: &Edit) -> String {
    match edit {
        Edit::ApiRoute(key, _) => format!("route {key}"),
        Edit::RetryPolicy(key, _) => format!("policy {key}"),
        Edit::RateLimit(key, _) => format!("limit {key}"),
        Edit::EventSubscription(key, _) => format!("subscription {key}"),
        Edit::Service(key, _) => format!("service {key}"),
        Edit::EndpointSlice(key, _) => format!("slice {key}"),
        Edit::Pod(key, _) => format!("pod {key}"),
        Edit::Consumer(key, _) => format!("consumer {key}"),
        Edit::Credential(key, _) => format!("credential {key}"),
        Edit::Broker(key, _) => format!("broker {key}"),
        Edit::Namespace(key, _) => format!("namespace {key}"),
        Edit::Precedence(object, _) => format!("precedence {object}"),
        Edit::OperatorNamespace(_) => "operator's namespace".to_owned(),
        Edit::TrustDomain(_) => "trust domain".to_owned(),
        Edit::ClusterDomain(_) => "cluster domain".to_owned(),
        Edit::Root(_) => "root".to_owned(),
    }
}

#[test]
fn the_routes_that_name_a_service_with_too_many_endpoints_say_so() {
    let world = |endpoints: usize| {
        let mut text = "\
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {name: web, namespace: shop}
spec: {hosts: [web], rules: [{backendRefs: [{name: orders, port: 8000}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
"
        .to_owned();
        let ports = |end: &str| -> String {
            let port = |port| format!("  - {{name: port-{port}, port: {port}{end}}}\n");
            (8000..8100).map(port).collect()
        };
        text += "---\napiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\n";
        text += &format!("spec:\n  ports:\n{}", ports(""));
        text += "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n";
        text += "metadata:\n  name: orders-1\n  namespace: shop\n  labels: {kubernetes.io/service-name: orders}\n";
        text += &format!("ports:\n{}endpoints:\n", ports(", protocol: TCP"));
        for endpoint in 0..endpoints {
            let (third, fourth) = (100 + endpoint / 100, 100 + endpoint % 100);
            text += &format!("  - {{addresses: [10.200.{third}.{fourth}]}}\n");
        }
        world::inputs("shop.yaml", &text)
    };
    let few = world(2);
    let mut many = few.clone();
    many.endpoint_slices = world(1500).endpoint_slices;
    let mut none = many.clone();
    none.services.retain(|key, _| key.name != "orders");

    let reason = |output: &Output| {
        let verdict = output.verdicts.values().next().unwrap();
        verdict.conditions[1].reason
    };
    let before = compile(&few, Output::default());
    assert_eq!(reason(&before), Reason::ResolvedRefs);
    let grown = compile(&many, before);
    assert_eq!(reason(&grown), Reason::TooManyEndpoints);
    let scratch = compile(&many, Output::default());
    assert_eq!(grown.verdicts, scratch.verdicts);
    let shrunk = compile(&few, grown);
    assert_eq!(reason(&shrunk), Reason::ResolvedRefs);
    let gone = compile(&none, scratch);
    assert_eq!(reason(&gone), Reason::BackendNotFound);
}

#[test]
fn an_api_route_says_where_pods_exclude_the_port_at_which_it_says_who_may_enter() {
    let world = |args: &str, authorization: &str| {
        let text = format!(
            "\
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{name: orders, namespace: shop}}
spec: {{hosts: [orders], {authorization}rules: [{{backendRefs: [{{name: orders, port: 80}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: orders, namespace: shop}}
spec: {{selector: {{app: orders}}, ports: [{{port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: orders-1, namespace: shop, labels: {{app: orders}}}}
spec:
  initContainers:
  - {{name: meshwright-redirect, args: [redirect, --uid, \"1337\"{args}]}}
  - {{name: meshwright-sidecar}}
  containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}]
"
        );
        world::inputs("shop.yaml", &text)
    };
    let closed = "authorization: {rules: [{principals: {serviceAccounts: [web]}}]}, ";
    let captured = world("", closed);
    let excluded = world(", --exclude-inbound-port, \"8080\"", closed);
    let other = world(", --exclude-inbound-port, \"9090\"", closed);
    let open = world(", --exclude-inbound-port, \"8080\"", "");

    let said = |output: &Output| {
        let verdict = output.verdicts.values().next().unwrap();
        assert!(verdict.accepted(), "{verdict:?}");
        verdict.conditions[1].clone()
    };
    let before = compile(&captured, Output::default());
    assert_eq!(said(&before).reason, Reason::ResolvedRefs);
    let bypassed = compile(&excluded, before);
    assert_eq!(said(&bypassed).reason, Reason::PortExcluded);
    let message = said(&bypassed).message;
    assert!(
        message.contains("shop/orders exclude their port 8080"),
        "{message}"
    );
    let scratch = compile(&excluded, Output::default());
    assert_eq!(bypassed.verdicts, scratch.verdicts);
    // Nothing is enforced on a port that nobody calls by the Service, or of an ApiRoute that says nothing.
    let without = compile(&open, bypassed);
    assert_eq!(said(&without).reason, Reason::ResolvedRefs);
    let again = compile(&excluded, without);
    assert_eq!(said(&again).reason, Reason::PortExcluded);
    let elsewhere = compile(&other, again);
    assert_eq!(said(&elsewhere).reason, Reason::ResolvedRefs);
}
