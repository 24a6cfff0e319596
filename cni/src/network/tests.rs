use super::*;

/// As kind has it.
const LIST: &str = r#"{
    "cniVersion": "0.3.1",
    "name": "kindnet",
    "plugins": [
        { "type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": { "type": "host-local", "dataDir": "/run/cni-ipam-state" } },
        { "type": "portmap", "capabilities": { "portMappings": true } }
    ]
}"#;

/// As a single plugin is written.
const SINGLE: &str = r#"{ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": { "type": "host-local" } }"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_plugin_is_added_at_the_end_of_a_list_and_nothing_else_changes() {
    let network = Network::read(LIST).unwrap();
    assert!(!network.has_plugin());
    let added = network.with_plugin();
    assert!(added.has_plugin());
    let mut expected = json(LIST);
    expected["plugins"].as_array_mut().unwrap().push(json!({
        "type": "meshwright-cni",
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
    }));
    assert_eq!(json(&added.to_text()), expected);

    let again = Network::read(&added.to_text()).unwrap().with_plugin();
    assert_eq!(again, added, "once is enough");
    let removed = added.without_plugin().unwrap();
    assert_eq!(json(&removed.to_text()), json(LIST));
    assert_eq!(removed.without_plugin(), None);
}

#[test]
fn a_single_plugin_becomes_a_list_of_two() {
    let network = Network::read(SINGLE).unwrap();
    assert_eq!(network.shape(), Shape::Single);
    let expected = json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "plugins": [
            { "type": "bridge", "ipam": { "type": "host-local" } },
            { "type": "meshwright-cni", "capabilities": { "io.kubernetes.cri.pod-annotations": true } },
        ],
    });
    assert_eq!(json(&network.with_plugin().to_text()), expected);
}

#[test]
fn an_entry_that_is_not_the_last_or_asks_for_no_annotations_is_put_right() {
    for plugins in [
        json!([{ "type": "ptp" }, { "type": PLUGIN, "capabilities": { ANNOTATIONS: true } }, { "type": "tuning" }]),
        json!([{ "type": "ptp" }, { "type": "tuning" }, { "type": PLUGIN }]),
        json!([{ "type": PLUGIN }, { "type": "ptp" }, { "type": PLUGIN }, { "type": "tuning" }]),
    ] {
        let text = json!({ "cniVersion": "1.1.0", "name": "net", "plugins": plugins }).to_string();
        let network = Network::read(&text).unwrap();
        assert!(!network.has_plugin(), "{text}");
        let right = json(&network.with_plugin().to_text());
        let expected = json!([{ "type": "ptp" }, { "type": "tuning" }, entry()]);
        assert_eq!(right["plugins"], expected);
    }
}

#[test]
fn what_nothing_can_be_added_to_is_refused_with_a_reason() {
    for (text, says) in [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "no object"),
        ("null", "no object"),
        (r#"{"cniVersion":"1.0.0"}"#, "neither `plugins` nor `type`"),
        (
            r#"{"cniVersion":"1.0.0","type":7}"#,
            "neither `plugins` nor `type`",
        ),
        (
            r#"{"cniVersion":"1.0.0","plugins":{}}"#,
            "`plugins` is no list",
        ),
        (
            r#"{"cniVersion":"1.0.0","plugins":[]}"#,
            "`plugins` is empty",
        ),
        (r#"{"cniVersion":"1.0.0","plugins":[7]}"#, "no `type`"),
        (
            r#"{"cniVersion":"1.0.0","plugins":[{"type":null}]}"#,
            "no `type`",
        ),
        (
            r#"{"cniVersion":1,"type":"bridge"}"#,
            "`cniVersion` is no string",
        ),
        (
            r#"{"cniVersion":"0.2.0","type":"bridge"}"#,
            "0.2.0, in which plugins can't be chained",
        ),
        (r#"{"type":"bridge"}"#, "in which plugins can't be chained"),
        (
            r#"{"cniVersion":"9.0.0","plugins":[{"type":"bridge"}]}"#,
            "9.0.0",
        ),
    ] {
        let said = Network::read(text).unwrap_err().to_string();
        assert!(said.contains(says), "{text}: {said}");
    }
    let many = vec![json!({ "type": "tuning" }); 65];
    let many = json!({ "cniVersion": "1.0.0", "plugins": many }).to_string();
    assert!(Network::read(&many).is_err());
    let deep = "[".repeat(100_000);
    assert!(Network::read(&deep).is_err());
}
