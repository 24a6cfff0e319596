//! Who captures a pod, and what it then is.

use super::*;
use crate::inject::capture::CAPTURE;

/// As the operator is told, for a namespace with these labels.
fn in_namespace(capture: Capture, labels: &[(&str, &str)]) -> Config {
    let mut config = config();
    config.sidecar.capture = capture;
    config.namespace = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    config
}

fn names(pod: &Value) -> Vec<&str> {
    let init = pod["spec"]["initContainers"].as_array().unwrap().iter();
    init.map(|container| container["name"].as_str().unwrap())
        .collect()
}

const CNI: &[&str] = &[SIDECAR];
const INIT: &[&str] = &[REDIRECT, SIDECAR];

#[test]
fn where_no_container_may_have_net_admin_the_nodes_plugin_captures() {
    for level in ["baseline", "restricted"] {
        let config = in_namespace(
            Capture::Init,
            &[("pod-security.kubernetes.io/enforce", level)],
        );
        let pod = injected_as(&plain(), &config).unwrap();
        golden_of("captured-by-cni.json", &pod);
    }
    for labels in [
        &[("pod-security.kubernetes.io/enforce", "privileged")][..],
        &[("pod-security.kubernetes.io/warn", "restricted")],
        &[],
    ] {
        let pod = injected_as(&plain(), &in_namespace(Capture::Init, labels)).unwrap();
        assert_eq!(names(&pod), INIT, "{labels:?}");
    }
}

#[test]
fn a_label_says_who_captures_the_pods_first_then_its_namespaces_then_the_operators_setting() {
    let restricted = ("pod-security.kubernetes.io/enforce", "restricted");
    let cases = [
        (Capture::Cni, &[][..], None, CNI),
        (Capture::Cni, &[(CAPTURE, "init")], None, INIT),
        (Capture::Init, &[(CAPTURE, "cni")], None, CNI),
        (Capture::Init, &[(CAPTURE, "cni")], Some("init"), INIT),
        (Capture::Init, &[], Some("cni"), CNI),
        (Capture::Init, &[restricted, (CAPTURE, "init")], None, INIT),
        (Capture::Cni, &[restricted], Some("init"), INIT),
    ];
    for (default, namespace, own, expected) in cases {
        let mut pod = plain();
        if let Some(own) = own {
            pod["metadata"]["labels"] = json!({ CAPTURE: own });
        }
        let pod = injected_as(&pod, &in_namespace(default, namespace)).unwrap();
        assert_eq!(names(&pod), expected, "{default:?} {namespace:?} {own:?}");
    }
}

#[test]
fn the_plugin_is_told_what_the_init_container_would_be_whatever_the_pod_says() {
    let mut pod = crowded();
    pod["metadata"]["annotations"][wire::capture::REDIRECT] = json!(r#"["--uid","0"]"#);
    let with = |capture| injected_as(&pod, &in_namespace(capture, &[])).unwrap();
    let by_init = with(Capture::Init);
    let by_cni = with(Capture::Cni);
    let annotation = &by_cni["metadata"]["annotations"][wire::capture::REDIRECT];
    let told: Vec<Value> = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
    let arguments = by_init["spec"]["initContainers"][0]["args"].as_array();
    assert_eq!(told, arguments.unwrap()[1..]);
    assert_eq!(names(&by_cni), [SIDECAR, "migrate", "logs"]);
    assert_eq!(
        injected_as(&by_cni, &in_namespace(Capture::Init, &[])).unwrap(),
        by_cni
    );
}

#[test]
fn the_sidecar_is_told_who_was_to_capture_its_pod() {
    for (capture, by) in [(Capture::Init, "init"), (Capture::Cni, "cni")] {
        let pod = injected_as(&plain(), &in_namespace(capture, &[])).unwrap();
        let init = pod["spec"]["initContainers"].as_array().unwrap();
        let env = init.last().unwrap()["env"].as_array().unwrap();
        let said = json!({ "name": "MESHWRIGHT_CAPTURED_BY", "value": by });
        assert!(env.contains(&said), "{env:?}");
    }
}

#[test]
fn a_label_that_names_nobody_is_refused_with_what_to_write() {
    let mut pod = plain();
    pod["metadata"]["labels"] = json!({ CAPTURE: "ebpf" });
    let said = injected(&pod).unwrap_err().to_string();
    let expected = "metadata.labels.meshwright.dev/capture is \"ebpf\": write init or cni";
    assert_eq!(said, expected);
    let config = in_namespace(Capture::Init, &[(CAPTURE, "")]);
    let said = injected_as(&plain(), &config).unwrap_err().to_string();
    assert!(
        said.starts_with("its namespace's metadata.labels.meshwright.dev/capture"),
        "{said}"
    );
}
