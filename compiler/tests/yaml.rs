//! What a folder refuses, and with which words.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use compiler::ObjectKey;
use compiler::yaml::{Object, parse};

fn problems(text: &str) -> Vec<String> {
    let problems = parse("shop.yaml", text).problems;
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refuses(text: &str, expected: &[&str]) {
    assert_eq!(problems(text), expected, "{text}");
}

/// An ApiRoute whose spec begins on line 4.
fn route(spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: orders}}\n{spec}\n"
    )
}

#[test]
fn a_document_says_where_it_stands_and_what_it_is() {
    let file = parse(
        "shop.yaml",
        "# A comment.\n---\n\napiVersion: v1\nkind: Service\nmetadata: {name: orders}\n--- # next\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n",
    );
    assert_eq!(file.problems, []);
    let [service, namespace] = &file.documents[..] else {
        panic!("{:?}", file.documents);
    };
    assert_eq!(service.line, 4);
    assert_eq!(service.key, ObjectKey::new("default", "orders"));
    assert_eq!(service.value["metadata"]["namespace"], "default");
    let Object::Service(object) = &service.object else {
        panic!("{service:?}");
    };
    assert_eq!(object.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(namespace.line, 8);
    assert!(matches!(namespace.object, Object::Namespace(_)));
    // In no namespace, whatever it says.
    assert_eq!(namespace.key, ObjectKey::namespace("shop"));
}

#[test]
fn a_mode_that_means_nothing_is_a_problem_with_its_line_and_what_to_write() {
    let file = parse(
        "shop.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    app: a\n    \
         meshwright.dev/mode: lax\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n\
         spec:\n  selector: {}\n  template:\n    metadata:\n      annotations:\n        \
         meshwright.dev/permissive-ports: \"http\"\n",
    );
    let problems: Vec<String> = file.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "shop.yaml:7: metadata.labels.meshwright.dev/mode: is \"lax\": write permissive or \
             strict; until then it is strict",
            "shop.yaml:17: spec.template.metadata.annotations.meshwright.dev/permissive-ports: has \
             \"http\", which is no port: write up to 32 port numbers with commas between them, \
             such as \"8080,9090\"; until then the pod is strict",
        ]
    );
}

#[test]
fn the_schemas_defaults_are_filled_in() {
    let file = parse(
        "shop.yaml",
        &route("spec: {hosts: [orders], rules: [{backendRefs: [{name: a, port: 80}]}]}"),
    );
    let Object::ApiRoute(route) = &file.documents[0].object else {
        panic!("{file:?}");
    };
    assert_eq!(route.spec.rules[0].backend_refs[0].weight, 1);
}

#[test]
fn a_misspelt_field_is_refused_with_the_nearest_one() {
    refuses(
        &route(
            "spec:\n  hosts: [orders]\n  rules:\n  - backendRefs:\n    - name: a\n      port: 80\n      \
             wieght: 3\n    timeout: {}",
        ),
        &[
            "shop.yaml:10: spec.rules[0].backendRefs[0].wieght: unknown field; did you mean weight?",
            "shop.yaml:11: spec.rules[0].timeout: unknown field; did you mean timeouts?",
        ],
    );
    refuses(
        &route("spec: {hosts: [orders]}\nretries: 3"),
        &["shop.yaml:5: retries: unknown field; the fields here are spec, status"],
    );
    refuses(
        &route("spec: {hosts: [orders], rules: [{matches: [{cookie: a}]}]}"),
        &[
            "shop.yaml:4: spec.rules[0].matches[0].cookie: unknown field; the fields here are \
           headers, method, path, query, sni",
        ],
    );
}

#[test]
fn a_missing_field_is_named_with_what_it_is() {
    refuses(
        &route("spec:\n  rules:\n  - backendRefs:\n    - name: a"),
        &[
            "shop.yaml:4: spec.hosts: is missing: The Services whose calls this object governs: \
             `orders` (in the object's namespace), `orders.shop`, `orders.shop.svc` or the full \
             name in the cluster's domain",
            "shop.yaml:7: spec.rules[0].backendRefs[0].port: is missing: The Service's port, by \
             number",
        ],
    );
    refuses(
        &route("spec: {hosts: null}"),
        &[
            "shop.yaml:4: spec.hosts: is missing: The Services whose calls this object governs: \
             `orders` (in the object's namespace), `orders.shop`, `orders.shop.svc` or the full \
             name in the cluster's domain",
        ],
    );
}

