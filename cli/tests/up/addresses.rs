//! Calls to addresses: pods' own, by a headless Service's name or without any, and unknown ones.

use serde_json::{Value, json};

use crate::mesh::{Folder, until, workload};
use crate::programs;

/// Two workloads, of which `orders` has two replicas and a headless Service on the port that they
/// listen on: nothing stands between its callers and that port.
fn headless() -> Vec<Value> {
    let mut documents = workload("web", "server", 1, &[]);
    let mut orders = workload("orders", "server", 2, &[]);
    orders[1]["spec"]["clusterIP"] = json!("None");
    orders[1]["spec"]["ports"][0]["port"] = json!(8080);
    documents.extend(orders);
    documents
}

/// The address of a pod, as `status` tells it.
fn address(folder: &Folder, pod: &str) -> String {
    let status = folder.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let pods = status["pods"].as_array().unwrap();
    let row = pods.iter().find(|row| row["workload"] == pod).unwrap();
    row["address"].as_str().unwrap().to_owned()
}

/// What a program in web is told that is not answered with 200.
fn refusal(folder: &Folder, url: &str) -> String {
    let client = format!("URL={url} {}", programs::command("client").join(" "));
    let output = folder.run(&["exec", "web", "--", "sh", "-c", &client]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn namespace(field: &str, key: &str, value: &str) -> Value {
    let mut document = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
    });
    document["metadata"][field] = json!({ key: value });
    document
}

#[test]
fn a_pod_is_called_by_its_own_address_and_by_a_headless_services_name_over_mutual_tls() {
    let folder = Folder::new(&headless());
    let _mesh = folder.up(&[]);
    let one = address(&folder, "shop/orders-1");
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    for _ in 0..4 {
        let body = folder.get_from("web", &format!("http://{one}:8080/"));
        assert!(body.contains("orders-1 called by 127.0.0.6"), "{body}");
    }
    until("the sidecar of orders-1 has seen web's certificate", || {
        folder.was_called_by("orders-1", web)
    });
    assert!(!folder.was_called_by("orders-0", web));

    // Its names lead to its pods' addresses: by the hosts file, and by the name server.
    let hosts = folder.exec("web", "cat /etc/hosts");
    assert!(
        hosts.contains(&format!("{one} orders orders.shop ")),
        "{hosts}"
    );
    let name = "NAME=orders.shop.svc.cluster.local";
    let lookup = programs::command("lookup").join(" ");
    let answer = folder.exec("web", &format!("{name} {lookup}"));
    let other = address(&folder, "shop/orders-0");
    for pod in [&one, &other] {
        assert!(answer.contains(&format!("A {pod}\n")), "{answer}");
    }
    let body = folder.get_from("web", "http://orders.shop:8080/");
    assert!(body.contains("called by 127.0.0.6"), "{body}");
}

#[test]
fn a_headless_services_route_governs_the_calls_to_its_pods() {
    let mut documents = headless();
    documents.push(json!({
        "apiVersion": "meshwright.dev/v1alpha1",
        "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": "shop" },
        "spec": { "hosts": ["orders"], "rules": [{
            "matches": [{ "path": { "type": "Prefix", "value": "/moved" } }],
            "backendRefs": [{ "name": "web", "port": 80 }],
        }, { "matches": [{ "path": { "type": "Prefix", "value": "/here" } }] }] },
    }));
    let folder = Folder::new(&documents);
    let _mesh = folder.up(&[]);
    let one = address(&folder, "shop/orders-1");
    let moved = folder.get_from("web", &format!("http://{one}:8080/moved"));
    assert!(moved.contains("web-0 called by"), "{moved}");
    let here = folder.get_from("web", &format!("http://{one}:8080/here"));
    assert!(here.contains("orders-1 called by"), "{here}");
    let nowhere = refusal(&folder, &format!("http://{one}:8080/nowhere"));
    assert!(nowhere.contains("no_route"), "{nowhere}");
}

#[test]
fn a_namespace_can_refuse_calls_to_addresses_that_the_mesh_does_not_know() {
    // On the host, as something outside the mesh: the mesh has a name and an address for it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\noutside");
        }
    });
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 1, &[]));
    let folder = Folder::new(&documents);
    let _mesh = folder.up(&[]);
    let outside = format!("http://host.meshwright.internal:{port}/");
    let answer = folder.get_from("web", &outside);
    assert!(answer.contains("outside"), "{answer}");

    let key = "meshwright.dev/unknown-addresses";
    folder.write("namespace.yaml", &[namespace("annotations", key, "refuse")]);
    until("it is refused", || {
        let said = refusal(&folder, &outside);
        said.contains("403 Forbidden") && said.contains("address_not_known")
    });
    let body = folder.get_from("web", "http://orders/");
    assert!(body.contains("orders-0 called by"), "{body}");
}

