//! A cluster that is none: a program called kubectl answers what was recorded, and a server for the sidecar of
//! every pod.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::mesh::{Folder, until};

/// The stand-in: writes down what it is asked, and its own process when it forwards.
const KUBECTL: &str = r#"#!/bin/sh
cd "$STANDIN" || exit 1
echo "$*" >> asked
case "$*" in
*'get --ignore-not-found -f -'*) cat > input; cat stored.json ;;
*'version -o json') cat version.json ;;
*'get --raw /apis/meshwright.dev/v1alpha1')
  [ -e kinds.json ] || { echo 'Error from server (NotFound): the server could not find the requested resource' >&2; exit 1; }
  cat kinds.json ;;
*'get deployments.apps --all-namespaces'*) cat operator.json ;;
*'get daemonsets.apps'*)
  [ -e plugin.json ] || { echo 'Error from server (Forbidden): daemonsets.apps is forbidden' >&2; exit 1; }
  cat plugin.json ;;
*webhookconfiguration/*) cat webhooks.json ;;
*'get service meshwright-operator'*) cat service.json ;;
*'get customresourcedefinitions'*) cat definitions.json ;;
*'auth can-i create '*) cat may ;;
*'get deployment/web'*) cat deployment.json ;;
*'get apiroutes.meshwright.dev,eventsubscriptions.meshwright.dev,ratelimits.meshwright.dev'*) cat routes.json ;;
*'get namespaces'*) cat namespaces.json ;;
*'get pods'*) cat pods.json ;;
*'get secrets'*) cat secrets.json ;;
*'create -f - -o name'*) cat > created.json ;;
*'patch secret'*) [ ! -e refuses ] || { echo 'Error from server (Forbidden): secrets' >&2; exit 1; } ;;
*'delete secret'*) ;;
*port-forward*)
  echo $$ >> forwards
  for last; do :; done
  echo "Forwarding from 127.0.0.1:$FORWARDED -> ${last##*:}"
  exec sleep 600 ;;
*) echo "what is $*?" >&2; exit 1 ;;
esac
"#;

/// What a sidecar was recorded to answer.
const TAPPED: &str = r#"{"time":"2026-01-31T06:29:06.123456Z","direction":"outbound","method":"GET","host":"orders","path":"/1","service":"shop/orders","status":200,"outcome":"complete","duration_us":1234}"#;

/// A folder of documents, and the cluster.
pub(crate) struct StandIn {
    pub(crate) folder: Folder,
    around: tempfile::TempDir,
    pub(crate) forwarded: u16,
}

impl StandIn {
    pub(crate) fn new(documents: &[Value]) -> Self {
        let around = tempfile::tempdir().unwrap();
        let kubectl = around.path().join("kubectl");
        std::fs::write(&kubectl, KUBECTL).unwrap();
        std::fs::set_permissions(kubectl, Permissions::from_mode(0o755)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let forwarded = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || sidecar(stream));
            }
        });
        let this = Self {
            folder: Folder::new(documents),
            around,
            forwarded,
        };
        for (file, answer) in [
            ("routes.json", json!({ "kind": "List", "items": [] })),
            ("namespaces.json", json!({ "kind": "List", "items": [] })),
            (
                "pods.json",
                json!({ "kind": "List", "items": [pod("web-5d9f")] }),
            ),
            ("version.json", kubernetes("v1.35.0")),
            ("kinds.json", kinds()),
            ("operator.json", operator()),
            ("plugin.json", json!({ "kind": "List", "items": [] })),
            ("webhooks.json", webhooks()),
            ("service.json", json!({ "kind": "Service" })),
            ("definitions.json", json!({ "kind": "List", "items": [] })),
            (
                "deployment.json",
                json!({ "spec": { "selector": { "matchLabels": { "app": "web" } } } }),
            ),
        ] {
            this.answers(file, &answer);
        }
        this
    }

    pub(crate) fn answers(&self, file: &str, answer: &Value) {
        std::fs::write(self.path().join(file), answer.to_string()).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.around.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.command(arguments);
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", self.path().display()))
            .env("STANDIN", self.path())
            .env("FORWARDED", self.forwarded.to_string());
        command
    }

    pub(crate) fn kept(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }

    /// Waits until no kubectl forwards any more.
    pub(crate) fn nobody_forwards(&self) {
        let ids = self.kept("forwards");
        assert!(!ids.is_empty());
        until("every kubectl has ended", || {
            let mut ids = ids.lines();
            ids.all(|id| !Path::new("/proc").join(id).exists())
        });
    }
}

/// What a server of this version says of itself.
pub(crate) fn kubernetes(version: &str) -> Value {
    json!({ "clientVersion": { "gitVersion": "v1.35.0" }, "serverVersion": { "gitVersion": version } })
}

/// The kinds of the mesh, as a server tells that it knows them.
pub(crate) fn kinds() -> Value {
    let resources = [
        "apiroutes",
        "eventsubscriptions",
        "ratelimits",
        "retrypolicies",
    ]
    .map(|name| json!({ "name": name, "namespaced": true, "verbs": ["get", "list"] }));
    json!({ "kind": "APIResourceList", "groupVersion": "meshwright.dev/v1alpha1", "resources": resources })
}

/// An operator of this version that is ready.
pub(crate) fn operator() -> Value {
    let image = format!("ghcr.io/meshwright/operator:{}", env!("CARGO_PKG_VERSION"));
    let containers = json!([{ "name": "operator", "image": image }]);
    json!({ "kind": "List", "items": [{
        "kind": "Deployment", "metadata": { "name": "meshwright-operator", "namespace": "mesh" },
        "spec": { "replicas": 1, "template": { "spec": { "containers": containers } } },
        "status": { "readyReplicas": 1 },
    }] })
}

/// What the operator's API server is told of it.
pub(crate) fn webhooks() -> Value {
    let one = |kind: &str, name: &str, webhooks: &[&str], policy: &str| {
        let service = json!({ "namespace": "mesh", "name": "meshwright-operator", "port": 15017 });
        let webhooks = webhooks.iter().map(|name| {
            json!({ "name": name, "failurePolicy": policy,
                    "clientConfig": { "caBundle": "LS0=", "service": service } })
        });
        let webhooks: Vec<_> = webhooks.collect();
        json!({ "kind": kind, "metadata": { "name": name }, "webhooks": webhooks })
    };
    let inject = [
        "namespaces.inject.meshwright.dev",
        "pods.inject.meshwright.dev",
    ];
    json!({ "kind": "List", "items": [
        one("MutatingWebhookConfiguration", "meshwright-injector", &inject, "Fail"),
        one("ValidatingWebhookConfiguration", "meshwright-validator", &["validate.meshwright.dev"], "Ignore"),
    ] })
}

/// A pod of the mesh, as the API server tells it.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "initContainers": [{ "name": "meshwright-sidecar" }] },
        "status": { "phase": "Running" },
    })
}

/// Answers as the sidecar of that pod.
fn sidecar(stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut lines = lines.by_ref().map_while(Result::ok);
    let asked = lines.next().unwrap_or_default();
    let _ = lines.find(String::is_empty);
    let body = match asked.split(' ').nth(1).unwrap_or_default() {
        "/plaintext" => json!({ "callers": [{ "address": "10.1.2.3", "service": "shop/web",
            "requests": 2, "last": "2026-01-31T06:29:06Z" }], "forgotten": 0 })
        .to_string(),
        "/stalls" => json!({ "stalls": [{ "service": "shop/mail", "port": 25, "connections": 3,
            "last": "2026-01-31T06:29:06Z" }], "forgotten": 0 })
        .to_string(),
        "/config" => {
            json!({ "version": env!("CARGO_PKG_VERSION"), "ready": true, "notReadyBecause": null,
            "operator": { "connected": true, "complete": true, "error": null } })
            .to_string()
        }
        "/stats" => json!({ "config": { "rejected": 0 } }).to_string(),
        tap if tap.starts_with("/tap") => format!("{TAPPED}\n"),
        _ => "an application".to_owned(),
    };
    let length = body.len();
    let mut stream = stream;
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
    );
}