#[test]
fn a_value_of_another_type_is_refused_with_how_to_write_it() {
    refuses(
        &route(
            "spec:\n  hosts: orders\n  rules:\n  - name: 5\n    backendRefs: [{name: a, port: \"80\"}]\n  \
             - backendRefs: [{name: a, port: http, weight: 1.5}]",
        ),
        &[
            "shop.yaml:5: spec.hosts: must be a list, not \"orders\"",
            "shop.yaml:7: spec.rules[0].name: must be text: write it quoted, as \"5\"",
            "shop.yaml:8: spec.rules[0].backendRefs[0].port: must be a number: write it without \
             quotes, as 80",
            "shop.yaml:9: spec.rules[1].backendRefs[0].port: must be a whole number, not \"http\"",
            "shop.yaml:9: spec.rules[1].backendRefs[0].weight: must be a whole number, not 1.5",
        ],
    );
}

#[test]
fn a_value_outside_its_bounds_is_refused() {
    refuses(
        &route(
            "spec:\n  hosts: []\n  timeouts: {request: 1d}\n  rules:\n  - matches: [{method: get}]\n    \
             backendRefs: [{name: Orders, port: 0}, {name: \"\", port: 70000}]",
        ),
        &[
            "shop.yaml:5: spec.hosts: has 0 items; at least 1 must be there",
            "shop.yaml:6: spec.timeouts.request: \"1d\" is not a duration: write numbers with a \
             unit of h, m, s or ms, such as 250ms or 1m30s",
            "shop.yaml:8: spec.rules[0].matches[0].method: \"get\" is not one of GET, HEAD, POST, \
             PUT, DELETE, OPTIONS, TRACE, PATCH; did you mean GET?",
            "shop.yaml:9: spec.rules[0].backendRefs[0].name: \"Orders\" doesn't have the form \
             ^[a-z]([-a-z0-9]*[a-z0-9])?$ (The name of the Service or ApiRoute)",
            "shop.yaml:9: spec.rules[0].backendRefs[0].port: must be 1 to 65535, not 0",
            "shop.yaml:9: spec.rules[0].backendRefs[1].name: has 0 characters; at least 1 must be \
             there",
            "shop.yaml:9: spec.rules[0].backendRefs[1].port: must be 1 to 65535, not 70000",
        ],
    );
    let many = vec!["a"; 50_000].join(", ");
    refuses(
        &route(&format!("spec:\n  hosts: [{many}]")),
        &["shop.yaml:5: spec.hosts: has 50000 items; at most 16 are possible"],
    );
    refuses(
        &route("spec:\n  hosts: [a, b, a]"),
        &["shop.yaml:5: spec.hosts[2]: \"a\" is already in the list"],
    );
}

#[test]
fn a_cache_that_could_keep_nothing_is_refused() {
    let quarter = "maxEntryBytes is a quarter of maxBytes at most: one answer must leave room for \
                   others";
    refuses(
        &route("spec:\n  hosts: [a]\n  cache: {maxBytes: 70000, maxEntryBytes: 20000}"),
        &[&format!("shop.yaml:6: spec.cache: {quarter}")],
    );
    refuses(
        &route("spec:\n  hosts: [a]\n  cache: {maxEntryBytes: 4194305}"),
        &[&format!("shop.yaml:6: spec.cache: {quarter}")],
    );
    for protocol in ["TCP", "GRPC"] {
        refuses(
            &route(&format!(
                "spec:\n  hosts: [a]\n  protocol: {protocol}\n  cache: {{}}"
            )),
            &[
                "shop.yaml:4: spec: a cache keeps answers to GET: of TCP and TLS nobody reads \
               requests, and gRPC has none",
            ],
        );
    }
    refuses(
        &route("spec:\n  hosts: [a]\n  cache: {defaultTTL: 25h, keyHeaders: [a, A]}"),
        &[
            "shop.yaml:6: spec.cache.defaultTTL: an answer that does not say how long it is fresh is \
             kept for 24h at most",
            "shop.yaml:6: spec.cache.keyHeaders: two of the headers have the same name",
        ],
    );
    for span in ["999ms", "61s"] {
        refuses(
            &route(&format!(
                "spec:\n  hosts: [a]\n  cache: {{atCaller: {{maxAge: {span}}}}}"
            )),
            &[
                "shop.yaml:6: spec.cache.atCaller.maxAge: callers give what they keep for 1s to 1m: \
                 for so long nobody decides whether they may still enter",
            ],
        );
    }
}

#[test]
fn calls_that_could_not_be_carried_out_once_are_refused() {
    refuses(
        &route(
            "spec:\n  hosts: [a]\n  idempotency: {window: 200h, timeout: 11m, onStoreFailure: Allow}",
        ),
        &[
            "shop.yaml:6: spec.idempotency.timeout: the application may take 1s to 10m",
            "shop.yaml:6: spec.idempotency.window: a key stands for its first call for 1s to 168h",
            "shop.yaml:6: spec.idempotency: onStoreFailure is written with store, and only there",
        ],
    );
    refuses(
        &route("spec:\n  hosts: [a]\n  protocol: TLS\n  idempotency: {}"),
        &["shop.yaml:4: spec: of TCP and TLS nobody reads requests, so no keys of idempotency"],
    );
}

