//! The plugin as a process, in the namespaces of a node and of a pod that this test makes as an
//! ordinary user.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Where a process sees the network namespace that it is in.
const OWN: &str = "/proc/self/ns/net";
/// The test that needs a node of its own.
const INSIDE: &str = "on_a_node";

#[test]
fn a_marked_pod_is_captured_from_its_node_and_the_node_itself_never() {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", INSIDE])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// A pod's network namespace, for as long as it is not dropped.
struct Pod(Child);

impl Pod {
    fn start() -> Self {
        let waits = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let pod = Self(waits);
        let own = std::fs::read_link(OWN).expect("an own namespace");
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::fs::read_link(pod.netns()).expect("a process") == own {
            assert!(Instant::now() < deadline, "no namespace was made");
            std::thread::yield_now();
        }
        pod
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Exit code and answer of one call.
fn call(command: &str, netns: &str, annotations: &Value) -> (i32, Value) {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "meshwright-cni",
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations },
        "prevResult": { "cniVersion": "1.0.0", "ips": [] },
    });
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_meshwright-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", netns)
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=orders-1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin runs");
    let mut stdin = plugin.stdin.take().expect("an input");
    let written = stdin.write_all(config.to_string().as_bytes());
    written.expect("the plugin reads");
    drop(stdin);
    let output = plugin.wait_with_output().expect("the plugin ends");
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().expect("an exit code"), answer)
}

#[test]
#[ignore = "needs a node: run by its caller above"]
fn on_a_node() {
    let marked = json!({ "meshwright.dev/redirect": r#"["--uid","1337"]"# });
    let pod = Pod::start();
    let netns = pod.netns();

    let (code, before) = call("CHECK", &netns, &marked);
    assert_eq!((code, &before["code"]), (1, &json!(101)), "{before}");
    let (code, left) = call("ADD", &netns, &json!({ "app": "orders" }));
    assert_eq!(code, 0, "{left}");
    assert_eq!(call("CHECK", &netns, &marked).0, 1, "it was not marked");

    let (code, result) = call("ADD", &netns, &marked);
    assert_eq!(code, 0, "{result}");
    assert_eq!(result, json!({ "cniVersion": "1.0.0", "ips": [] }));
    assert_eq!(call("CHECK", &netns, &marked), (0, Value::Null));
    assert_eq!(call("DEL", &netns, &marked), (0, Value::Null));

    let (code, refused) = call("ADD", OWN, &marked);
    let said = refused["msg"].as_str().unwrap_or_default();
    assert_eq!((code, &refused["code"]), (1, &json!(4)), "{refused}");
    assert!(said.contains("the node's own"), "{refused}");
    let (code, refused) = call("ADD", "/proc/self/ns/uts", &marked);
    assert_eq!((code, &refused["code"]), (1, &json!(4)), "{refused}");
    let (code, refused) = call("ADD", "/nowhere", &marked);
    assert_eq!((code, &refused["code"]), (1, &json!(4)), "{refused}");
}
