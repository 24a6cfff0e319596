//! Pods that were injected before: what is there already, and what others have added since.

use super::*;

fn once() -> Value {
    let mut pod = crowded();
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({ "httpGet": { "path": "/live", "port": 8080 } });
    injected(&pod).unwrap()
}

/// Another webhook adds this container, and the API server comes back.
fn added(list: &str, container: Value) -> Value {
    let mut pod = once();
    pod["spec"][list].as_array_mut().unwrap().push(container);
    pod
}

fn sidecar_of(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["initContainers"][1]
}

#[test]
fn a_container_that_came_later_has_its_probes_asked_by_the_sidecar_with_the_same_token() {
    let probe = json!({ "tcpSocket": { "port": 7000 } });
    let pod = added(
        "containers",
        json!({ "name": "proxy", "image": "proxy:1", "readinessProbe": probe }),
    );
    let mut config = config();
    config.probe_token = "an0ther".into();
    let again = injected_as(&pod, &config).unwrap();
    let get = &again["spec"]["containers"][1]["readinessProbe"]["httpGet"];
    assert_eq!(get["path"], "/app-health/proxy/readyz");
    assert_eq!(get["port"], 15021);
    assert_eq!(get["httpHeaders"][0]["value"], "t0ken");
    let probes = asked(&again);
    assert_eq!(probes.token, "t0ken");
    let paths: Vec<_> = probes.questions.keys().collect();
    assert_eq!(
        paths,
        ["/app-health/orders/livez", "/app-health/proxy/readyz"]
    );
    assert_eq!(
        injected_as(&again, &config).unwrap(),
        again,
        "and that once"
    );

    // Into a pod whose sidecar had nothing to ask.
    let mut pod = injected(&plain()).unwrap();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({ "grpc": { "port": 9000 } });
    let again = injected_as(&pod, &config).unwrap();
    assert_eq!(asked(&again).token, "an0ther");
    assert_eq!(injected(&again).unwrap(), again);
}

#[test]
fn a_container_that_came_later_is_refused_where_it_would_be_in_a_new_pod() {
    let user = json!({ "name": "proxy", "securityContext": { "runAsUser": UID } });
    let port = json!({ "name": "proxy", "ports": [{ "containerPort": 15001 }] });
    let named = json!({ "name": REDIRECT, "image": "proxy:1" });
    for list in ["containers", "initContainers"] {
        for (container, says) in [
            (&user, "container proxy runs as user 1337"),
            (&port, "container proxy has port 15001"),
            (&named, "a container called meshwright-redirect"),
        ] {
            let refused = injected(&added(list, container.clone())).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
        }
    }
    let mut pod = once();
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init.insert(0, json!({ "name": "secrets", "image": "secrets:1" }));
    assert_eq!(injected(&pod), Err(Refusal::Before("secrets".into())));
    let mut pod = once();
    pod["spec"]["hostNetwork"] = json!(true);
    assert_eq!(injected(&pod), Err(Refusal::HostNetwork));
}

type Change = fn(&mut Value);

#[test]
fn what_only_has_the_sidecars_name_and_the_annotation_is_no_injected_pod() {
    let mut by_hand = plain();
    by_hand["metadata"]["annotations"] = json!({ INJECTED: "true" });
    by_hand["spec"]["initContainers"] = json!([{ "name": SIDECAR, "image": "busybox" }]);
    let refused = injected(&by_hand).unwrap_err().to_string();
    assert!(
        refused
            .contains("container meshwright-sidecar is not as injection puts it there: its image"),
        "{refused}"
    );
    let changes: [(Change, &str); 7] = [
        (
            |one| one["command"] = json!(["sleep", "infinity"]),
            "a command",
        ),
        (
            |one| one["args"] = json!(["redirect", "--remove"]),
            "arguments",
        ),
        (
            |one| one["image"] = json!("registry.example/other:1"),
            "its image",
        ),
        (|one| one["restartPolicy"] = Value::Null, "does not stay"),
        (|one| one["securityContext"]["runAsUser"] = json!(0), "user"),
        (
            |one| {
                let env = one["env"].as_array_mut().unwrap();
                env.push(json!({ "name": "MESHWRIGHT_CAPTURED_BY", "value": "cni" }));
            },
            "who is to capture",
        ),
        (
            |one| {
                let env = one["env"].as_array_mut().unwrap();
                env.push(json!({ "name": "MESHWRIGHT_PROBES", "value": "{}" }));
            },
            "MESHWRIGHT_PROBES can't be read",
        ),
    ];
    for (change, says) in changes {
        let mut pod = once();
        change(sidecar_of(&mut pod));
        let refused = injected(&pod).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let mut pod = once();
    pod["spec"]["initContainers"][0]["args"] = json!(["redirect", "--remove"]);
    let refused = injected(&pod).unwrap_err().to_string();
    assert!(refused.contains("redirect nothing"), "{refused}");
    let mut pod = once();
    pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .remove(0);
    assert!(injected(&pod).is_err(), "nobody captures it");
}

#[test]
fn what_an_older_operator_or_another_registry_put_in_is_left_as_it_is() {
    let mut older = once();
    for nth in [0, 1] {
        older["spec"]["initContainers"][nth]["image"] =
            json!("mirror.example:5000/mesh/sidecar:0.9@sha256:00");
    }
    let mut flat = older.clone();
    for nth in [0, 1] {
        flat["spec"]["initContainers"][nth]["image"] = json!("mirror.example/mesh-sidecar:1");
    }
    assert_eq!(injected(&flat).unwrap(), flat);
    let env = sidecar_of(&mut older)["env"].as_array_mut().unwrap();
    // As before there was a plugin that could have done it.
    env.retain(|one| one["name"] != "MESHWRIGHT_CAPTURED_BY");
    env.push(json!({ "name": "OTHERS", "value": "too" }));
    assert_eq!(injected(&older).unwrap(), older);
}
