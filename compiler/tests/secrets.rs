//! Secrets are of one namespace: who refers to them, who gets what is compiled of them, and what is said
//! where they can't be read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::path::Path;

use compiler::{
    AudienceKey, Inputs, OF_SECRETS, ObjectKey, ObjectRef, Output, Unreadable, compile,
    refer_to_brokers, refer_to_consumers, refer_to_credentials,
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
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {name: stock, namespace: shop}
spec:
  source: {type: Broker, broker: {name: nats, topic: stock}}
  target: {type: Workload, workload: {selector: {app: orders}, port: 8080}}
  delivery: {onExhausted: Drop}
";

fn shop() -> Inputs {
    world::inputs("shop.yaml", SHOP)
}

#[test]
fn those_refer_to_secrets_that_compare_ask_or_count_with_them() {
    let mut inputs = shop();
    assert_eq!(Vec::from_iter(refer_to_consumers(&inputs)), ["shop"]);
    assert_eq!(Vec::from_iter(refer_to_credentials(&inputs)), ["shop"]);
    assert_eq!(Vec::from_iter(refer_to_brokers(&inputs)), ["shop"]);
    inputs.rate_limits.clear();
    assert!(refer_to_credentials(&inputs).is_empty());
    inputs.event_subscriptions.clear();
    assert!(refer_to_brokers(&inputs).is_empty());
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
        assert!(refer_to_brokers(&inputs).is_empty());
    }
    let redis = "redis: {urlSecretRef: {name: a, key: b}}";
    let (plain, shown) = ("address: \"https://a/\"", ", secretRef: {name: a}");
    for (target, more, refers) in [
        (
            format!("type: URL, url: {{{plain}{shown}}}"),
            String::new(),
            true,
        ),
        (format!("type: URL, url: {{{plain}}}"), String::new(), false),
        (
            "type: Topic, topic: {name: b}".to_owned(),
            format!("deduplication: {{store: Redis, {redis}}}"),
            true,
        ),
    ] {
        let subscription = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\nmetadata: {{name: a, namespace: bank}}\n\
             spec: {{source: {{type: Broker, broker: {{name: nats, topic: a}}}}, target: {{{target}}}, \
             delivery: {{onExhausted: Drop}}, {more}}}\n"
        );
        let inputs = world::inputs("a.yaml", &subscription);
        let found = refer_to_credentials(&inputs).contains("bank");
        assert_eq!(found, refers, "{target} {more}");
    }
}

#[test]
fn those_refer_to_brokers_that_publish_listen_or_are_subscribed() {
    for (rule, refers) in [
        ("publish: {broker: nats, topic: a}", true),
        ("stream: {broker: nats, topic: a}", true),
        ("backendRefs: [{name: a, port: 80}]", false),
    ] {
        let route = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: a, namespace: bank}}\n\
             spec: {{hosts: [a], rules: [{{matches: [{{method: GET}}]}}, {{{rule}}}]}}\n"
        );
        let inputs = world::inputs("a.yaml", &route);
        assert_eq!(refer_to_brokers(&inputs).contains("bank"), refers, "{rule}");
        assert!(refer_to_credentials(&inputs).is_empty());
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
    let stock = ObjectRef::event_subscription(&ObjectKey::new("shop", "stock"));
    for (object, field) in [
        (&keys, "spec.auth.apiKey: "),
        (&limits, "spec.store.redis.urlSecretRef.name: "),
        (&stock, "spec.source.broker.name: "),
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
    let (_, message) = told(&output, stock);
    assert!(
        message.contains("there is no Secret with the label meshwright.dev/broker: nats"),
        "{message}"
    );
}

#[test]
fn what_is_compiled_of_secrets_is_as_new_as_those_of_its_namespace() {
    let mut inputs = shop();
    inputs.seen.observe(Input::Consumer, 50);
    inputs.seen.observe(Input::Credential, 50);
    inputs.seen.observe(Input::Broker, 50);
    let own = Generation::ZERO
        .with(Input::Consumer, 7)
        .with(Input::Credential, 70)
        .with(Input::Broker, 8);
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
    assert_eq!(generation(Kind::Subscription, "stock").at(Input::Broker), 8);
    assert_eq!(inputs.seen_in("bank"), inputs.seen);
}

