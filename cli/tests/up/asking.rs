//! What can be asked of a sidecar of a running mesh.

use serde_json::{Value, json};

use crate::mesh::{Folder, route, until};
use crate::shop;

fn said(folder: &Folder, arguments: &[&str]) -> String {
    let output = folder.run(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn asked_in_a_mesh(arguments: &[&str]) {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let _mesh = folder.up(arguments);

    let config: Value = serde_json::from_str(&said(&folder, &["config", "web"])).unwrap();
    assert_eq!(config["inForce"]["workload"], "shop/web-0");
    assert_eq!(config["ready"], true);
    let config: Value = serde_json::from_str(&said(&folder, &["config", "shop/orders-1"])).unwrap();
    assert_eq!(config["inForce"]["workload"], "shop/orders-1");

    let routes = said(&folder, &["routes", "web"]);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rows: Vec<_> = routes.lines().map(words).collect();
    assert_eq!(
        rows[0],
        ["SERVICE", "PORT", "PROTOCOL", "APIROUTE", "ENDPOINTS"]
    );
    let orders = rows.iter().find(|row| row[0] == "shop/orders").unwrap();
    assert_eq!(orders[3..], ["shop/orders", "2"], "{routes}");
}

#[test]
fn what_a_sidecar_has_in_force_is_shown() {
    asked_in_a_mesh(&[]);
}

#[test]
fn what_a_sidecar_has_in_force_is_shown_without_namespaces_too() {
    asked_in_a_mesh(&["--no-namespaces"]);
}

#[test]
fn a_request_is_explained_as_it_is_carried() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let _mesh = folder.up(&[]);
    until("the route is in force", || {
        said(&folder, &["routes", "web"]).contains("shop/orders ")
    });
    let told = said(
        &folder,
        &["explain", "GET", "http://orders//a/../1?x", "--from", "web"],
    );
    assert!(told.contains("governed by ApiRoute shop/orders"), "{told}");
    assert!(told.contains("path /1\n"), "{told}");
    assert!(told.contains("governs it"), "{told}");
    assert!(told.contains("goes to shop/orders:"), "{told}");
    assert!(told.contains("2 endpoints"), "{told}");
    assert!(told.contains("for 2000 ms at most"), "{told}");

    let nobody = folder.run(&["explain", "GET", "http://nobody/", "--from", "web"]);
    assert_eq!(nobody.status.code(), Some(0));
    let told = String::from_utf8_lossy(&nobody.stdout);
    assert!(told.starts_with("passes through as it is, "), "{told}");
    assert!(told.contains("answers 404, unknown_host"), "{told}");
    let none = folder.run(&["explain", "http://orders:81/", "--from", "web"]);
    assert_eq!(none.status.code(), Some(1));
    let told = String::from_utf8_lossy(&none.stdout);
    assert!(
        told.starts_with("closed: Service shop/orders has no port 81"),
        "{told}"
    );
}

#[test]
fn whether_a_workload_would_let_a_request_in_is_explained_too() {
    let folder = shop();
    let mut route = route("2s");
    route["spec"]["authorization"] = json!({"rules": [
        {"name": "read", "methods": ["GET"], "principals": {"namespaces": ["shop"]}},
        {"name": "no-admin", "action": "Deny", "paths": [{"type": "Prefix", "value": "/admin"}]},
    ]});
    folder.write("route.yaml", &[route]);
    let _mesh = folder.up(&[]);
    until("the route is in force", || {
        said(&folder, &["routes", "web"]).contains("shop/orders ")
    });
    let explain = |method: &str, path: &str| {
        let url = format!("http://orders{path}");
        let output = folder.run(&["explain", method, &url, "--from", "web", "--to", "orders"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), told)
    };
    let (code, told) = explain("GET", "/1");
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("ApiRoute shop/orders, rule read: lets in"),
        "{told}"
    );
    let (code, told) = explain("GET", "/x/../admin");
    assert_eq!(code, Some(1), "{told}");
    let denied = "rule no-admin: answered 403, not_permitted: the rule denies it";
    assert!(told.contains(denied), "{told}");
    let (code, told) = explain("POST", "/1");
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("answered 403, not_permitted: no rule allows it"),
        "{told}"
    );
}

#[test]
fn what_limits_would_do_with_a_request_is_explained_and_takes_nothing() {
    let folder = shop();
    let limits = json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "RateLimit",
        "metadata": { "name": "limits", "namespace": "shop" },
        "spec": {
            "targetRefs": [{ "kind": "Service", "name": "orders" }],
            "limits": [
                { "name": "each", "requests": 3, "per": "1h", "key": { "type": "Identity" } },
                { "name": "writes", "requests": 1, "per": "1h", "methods": ["POST"] },
            ],
        },
    });
    folder.write("limits.yaml", &[limits]);
    let _mesh = folder.up(&[]);
    let explain = |more: &[&str]| {
        let asked = [
            "explain",
            "GET",
            "http://orders/",
            "--from",
            "web",
            "--to",
            "orders-0",
        ];
        let output = folder.run(&[&asked, more].concat());
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), told)
    };
    let passes = "RateLimit shop/limits, limit each (of its identity): passes, 2 left";
    until("the limits are in force", || {
        explain(&[]).1.contains(passes)
    });
    // Asking takes nothing.
    for _ in 0..3 {
        let (code, told) = explain(&[]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains(passes), "{told}");
        assert!(!told.contains("limit writes"), "{told}");
    }
    let (_, told) = explain(&["--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["enters"][0]["limits"][0]["action"], "Reject", "{told}");
}

#[test]
fn a_workload_that_there_is_not_is_said_with_those_that_there_are() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let output = folder.run(&["routes", "ordres"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no workload is named `ordres`"), "{said}");
    assert!(said.contains("shop/orders"), "{said}");
}

#[test]
fn every_command_is_completed_in_every_shell() {
    let folder = shop();
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&folder, &["completion", shell]);
        for command in [
            "up",
            "exec",
            "status",
            "check",
            "config",
            "routes",
            "explain",
            "tap",
            "port-forward",
        ] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
        assert!(
            !script.contains("__enter"),
            "{shell} shows the mesh's own steps"
        );
    }
}