#[test]
fn a_rule_across_fields_is_kept_as_a_cluster_keeps_it() {
    refuses(
        &route("spec:\n  hosts: [a]\n  rules: [{name: x}, {name: x}, {name: rule-1}]"),
        &[
            "shop.yaml:6: spec.rules[2].name: names of the form rule-<number> are given to rules \
             without a name",
            "shop.yaml:6: spec.rules: two rules have the same name",
        ],
    );
    let path = |type_: &str, value: &str| {
        route(&format!(
            "spec: {{hosts: [a], rules: [{{matches: [{{path: {{type: {type_}, value: {value:?}}}}}]}}]}}"
        ))
    };
    let merged = "a path can't contain //: a request's path has single slashes when it is \
                  compared, so write /";
    let resolved = "a path can't have a segment that is . or ..: a request's path has none when it \
                    is compared, so write the path that they lead to";
    let encoded = "a path begins with / and has only the characters of a URL's path: \
                   percent-encode others";
    let named = "{ and } are percent-encoded in a path; {name} stands for a segment in a Pattern \
                 only";
    for (type_, value, message) in [
        ("Exact", "/a//b", merged),
        ("Prefix", "/a//b", merged),
        ("Pattern", "/a//{b}", merged),
        ("Exact", "/a/../b", resolved),
        ("Exact", "/a/.", resolved),
        ("Prefix", "/a/.%2E/b", resolved),
        ("Pattern", "/%2e", resolved),
        ("Exact", "a", encoded),
        ("Exact", "/a%zz", encoded),
        ("Prefix", "/a[b]", encoded),
        ("Pattern", "/{a}?b", encoded),
        ("Exact", "/{id}", named),
        ("Prefix", "/a}", named),
    ] {
        let expected = format!("shop.yaml:4: spec.rules[0].matches[0].path: {message}");
        refuses(&path(type_, value), &[&expected]);
    }
    for value in [
        "/",
        "/a/",
        "/.well-known/x",
        "/a..b",
        "/...",
        "/a%2Eb",
        "/a%2fb",
        "/it's-a",
        "/caf%C3%A9",
    ] {
        refuses(&path("Exact", value), &[]);
        refuses(&path("Pattern", value), &[]);
    }
    refuses(&path("Pattern", "/a/{b}/{c...}"), &[]);
    refuses(&path("Regex", "[^/]*//..|/a/../{3}"), &[]);
    let compared = |what: &str| {
        route(&format!(
            "spec: {{hosts: [a], rules: [{{matches: [{{headers: [{what}], query: [{what}]}}]}}]}}"
        ))
    };
    let both = ["headers", "query"].map(|field| {
        format!(
            "shop.yaml:4: spec.rules[0].matches[0].{field}[0]: Exact and Regex compare with a \
             value, and Present has none"
        )
    });
    for wrong in [
        "{name: x}",
        "{name: x, type: Regex}",
        "{name: x, type: Present, value: a}",
    ] {
        refuses(&compared(wrong), &[&both[0], &both[1]]);
    }
    for right in [
        "{name: x, value: a}",
        "{name: x, type: Regex, value: a}",
        "{name: x, type: Present}",
    ] {
        refuses(&compared(right), &[]);
    }
    refuses(
        &route(
            "spec: {hosts: [a], rules: [{matches: [{query: [{name: x, value: a}, {name: X, value: \
             b}, {name: x, type: Present}]}]}]}",
        ),
        &[
            "shop.yaml:4: spec.rules[0].matches[0].query: a parameter is named twice; one match \
             can hold one value of a parameter",
        ],
    );
    refuses(
        &route(
            "spec: {hosts: [a], rules: [{matches: [{headers: [{name: X, value: a}, {name: x, value: \
             b}, {name: Host, value: c}]}]}]}",
        ),
        &[
            "shop.yaml:4: spec.rules[0].matches[0].headers[2].name: the host is matched by \
             spec.hosts, not by a header",
            "shop.yaml:4: spec.rules[0].matches[0].headers: a header is named twice; one match can \
             hold one value of a header",
        ],
    );
}

