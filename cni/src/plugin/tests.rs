use super::*;

use std::cell::RefCell;
use std::path::PathBuf;

use sidecar::capture::Escape;

/// What was redirected, and whether it is.
#[derive(Default)]
struct Fake {
    redirected: RefCell<Vec<(PathBuf, Rules)>>,
}

impl Network for Fake {
    fn redirect(&self, netns: &Path, rules: &Rules) -> Result<(), enter::Error> {
        if netns == Path::new("/proc/1/ns/net") {
            return Err(enter::Error::Own("/proc/1/ns/net".into()));
        }
        let done = (netns.to_owned(), rules.clone());
        self.redirected.borrow_mut().push(done);
        Ok(())
    }

    fn is_redirected(&self, netns: &Path) -> Result<bool, enter::Error> {
        let redirected = self.redirected.borrow();
        Ok(redirected.iter().any(|(there, _)| there == netns))
    }
}

const NETNS: &str = "/var/run/netns/cni-1";

/// What the plugin answers with these variables changed, `None` for one that is not set.
fn call(
    command: &str,
    config: &Value,
    network: &Fake,
    changed: &[(&str, Option<&str>)],
) -> Result<Option<Value>, Failure> {
    let variable = |name: &str| {
        let changed = changed.iter().find(|(changed, _)| *changed == name);
        let value = match (changed, name) {
            (Some((_, value)), _) => *value,
            (None, "CNI_COMMAND") => Some(command),
            (None, "CNI_CONTAINERID") => Some("c1"),
            (None, "CNI_IFNAME") => Some("eth0"),
            (None, "CNI_NETNS") => Some(NETNS),
            (None, "CNI_ARGS") => {
                Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=orders-1;K8S_POD_UID=u")
            }
            _ => None,
        };
        value.map(str::to_owned)
    };
    answer(&variable, config.to_string().as_bytes(), network)
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "sandbox": NETNS }],
        "ips": [{ "address": "10.244.0.7/24", "gateway": "10.244.0.1", "interface": 0 }],
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

fn config(annotations: Value) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "meshwright-cni",
        "runtimeConfig": { ANNOTATIONS: annotations },
        "prevResult": result(),
    })
}

