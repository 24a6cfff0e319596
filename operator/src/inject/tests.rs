use super::*;
use std::path::Path;

mod again;
mod capture;

use clap::Parser;
use serde_json::Value;
use wire::probe::{Ask, HttpGet, Probes};

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
        roots_ended: None,
        probe_token: "t0ken".into(),
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

/// What the sidecar of an injected pod is told to ask.
fn asked(pod: &Value) -> Probes {
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let probes = env.iter().find(|one| one["name"] == "MESHWRIGHT_PROBES");
    Probes::parse(probes.unwrap()["value"].as_str().unwrap()).unwrap()
}

#[test]
fn what_the_kubelet_asks_over_the_network_it_asks_the_sidecar_and_the_sidecar_the_application() {
    let mut pod = plain();
    let port = json!([{ "name": "http", "containerPort": 8080 }]);
    let container = json!({
        "name": "orders",
        "image": "orders:1",
        "ports": port,
        "startupProbe": { "tcpSocket": { "port": "8080" }, "failureThreshold": 30 },
        "readinessProbe": { "httpGet": {
            "port": "http", "path": "ready?full=1#top", "scheme": "HTTPS",
            "httpHeaders": [{ "name": "Host", "value": "orders" }, { "name": "x-a", "value": "$(B)" }],
        }, "timeoutSeconds": 3 },
        "livenessProbe": { "grpc": { "port": 9000, "service": "orders" }, "periodSeconds": 7 },
        "lifecycle": {
            "postStart": { "httpGet": { "port": 8080, "path": "/began" } },
            "preStop": { "httpGet": { "port": 8080, "host": "" } },
        },
    });
    let helper = json!({
        "name": "helper", "image": "helper:1", "restartPolicy": "Always",
        "startupProbe": { "httpGet": { "port": 7000, "path": "/up" } },
    });
    pod["spec"]["containers"] = json!([container]);
    pod["spec"]["initContainers"] = json!([helper]);
    let injected = injected(&pod).unwrap();

    let get = |path: &str| {
        json!({ "path": path, "port": 15021, "scheme": "HTTP",
                "httpHeaders": [{ "name": "meshwright-probe", "value": "t0ken" }] })
    };
    let container = &injected["spec"]["containers"][0];
    assert_eq!(
        container["startupProbe"],
        json!({ "httpGet": get("/app-health/orders/startupz"), "failureThreshold": 30 })
    );
    assert_eq!(
        container["readinessProbe"],
        json!({ "httpGet": get("/app-health/orders/readyz"), "timeoutSeconds": 3 })
    );
    assert_eq!(
        container["livenessProbe"],
        json!({ "httpGet": get("/app-health/orders/livez"), "periodSeconds": 7 })
    );
    assert_eq!(
        container["lifecycle"],
        json!({ "postStart": { "httpGet": get("/app-health/orders/poststart") },
                "preStop": { "httpGet": get("/app-health/orders/prestop") } })
    );
    // After the two that are put before it.
    let helper = &injected["spec"]["initContainers"][2];
    assert_eq!(
        helper["startupProbe"]["httpGet"],
        get("/app-health/helper/startupz")
    );

    let probes = asked(&injected);
    assert_eq!(probes.token, "t0ken");
    let ask = |path: &str| &probes.questions[&format!("/app-health/{path}")];
    assert_eq!(ask("orders/startupz").ask, Ask::TcpSocket { port: 8080 });
    assert_eq!(ask("orders/startupz").timeout_seconds, Some(1));
    let ready = Ask::HttpGet(HttpGet {
        port: 8080,
        path: "/ready?full=1".into(),
        https: true,
        headers: vec![
            ("Host".into(), "orders".into()),
            ("x-a".into(), "$(B)".into()),
        ],
    });
    assert_eq!(ask("orders/readyz").ask, ready);
    assert_eq!(ask("orders/readyz").timeout_seconds, Some(3));
    let live = Ask::Grpc {
        port: 9000,
        service: "orders".into(),
    };
    assert_eq!(ask("orders/livez").ask, live);
    assert!(ask("orders/poststart").is_hook && !ask("orders/readyz").is_hook);
    assert_eq!(ask("orders/prestop").timeout_seconds, None);
    assert_eq!(ask("helper/startupz").ask.port(), 7000);
    assert_eq!(probes.questions.len(), 6);
}

#[test]
fn commands_probes_of_other_hosts_and_probes_of_excluded_ports_stay_as_they_are() {
    let mut pod = plain();
    pod["metadata"]["annotations"] = json!({ "meshwright.dev/exclude-inbound-ports": "9090" });
    let container = &mut pod["spec"]["containers"][0];
    container["startupProbe"] = json!({ "exec": { "command": ["/ready"] } });
    container["readinessProbe"] = json!({ "httpGet": { "host": "192.0.2.1", "port": 80 } });
    container["livenessProbe"] = json!({ "tcpSocket": { "port": 9090 } });
    container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 5 } } });
    let injected = injected(&pod).unwrap();
    assert_eq!(injected["spec"]["containers"], pod["spec"]["containers"]);
    let env = injected["spec"]["initContainers"][1]["env"].to_string();
    assert!(!env.contains("MESHWRIGHT_PROBES"), "{env}");
}

