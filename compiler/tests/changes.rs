//! What an edit compiles anew, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use compiler::{Inputs, ObjectKey, Output, compile};
use wire::Kind;
use world::application;

#[test]
fn a_change_compiles_what_depends_on_it_and_nothing_else() {
    let names: Vec<String> = (b'a'..b'k').map(|name| char::from(name).into()).collect();
    let all = names.iter().zip(1..);
    let text: String = all.map(|(name, n)| application("shop", name, n)).collect();
    let before = world::inputs("shop.yaml", &text);
    let first = compile(&before, Output::default());
    let all = [
        Kind::Workload,
        Kind::Guard,
        Kind::Endpoints,
        Kind::Route,
        Kind::RetryPolicy,
        Kind::RateLimit,
        Kind::Identity,
    ];
    let expected = all.map(|kind| (kind, if kind == Kind::Identity { 1 } else { 10 }));
    assert_eq!(first.compiled, BTreeMap::from(expected));

    let after = |edit: &dyn Fn(&mut Inputs)| {
        let mut inputs = before.clone();
        edit(&mut inputs);
        let output = compile(&inputs, first.clone());
        (output.compiled, output.changed.len())
    };
    let slice = after(&|inputs| {
        let slice = inputs
            .endpoint_slices
            .get_mut(&ObjectKey::new("shop", "c-slice"));
        let slice = Arc::make_mut(slice.unwrap());
        slice.endpoints[0].addresses = vec!["10.0.0.99".to_owned()];
    });
    assert_eq!(slice, (BTreeMap::from([(Kind::Endpoints, 1)]), 1));

    let pod = after(&|inputs| {
        let pod = inputs.pods.get_mut(&ObjectKey::new("shop", "c"));
        let spec = Arc::make_mut(pod.unwrap()).spec.as_mut().unwrap();
        spec.service_account_name = Some("other".to_owned());
    });
    let what_a_pod_is_in = [
        (Kind::Workload, 1),
        (Kind::Guard, 1),
        (Kind::Endpoints, 1),
        (Kind::RateLimit, 1),
    ];
    assert_eq!(pod, (BTreeMap::from(what_a_pod_is_in), 2));

    let route = after(&|inputs| {
        let route = inputs.api_routes.get_mut(&ObjectKey::new("shop", "c"));
        Arc::make_mut(route.unwrap()).spec.rules.clear();
    });
    assert_eq!(route, (BTreeMap::from([(Kind::Route, 1)]), 1));

    let policy = after(&|inputs| {
        let policy = inputs.retry_policies.get_mut(&ObjectKey::new("shop", "c"));
        let balancing = &mut Arc::make_mut(policy.unwrap()).spec.load_balancing;
        balancing.as_mut().unwrap().type_ = crds::BalancingType::RoundRobin;
    });
    assert_eq!(policy, (BTreeMap::from([(Kind::RetryPolicy, 1)]), 1));

    let limit = after(&|inputs| {
        let limit = inputs.rate_limits.get_mut(&ObjectKey::new("shop", "c"));
        Arc::make_mut(limit.unwrap()).spec.limits[0].requests = 2;
    });
    assert_eq!(limit, (BTreeMap::from([(Kind::RateLimit, 1)]), 1));

    let service = after(&|inputs| {
        let service = inputs.services.get_mut(&ObjectKey::new("shop", "c"));
        let spec = Arc::make_mut(service.unwrap()).spec.as_mut().unwrap();
        spec.ports.as_mut().unwrap()[0].app_protocol = Some("tcp".to_owned());
    });
    let what_names_a_service = [
        (Kind::Guard, 1),
        (Kind::Endpoints, 1),
        (Kind::Route, 1),
        (Kind::RetryPolicy, 1),
        (Kind::RateLimit, 1),
    ];
    // The route has nothing to say of bytes that nobody reads; which endpoint gets them the policy has.
    assert_eq!(service, (BTreeMap::from(what_names_a_service), 4));

    let nothing = after(&|_| {});
    assert_eq!(nothing, (BTreeMap::new(), 0));
}

