//! What is remembered changes nothing: the result is the same as from scratch, whatever was
//! compiled before and in whatever order the world came to be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::collections::BTreeMap;

use compiler::{Audience, Compiled, Inputs, ObjectRef, Output, Verdict, compile};
use crds::status::Reason;
use proptest::prelude::*;
use wire::ResourceId;
use wire::resource::Hash;
use world::random::{Edit, edits};

/// Everything about a resource but its generation, which depends on when it last changed.
type Content = (Hash, Vec<String>, Audience, Option<ObjectRef>);

fn content(compiled: &Compiled) -> Content {
    let resource = &compiled.resource;
    (
        resource.hash,
        resource.capabilities.to_vec(),
        compiled.audience.clone(),
        compiled.object.clone(),
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
    ) {
        let mut inputs = Inputs::default();
        let mut output = Output::default();
        for edits in edits.chunks(together) {
            apply(edits, &mut inputs);
            let before = output.clone();
            output = compile(&inputs, output);
            check(&inputs, &before, &output)?;
        }
    }

    #[test]
    fn the_order_in_which_objects_come_changes_nothing(
        edits in edits(30),
        order in any::<prop::sample::Index>(),
    ) {
        let mut inputs = Inputs::default();
        apply(&edits, &mut inputs);
        let forward = compile(&inputs, Output::default());

        // The last edit of each object alone, one by one, beginning somewhere in the middle.
        let mut last = BTreeMap::new();
        for edit in edits {
            last.insert(name(&edit), edit);
        }
        let mut last = Vec::from_iter(last.into_values());
        let middle = order.index(last.len());
        last.rotate_left(middle);
        let mut inputs = Inputs::default();
        let mut output = Output::default();
        for edit in last.iter().rev() {
            edit.apply(&mut inputs);
            output = compile(&inputs, output);
        }
        prop_assert_eq!(contents(&output), contents(&forward));
        prop_assert_eq!(&output.verdicts, &forward.verdicts);
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

fn name(edit: &Edit) -> String {
    match edit {
        Edit::ApiRoute(key, _) => format!("route {key}"),
        Edit::Service(key, _) => format!("service {key}"),
        Edit::EndpointSlice(key, _) => format!("slice {key}"),
        Edit::Pod(key, _) => format!("pod {key}"),
        Edit::Precedence(key, _) => format!("precedence {key}"),
        Edit::TrustDomain(_) => "trust domain".to_owned(),
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
