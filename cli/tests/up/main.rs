//! `meshwright up` with the real operator and the real sidecars, as whoever runs the tests.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "these are tests and their programs"
)]

mod addresses;
mod asking;
mod check;
mod cluster;
mod consumer;
mod edits;
mod endings;
mod mesh;
mod outside;
mod port_forward;
mod programs;
mod stalls;
mod stand_in;
mod tap;

use std::net::TcpListener;
use std::process::Command;

use mesh::{Folder, Mesh, route, until, workload};
use nix::sys::signal::{Signal, kill};

/// Numbers of capabilities.
const NET_ADMIN: u32 = 12;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;

/// Two workloads: `web`, which is published, and two replicas of `orders`.
fn shop() -> Folder {
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 2, &[("GREETING", "hello")]));
    Folder::new(&documents)
}

#[test]
fn a_published_service_is_reached_through_the_sidecars() {
    let folder = shop();
    let mesh = folder.up(&["--publish", "web=0"]);
    // The application sees its own sidecar, and nobody else.
    let body = programs::get(&mesh.published("shop/web:80")).unwrap();
    assert_eq!(body, "web-0 called by 127.0.0.6 ");
}

#[test]
fn somebody_without_privileges_runs_a_mesh_like_anybody() {
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 1, &[]));
    let folder = Folder::of_an_ordinary_user(&documents);
    let mesh = folder.up(&["--publish", "web=0"]);
    let said = mesh.said();
    assert!(!said.contains("without network namespaces"), "{said}");
    let url = format!("{}to/orders/", mesh.published("shop/web:80"));
    // By way of web, whose sidecar captures its call.
    let body = programs::get(&url).unwrap();
    assert_eq!(body, "orders-0 called by 127.0.0.6 ");
    assert_ne!(folder.exec("web", "id -u"), "0\n");
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    until("the sidecar of orders has seen web's certificate", || {
        folder.was_called_by("orders-0", web)
    });
}

#[test]
fn a_call_by_a_services_name_is_captured_and_balanced() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let mut replicas = std::collections::BTreeSet::new();
    until("both replicas answered", || {
        let body = folder.get_from("web", "http://orders/");
        assert!(body.contains("called by 127.0.0.6 hello"), "{body}");
        replicas.insert(
            body.lines()
                .find_map(|line| line.split_once(" called").map(|(pod, _)| pod.to_owned())),
        );
        replicas.len() == 2
    });
    for name in [
        "orders.shop",
        "orders.shop.svc",
        "orders.shop.svc.cluster.local",
    ] {
        assert!(
            folder
                .get_from("web", &format!("http://{name}/"))
                .contains("hello")
        );
    }
}

#[test]
fn a_host_header_does_not_move_a_call_to_another_service() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let client = programs::command("client").join(" ");
    for claim in ["web", "web.shop.svc.cluster.local", "nobody.example"] {
        let script = format!("CLAIM={claim} URL=http://orders/ {client}");
        let body = folder.exec("web", &script);
        assert!(body.contains("orders-"), "called orders as {claim}: {body}");
    }
}

#[test]
fn exec_runs_a_command_as_the_workload_and_returns_its_exit_code() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    assert_eq!(
        folder.exec("deployment/orders", "echo $HOSTNAME"),
        "orders-0\n"
    );
    assert_eq!(
        folder.exec("shop/orders-1", "echo $GREETING $HOSTNAME"),
        "hello orders-1\n"
    );
    assert_eq!(
        folder
            .run(&["exec", "web", "--", "sh", "-c", "exit 7"])
            .status
            .code(),
        Some(7)
    );

    let unknown = folder.run(&["exec", "billing", "--", "true"]);
    let sentence = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        !unknown.status.success() && sentence.contains("shop/orders, shop/web"),
        "{sentence}"
    );
}

#[test]
fn an_application_can_not_lift_its_redirect() {
    let folder = shop();
    let mesh = folder.up(&[]);
    let application = format!("/proc/{}/status", mesh.application("web-0"));
    for status in [
        folder.exec("web", "cat /proc/self/status"),
        std::fs::read_to_string(application).unwrap(),
    ] {
        // What it can do, and what it could come to by running something else.
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set));
            let held = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
            for capability in [NET_ADMIN, SYS_ADMIN, SYS_PTRACE] {
                assert_eq!(held & (1 << capability), 0, "{status}");
            }
        }
    }
}

#[test]
fn workloads_know_services_by_name_without_asking_anybody() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let hosts = folder.exec("web", "grep orders /etc/hosts");
    let names = "orders orders.shop orders.shop.svc orders.shop.svc.cluster.local";
    assert!(hosts.trim_end().ends_with(names), "{hosts}");
}