/// Two EventSubscriptions, an ApiRoute that publishes and one that does not, with the pods and the broker that
/// they are about, and a pod that nothing is about.
fn events(namespace: &str) -> String {
    let subscription = |name: &str, broker: &str| {
        format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{source: {{type: Broker, broker: {{name: {broker}, topic: orders}}}}, \
             target: {{type: Workload, workload: {{selector: {{takes: {name}}}, port: 8080}}}}, \
             delivery: {{onExhausted: Drop}}}}\n---\n"
        )
    };
    let pod = |name: &str, labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
             spec: {{containers: [{{name: meshwright-sidecar}}]}}\n---\n"
        )
    };
    let publishes = application(namespace, "shop", 1).replace(
        "rules: [{backendRefs: [{name: shop, port: 80}]}]",
        "rules: [{publish: {broker: nats, topic: orders}}]",
    );
    [
        subscription("stock", "nats"),
        subscription("mail", "other"),
        pod("stock-1", "takes: stock"),
        pod("mail-1", "takes: mail"),
        pod("idle", "takes: nothing"),
        publishes,
        application(namespace, "plain", 2),
        format!(
            "apiVersion: v1\nkind: Secret\n\
             metadata: {{name: nats, namespace: {namespace}, labels: {{meshwright.dev/broker: nats}}}}\n\
             stringData: {{url: \"nats://nats.events:4222\"}}\n---\n"
        ),
    ]
    .concat()
}

#[test]
fn what_changes_about_events_concerns_those_who_publish_or_take_them() {
    let before = world::inputs("events.yaml", &(events("shop") + &events("bank")));
    let first = compile(&before, Output::default());
    assert_eq!(first.compiled[&Kind::Subscription], 4);
    assert_eq!(first.compiled[&Kind::Publish], 2);
    let after = |edit: &dyn Fn(&mut Inputs)| {
        let mut inputs = before.clone();
        edit(&mut inputs);
        let output = compile(&inputs, first.clone());
        let changed = output.changed.iter().map(ToString::to_string);
        (output.compiled, Vec::from_iter(changed))
    };

    let subscription = after(&|inputs| {
        let key = ObjectKey::new("shop", "stock");
        let subscription = inputs.event_subscriptions.get_mut(&key).unwrap();
        Arc::make_mut(subscription).spec.suspend = true;
    });
    let alone = BTreeMap::from([(Kind::Subscription, 1)]);
    let stock = "subscription/shop/stock".to_owned();
    assert_eq!(subscription, (alone.clone(), vec![stock.clone()]));

    let removed = after(&|inputs| {
        let key = ObjectKey::new("shop", "stock");
        inputs.event_subscriptions.remove(&key).unwrap();
    });
    assert_eq!(removed.1, [&*stock]);

    // The pod is one of those from then on; nobody else has to do with it.
    let labels = |name: &'static str, value: &'static str| {
        after(&move |inputs| {
            let pod = inputs.pods.get_mut(&ObjectKey::new("shop", name));
            let labels = Arc::make_mut(pod.unwrap()).metadata.labels.as_mut();
            labels.unwrap().insert("takes".to_owned(), value.to_owned());
        })
    };
    let pod_and =
        |subscriptions| BTreeMap::from([(Kind::Workload, 1), (Kind::Subscription, subscriptions)]);
    assert_eq!(labels("idle", "stock"), (pod_and(1), vec![stock.clone()]));
    assert_eq!(
        labels("stock-1", "nothing"),
        (pod_and(1), vec![stock.clone()])
    );
    let (compiled, changed) = labels("stock-1", "mail");
    assert_eq!(compiled, pod_and(2));
    assert_eq!(changed, ["subscription/shop/mail", &*stock]);
    let elsewhere = BTreeMap::from([(Kind::Workload, 1)]);
    assert_eq!(labels("idle", "rest"), (elsewhere, vec![]));

    // Who names another broker looks as well: it may be the label that has changed.
    let secret = after(&|inputs| {
        let secret = inputs.brokers.get_mut(&ObjectKey::new("shop", "nats"));
        let data = Arc::make_mut(secret.unwrap()).string_data.as_mut();
        let url = "nats://nats.events:5222".to_owned();
        data.unwrap().insert("url".to_owned(), url);
    });
    let those_with_brokers = [
        (Kind::Route, 1),
        (Kind::Publish, 1),
        (Kind::Subscription, 2),
    ];
    let those_with_this_one = vec!["publish/shop/shop".to_owned(), stock];
    assert_eq!(
        secret,
        (BTreeMap::from(those_with_brokers), those_with_this_one)
    );

    let nothing = after(&|_| {});
    assert_eq!(nothing, (BTreeMap::new(), vec![]));
}
