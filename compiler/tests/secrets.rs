//! Secrets are of one namespace: who refers to them, who gets what is compiled of them, and what is said
//! where they can't be read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::path::Path;

use compiler::{
    AudienceKey, Inputs, ObjectKey, ObjectRef, Output, Unreadable, compile, refer_to_consumers,
    refer_to_credentials,
};
use crds::status::{ConditionType, Reason};
use wire::generation::Input;
use wire::{Generation, Kind, ResourceId};

const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: orders}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, labels: {app: orders}}
spec: {containers: [{name: meshwright-sidecar}]}
status: {phase: Running}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {name: keys, namespace: shop}
spec: {hosts: [orders], auth: {apiKey: {in: Header, name: x-api-key}}}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {name: plain, namespace: bank}
spec: {hosts: [accounts]}
---
apiVersion: meshwright.dev/v1alpha1
kind: RateLimit
metadata: {name: limits, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders, group: \"\"}]
  scope: Shared
  store: {redis: {urlSecretRef: {name: redis, key: url}}}
  limits: [{name: all, requests: 9, per: 1m}]
";

fn shop() -> Inputs {
    world::inputs("shop.yaml", SHOP)
}

#[test]
fn those_refer_to_secrets_that_compare_ask_or_count_with_them() {
    let mut inputs = shop();
    assert_eq!(Vec::from_iter(refer_to_consumers(&inputs)), ["shop"]);
    assert_eq!(Vec::from_iter(refer_to_credentials(&inputs)), ["shop"]);
    inputs.rate_limits.clear();
    assert!(refer_to_credentials(&inputs).is_empty());
    for (spec, refers) in [
        (
            "idempotency: {store: {redis: {urlSecretRef: {name: a, key: b}}}}",
            true,
        ),
        ("idempotency: {}", false),
        (
            "auth: {introspection: {endpoint: \"https://a/\", clientID: a, clientSecretRef: {name: a, key: b}}}",
            true,
        ),
    ] {
        let route = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: a, namespace: bank}}\n\
             spec: {{hosts: [a], {spec}}}\n"
        );
        let inputs = world::inputs("a.yaml", &route);
        assert_eq!(
            refer_to_credentials(&inputs).contains("bank"),
            refers,
            "{spec}"
        );
        assert!(refer_to_consumers(&inputs).is_empty());
    }
}

#[test]
fn where_secrets_may_not_be_read_the_objects_that_refer_to_them_say_so_and_no_others() {
    let mut inputs = shop();
    let output = compile(&inputs, Output::default());
    inputs
        .unreadable
        .insert("shop".to_owned(), Unreadable::Forbidden);
    let output = compile(&inputs, output);
    let told = |output: &Output, object: ObjectRef| {
        let condition = output.verdicts[&object].condition(ConditionType::ResolvedRefs);
        let condition = condition.unwrap();
        (condition.reason, condition.message.clone())
    };
    let keys = ObjectRef::api_route(&ObjectKey::new("shop", "keys"));
    let limits = ObjectRef::rate_limit(&ObjectKey::new("shop", "limits"));
    for (object, field) in [
        (&keys, "spec.auth.apiKey: "),
        (&limits, "spec.store.redis.urlSecretRef.name: "),
    ] {
        let (reason, message) = told(&output, object.clone());
        assert_eq!(reason, Reason::SecretNotUsable);
        assert!(message.starts_with(field), "{message}");
        assert!(
            message.contains("add it to secrets.namespaces of the chart"),
            "{message}"
        );
    }
    let plain = ObjectRef::api_route(&ObjectKey::new("bank", "plain"));
    assert!(!output.changed_verdicts.contains(&plain));

    inputs.unreadable.clear();
    let output = compile(&inputs, output);
    assert_eq!(told(&output, keys).0, Reason::ResolvedRefs);
    assert!(
        told(&output, limits)
            .1
            .contains("there is no Secret \"redis\"")
    );
}

#[test]
fn what_is_compiled_of_secrets_is_as_new_as_those_of_its_namespace() {
    let mut inputs = shop();
    inputs.seen.observe(Input::Consumer, 50);
    inputs.seen.observe(Input::Credential, 50);
    let own = Generation::ZERO
        .with(Input::Consumer, 7)
        .with(Input::Credential, 70);
    inputs.seen_secrets.insert("shop".to_owned(), own);
    let output = compile(&inputs, Output::default());
    let generation = |kind, name| {
        let id = ResourceId::new(kind, "shop", name);
        output.resources[&id].resource.generation
    };
    assert_eq!(generation(Kind::Keys, "keys").at(Input::Consumer), 7);
    assert_eq!(
        generation(Kind::RateLimit, "limits").at(Input::Credential),
        70
    );
    assert_eq!(inputs.seen_in("bank"), inputs.seen);
}

/// On this stands that a stream's position counts the Secrets of its pod's namespace alone.
#[test]
fn what_is_compiled_of_secrets_goes_to_pods_of_their_own_namespace_only() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut found = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".in.yaml") {
            continue;
        }
        let inputs = world::inputs(&name, &std::fs::read_to_string(&path).unwrap());
        let output = compile(&inputs, Output::default());
        for (id, compiled) in output.resources {
            let of_secrets = [Input::Consumer, Input::Credential];
            if !id
                .kind
                .inputs()
                .iter()
                .any(|input| of_secrets.contains(input))
            {
                continue;
            }
            found += 1;
            for key in &compiled.audience {
                let namespace = match key {
                    AudienceKey::Everyone | AudienceKey::Service(..) | AudienceKey::AnyService => {
                        None
                    }
                    AudienceKey::Namespace(namespace) | AudienceKey::Pod(namespace, _) => {
                        Some(&**namespace)
                    }
                };
                assert_eq!(namespace, Some(&*id.namespace), "{name}: {id} for {key:?}");
            }
        }
    }
    assert!(found > 5, "{found}");
}