#[test]
fn a_kind_that_means_nothing_in_a_folder_is_refused_with_those_that_do() {
    let document = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n")
    };
    refuses(
        &document("meshwright.dev/v1alpha1", "ApiRout"),
        &["shop.yaml:2: kind: unknown kind ApiRout; did you mean ApiRoute?"],
    );
    refuses(
        &document("v1", "PersistentVolume"),
        &[
            "shop.yaml:2: kind: unknown kind PersistentVolume; a folder holds ApiRoute, \
             RetryPolicy, RateLimit, EventSubscription, Service, Deployment, EndpointSlice, Pod, StatefulSet, \
             DaemonSet, Job, CronJob, Namespace, ServiceAccount, Secret, ConfigMap",
        ],
    );
    refuses(
        &document("meshwright.dev/v1", "ApiRoute"),
        &["shop.yaml:1: apiVersion: ApiRoute has meshwright.dev/v1alpha1, not meshwright.dev/v1"],
    );
    refuses(
        "kind: Service\nmetadata: {name: a}\n",
        &["shop.yaml:1: apiVersion: is missing: write apiVersion: v1"],
    );
}

#[test]
fn a_name_that_kubernetes_would_refuse_is_refused() {
    refuses(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: My_Service\n  namespace: a.b\n",
        &[
            "shop.yaml:4: metadata.name: \"My_Service\" is no name: write 1 to 253 characters of \
             a-z, 0-9, - and . that begin and end with a letter or digit",
            "shop.yaml:5: metadata.namespace: \"a.b\" is no name: write 1 to 63 characters of a-z, \
             0-9 and - that begin and end with a letter or digit",
        ],
    );
    refuses(
        "apiVersion: v1\nkind: Service\n",
        &["shop.yaml:1: metadata: is missing: write metadata: {name: ...}"],
    );
}

#[test]
fn a_field_of_kubernetes_kinds_that_has_another_type_is_named() {
    let problems = problems(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - name: http\n    port: eighty\n",
    );
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("shop.yaml:7: spec.ports[0].port: "),
        "{problems:?}"
    );
}

#[test]
fn one_bad_document_hides_no_other() {
    let good = |name: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    let text = format!(
        "{}---\nkind: [\n---\n{}---\nfoo: a\nfoo: b\n---\n{}",
        good("a"),
        good("b"),
        good("c")
    );
    let file = parse("shop.yaml", &text);
    let names: Vec<&str> = file.documents.iter().map(|d| d.key.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let lines: Vec<usize> = file.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines.len(), 2, "{:?}", file.problems);
    assert!((5..=6).contains(&lines[0]), "{:?}", file.problems);
    assert!((10..=12).contains(&lines[1]), "{:?}", file.problems);
}

#[test]
fn anchors_and_merges_are_resolved_and_tags_refused() {
    let file = parse(
        "shop.yaml",
        &route(
            "spec:\n  hosts: [a]\n  rules:\n  - backendRefs:\n    - &b {name: b, port: 80}\n    - {<<: *b, \
             weight: 5}",
        ),
    );
    assert_eq!(file.problems, []);
    assert_eq!(
        file.documents[0].value["spec"]["rules"][0]["backendRefs"][1]["port"],
        80
    );
    refuses(
        &route("spec: {hosts: [!secret a]}"),
        &["shop.yaml:4: spec.hosts[0]: the tag !secret means nothing here: remove it"],
    );
}

#[test]
fn an_expansion_that_explodes_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{before}]\n");
    }
    assert_eq!(problems(&text).len(), 1);
}

#[test]
fn brackets_that_are_text_are_no_nesting() {
    let line = "    [31mred {\n    # [[\n";
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  quoted: \"{}\"\n  \
         script: |\n{}",
        "[".repeat(2000),
        line.repeat(2000)
    );
    refuses(&text, &[]);
}

#[test]
fn nesting_without_end_is_refused() {
    // What is nested in one document alone would be read; the file as a whole takes too long.
    let nested = "[".repeat(20_000);
    let refused = "20000 brackets are open at once, and 17892 may be in a file of this length";
    assert_eq!(
        problems(&format!("{nested}\n---\n{nested}\n---\n{nested}\n")),
        [1, 2, 4].map(|line| format!("shop.yaml:{line}: {refused}"))
    );
    assert_eq!(problems(&"[".repeat(100_000)).len(), 1);
    assert_eq!(
        problems(&format!("a: {}{}", "[".repeat(5000), "]".repeat(5000))).len(),
        1
    );
    assert_eq!(problems(&"{a: ".repeat(100_000)).len(), 1);
    assert_eq!(problems(&"- ".repeat(100_000)).len(), 1);
    assert_eq!(problems(&"? ".repeat(100_000)).len(), 1);
    let indented = |level: usize| format!("{}a:\n", " ".repeat(level));
    assert_eq!(
        problems(&(0..1000).map(indented).collect::<String>()).len(),
        1
    );
}
