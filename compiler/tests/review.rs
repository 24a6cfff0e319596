//! What is said of an object before it is stored.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use compiler::{Draft, Inputs, ObjectKey, ObjectRef, Opinion, Output, Review, advice, compile};

const ORDERS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\n\
                      spec: {clusterIP: 10.96.0.10, selector: {app: orders}, ports: [{port: 80}]}\n";

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

/// The one object of a file, as a draft.
fn draft(written: &str) -> Draft {
    let inputs = world::inputs("draft.yaml", written);
    let routes = inputs.api_routes.values();
    let routes = routes.map(|one| Draft::ApiRoute(Box::new((**one).clone())));
    let policies = inputs.retry_policies.values();
    let policies = policies.map(|one| Draft::RetryPolicy(Box::new((**one).clone())));
    let limits = inputs.rate_limits.values();
    let limits = limits.map(|one| Draft::RateLimit(Box::new((**one).clone())));
    let subscriptions = inputs.event_subscriptions.values();
    let subscriptions =
        subscriptions.map(|one| Draft::EventSubscription(Box::new((**one).clone())));
    let mut all = routes.chain(policies).chain(limits).chain(subscriptions);
    all.next().unwrap()
}

fn judge(world: &Inputs, written: &str) -> Opinion {
    let mut review = Review::default();
    review.see(world);
    review.judge(draft(written))
}

/// What the status will say of it, without the object that is there under its name.
fn status(world: &Inputs, written: &str) -> Vec<String> {
    let mut inputs = world.clone();
    let of_draft = world::inputs("draft.yaml", written);
    inputs.api_routes.extend(of_draft.api_routes);
    inputs
        .event_subscriptions
        .extend(of_draft.event_subscriptions);
    let output = compile(&inputs, Output::default());
    let verdict = &output.verdicts[&draft(written).object()];
    let failed = verdict.conditions.iter().filter(|one| !one.status);
    failed
        .map(|one| format!("{} ({})", one.message, one.reason))
        .collect()
}

#[test]
fn what_contradicts_itself_is_refused_in_the_words_of_its_status() {
    let world = world::inputs("world.yaml", ORDERS);
    for spec in [
        "hosts: [orders, mail.post]",
        "hosts: [api.example.com]",
        "hosts: [orders], rules: [{matches: [{path: {type: Regex, value: \"(\"}}]}]",
        "hosts: [missing], rules: [{matches: [{path: {type: Regex, value: \"(\"}}]}]",
    ] {
        let written = object("ApiRoute", "orders", spec);
        let opinion = judge(&world, &written);
        assert_eq!(
            opinion.refusal.as_ref(),
            status(&world, &written).first(),
            "{spec}"
        );
        assert!(opinion.refusal.is_some(), "{spec}");
    }
    for (filter, service) in [
        ("sql: \"type = \"", "orders"),
        ("exact: {Type: a}", "missing"),
    ] {
        let written = subscription("orders", &format!("filters: [{{{filter}}}]"), service);
        let opinion = judge(&world, &written);
        assert_eq!(
            opinion.refusal.as_ref(),
            status(&world, &written).first(),
            "{filter}"
        );
        assert!(opinion.refusal.is_some(), "{filter}");
    }
}

/// An EventSubscription for a Service.
fn subscription(broker: &str, more: &str, service: &str) -> String {
    let spec = format!(
        "source: {{type: Broker, broker: {{name: {broker}, topic: a}}}}, delivery: {{onExhausted: Drop}}, \
         target: {{type: Service, service: {{name: {service}, port: 80}}}}, {more}"
    );
    object("EventSubscription", "zebra", &spec)
}

