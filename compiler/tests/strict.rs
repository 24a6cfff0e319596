//! A folder refuses what `kubectl apply` would: fields that a kind doesn't have, and words that YAML
//! 1.1 takes for something else. And nothing more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use compiler::yaml::parse;

#[track_caller]
fn refuses(text: &str, expected: &[&str]) {
    let problems = parse("shop.yaml", text).problems;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, expected, "{text}");
}

/// An ApiRoute whose spec begins on line 4.
fn route(spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: orders}}\n{spec}\n"
    )
}

#[test]
fn a_field_that_a_kubernetes_kind_does_not_have_is_refused_at_any_depth() {
    refuses(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, lables: {}}\nspec:\n  replica: 2\n  \
         selector: {}\n  template:\n    spec:\n      containers:\n      - name: a\n        image: a\n        \
         envs: []\n        ports: [{containerPort: 1, nmae: a}]\n      initContianers: []\n",
        &[
            "shop.yaml:3: metadata.lables: unknown field; did you mean labels?",
            "shop.yaml:5: spec.replica: unknown field; did you mean replicas?",
            "shop.yaml:12: spec.template.spec.containers[0].envs: unknown field; did you mean env?",
            "shop.yaml:13: spec.template.spec.containers[0].ports[0].nmae: unknown field; did you \
             mean name?",
            "shop.yaml:14: spec.template.spec.initContianers: unknown field; did you mean \
             initContainers?",
        ],
    );
    refuses(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80, weight: 3}]\n  \
         tls: {}\nspecs: {}\n",
        &[
            "shop.yaml:5: spec.ports[0].weight: unknown field; the fields here are appProtocol, name, \
             nodePort, port, protocol, targetPort",
            "shop.yaml:6: spec.tls: unknown field; no field here has a similar name",
            "shop.yaml:7: specs: unknown field; did you mean spec?",
        ],
    );
    refuses(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [], nodename: b}\n",
        &["shop.yaml:4: spec.nodename: unknown field; did you mean nodeName?"],
    );
    refuses(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: \
         IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {redy: true}}]\n",
        &["shop.yaml:5: endpoints[0].conditions.redy: unknown field; did you mean ready?"],
    );
    refuses(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndate: {a: b}\n",
        &["shop.yaml:4: date: unknown field; did you mean data?"],
    );
}

#[test]
fn a_misspelt_field_of_metadata_is_refused_in_every_kind() {
    refuses(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a, namespce: \
         shop}\nspec: {hosts: [a], rule: []}\n",
        &[
            "shop.yaml:3: metadata.namespce: unknown field; did you mean namespace?",
            "shop.yaml:4: spec.rule: unknown field; did you mean rules?",
        ],
    );
    refuses(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata:\n  name: a\n  labels: {a: \
         1}\nspec: {hosts: [a]}\n",
        &["shop.yaml:5: metadata.labels.a: invalid type: integer `1`, expected a string"],
    );
    for (version, kind) in [
        ("v1", "Service"),
        ("v1", "Pod"),
        ("v1", "Namespace"),
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "CronJob"),
        ("batch/v1", "Job"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
    ] {
        refuses(
            &format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespce: b}}\n"),
            &["shop.yaml:3: metadata.namespce: unknown field; did you mean namespace?"],
        );
    }
}

#[test]
fn what_people_have_in_a_cluster_is_not_refused() {
    let text = include_str!("real.yaml");
    refuses(text, &[]);
    let documents = parse("real.yaml", text).documents;
    let kinds: Vec<&str> = documents.iter().map(|d| d.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "Namespace",
            "ServiceAccount",
            "ConfigMap",
            "Service",
            "EndpointSlice",
            "Deployment",
            "Pod",
            "StatefulSet",
            "DaemonSet",
            "CronJob",
            "Job",
            "ApiRoute"
        ]
    );
}

#[test]
fn a_word_that_is_true_or_false_in_a_cluster_is_refused_without_quotes() {
    refuses(
        &route(
            "spec:\n  hosts: [no]\n  rules:\n  - matches:\n    - headers:\n      - {name: X-Beta, value: \
             yes}",
        ),
        &[
            "shop.yaml:5: spec.hosts[0]: no means false in a cluster: write it quoted, as \"no\", or \
             write false",
            "shop.yaml:9: spec.rules[0].matches[0].headers[0].value: yes means true in a cluster: \
             write it quoted, as \"yes\", or write true",
        ],
    );
    refuses(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {y: \"1\"}}\nimmutable: off\ndata:\n  \
         a: |\n    yes\n  b: 'on'\n  c: 010\n",
        &[
            "shop.yaml:3: metadata.labels.y: y means true in a cluster: write it quoted, as \"y\", or \
             write true",
            "shop.yaml:4: immutable: off means false in a cluster: write it quoted, as \"off\", or \
             write false",
            "shop.yaml:9: data.c: 010 is another number in a cluster, and text here: write it quoted, \
             as \"010\"",
        ],
    );
    refuses(&route("spec:\n  hosts: [\"no\", 'y']"), &[]);
}
