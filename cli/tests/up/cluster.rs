//! Commands that ask a cluster. There is none here: a program called kubectl stands in for it, which
//! answers what was recorded; `tests/cluster` has a real one.

use cli::consumer::key::is_key;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::mesh::route;
use crate::stand_in::{StandIn, kinds, kubernetes, operator, pod, webhooks};
use crate::tap::Runs;

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
        "ApiRoute shop/orders: ResolvedRefs is False: there is no Service orders-v2 (BackendNotFound): correct the \
         object, or what it names, and apply it again (docs/troubleshooting.md#an-object-is-not-accepted)"
            .to_owned(),
        "Pod shop/late should have a sidecar and has none".to_owned(),
        "the operator can't be asked for its certificates: ".to_owned(),
        ": it takes the rights to get deployments, get and list pods and create pods/portforward in its namespace, "
            .to_owned(),
        " was away: make it anew, or label it meshwright.dev/inject: disabled (docs/troubleshooting.md#".to_owned(),
        ": give the caller a sidecar before plaintext is refused there (docs/troubleshooting.md#".to_owned(),
        " waited 0.2 s each: write `appProtocol: tcp` at the port, or begin its name with `tcp-` (docs/".to_owned(),
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
                apiroutes.meshwright.dev,eventsubscriptions.meshwright.dev,ratelimits.meshwright.dev,retrypolicies.meshwright.dev -o json";
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
        asked.contains("get apiroutes.meshwright.dev,eventsubscriptions.meshwright.dev,ratelimits.meshwright.dev --all-namespaces")
    );
}

#[test]
fn check_tells_pods_that_do_not_start_and_nodes_without_the_plugin() {
    let cluster = StandIn::new(&[]);
    let check = |arguments: &[&str]| {
        let checked = cluster.command(arguments).output().unwrap();
        let said = String::from_utf8(checked.stdout).unwrap();
        (checked.status.code(), said)
    };
    let mut stuck = pod("stuck");
    stuck["metadata"]["creationTimestamp"] = json!("2020-01-31T06:29:06Z");
    stuck["status"] = json!({ "phase": "Pending", "initContainerStatuses": [
        { "name": "meshwright-sidecar", "started": false, "state": { "running": {} } },
    ] });
    let pods = json!({ "kind": "List", "items": [pod("web-5d9f"), stuck] });
    cluster.answers("pods.json", &pods);
    let told = "the sidecars of shop/stuck don't start, and their applications wait for them (it runs, and is not \
                ready): `kubectl logs -n shop stuck -c meshwright-sidecar` says what stops it (docs/";
    // Of one namespace as well, and it is none of those that are asked.
    for arguments in [&["check", "--cluster"][..], &["check", "-n", "shop"]] {
        let (code, said) = check(arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(told), "{told}\nis not in\n{said}");
        assert!(said.contains(", 1 of 1 sidecars asked"), "{said}");
    }
    // Its operator may be gone.
    let operator = cluster.kept("operator.json");
    let none = json!({ "kind": "List", "items": [] });
    cluster.answers("operator.json", &none);
    std::fs::write(cluster.path().join("may"), "yes\n").unwrap();
    let (_, said) = check(&["check", "--cluster"]);
    assert!(said.contains(told), "{told}\nis not in\n{said}");
    std::fs::write(cluster.path().join("operator.json"), operator).unwrap();

    cluster.answers(
        "pods.json",
        &json!({ "kind": "List", "items": [pod("web-5d9f")] }),
    );
    let status = json!({ "desiredNumberScheduled": 3, "numberReady": 2 });
    let set =
        json!({ "metadata": { "name": "meshwright-cni", "namespace": "mesh" }, "status": status });
    cluster.answers("plugin.json", &json!({ "kind": "List", "items": [set] }));
    let (code, said) = check(&["check", "--cluster"]);
    assert_eq!(code, Some(1), "{said}");
    let told = "the CNI plugin is ready on 2 of 3 nodes, ";
    assert!(said.contains(told), "{told}\nis not in\n{said}");
    let asked = "--namespace mesh get daemonsets.apps --selector \
                 app.kubernetes.io/name=meshwright,app.kubernetes.io/component=cni -o json";
    let all = cluster.kept("asked");
    assert!(all.lines().any(|line| line == asked), "{all}");

    // Who may not look is told so, and nothing is wrong.
    std::fs::remove_file(cluster.path().join("plugin.json")).unwrap();
    let (code, said) = check(&["check", "--cluster"]);
    assert_eq!(code, Some(0), "{said}");
    let told = "the CNI plugin can't be looked at: kubectl: Error from server (Forbidden): daemonsets.apps is \
                forbidden: it takes the right to list daemonsets in mesh (docs/cli.md#which-mesh-which-workload)";
    assert!(said.contains(told), "{told}\nis not in\n{said}");
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