#[test]
fn what_may_come_or_go_later_is_told_and_refused_by_nobody() {
    let mut world = world::inputs("world.yaml", ORDERS);
    let older = world::inputs("older.yaml", &object("ApiRoute", "ant", "hosts: [orders]"));
    world.api_routes.extend(older.api_routes);
    let without_pods = "---\napiVersion: v1\nkind: Service\nmetadata: {name: bare, namespace: shop}\n\
                        spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n";
    let bare = world::inputs("bare.yaml", without_pods);
    world.services.extend(bare.services);
    for (spec, says) in [
        ("hosts: [missing]", "there is no Service \"missing\""),
        ("hosts: [orders]", "ApiRoute shop/ant comes first"),
        (
            "hosts: [bare], authorization: {rules: []}",
            "selects no pods",
        ),
        (
            "hosts: [bare], rules: [{backendRefs: [{name: gone, port: 80}]}]",
            "(BackendNotFound)",
        ),
    ] {
        let written = object("ApiRoute", "zebra", spec);
        let opinion = judge(&world, &written);
        assert_eq!(opinion.refusal, None, "{spec}");
        assert_eq!(opinion.warnings, status(&world, &written), "{spec}");
        assert!(opinion.warnings[0].contains(says), "{opinion:?}");
    }
    let broker = "---\napiVersion: v1\nkind: Secret\n\
                  metadata: {name: nats, namespace: shop, labels: {meshwright.dev/broker: nats}}\n\
                  stringData: {url: \"nats://nats\"}\n";
    world.brokers = world::inputs("broker.yaml", broker).brokers;
    for (broker, service, says) in [
        ("nats", "missing", "there is no Service \"missing\""),
        ("none", "orders", "there is no Secret with the label"),
        ("nats", "bare", "selects no pods"),
    ] {
        let written = subscription(broker, "", service);
        let opinion = judge(&world, &written);
        assert_eq!(opinion.refusal, None, "{written}");
        assert_eq!(opinion.warnings, status(&world, &written), "{written}");
        assert!(opinion.warnings[0].contains(says), "{opinion:?}");
    }
    let quiet = judge(&world, &subscription("nats", "", "orders"));
    assert_eq!(quiet, Opinion::default());
}

#[test]
fn a_draft_leaves_nothing_behind_and_takes_the_place_of_what_is_there() {
    let orders = object("ApiRoute", "orders", "hosts: [orders]");
    let world = world::inputs("world.yaml", &format!("{ORDERS}{orders}"));
    let mut review = Review::default();
    review.see(&world);
    let quiet = Opinion::default();
    // It does not conflict with its own former self,
    assert_eq!(review.judge(draft(&orders)), quiet);
    // and a draft that was never stored conflicts with nothing.
    let other = object("ApiRoute", "ant", "hosts: [orders]");
    let told = review.judge(draft(&other)).warnings;
    assert!(
        told[0].contains("ApiRoute shop/orders comes first"),
        "{told:?}"
    );
    assert_eq!(review.judge(draft(&orders)), quiet);
    let policy = object(
        "RetryPolicy",
        "orders",
        "targetRefs: [{kind: ApiRoute, group: meshwright.dev, name: ant}], maxRetries: 1",
    );
    let told = review.judge(draft(&policy)).warnings;
    assert!(told[0].contains("there is no ApiRoute \"ant\""), "{told:?}");
}