/// How many connections web's sidecar has passed through.
fn passed_through(folder: &Folder) -> f64 {
    let labels = [r#"direction="outbound""#, r#"kind="passthrough""#];
    folder.counted("web", "meshwright_connections_total", &labels)
}

/// How many connections web's sidecar has refused for this reason.
fn refused(folder: &Folder, reason: &str) -> f64 {
    let labels = [r#"direction="outbound""#, &format!(r#"reason="{reason}""#)];
    folder.counted("web", "meshwright_connections_refused_total", &labels)
}

#[test]
fn what_is_called_at_an_unknown_address_is_counted_or_closed_and_at_no_port_of_a_service_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            // What was said is read before the connection is closed, lest it be reset.
            let mut asked = [0; 4];
            let _ = stream.read_exact(&mut asked);
            let _ = stream.write_all(b"\x01ok");
        }
    });
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 1, &[]));
    let folder = Folder::new(&documents);
    let _mesh = folder.up(&[]);

    // At once: not after the time that a connection to nowhere, or an undeclared port, is given.
    let (said, lived) = folder.says("web", "orders:81", b"");
    assert_eq!(said, "");
    assert!(lived < 1000, "{lived} ms");
    assert_eq!(passed_through(&folder), 0.0);

    let outside = format!("host.meshwright.internal:{port}");
    for count in [1.0, 2.0] {
        let (said, _) = folder.says("web", &outside, b"\0\0\0\0");
        assert_eq!(said, "016f6b");
        assert_eq!(passed_through(&folder), count);
    }
    assert_eq!(refused(&folder, "address_not_known"), 0.0);

    let key = "meshwright.dev/unknown-addresses";
    folder.write("namespace.yaml", &[namespace("annotations", key, "refuse")]);
    until("it is closed on", || {
        folder.says("web", &outside, b"\0\0\0\0").0.is_empty()
    });
    let passed = passed_through(&folder);
    assert_eq!(refused(&folder, "address_not_known"), 1.0);
    // The same, for whoever waits for the server to speak.
    assert_eq!(folder.says("web", &outside, b"").0, "");
    assert_eq!(refused(&folder, "address_not_known"), 2.0);
    assert_eq!(passed_through(&folder), passed);
}

#[test]
fn an_applications_own_tls_into_a_port_that_is_http_is_closed_on_and_counted() {
    let mut declared = workload("web", "server", 1, &[]);
    declared.extend(workload("orders", "server", 1, &[]));
    // Where the port declares nothing, an ApiRoute does.
    let mut said = declared.clone();
    said[3]["spec"]["ports"][0]["name"] = json!("any");
    said.push(json!({
        "apiVersion": "meshwright.dev/v1alpha1",
        "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": "shop" },
        "spec": { "hosts": ["orders"], "protocol": "HTTP" },
    }));
    for documents in [declared, said] {
        let folder = Folder::new(&documents);
        let _mesh = folder.up(&[]);
        // As a ClientHello begins: a record of a handshake, and in it a message of that kind.
        let hello = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03";
        let (said, lived) = folder.says("web", "orders:80", hello);
        assert_eq!(said, "");
        assert!(lived < 1000, "{lived} ms");
        assert_eq!(refused(&folder, "bad_request"), 1.0);
        let body = folder.get_from("web", "http://orders/");
        assert!(body.contains("orders-0 called by"), "{body}");
    }
}

#[test]
fn check_tells_who_still_calls_a_running_workload_in_plaintext() {
    let folder = Folder::new(&workload("orders", "server", 1, &[]));
    let label = namespace("labels", "meshwright.dev/mode", "permissive");
    folder.write("namespace.yaml", &[label]);
    // Where it has no network of its own, everybody on this machine is a caller outside.
    let _mesh = folder.up(&["--no-namespaces"]);
    let check = || {
        let checked = folder.run(&["check", folder.path().to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(0));
        String::from_utf8_lossy(&checked.stdout).into_owned()
    };
    assert!(!check().contains("plaintext:"), "{}", check());
    let url = format!("http://{}:8080/", address(&folder, "shop/orders-0"));
    let body = programs::get(&url).unwrap();
    assert!(body.starts_with("orders-0 called by"), "{body}");
    let said = check();
    let line =
        "plaintext: 127.0.0.1 calls shop/orders-0 (shop/orders) without mutual TLS: once, last";
    assert!(said.contains(line), "{said}");
}