fn captured() -> Value {
    config(json!({ REDIRECT: r#"["--uid","1337"]"#, "kubernetes.io/config.source": "api" }))
}

#[test]
fn a_pod_that_injection_marked_is_redirected_as_the_init_container_would_and_the_chain_goes_on() {
    let network = Fake::default();
    let answered = call("ADD", &captured(), &network, &[]).unwrap();
    assert_eq!(answered, Some(result()));
    let expected = (PathBuf::from(NETNS), Rules::new(Escape::Uid(1337)));
    assert_eq!(*network.redirected.borrow(), [expected]);
}

#[test]
fn every_other_pod_is_left_as_it_is() {
    let mut silent = config(json!({}));
    silent.as_object_mut().unwrap().remove("runtimeConfig");
    let plain = json!({ "kubernetes.io/config.source": "api", "meshwright.dev/injected": "true" });
    for config in [config(plain), config(Value::Null), config(json!(7)), silent] {
        let network = Fake::default();
        for command in ["ADD", "CHECK"] {
            call(command, &config, &network, &[]).unwrap();
        }
        let answered = call("ADD", &config, &network, &[]).unwrap();
        assert_eq!(answered, Some(result()));
        assert!(network.redirected.borrow().is_empty(), "{config}");
    }
}

#[test]
fn the_answer_says_the_version_that_the_plugin_before_left_out() {
    let mut config = captured();
    config["prevResult"]
        .as_object_mut()
        .unwrap()
        .remove("cniVersion");
    let answered = call("ADD", &config, &Fake::default(), &[]).unwrap();
    assert_eq!(answered, Some(result()));
}

#[test]
fn check_fails_once_the_redirect_is_gone() {
    let network = Fake::default();
    call("ADD", &captured(), &network, &[]).unwrap();
    assert_eq!(call("CHECK", &captured(), &network, &[]), Ok(None));
    network.redirected.borrow_mut().clear();
    let failure = call("CHECK", &captured(), &network, &[]).unwrap_err();
    assert_eq!(failure.code, 101);
    assert!(failure.message.contains("pod shop/orders-1"), "{failure:?}");
}

#[test]
fn a_pod_is_taken_down_without_its_network_namespace() {
    let network = Fake::default();
    for changed in [
        ("CNI_NETNS", None),
        ("CNI_NETNS", Some("")),
        ("CNI_IFNAME", None),
    ] {
        assert_eq!(call("DEL", &captured(), &network, &[changed]), Ok(None));
    }
    for command in ["GC", "STATUS"] {
        let mut config = captured();
        config.as_object_mut().unwrap().remove("prevResult");
        assert_eq!(call(command, &config, &network, &[]), Ok(None));
    }
}

#[test]
fn the_versions_that_are_spoken_are_said_to_whoever_asks() {
    for asked in ["0.1.0", "0.4.0", "1.1.0", "9.9.9"] {
        let said = call(
            "VERSION",
            &json!({ "cniVersion": asked }),
            &Fake::default(),
            &[],
        );
        let versions = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        let expected = json!({ "cniVersion": asked, "supportedVersions": versions });
        assert_eq!(said, Ok(Some(expected)));
    }
}

#[test]
fn each_failure_has_the_code_of_the_specification_and_a_sentence() {
    let with = |field: &str, value: Value| {
        let mut config = captured();
        config[field] = value;
        config
    };
    let good = captured();
    let cases = [
        (
            with("cniVersion", json!("0.2.0")),
            None,
            1,
            "0.2.0, in which plugins can't be chained",
        ),
        (
            with("cniVersion", json!("2.0.0")),
            None,
            1,
            "speaks the CNI versions 0.3.0, ",
        ),
        (
            with("cniVersion", Value::Null),
            None,
            7,
            "cniVersion is no string",
        ),
        (
            with("prevResult", Value::Null),
            None,
            7,
            "it has to come after the plugin",
        ),
        (with("prevResult", json!([])), None, 7, "no prevResult"),
        (
            good.clone(),
            Some(("CNI_NETNS", None)),
            4,
            "CNI_NETNS is not set",
        ),
        (
            good.clone(),
            Some(("CNI_CONTAINERID", Some(""))),
            4,
            "CNI_CONTAINERID is not set",
        ),
        (
            good.clone(),
            Some(("CNI_IFNAME", None)),
            4,
            "CNI_IFNAME is not set",
        ),
        (
            good.clone(),
            Some(("CNI_COMMAND", Some("add"))),
            4,
            "CNI_COMMAND is \"add\"",
        ),
        (
            good,
            Some(("CNI_NETNS", Some("/proc/1/ns/net"))),
            4,
            "pod shop/orders-1 could not be captured: CNI_NETNS: /proc/1/ns/net is the node's own",
        ),
    ];
    for (config, changed, code, says) in cases {
        let network = Fake::default();
        let failure = call("ADD", &config, &network, changed.as_slice()).unwrap_err();
        assert_eq!(failure.code, code, "{failure:?}");
        assert!(failure.message.contains(says), "{failure:?}");
        assert!(network.redirected.borrow().is_empty());
        let json = failure.to_json();
        assert_eq!(json["code"], code);
        let version = json["cniVersion"].as_str().unwrap();
        assert!(VERSIONS.contains(&version), "{json}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let network = Fake::default();
    let variable = |_: &str| Some("ADD".to_owned());
    for (input, code) in [
        (&b""[..], 6),
        (b"{", 6),
        (b"[]", 6),
        (b"\xff\xfe", 6),
        (&[b'['; 100_000], 6),
        (&vec![b' '; MAX_INPUT_BYTES + 1], 7),
    ] {
        assert_eq!(answer(&variable, input, &network).unwrap_err().code, code);
    }
}

#[test]
fn an_annotation_that_injection_did_not_write_stops_the_pod_and_is_named() {
    let long = json!(vec!["--uid"; 5000]).to_string();
    for (annotation, says) in [
        (json!(7), "no string"),
        (json!(""), "no JSON list of strings"),
        (json!("--uid 1337"), "no JSON list of strings"),
        (json!("[1337]"), "no JSON list of strings"),
        (json!(r#"["--uid"]"#), "value is required"),
        (json!(r#"["--uid","root"]"#), "invalid value 'root'"),
        (
            json!(r#"["--exec","/bin/sh"]"#),
            "unexpected argument '--exec'",
        ),
        (json!(r#"["--help"]"#), "not as injection writes it"),
        (json!(long), "longer than 16384 bytes"),
    ] {
        let network = Fake::default();
        let config = config(json!({ REDIRECT: annotation }));
        let failure = call("ADD", &config, &network, &[]).unwrap_err();
        assert_eq!(failure.code, 7);
        let named = failure
            .message
            .contains("the annotation meshwright.dev/redirect of pod shop/orders-1");
        assert!(named && failure.message.contains(says), "{failure:?}");
        assert!(failure.message.len() <= MAX_MESSAGE_BYTES);
        assert!(network.redirected.borrow().is_empty());
    }
}

#[test]
fn names_of_any_length_make_no_long_event() {
    let long = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={}", "ö".repeat(5000));
    let mut config = captured();
    config["runtimeConfig"][ANNOTATIONS][REDIRECT] = json!("no");
    let failure = call(
        "ADD",
        &config,
        &Fake::default(),
        &[("CNI_ARGS", Some(&long))],
    )
    .unwrap_err();
    assert!(failure.message.len() <= MAX_MESSAGE_BYTES);
}