#[test]
fn what_is_legal_and_unwise_is_said_with_its_field() {
    let fast = "hosts: [orders], timeouts: {request: 2s}";
    let route = object("ApiRoute", "orders", fast);
    let world = world::inputs("world.yaml", &format!("{ORDERS}{route}"));
    let key = "apiKey: {in: Query, name: key}";
    let targets = "targetRefs: [{kind: ApiRoute, group: meshwright.dev, name: orders}]";
    let limited = "targetRefs: [{kind: Service, name: orders, group: \"\"}]";
    for (kind, spec, says) in [
        (
            "ApiRoute",
            "hosts: [orders], rules: [{backendRefs: [{name: orders, port: 80, weight: 0}]}]",
            "spec.rules[0].backendRefs: each has the weight 0",
        ),
        (
            "ApiRoute",
            "hosts: [orders], rules: [{fault: {abort: {status: 503, percent: 1}}}]",
            "spec.rules[0].fault: ",
        ),
        (
            "ApiRoute",
            &*format!("hosts: [orders], auth: {{{key}}}"),
            "spec.auth: what stands in a query",
        ),
        (
            "ApiRoute",
            "hosts: [orders], authorization: {mode: Audit, rules: []}",
            "spec.authorization.mode: Audit",
        ),
        (
            "RetryPolicy",
            &*format!("{targets}, methods: [GET, POST]"),
            "spec.methods: an application may carry out a POST twice",
        ),
        (
            "RetryPolicy",
            &*format!("{targets}, perTryTimeout: 2s"),
            "spec.perTryTimeout: 2s leaves no time for a second try within the 2s",
        ),
        (
            "RateLimit",
            &*format!("{limited}, limits: [{{name: all, requests: 9, per: 24h}}]"),
            "spec.limits[0].per: 24h is long for a count that each pod has for itself",
        ),
    ] {
        let opinion = judge(&world, &object(kind, "orders", spec));
        assert_eq!(opinion.refusal, None, "{spec}");
        let said = opinion.warnings.iter().any(|one| one.starts_with(says));
        assert!(said, "{spec}: {opinion:?}");
    }
    // What is as it should be is not talked about.
    for (kind, spec) in [
        ("ApiRoute", fast.to_owned()),
        (
            "RetryPolicy",
            format!("{targets}, perTryTimeout: 500ms, methods: [GET, PUT]"),
        ),
        (
            "RetryPolicy",
            format!("{targets}, methods: [POST], retryOn: {{grpcCodes: [Unavailable]}}"),
        ),
        (
            "RateLimit",
            format!("{limited}, limits: [{{name: all, requests: 9, per: 1m}}]"),
        ),
    ] {
        let opinion = judge(&world, &object(kind, "orders", &spec));
        assert_eq!(opinion, Opinion::default(), "{spec}");
    }
    let nothing = ObjectRef::rate_limit(&ObjectKey::new("shop", "none"));
    assert!(advice(&world, &nothing).is_empty());
}

/// An EventSubscription that is replied to.
fn replies(name: &str, broker: &str, (from, to): (&str, &str), more: &str) -> String {
    let spec = format!(
        "source: {{type: Broker, broker: {{name: {broker}, topic: {from}}}}}, delivery: {{onExhausted: Drop}}, \
         target: {{type: Workload, workload: {{selector: {{app: {name}}}, port: 80}}, path: /}}, \
         reply: {{topic: {to}}}, {more}"
    );
    object("EventSubscription", name, &spec)
}

