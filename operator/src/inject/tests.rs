use super::*;
use std::path::Path;

mod capture;

use clap::Parser;
use serde_json::Value;

use super::refusal::PORTS;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    sidecar: SidecarArgs,
}

fn config() -> Config {
    let command = ["operator", "--sidecar-image", "registry.example/sidecar:1"];
    Config {
        sidecar: Command::parse_from(command).sidecar,
        operator: "meshwright-operator.meshwright-system.svc:15012".into(),
        trust_domain: "cluster.local".into(),
        roots: "-----BEGIN CERTIFICATE-----\n".into(),
        namespace: BTreeMap::new(),
    }
}

fn plain() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "orders-1", "namespace": "shop" },
        "spec": { "containers": [{ "name": "orders", "image": "orders:1", "ports": [{ "containerPort": 8080 }] }] },
    })
}

/// One of everything that the patch has to find its place beside.
fn crowded() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "orders-",
            "namespace": "shop",
            "labels": { "app": "orders", "meshwright.dev/inject": "enabled" },
            "annotations": { "owner": "shop" },
        },
        "spec": {
            "serviceAccountName": "orders",
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2000 },
            "initContainers": [
                { "name": "migrate", "image": "migrate:1" },
                { "name": "logs", "image": "logs:1", "restartPolicy": "Always" },
            ],
            "containers": [{
                "name": "orders",
                "image": "orders:1",
                "readinessProbe": { "exec": { "command": ["/ready"] } },
                "livenessProbe": { "httpGet": { "host": "192.0.2.1", "port": 80 } },
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        },
    })
}

fn injected(pod: &Value) -> Result<Value, Refusal> {
    injected_as(pod, &config())
}

fn injected_as(pod: &Value, config: &Config) -> Result<Value, Refusal> {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    let patch = inject(&typed, config)?;
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    Ok(pod)
}

fn refused(change: impl FnOnce(&mut Value)) -> Refusal {
    let mut pod = plain();
    change(&mut pod);
    injected(&pod).unwrap_err()
}

/// Compares with `golden/<name>.json`; `UPDATE=1` writes it.
fn golden(name: &str, pod: &Value) {
    golden_of(name, &injected(pod).unwrap());
}

/// The same of a pod that was injected already.
fn golden_of(name: &str, pod: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/inject/golden")
        .join(name);
    let actual = serde_json::to_string_pretty(pod).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{name} differs; UPDATE=1 writes it. It is now:\n{actual}"
    );
}

#[test]
fn a_plain_pod_gets_a_redirect_and_a_sidecar() {
    golden("plain.json", &plain());
}

#[test]
fn what_a_pod_has_already_stays_and_comes_after() {
    golden("crowded.json", &crowded());
}

#[test]
fn an_injected_pod_is_left_as_it_is() {
    for pod in [plain(), crowded()] {
        let once = injected(&pod).unwrap();
        assert_eq!(injected(&once).unwrap(), once);
    }
}

#[test]
fn a_pod_that_is_labelled_disabled_is_left_as_it_is_whatever_it_holds() {
    let mut pod = plain();
    pod["metadata"]["labels"] = json!({ LABEL: "disabled" });
    pod["spec"]["hostNetwork"] = json!(true);
    assert_eq!(injected(&pod).unwrap(), pod);
}

#[test]
fn a_sidecar_that_was_written_by_hand_is_not_taken_for_ours() {
    let mut pod = plain();
    pod["spec"]["containers"][0]["name"] = json!(SIDECAR);
    assert_eq!(injected(&pod), Err(Refusal::Name(SIDECAR.into())));
    pod["metadata"]["annotations"] = json!({ INJECTED: "true" });
    assert_eq!(
        injected(&pod),
        Err(Refusal::Name(SIDECAR.into())),
        "a comment alone is no sidecar"
    );
}

#[test]
fn a_pod_whose_mode_means_nothing_is_refused_with_what_to_write() {
    let mode = json!({ "meshwright.dev/mode": "lax" });
    let refusal = refused(|pod| pod["metadata"]["labels"] = mode.clone()).to_string();
    assert_eq!(
        refusal,
        "metadata.labels.meshwright.dev/mode is \"lax\": write permissive or strict; until then it is \
         strict"
    );
    let ports = json!({ "meshwright.dev/permissive-ports": "http" });
    let refusal = refused(|pod| pod["metadata"]["annotations"] = ports.clone()).to_string();
    assert!(refusal.contains("\"http\", which is no port"), "{refusal}");
}

#[test]
fn a_pod_on_the_hosts_network_is_refused() {
    assert_eq!(
        refused(|pod| pod["spec"]["hostNetwork"] = json!(true)),
        Refusal::HostNetwork
    );
}

#[test]
fn a_windows_pod_is_refused() {
    assert_eq!(
        refused(|pod| pod["spec"]["os"] = json!({ "name": "windows" })),
        Refusal::Windows
    );
}

#[test]
fn a_container_that_would_pass_for_the_sidecar_is_refused() {
    let user = json!({ "runAsUser": UID });
    let whole = refused(|pod| pod["spec"]["securityContext"] = user.clone());
    assert_eq!(whole, Refusal::SameUser("the pod".into()));
    let one = refused(|pod| pod["spec"]["containers"][0]["securityContext"] = user.clone());
    assert_eq!(one, Refusal::SameUser("container orders".into()));
    let init = refused(|pod| {
        pod["spec"]["initContainers"] = json!([{ "name": "migrate", "securityContext": user }]);
    });
    assert_eq!(init, Refusal::SameUser("container migrate".into()));
}

#[test]
fn a_container_on_a_port_of_the_sidecars_is_refused() {
    for port in PORTS {
        let refused = refused(|pod| {
            pod["spec"]["containers"][0]["ports"] =
                json!([{ "containerPort": 80 }, { "containerPort": port }]);
        });
        assert_eq!(
            refused,
            Refusal::Port {
                container: "orders".into(),
                port
            }
        );
    }
}

#[test]
fn probes_that_the_sidecar_would_refuse_are_refused_before_the_pod_waits_for_them_forever() {
    let port = json!({ "port": 8080 });
    for (field, what) in [
        ("startupProbe", "startup probe"),
        ("readinessProbe", "readiness probe"),
        ("livenessProbe", "liveness probe"),
    ] {
        for how in ["httpGet", "tcpSocket", "grpc"] {
            let refused = refused(|pod| pod["spec"]["containers"][0][field] = json!({ how: port }));
            assert_eq!(
                refused,
                Refusal::Kubelet {
                    container: "orders".into(),
                    what,
                    how
                }
            );
        }
    }
    for (field, what) in [("postStart", "postStart hook"), ("preStop", "preStop hook")] {
        let hook = json!({ field: { "httpGet": port } });
        let refused = refused(|pod| pod["spec"]["containers"][0]["lifecycle"] = hook);
        assert_eq!(
            refused,
            Refusal::Kubelet {
                container: "orders".into(),
                what,
                how: "httpGet"
            }
        );
    }
}

#[test]
fn resources_on_the_command_line_are_checked_there() {
    let parse = |json: &str| Command::try_parse_from(["operator", "--sidecar-resources", json]);
    assert!(parse("{}").is_ok());
    assert!(parse("cpu=1").is_err());
    assert!(parse(r#"{"requests":7}"#).is_err());
}
