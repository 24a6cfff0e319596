//! What a node's container runtime passes the CNI plugin, and the networks that it is added to.

use std::cell::Cell;
use std::path::Path;

use cni::network;
use cni::plugin::{self, Network};
use cni::{enter, plugin::VERSIONS};
use serde_json::Value;
use sidecar::capture::Rules;

use crate::{fuzz, text};

const CALL: &[u8] = br#"{"cniVersion":"1.0.0","name":"pods","type":"meshwright-cni","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"meshwright.dev/redirect":"[\"--uid\",\"1337\"]","a":"b"}},"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/24"}]}}"#;
const LIST: &[u8] = br#"{"cniVersion":"0.3.1","name":"net","plugins":[{"type":"ptp","mtu":1500},{"type":"meshwright-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}},{"type":"portmap"}]}"#;
const SINGLE: &[u8] = br#"{"cniVersion":"1.0.0","name":"net","type":"bridge","ipam":{}}"#;

/// Counts what is redirected.
#[derive(Default)]
struct Counted(Cell<usize>);

impl Network for Counted {
    fn redirect(&self, _: &Path, _: &Rules) -> Result<(), enter::Error> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn is_redirected(&self, _: &Path) -> Result<bool, enter::Error> {
        Ok(true)
    }
}

#[test]
fn fuzz_calls_of_a_container_runtime() {
    let pieces: &[&[u8]] = &[
        br#""cniVersion":"0.2.0","#,
        br#""runtimeConfig":null,"#,
        br#""prevResult":{},"#,
        b"meshwright.dev/redirect",
        br#"\"--mark\",\"1\","#,
        br#"\"--remove\","#,
        br#"\"--help\","#,
        b"null",
        b"1.1.0",
    ];
    fuzz(20_000, &[CALL], pieces, |input| {
        let network = Counted::default();
        let variable =
            |name: &str| Some(if name == "CNI_COMMAND" { "ADD" } else { "x" }.to_owned());
        match plugin::answer(&variable, input, &network) {
            Ok(answer) => {
                // What the plugin before made, and the pod captured if it was marked.
                let call: Value = serde_json::from_slice(input).expect("a call is JSON");
                let answer = answer.expect("ADD has an answer");
                let before = call["prevResult"].as_object().expect("a chain");
                assert!(before.iter().all(|(field, value)| answer[field] == *value));
                let annotations = &call["runtimeConfig"][plugin::ANNOTATIONS];
                let marked = annotations.get(wire::capture::REDIRECT).is_some();
                assert_eq!(network.0.get(), usize::from(marked));
            }
            Err(failure) => {
                assert_eq!(network.0.get(), 0);
                let json = failure.to_json();
                let version = json["cniVersion"].as_str().expect("a version");
                assert!(VERSIONS.contains(&version) && failure.code > 0);
                assert!(!failure.message.is_empty());
            }
        }
    });
}

#[test]
fn fuzz_networks_that_the_plugin_is_added_to() {
    let pieces: &[&[u8]] = &[
        br#"{"type":"meshwright-cni"},"#,
        br#""plugins":[],"#,
        br#""plugins":{},"#,
        br#""type":"bridge","#,
        br#""cniVersion":"1.1.0","#,
        b"null",
    ];
    let check = text(|written| {
        let Ok(network) = network::Network::read(written) else {
            return;
        };
        let added = network.clone().with_plugin();
        let read = network::Network::read(&added.to_text()).expect("what we write is a network");
        assert!(read.has_plugin() && read == added);
        let removed = read.without_plugin().expect("it was there");
        assert!(!removed.has_plugin());
        assert_eq!(removed.clone().with_plugin(), added);
    });
    fuzz(20_000, &[LIST, SINGLE], pieces, check);
}