#[test]
fn replies_that_lead_back_to_where_they_began_are_told_with_their_way() {
    let says = |written: &str, of: &str| {
        let world = world::inputs("world.yaml", written);
        let object = ObjectRef::event_subscription(&ObjectKey::new("shop", of));
        let mut said = advice(&world, &object);
        assert!(said.len() <= 1, "{said:?}");
        said.pop()
    };
    let asks = replies("asks", "events", ("order", "price"), "");
    let tells = replies("tells", "events", ("price", "order"), "");
    let beside = replies("beside", "events", ("order", "mail"), "");
    let mut all = format!("{asks}{tells}{beside}");
    let said = says(&all, "asks").unwrap();
    assert_eq!(
        said,
        "spec.reply.topic: events lead back to where they began, order -> price -> order: each leads to another until \
         there are 32, and what comes then is exhausted (Loop): write another topic, or filter."
    );
    assert!(
        says(&all, "tells")
            .unwrap()
            .contains("price -> order -> price")
    );
    assert_eq!(says(&all, "beside"), None);
    // A draft that closes the ring is told at once.
    let open = world::inputs("world.yaml", &asks);
    let told = judge(&open, &tells).warnings;
    assert!(
        told.iter()
            .any(|one| one.contains("price -> order -> price")),
        "{told:?}"
    );
    // So are copies, and those between brokers.
    let copy = object(
        "EventSubscription",
        "copies",
        "source: {type: Broker, broker: {name: audit, topic: kept}}, delivery: {onExhausted: Drop}, \
         target: {type: Topic, topic: {broker: events, name: order}}",
    );
    let keeps = object(
        "EventSubscription",
        "keeps",
        "source: {type: Broker, broker: {name: events, topic: order}}, delivery: {onExhausted: Drop}, \
         target: {type: Topic, topic: {broker: audit, name: kept}}",
    );
    let round = says(&format!("{copy}{keeps}"), "keeps").unwrap();
    assert!(
        round.starts_with("spec.target.topic.name: ")
            && round.contains("order -> kept of audit -> order:"),
        "{round}"
    );
    // Who leads into a ring is in none, and the shortest way is named.
    all.push_str(&replies("before", "events", ("basket", "order"), ""));
    all.push_str(&replies("aside", "events", ("price", "tax"), ""));
    all.push_str(&replies("back", "events", ("tax", "order"), ""));
    assert_eq!(says(&all, "before"), None);
    assert_eq!(says(&all, "asks"), Some(said));
    let longer = says(&all, "back").unwrap();
    assert!(longer.contains("tax -> order -> price -> tax:"), "{longer}");
    // A chain that ends, another broker, and filters that may end it are not talked about.
    for other in [
        replies("tells", "events", ("price", "paid"), ""),
        replies("tells", "audit", ("price", "order"), ""),
        replies(
            "tells",
            "events",
            ("price", "order"),
            "filters: [{exact: {type: a}}]",
        ),
    ] {
        assert_eq!(says(&format!("{asks}{other}"), "asks"), None, "{other}");
    }
    let elsewhere = tells.replace("namespace: shop", "namespace: post");
    assert_eq!(says(&format!("{asks}{elsewhere}"), "asks"), None);
}

#[test]
fn of_a_long_way_back_its_beginning_and_its_end_are_named() {
    let mut all = String::new();
    for number in 0..40 {
        let (from, to) = (format!("t{number}"), format!("t{}", (number + 1) % 40));
        all.push_str(&replies(&format!("s{number}"), "events", (&from, &to), ""));
    }
    let world = world::inputs("world.yaml", &all);
    let object = ObjectRef::event_subscription(&ObjectKey::new("shop", "s0"));
    let said = advice(&world, &object);
    assert!(said[0].contains("t0 -> t1 -> t2 -> ... -> t0:"), "{said:?}");
}

#[test]
fn among_ten_thousand_objects_a_draft_costs_what_depends_on_it() {
    let mut world = Inputs::default();
    let of = world::inputs(
        "one.yaml",
        &format!(
            "{ORDERS}{}",
            object("ApiRoute", "orders", "hosts: [orders]")
        ),
    );
    let (_, service) = of.services.first_key_value().unwrap();
    let (_, route) = of.api_routes.first_key_value().unwrap();
    for number in 0..10_000 {
        let name = format!("orders-{number:05}");
        let key = ObjectKey::new("shop", &*name);
        let mut route = (**route).clone();
        route.metadata.name = Some(name.clone());
        route.spec.hosts = vec![name.clone()];
        world.api_routes.insert(key.clone(), route.into());
        let mut service = (**service).clone();
        service.metadata.name = Some(name);
        world.services.insert(key, service.into());
    }
    let mut review = Review::default();
    let start = std::time::Instant::now();
    review.see(&world);
    let written = object("ApiRoute", "zebra", "hosts: [orders-00000]");
    let told = review.judge(draft(&written)).warnings;
    assert!(told[0].contains("ApiRoute shop/orders-00000"), "{told:?}");
    let first = start.elapsed();

    let rounds = 20;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        review.judge(draft(&written));
    }
    let later = start.elapsed() / rounds;
    println!("the first draft of a world {first:?}, a later one {later:?}");
    assert!(later < first / 4, "{later:?} after {first:?}");
}
