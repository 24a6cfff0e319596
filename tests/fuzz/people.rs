//! What people write.

use std::sync::LazyLock;

use compiler::yaml::{self, Object};
use compiler::{Inputs, Output, compile};
use regex::Regex;

use crate::{fuzz, text};

const DOCUMENTS: &str = "\
apiVersion: v1
kind: Service
metadata: { name: orders, namespace: shop }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata:
  name: orders
  namespace: shop
spec:
  hosts: [orders, orders.shop.svc.cluster.local]
  rules:
    - name: read
      matches:
        - path: { type: Prefix, value: /a }
          method: GET
          headers: [{ name: x-a, value: \"1\" }]
      backendRefs: [{ name: orders, port: 80, weight: 1 }]
      timeouts: { request: 1m30s }
---
apiVersion: meshwright.dev/v1alpha1
kind: RateLimit
metadata: { name: orders, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: orders }, { group: meshwright.dev, kind: ApiRoute, name: orders }]
  headers: Legacy
  limits:
    - { name: a, requests: 10, per: 1s, burst: 20, key: { type: ClientIP, trustedHops: 1 }, overrides: [{ values: [10.0.0.1], requests: 2 }] }
    - { name: b, requests: 9, per: 1m, key: { type: Compound, parts: [{ type: Consumer }, { type: Header, name: X-A }] }, plans: [{ name: gold, requests: 3, burst: 1 }] }
    - { name: c, requests: 1, per: 1h, action: Delay, delay: { max: 1s, maxQueue: 3 }, methods: [GET], paths: [{ type: Prefix, value: /a }] }
    - { name: d, requests: 100, per: 1s, cost: { type: Header, name: X-Cost, max: 7 }, action: Shadow }
---
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: { name: orders, namespace: web }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: orders, namespace: shop }]
  loadBalancing: { type: ConsistentHash, hashOn: { type: Header, name: X-User } }
  healthCheck: { path: /a, interval: 10s, timeout: 1s, unhealthyThreshold: 3 }
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: { name: orders, namespace: shop }
spec:
  source: { type: Broker, broker: { name: nats, topic: shop.orders, startFrom: { type: Time, time: \"2026-11-20T08:00:00Z\" } } }
  filters:
    - { sql: \"type LIKE 'com.shop.%' AND NOT (region IN ('us', 'eu') OR LENGTH(id) < 3)\" }
    - { not: { any: [{ prefix: { subject: /a } }, { suffix: { subject: /b } }, { exact: { id: \"7\" } }] } }
  target: { type: Workload, workload: { selector: { app: orders }, port: 8080 }, path: /events }
  delivery: { retries: { maxRetries: 3 }, responses: [{ codes: [409], action: Drop }], expiry: 1h, deadLetter: { topic: dead } }
";

#[test]
fn fuzz_documents_and_what_becomes_of_them() {
    // Spoilt is only what was good.
    let good = yaml::parse("a.yaml", DOCUMENTS);
    assert!(good.problems.is_empty(), "{:?}", good.problems);
    let pieces: &[&[u8]] = &[
        b"hosts: [",
        b"orders",
        b"orders.shop",
        b"*.shop",
        b"type: Regex",
        b"type: Pattern",
        b"type: RoundRobin",
        b"slowStart: 30s",
        b"namespace: web",
        b"path: /%2e%2E/",
        b"type: Service",
        b"exact: ",
        b" LIKE '%\\_'",
        b"NOT (",
        b"&x ",
        b"*x",
        b"<<: ",
        b"|\n",
        b"null",
        b"  ",
        b"- ",
    ];
    fuzz(
        1_500,
        &[DOCUMENTS.as_bytes()],
        pieces,
        text(|text| {
            // As YAML counts them.
            let lines = text
                .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                .count();
            let parsed = yaml::parse("a.yaml", text);
            for problem in &parsed.problems {
                // What is missing at the end is missing on the line after the last.
                assert!((1..=lines + 1).contains(&problem.line), "{problem}");
            }
            let mut inputs = Inputs::default();
            for document in parsed.documents {
                assert!((1..=lines).contains(&document.line));
                // As it is shown, it is read as the same.
                let again = yaml::parse("b.yaml", &document.value.to_string());
                assert!(again.problems.is_empty(), "{:?}", again.problems);
                assert_eq!(again.documents.len(), 1);
                assert_eq!(again.documents[0].value, document.value);
                match document.object {
                    Object::ApiRoute(object) => {
                        drop(inputs.api_routes.insert(document.key, object))
                    }
                    Object::RetryPolicy(object) => {
                        drop(inputs.retry_policies.insert(document.key, object))
                    }
                    Object::RateLimit(object) => {
                        drop(inputs.rate_limits.insert(document.key, object))
                    }
                    Object::EventSubscription(object) => {
                        drop(inputs.event_subscriptions.insert(document.key, object))
                    }
                    Object::Service(object) => drop(inputs.services.insert(document.key, object)),
                    _ => {}
                }
            }
            // Hosts among the rest: what is accepted compiles, and to the same each time.
            let output = compile(&inputs, Output::default());
            let again = compile(&inputs, Output::default());
            assert_eq!(
                output.resources.keys().collect::<Vec<_>>(),
                again.resources.keys().collect::<Vec<_>>()
            );
            let written = inputs.api_routes.len()
                + inputs.retry_policies.len()
                + inputs.rate_limits.len()
                + inputs.event_subscriptions.len();
            assert_eq!(output.verdicts.len(), written);
        }),
    );
}

#[test]
fn fuzz_durations() {
    static PATTERN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(crds::Duration::PATTERN).expect("the pattern is constant"));
    let pieces: &[&[u8]] = &[b"ms", b"h", b"m", b"s", b"99999"];
    fuzz(
        50_000,
        &[b"1m30s", b"250ms", b"99999h99999m99999s99999ms"],
        pieces,
        text(|text| {
            // The schema and the parser agree on every text.
            let read = text.parse::<crds::Duration>();
            assert_eq!(read.is_ok(), PATTERN.is_match(text), "{text:?}");
            if let Ok(read) = read {
                assert_eq!(read.to_string(), text);
            }
        }),
    );
}