/// On this stands that a stream's position counts the Secrets of its pod's namespace alone.
#[test]
fn what_is_compiled_of_secrets_goes_to_pods_of_their_own_namespace_and_to_those_that_carry_events()
{
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (mut found, mut carried) = (std::collections::BTreeMap::new(), 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".in.yaml") {
            continue;
        }
        let inputs = world::inputs(&name, &std::fs::read_to_string(&path).unwrap());
        let output = compile(&inputs, Output::default());
        for (id, compiled) in output.resources {
            if !id
                .kind
                .inputs()
                .iter()
                .any(|input| OF_SECRETS.contains(input))
            {
                continue;
            }
            *found.entry(id.kind).or_insert(0) += 1;
            for key in &compiled.audience {
                // Whoever may make pods in the operator's namespace is trusted with all of the mesh.
                let operators = Some(&*inputs.settings.namespace);
                let carries = matches!(id.kind, Kind::Subscription | Kind::RateLimit);
                let carries = carries && namespace(key) == operators;
                let is_own = namespace(key) == Some(&*id.namespace);
                assert!(is_own || carries, "{name}: {id} for {key:?}");
                carried += usize::from(carries);
            }
        }
    }
    let kinds = Kind::ALL.into_iter();
    let kinds = kinds.filter(|kind| kind.inputs().iter().any(|one| OF_SECRETS.contains(one)));
    for kind in kinds {
        assert!(found.contains_key(&kind), "{kind}: {found:?}");
    }
    assert!(found.values().sum::<usize>() > 5, "{found:?}");
    assert!(carried > 0);
}

/// Whose pods alone belong to an audience.
fn namespace(key: &AudienceKey) -> Option<&str> {
    match key {
        AudienceKey::Everyone | AudienceKey::Service(..) | AudienceKey::AnyService => None,
        AudienceKey::Namespace(namespace) | AudienceKey::Pod(namespace, _) => Some(namespace),
    }
}

#[test]
fn what_stands_in_a_broker_s_secret_goes_to_those_who_speak_to_it_and_into_no_verdict() {
    let secret = |name: &str, data: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\n\
             metadata: {{name: {name}, namespace: shop, labels: {{meshwright.dev/broker: {name}}}}}\n\
             stringData: {{{data}}}\n"
        )
    };
    let written = |namespace: &str, broker: &str| {
        format!(
            "---\napiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
             metadata: {{name: {broker}, namespace: {namespace}}}\n\
             spec:\n  source: {{type: Broker, broker: {{name: {broker}, topic: a}}}}\n  \
             target: {{type: Workload, workload: {{selector: {{app: orders}}, port: 8080}}}}\n  \
             delivery: {{onExhausted: Drop}}\n"
        )
    };
    let elsewhere = "---\napiVersion: v1\nkind: Pod\n\
                     metadata: {name: orders-1, namespace: web, labels: {app: orders}}\n\
                     spec: {containers: [{name: meshwright-sidecar}]}\n";
    // Each has the word in what is secret, and the later ones can't be had.
    let secrets = [
        (
            "named",
            r#"url: "nats://nats:4222", username: hunter1, password: hunter2"#,
        ),
        ("token", r#"url: "tls://nats.example.com", token: hunter3"#),
        (
            "both",
            r#"url: "nats://nats", token: hunter4, password: hunter5"#,
        ),
        ("in-url", r#"url: "nats://hunter6:hunter7@nats:4222""#),
        (
            "plaintext",
            r#"url: "nats://hunter8.example.com", password: hunter9"#,
        ),
        (
            "authority",
            r#"url: "tls://nats", ca.crt: hunter10, token: hunter11"#,
        ),
    ];
    let mut text = format!("{SHOP}{elsewhere}").replace(
        "hosts: [orders],",
        "hosts: [orders], rules: [{publish: {broker: named, topic: a}}],",
    );
    for (name, data) in secrets {
        text += &secret(name, data);
        text += &written("shop", name);
        // It is no broker of theirs, whatever it is called.
        text += &written("web", name);
    }
    let output = compile(&world::inputs("brokers.yaml", &text), Output::default());

    let (mut kinds, mut theirs) = (std::collections::BTreeSet::new(), 0);
    for (id, compiled) in &output.resources {
        let sent = String::from_utf8_lossy(&compiled.resource.body);
        theirs += usize::from(id.kind == Kind::Subscription && *id.namespace == *"web");
        if !sent.contains("hunter") {
            continue;
        }
        kinds.insert(id.kind);
        assert!(!compiled.audience.is_empty(), "{id}");
        for key in &compiled.audience {
            let to_pod = matches!(key, AudienceKey::Pod(..)) && namespace(key) == Some("shop");
            assert!(to_pod, "{id} for {key:?}");
        }
        // What can't be had goes nowhere.
        let usable = ["named", "token", "keys"];
        assert!(usable.contains(&&*id.name), "{id}");
    }
    assert_eq!(Vec::from_iter(kinds), [Kind::Publish, Kind::Subscription]);
    assert_eq!(theirs, secrets.len());
    for verdict in output.verdicts.values() {
        assert!(!format!("{verdict:?}").contains("hunter"), "{verdict:?}");
    }
    let refused = output.verdicts.values().filter(|verdict| {
        let resolved = verdict.condition(ConditionType::ResolvedRefs);
        *verdict.object.namespace == *"shop"
            && resolved.is_some_and(|one| one.reason == Reason::SecretNotUsable)
    });
    let refused = refused.map(|verdict| verdict.object.name.to_string());
    let refused = Vec::from_iter(refused.filter(|name| secrets.iter().any(|(own, _)| own == name)));
    assert_eq!(refused, ["authority", "both", "in-url", "plaintext"]);
}
