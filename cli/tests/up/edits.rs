//! What becomes of edits while a mesh runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::mesh::{route, until, workload};
use crate::shop;

#[test]
fn an_edit_takes_effect_and_is_told_in_words() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let mesh = folder.up(&[]);

    folder.write("route.yaml", &[route("5s")]);
    mesh.waits_for("ApiRoute shop/orders: spec.timeouts.request: 2s -> 5s");
    mesh.waits_for("ApiRoute shop/orders: enforced by 3/3 sidecars");

    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 1, &[("GREETING", "good day")]));
    folder.write("shop.yaml", &documents);
    mesh.waits_for("Deployment shop/orders: spec.replicas: 2 -> 1");
    // Nobody answers between the end of the old one and the start of the new one.
    until("the new one answers", || {
        folder
            .try_get_from("web", "http://orders/")
            .contains("good day")
    });
}

#[test]
fn replicas_are_replaced_one_at_a_time_and_not_by_what_does_not_start() {
    let folder = shop();
    let mesh = folder.up(&[]);

    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "failure", 2, &[("DATABASE", "db:5432")]));
    folder.write("shop.yaml", &documents);

    mesh.waits_for("container app of orders-0 ended (exit code 3); starting it again in 2 s");
    let answer = folder.get_from("web", "http://orders/");
    assert!(
        answer.contains("orders-1 called by 127.0.0.6 hello"),
        "{answer}"
    );
}

#[test]
fn a_half_written_file_changes_nothing_and_says_where_it_is_wrong() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let mesh = folder.up(&[]);

    folder.write_text(
        "route.yaml",
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {\n",
    );
    let sentence = mesh.waits_for("route.yaml:");
    mesh.waits_for("nothing was changed");
    assert!(
        sentence.contains("route.yaml:4:") || sentence.contains("route.yaml:3:"),
        "{sentence}"
    );
    assert!(folder.get_from("web", "http://orders/").contains("hello"));

    folder.write("route.yaml", &[route("3s")]);
    mesh.waits_for("spec.timeouts.request: 2s -> 3s");
}

#[test]
fn an_edit_beside_a_broken_file_is_not_enforced_until_all_is_right() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let mesh = folder.up(&[]);
    let enforced = || folder.held("web", "route/shop/orders")["hash"].clone();
    let before = enforced();
    assert!(before.is_string());

    folder.write_text("broken.yaml", "kind: [");
    mesh.waits_for("nothing was changed");
    folder.write("route.yaml", &[route("3s")]);
    mesh.waits_for("nothing was changed");
    // The operator reads anew: what it could have seen of the edit is enforced by then.
    let known = || folder.held("web", "endpoints/shop/orders")["generation"].clone();
    let generation = known();
    kill(mesh.application("orders-1"), Signal::SIGKILL).unwrap();
    until("web hears of the killed replica", || known() != generation);
    assert_eq!(enforced(), before);

    folder.write_text("broken.yaml", "");
    mesh.waits_for("spec.timeouts.request: 2s -> 3s");
    until("the edit is enforced", || enforced() != before);
}

#[test]
fn a_file_that_is_truncated_is_given_a_second_to_be_written() {
    let folder = shop();
    let mesh = folder.up(&[]);
    let truncated = Instant::now();
    folder.write_text("shop.yaml", "");
    mesh.waits_for("Deployment shop/orders: removed");
    // By the clock of the file system, which lags behind a little.
    assert!(truncated.elapsed() > Duration::from_millis(900));
}

#[test]
fn verdicts_name_the_users_files() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let _mesh = folder.up(&[]);
    let file = folder.path().join("route.yaml");
    until("the operator tells of the route", || {
        let status = folder.run(&["status", "--json"]).stdout;
        let status: Value = serde_json::from_slice(&status).unwrap();
        let verdicts = status["verdicts"].as_array().cloned().unwrap_or_default();
        let told = verdicts.first().map(|verdict| verdict["file"].clone());
        told.is_some_and(|told| {
            assert_eq!(told, file.to_str().unwrap());
            true
        })
    });
}

#[test]
fn a_start_or_a_write_that_fails_ends_nothing_and_is_tried_again() {
    let folder = shop();
    let mesh = folder.up(&[]);
    // A file where a folder is to be made.
    let in_the_way = folder.kept("pods/shop.orders-2");
    std::fs::write(&in_the_way, "").unwrap();
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("orders", "server", 4, &[("GREETING", "hello")]));
    folder.write("shop.yaml", &documents);
    mesh.waits_for("shop/orders-2 can't be started");
    mesh.waits_for(&format!("{:24} ready", "shop/orders-3"));
    assert!(folder.get_from("web", "http://orders/").contains("hello"));
    std::fs::remove_file(in_the_way).unwrap();
    mesh.waits_for(&format!("{:24} ready", "shop/orders-2"));

    let in_the_way = folder.kept("accepted/route.yaml");
    std::fs::create_dir_all(in_the_way.join("more")).unwrap();
    folder.write("route.yaml", &[route("2s")]);
    mesh.waits_for("keeping a copy");
    assert!(folder.get_from("web", "http://orders/").contains("hello"));
    std::fs::remove_dir_all(in_the_way).unwrap();
    mesh.waits_for("ApiRoute shop/orders: added");
    mesh.waits_for("ApiRoute shop/orders: enforced by 5/5 sidecars");
}

#[test]
fn an_edit_is_obeyed_however_often_the_mesh_is_asked() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let mesh = folder.up(&[]);
    let obeyed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(60);
                while !obeyed.load(Ordering::Relaxed) && Instant::now() < until {
                    assert!(folder.run(&["status"]).status.success());
                }
            });
        }
        folder.write("route.yaml", &[route("3s")]);
        mesh.waits_for("spec.timeouts.request: 2s -> 3s");
        obeyed.store(true, Ordering::Relaxed);
    });
}