#[test]
fn a_probe_that_cannot_be_asked_is_refused_before_the_pod_waits_for_it_forever() {
    for (probe, why) in [
        (
            json!({ "httpGet": { "port": "http" } }),
            "\"http\" is the name of none of the container's ports",
        ),
        (
            json!({ "tcpSocket": { "port": 65536 } }),
            "65536 is no port",
        ),
        (json!({ "grpc": { "port": 0 } }), "port 0 is no port"),
        (
            json!({ "httpGet": { "port": 15021 } }),
            "port 15021 is no port of an application",
        ),
        (
            json!({ "httpGet": { "port": 80, "path": "/a b" } }),
            "write them as %20",
        ),
        (
            json!({ "tcpSocket": { "port": 80 }, "timeoutSeconds": 86400 }),
            "timeoutSeconds must be",
        ),
    ] {
        let refused = refused(|pod| pod["spec"]["containers"][0]["livenessProbe"] = probe.clone());
        let said = refused.to_string();
        assert!(
            said.contains("container orders has a liveness probe that can't be asked"),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
    }
    let long = "x".repeat(4000);
    let header = json!({ "name": "x-long", "value": long });
    let headers: Vec<_> = (0..32).map(|_| header.clone()).collect();
    let get = json!({ "httpGet": { "port": 80, "httpHeaders": headers } });
    let refused = refused(|pod| pod["spec"]["containers"][0]["livenessProbe"] = get);
    assert!(
        refused.to_string().contains("shorten their headers"),
        "{refused}"
    );
}

#[test]
fn a_pod_says_what_its_own_sidecar_is_like_and_what_goes_around_it() {
    let mut pod = plain();
    pod["metadata"]["annotations"] = json!({
        "meshwright.dev/exclude-inbound-ports": "9090",
        "meshwright.dev/exclude-outbound-ports": "3306,5432",
        "meshwright.dev/exclude-outbound-cidrs": "10.1.0.0/16,fd00:1::/64",
        "meshwright.dev/sidecar-cpu-request": "50m",
        "meshwright.dev/sidecar-cpu-limit": "1",
        "meshwright.dev/sidecar-memory-request": "64Mi",
        "meshwright.dev/sidecar-memory-limit": "1Gi",
        "meshwright.dev/sidecar-log": "info,sidecar=debug",
        "meshwright.dev/sidecar-workers": "2",
    });
    let injected = injected(&pod).unwrap();
    let [redirect, sidecar] = [0, 1].map(|at| &injected["spec"]["initContainers"][at]);
    assert_eq!(
        redirect["args"],
        json!([
            "redirect",
            "--uid",
            "1337",
            "--exclude-inbound-port",
            "9090",
            "--exclude-outbound-port",
            "3306",
            "--exclude-outbound-port",
            "5432",
            "--exclude-outbound-cidr",
            "10.1.0.0/16",
            "--exclude-outbound-cidr",
            "fd00:1::/64",
        ])
    );
    let resources = json!({
        "requests": { "cpu": "50m", "memory": "64Mi" },
        "limits": { "cpu": "1", "memory": "1Gi" },
    });
    assert_eq!(sidecar["resources"], resources);
    assert_eq!(redirect["resources"], resources);
    let env = sidecar["env"].as_array().unwrap();
    assert!(env.contains(&json!({ "name": "MESHWRIGHT_LOG", "value": "info,sidecar=debug" })));
    assert!(env.contains(&json!({ "name": "MESHWRIGHT_WORKERS", "value": "2" })));
}

#[test]
fn a_setting_that_means_nothing_or_contradicts_another_is_refused_with_its_annotation() {
    let refused = |annotation: &str, value: &str| {
        let annotations = json!({ format!("meshwright.dev/{annotation}"): value });
        refused(|pod| pod["metadata"]["annotations"] = annotations).to_string()
    };
    for (annotation, value) in [
        ("exclude-inbound-ports", "http"),
        ("exclude-outbound-ports", "70000"),
        ("exclude-outbound-cidrs", "10.1.2.3/16"),
        ("sidecar-cpu-limit", "much"),
        ("sidecar-log", "loud"),
        ("sidecar-workers", "0"),
    ] {
        let said = refused(annotation, value);
        let field = format!("metadata.annotations.meshwright.dev/{annotation} ");
        assert!(said.starts_with(&field) && said.contains("write"), "{said}");
    }
    // The most of memory is 256Mi for all, unless it is said as well.
    let said = refused("sidecar-memory-request", "512Mi");
    assert_eq!(
        said,
        "metadata.annotations.meshwright.dev/sidecar-memory-request makes the sidecar's request of \
         512Mi more than its limit of 256Mi: write meshwright.dev/sidecar-memory-limit as well"
    );
    let said = refused("sidecar-memory-limit", "16Mi");
    assert!(
        said.ends_with("write meshwright.dev/sidecar-memory-request as well"),
        "{said}"
    );
}

#[test]
fn resources_on_the_command_line_are_checked_there() {
    let parse = |json: &str| Command::try_parse_from(["operator", "--sidecar-resources", json]);
    assert!(parse("{}").is_ok());
    assert!(parse("cpu=1").is_err());
    assert!(parse(r#"{"requests":7}"#).is_err());
}