#[test]
fn the_table_is_shown_once_and_status_shows_it_again_with_what_is_enforced() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let mesh = folder.up(&[]);
    kill(mesh.application("orders-1"), Signal::SIGKILL).unwrap();
    mesh.waits_for(&format!("{:24} ready", "shop/orders-1"));
    folder.write("route.yaml", &[route("3s")]);
    mesh.waits_for("ApiRoute shop/orders: enforced by 3/3 sidecars");
    let said = mesh.said();
    let tables = said.lines().filter(|line| line.starts_with("WORKLOAD "));
    assert_eq!(tables.count(), 1, "{said}");

    let status = String::from_utf8(folder.run(&["status"]).stdout).unwrap();
    let rows: Vec<Vec<_>> = status
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
        })
        .map(Iterator::collect)
        .collect();
    for row in [
        ["OBJECT", "TARGET", "STATE"],
        [
            "ApiRoute shop/orders",
            "orders.shop",
            "enforced by 3/3 sidecars",
        ],
    ] {
        assert!(rows.iter().any(|cells| *cells == row), "{status}");
    }
    let workloads = rows.iter().filter(|cells| cells.last() == Some(&"ready"));
    assert_eq!(workloads.count(), 3, "{status}");
}

#[test]
fn an_application_that_keeps_ending_is_told_with_its_last_words() {
    let folder = Folder::new(&workload("web", "failure", 1, &[("DATABASE", "db:5432")]));
    let mesh = folder.start(&[]);
    mesh.waits_for("container app of web-0 ended (exit code 3); starting it again in 1 s");
    mesh.waits_for("| no database at db:5432");
    mesh.waits_for("starting it again in 2 s");
    let status = folder.run(&["status"]);
    let table = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        table.contains("CrashLoopBackOff: container app ended (exit code 3)"),
        "{table}"
    );
}

#[test]
fn a_program_inside_reaches_the_hosts_network() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in host.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nfrom the host")
                .unwrap();
        }
    });
    let answer = folder.get_from("web", &format!("http://host.meshwright.internal:{port}/"));
    assert!(answer.contains("from the host"), "{answer}");
}

#[test]
fn a_second_mesh_beside_it_works_unless_it_wants_the_same_port() {
    let folder = shop();
    let first = folder.up(&["--publish", "web=0"]);
    let port = first
        .published("shop/web:80")
        .rsplit_once(':')
        .unwrap()
        .1
        .trim_end_matches('/')
        .to_owned();

    let taken = folder.start(&["--publish", &format!("web={port}")]).ends();
    assert_eq!(taken, Some(1));

    let second = folder.up(&["--publish", "web=0"]);
    assert!(
        programs::get(&second.published("shop/web:80"))
            .unwrap()
            .contains("web-0")
    );
    assert!(
        programs::get(&first.published("shop/web:80"))
            .unwrap()
            .contains("web-0")
    );
    let several = folder.run(&["exec", "web", "--", "true"]);
    assert!(String::from_utf8_lossy(&several.stderr).contains("choose one of"));
}

#[test]
fn without_namespaces_calls_go_through_explicit_proxies() {
    let folder = shop();
    let mesh = folder.up(&["--no-namespaces", "--publish", "web=0"]);
    assert!(mesh.said().contains("not enforced"), "{}", mesh.said());
    let body = programs::get(&mesh.published("shop/web:80")).unwrap();
    assert!(body.starts_with("web-0 called by 127."), "{body}");
    let ingress = "spiffe://cluster.local/ns/meshwright-system/sa/meshwright-ingress";
    until("web's sidecar has seen the ingress's certificate", || {
        folder.was_called_by("web-0", ingress)
    });

    let client = programs::command("client").join(" ");
    let script = format!("PROXY=$http_proxy URL=http://orders/ {client}");
    let body = folder.exec("web", &script);
    assert!(body.contains("orders-"), "{body}");
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    until("the sidecar of orders has seen web's certificate", || {
        folder.was_called_by("orders-0", web) || folder.was_called_by("orders-1", web)
    });
}

#[test]
fn where_user_namespaces_are_blocked_it_says_so_and_goes_on_without() {
    let folder = shop();
    let up = folder.command(&["up", folder.path().to_str().unwrap()]);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"")
        .arg("sh")
        .arg(up.get_program())
        .args(up.get_args())
        .envs(
            up.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let mesh = Mesh::of(command, folder.state());
    mesh.waits_for("user namespaces are switched off");
    mesh.waits_for("Ctrl-C ends all");
}
