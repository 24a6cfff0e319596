//! Commands that ask a cluster. There is none here: a program called kubectl stands in for it, which
//! answers what was recorded; `tests/cluster` has a real one.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use cli::consumer::key::is_key;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::mesh::{Folder, route, until};
use crate::tap::Runs;

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
*webhookconfiguration/*) cat webhooks.json ;;
*'get service meshwright-operator'*) cat service.json ;;
*'get customresourcedefinitions'*) cat definitions.json ;;
*'auth can-i create '*) cat may ;;
*'get deployment/web'*) cat deployment.json ;;
*'get apiroutes.meshwright.dev,ratelimits.meshwright.dev'*) cat routes.json ;;
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

struct StandIn {
    folder: Folder,
    around: tempfile::TempDir,
    forwarded: u16,
}

impl StandIn {
    fn new(documents: &[Value]) -> Self {
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

    fn answers(&self, file: &str, answer: &Value) {
        std::fs::write(self.path().join(file), answer.to_string()).unwrap();
    }

    fn path(&self) -> &Path {
        self.around.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.command(arguments);
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", self.path().display()))
            .env("STANDIN", self.path())
            .env("FORWARDED", self.forwarded.to_string());
        command
    }

    fn kept(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }

    /// Waits until no kubectl forwards any more.
    fn nobody_forwards(&self) {
        let ids = self.kept("forwards");
        assert!(!ids.is_empty());
        until("every kubectl has ended", || {
            let mut ids = ids.lines();
            ids.all(|id| !Path::new("/proc").join(id).exists())
        });
    }
}

/// What a server of this version says of itself.
fn kubernetes(version: &str) -> Value {
    json!({ "clientVersion": { "gitVersion": "v1.35.0" }, "serverVersion": { "gitVersion": version } })
}

/// The kinds of the mesh, as a server tells that it knows them.
fn kinds() -> Value {
    let resources = ["apiroutes", "ratelimits", "retrypolicies"]
        .map(|name| json!({ "name": name, "namespaced": true, "verbs": ["get", "list"] }));
    json!({ "kind": "APIResourceList", "groupVersion": "meshwright.dev/v1alpha1", "resources": resources })
}

/// An operator of this version that is ready.
fn operator() -> Value {
    let image = format!("ghcr.io/meshwright/operator:{}", env!("CARGO_PKG_VERSION"));
    let containers = json!([{ "name": "operator", "image": image }]);
    json!({ "kind": "List", "items": [{
        "kind": "Deployment", "metadata": { "name": "meshwright-operator", "namespace": "mesh" },
        "spec": { "replicas": 1, "template": { "spec": { "containers": containers } } },
        "status": { "readyReplicas": 1 },
    }] })
}

/// What the operator's API server is told of it.
fn webhooks() -> Value {
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
fn pod(name: &str) -> Value {
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

#[test]
fn check_in_a_cluster_names_what_is_stored_otherwise_what_is_refused_and_who_waits() {
    let mail = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mail", "namespace": "shop" },
        "spec": { "ports": [{ "port": 25 }] } });
    let gone = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    let cluster = StandIn::new(&[route("2s"), mail.clone(), gone]);
    let mut stored = route("3s");
    stored["metadata"]["uid"] = json!("1");
    stored["status"] = json!({ "conditions": [
        { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "" },
        { "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
          "message": "there is no Service orders-v2" },
    ] });
    let mut dropped = mail;
    dropped["spec"] = json!({ "clusterIP": "10.0.0.1" });
    cluster.answers(
        "stored.json",
        &json!({ "kind": "List", "items": [stored, dropped] }),
    );
    cluster.answers("routes.json", &json!({ "kind": "List", "items": [stored] }));

    let labelled =
        json!({ "metadata": { "name": "shop", "labels": { "meshwright.dev/inject": "enabled" } } });
    cluster.answers(
        "namespaces.json",
        &json!({ "kind": "List", "items": [labelled] }),
    );
    let mut late = pod("late");
    late["spec"] = json!({ "containers": [{ "name": "app" }] });
    cluster.answers(
        "pods.json",
        &json!({ "kind": "List", "items": [pod("web-5d9f"), late] }),
    );

    let folder = cluster.folder.path().to_str().unwrap();
    let checked = cluster
        .command(&["check", folder, "--cluster"])
        .output()
        .unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{said}{:?}", checked.stderr);
    let file = cluster.folder.path().join("shop.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let line = |what: &str| 1 + text.lines().position(|line| line.contains(what)).unwrap();
    let file = file.display();
    for told in [
        format!(
            "{file}:{}: ApiRoute shop/orders: spec.timeouts.request: the file says `\"2s\"`, stored is `\"3s\"`",
            line("\"request\"")
        ),
        format!(
            "{file}:{}: Service shop/mail: spec.ports: the file says `[{{\"port\":25}}]`, and nothing is stored",
            line("\"ports\"")
        ),
        ": Namespace shop is not in the cluster: `kubectl apply -f ".to_owned(),
        "ApiRoute shop/orders: ResolvedRefs is False: there is no Service orders-v2 (BackendNotFound) \
         (docs/troubleshooting.md#an-object-is-not-accepted)"
            .to_owned(),
        "Pod shop/late should have a sidecar and has none".to_owned(),
        "the operator can't be asked for its certificates: ".to_owned(),
        "plaintext: 10.1.2.3 calls shop/web-5d9f (shop/web) without mutual TLS: 2 times".to_owned(),
        "Service shop/mail: port 25 is not declared and its server speaks first: 3 connections of shop/web-5d9f"
            .to_owned(),
        "3 documents compared with what is stored, 1 objects of the mesh looked at, 1 of 1 sidecars asked"
            .to_owned(),
    ] {
        assert!(said.contains(&told), "{told}\nis not in\n{said}");
    }
    assert_eq!(said.lines().count(), 9, "{said}");
    // But for what was looked at, each leads into the documents.
    let linked = said.lines().filter(|line| line.contains(" (docs/"));
    assert_eq!(linked.count(), 8, "{said}");
    // Each object is asked for by its own name.
    let input: Value = serde_json::from_str(&cluster.kept("input")).unwrap();
    assert_eq!(
        input["items"][0]["metadata"],
        json!({ "name": "orders", "namespace": "shop" })
    );
    assert_eq!(input["items"][2]["metadata"], json!({ "name": "shop" }));
    cluster.nobody_forwards();

    // As sent, nothing is wrong.
    cluster.answers("stored.json", &json!({ "kind": "List", "items": [] }));
    cluster.answers("routes.json", &json!({ "kind": "List", "items": [] }));
    cluster.answers(
        "pods.json",
        &json!({ "kind": "List", "items": [pod("web-5d9f")] }),
    );
    let checked = cluster
        .command(&["check", "--context", "test", "-n", "shop"])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0));
    let asked = cluster.kept("asked");
    let last = "--context test --namespace shop get \
                apiroutes.meshwright.dev,ratelimits.meshwright.dev,retrypolicies.meshwright.dev -o json";
    assert!(asked.lines().any(|line| line == last), "{asked}");
}

#[test]
fn check_tells_what_is_wrong_with_the_installation_itself() {
    let cluster = StandIn::new(&[]);
    let check = || {
        let checked = cluster.command(&["check", "--cluster"]).output().unwrap();
        let said = String::from_utf8(checked.stdout).unwrap();
        (checked.status.code(), said)
    };
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");

    cluster.answers("version.json", &kubernetes("v1.30.2"));
    let mut behind = operator();
    behind["items"][0]["spec"]["replicas"] = json!(3);
    cluster.answers("operator.json", &behind);
    cluster.answers("webhooks.json", &json!({ "kind": "List", "items": [] }));
    let mut fewer = kinds();
    fewer["resources"].as_array_mut().unwrap().pop();
    cluster.answers("kinds.json", &fewer);
    let mut old = pod("web-5d9f");
    old["spec"]["initContainers"][0]["image"] = json!("ghcr.io/meshwright/sidecar:9.0.0");
    cluster.answers("pods.json", &json!({ "kind": "List", "items": [old] }));
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    for told in [
        "the cluster is Kubernetes 1.30, and Meshwright needs 1.31 to 1.35: upgrade the cluster first (docs/install.md#",
        "1 of 3 replicas of the operator are ready: `kubectl describe pods -n mesh ",
        "there is no MutatingWebhookConfiguration meshwright-injector, so that pods are created without a sidecar: ",
        "there is no ValidatingWebhookConfiguration meshwright-validator, so that ",
        "there is no CustomResourceDefinition retrypolicies.meshwright.dev, so that ",
        "1 sidecar is of version 9.0.0, and the operator of ",
    ] {
        assert!(said.contains(told), "{told}\nis not in\n{said}");
    }
    let asked = cluster.kept("asked");
    assert!(
        asked.contains("get apiroutes.meshwright.dev,ratelimits.meshwright.dev --all-namespaces")
    );
}

#[test]
fn before_an_installation_check_says_how_to_install_and_is_not_wrong() {
    let cluster = StandIn::new(&[route("2s")]);
    std::fs::remove_file(cluster.path().join("kinds.json")).unwrap();
    let none = json!({ "kind": "List", "items": [] });
    for file in ["operator.json", "webhooks.json", "pods.json"] {
        cluster.answers(file, &none);
    }
    std::fs::write(cluster.path().join("may"), "yes\n").unwrap();
    let folder = cluster.folder.path().to_str().unwrap();
    let check = |may: &str| {
        std::fs::write(cluster.path().join("may"), may).unwrap();
        let mut checking = cluster.command(&["check", folder, "--cluster"]);
        let checked = checking.output().unwrap();
        let said = String::from_utf8(checked.stdout).unwrap();
        (checked.status.code(), said)
    };
    let (code, said) = check("yes\n");
    assert_eq!(code, Some(0), "{said}");
    for told in [
        "no Meshwright is installed here: `meshwright install` does that, and you may create all that it makes (docs/",
        "the folder is not compared with the cluster, which lacks definitions of the mesh's kinds",
        "0 documents compared with what is stored, 0 objects of the mesh looked at, 0 of 0 sidecars asked",
    ] {
        assert!(said.contains(told), "{told}\nis not in\n{said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
    let (code, said) = check("no\n");
    assert_eq!(code, Some(0), "{said}");
    let told = "`meshwright install` does that, but you may not create namespaces, create customresourcedefinitions";
    assert!(said.contains(told), "{said}");

    // What stops pods from being created is wrong before, too.
    cluster.answers("webhooks.json", &webhooks());
    let (code, said) = check("yes\n");
    assert_eq!(code, Some(1), "{said}");
    let told = "MutatingWebhookConfiguration meshwright-injector is there without an operator, so that no pod ";
    assert!(said.contains(told), "{said}");
}

#[test]
fn what_kubectl_refuses_is_said_in_its_words() {
    let cluster = StandIn::new(&[route("2s")]);
    let refused =
        "#!/bin/sh\necho 'Error from server (Forbidden): apiroutes is forbidden' >&2\nexit 1\n";
    std::fs::write(cluster.path().join("kubectl"), refused).unwrap();
    let checked = cluster.command(&["check", "--cluster"]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        said.contains("kubectl: Error from server (Forbidden)"),
        "{said}"
    );
}

#[test]
fn a_tap_in_a_cluster_goes_through_kubectl_and_ends_it() {
    let cluster = StandIn::new(&[]);
    cluster.answers(
        "pods.json",
        &json!({ "kind": "List", "items": [pod("web-1"), pod("web-2")] }),
    );
    let tap = [
        "tap",
        "deployment/web",
        "-n",
        "shop",
        "-o",
        "json",
        "--count",
        "2",
        "--status",
        "2xx",
    ];
    let mut runs = Runs::start(cluster.command(&tap));
    let (code, output) = runs.ends();
    assert_eq!(code, Some(0), "{output}");
    for pod in ["shop/web-1", "shop/web-2"] {
        assert!(
            output.contains(&format!("{{\"workload\":\"{pod}\",\"time\"")),
            "{output}"
        );
    }
    let asked = cluster.kept("asked");
    for line in [
        "--namespace shop get deployment/web -o json",
        "--namespace shop get pods --selector app=web -o json",
        "--namespace shop port-forward --address 127.0.0.1 web-2 :15000",
    ] {
        assert!(
            asked.lines().any(|asked| asked == line),
            "{line} is not in {asked}"
        );
    }
    cluster.nobody_forwards();
}

#[test]
fn a_port_of_a_cluster_is_forwarded_by_kubectl_which_ends_at_ctrl_c() {
    let cluster = StandIn::new(&[]);
    let command = cluster.command(&["port-forward", "shop/deployment/web", "--cluster", ":8080"]);
    let mut runs = Runs::start(command);
    let here = format!("127.0.0.1:{}", cluster.forwarded);
    assert_eq!(
        runs.line(),
        format!("{here} leads to port 8080 of shop/deployment/web; Ctrl-C ends it\n")
    );
    assert_eq!(
        cluster.kept("asked"),
        "--namespace shop port-forward --address 127.0.0.1 deployment/web :8080\n"
    );
    runs.signal(Signal::SIGTERM);
    assert_eq!(runs.ends().0, Some(0));
    cluster.nobody_forwards();
}

#[test]
fn keys_of_a_cluster_are_made_replaced_and_ended_through_kubectl_and_shown_once() {
    let cluster = StandIn::new(&[]);
    let none = json!({ "kind": "List", "items": [] });
    cluster.answers("secrets.json", &none);
    let run = |arguments: &str| {
        let arguments: Vec<&str> = ["consumer"]
            .into_iter()
            .chain(arguments.split(' '))
            .collect();
        let output = cluster.command(&arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    // What was sent last, as the API server tells it.
    let stored = || {
        let mut secret: Secret = serde_json::from_str(&cluster.kept("created.json")).unwrap();
        let written = secret.string_data.take().unwrap().into_iter();
        let data = written.map(|(name, value)| (name, ByteString(value.into_bytes())));
        secret.data = Some(data.collect());
        let secret = serde_json::to_value(secret).unwrap();
        json!({ "kind": "List", "items": [secret] })
    };

    let (code, key, said) =
        run("create acme --plan gold -n shop --context test --expires 2999-01-31T00:00:00Z");
    assert_eq!(code, Some(0), "{said}");
    let first = key.strip_suffix('\n').unwrap().to_owned();
    assert!(is_key(&first), "{first}");
    let sent: Value = serde_json::from_str(&cluster.kept("created.json")).unwrap();
    let id = sent["stringData"]["keyID"].as_str().unwrap();
    assert_eq!(sent["type"], "meshwright.dev/api-key");
    assert_eq!(
        sent["metadata"],
        json!({ "name": format!("consumer-acme-{id}"), "namespace": "shop",
            "labels": { "meshwright.dev/consumer": "acme", "meshwright.dev/plan": "gold" } })
    );
    assert!(said.contains("until 2999-01-31T00:00:00Z"), "{said}");
    cluster.answers("secrets.json", &stored());

    let (code, shown, said) = run("create acme -n shop");
    assert_eq!((code, &*shown), (Some(1), ""));
    assert!(said.contains("`meshwright consumer rotate acme`"), "{said}");

    let (code, listed, _) = run("list -o json");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(
        (&listed[0]["keyID"], &listed[0]["state"]),
        (&json!(id), &json!("valid"))
    );

    // A key that was made is shown, whatever comes after.
    std::fs::write(cluster.path().join("refuses"), "").unwrap();
    let (code, second, said) = run("rotate acme -n shop --overlap 1h");
    assert_eq!(code, Some(1));
    assert!(is_key(second.trim_end()), "{second}");
    assert!(
        said.contains(&format!("key {id} does not end at ")),
        "{said}"
    );
    assert!(
        said.contains("kubectl: Error from server (Forbidden)"),
        "{said}"
    );
    std::fs::remove_file(cluster.path().join("refuses")).unwrap();
    let (code, third, said) = run("rotate acme -n shop --overlap 1h");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("key {id} ends at ")), "{said}");

    let (code, _, said) = run("revoke acme -n shop");
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing is revoked: --yes"), "{said}");
    assert!(!cluster.kept("asked").contains("delete"));
    let (code, _, said) = run("revoke acme -n shop --yes");
    assert_eq!(code, Some(0), "{said}");

    let asked = cluster.kept("asked");
    let secret = format!("secret consumer-acme-{id}");
    for line in [
        "--context test --namespace shop get secrets --selector meshwright.dev/consumer=acme -o json",
        "--context test --namespace shop create -f - -o name",
        "get secrets --selector meshwright.dev/consumer -o json",
        &format!("--namespace shop delete secret --wait=false consumer-acme-{id} -o name"),
    ] {
        assert!(
            asked.lines().any(|asked| asked == line),
            "{line} is not in {asked}"
        );
    }
    let patch = format!("--namespace shop patch {secret} --type=merge -p {{\"stringData\":");
    assert!(asked.contains(&patch), "{asked}");
    // Nothing of a key is seen in the list of processes, or kept.
    for key in [&*first, second.trim_end(), third.trim_end()] {
        for place in ["asked", "created.json", "secrets.json"] {
            assert!(!cluster.kept(place).contains(key), "{place}");
        }
        assert!(!said.contains(key));
    }
}
