//! What follows a failure.

use super::*;

impl World {
    /// A RetryPolicy that says when requests of `shop/orders-requests` are sent again, or of its Service.
    fn retried(mut self, name: &str, max: u32, rule: Option<&str>, breaks: bool) -> Self {
        let mut sent = mesh::RetryPolicy {
            namespace: "shop".into(),
            name: name.into(),
            retries: Some(mesh::Retries {
                max,
                on: Some(mesh::RetryOn {
                    statuses: vec![503],
                    reset: true,
                    ..Default::default()
                }),
                backoff: Some(mesh::Backoff {
                    growth: 1,
                    jitter: 1,
                    ..Default::default()
                }),
                methods: vec!["GET".into()],
                per_try_timeout_ms: Some(250),
                ..Default::default()
            }),
            ..Default::default()
        };
        match rule {
            None => sent.services.push(reference("orders")),
            Some(rule) => sent.routes.push(mesh::RouteTarget {
                route: Some(mesh::RouteRef {
                    namespace: "shop".into(),
                    name: "orders-requests".into(),
                }),
                rule: rule.into(),
            }),
        }
        if breaks {
            sent.budget = Some(mesh::Budget {
                percent: 20,
                min_per_second: 10,
                window_ms: 10_000,
            });
            sent.circuit_breaker = Some(mesh::CircuitBreaker {
                consecutive_failures: 5,
                error_percent: 50,
                min_requests: 20,
                window_ms: 10_000,
                open_for_ms: 30_000,
                max_open_for_ms: 30_000,
                max_ejected_percent: 50,
                ..Default::default()
            });
        }
        let policy = Arc::new(RetryPolicy::build(sent).unwrap());
        self.built.retry_policies.insert(name.into(), policy);
        self
    }
}

#[test]
fn what_follows_a_failure_is_told_where_a_retry_policy_says_so() {
    let rules = ["get", "put"].map(|name| mesh::Rule {
        name: name.into(),
        matches: vec![mesh::Match {
            method: name.to_ascii_uppercase(),
            ..Default::default()
        }],
        ..Default::default()
    });
    let world = World::shop().requests("orders", rules.into());
    let told = |world: &World, query: &str| {
        let told = world.told(query);
        let attempts = told["goes"][0]["attempts"].as_array().cloned().unwrap();
        let line = |one: Value| {
            let text = |field: &str| one[field].as_str().unwrap().to_owned();
            format!("{}: {}", text("retryPolicy"), text("says"))
        };
        Vec::from_iter(attempts.into_iter().map(line))
    };
    assert!(told(&world, "url=http://orders/").is_empty());
    let world = world
        .retried("all", 1, None, true)
        .retried("gets", 0, Some("get"), false);
    let bounds = [
        "shop/all: at most 20 % of what is sent there is sent again, and 10 a second",
        "shop/all: an endpoint is not called for 30s after 5 failures in a row, or 50 % of at least \
         20 answers",
    ];
    let of_the_service = "shop/all: sent again up to 1 time after a reset, 503; what may have arrived \
                          only if it is GET; each try within 250ms";
    assert_eq!(
        told(&world, "method=PUT&url=http://orders/"),
        [of_the_service, bounds[0], bounds[1]]
    );
    let of_the_rule = "shop/gets: never sent again; each try within 250ms";
    assert_eq!(
        told(&world, "url=http://orders/"),
        [of_the_rule, bounds[0], bounds[1]]
    );
    assert!(told(&world, "url=http://orders-v2/").is_empty());
}
