//! How a mesh ends.

use nix::sys::signal::Signal;

use crate::mesh::{Folder, until, workload};
use crate::{programs, shop};

#[test]
fn ctrl_c_ends_all_and_leaves_nothing() {
    let folder = shop();
    let mut mesh = folder.up(&["--publish", "web=0"]);
    mesh.signal(Signal::SIGINT);
    assert_eq!(mesh.ends(), Some(0));
    assert_eq!(mesh.programs(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(folder.state()).unwrap().count(), 0);
}

#[test]
fn killed_it_leaves_no_process() {
    let folder = shop();
    let mut mesh = folder.up(&[]);
    assert!(mesh.programs().len() > 5);
    mesh.signal(Signal::SIGKILL);
    assert_eq!(mesh.ends(), None);
    until("all have ended", || mesh.programs().is_empty());
}

#[test]
fn ctrl_c_lets_what_is_in_flight_be_answered() {
    let held = tempfile::tempdir().unwrap();
    let variables = [("HELD", held.path().to_str().unwrap())];
    for arguments in [
        &["--publish", "web=0"][..],
        &["--publish", "web=0", "--no-namespaces"],
    ] {
        let without = arguments.contains(&"--no-namespaces");
        let mut documents = workload("web", "server", 1, &variables);
        documents.extend(workload("orders", "server", 1, &variables));
        let folder = Folder::new(&documents);
        let mut mesh = folder.up(arguments);
        let url = mesh.published("shop/web:80");
        // Through web to orders; a program that knows of no proxy only gets there when captured.
        let path = if without { "held" } else { "to/orders/held" };
        let asked = std::thread::spawn(move || programs::get(&format!("{url}{path}")));
        until("the request has arrived", || {
            held.path().join("arrived").exists()
        });

        mesh.signal(Signal::SIGINT);
        mesh.waits_for("stopping");
        std::fs::write(held.path().join("release"), "").unwrap();
        let answer = asked.join().unwrap().unwrap();
        let by = if without { "web-0" } else { "orders-0" };
        assert!(answer.starts_with(by), "{answer}");
        assert_eq!(mesh.ends(), Some(0));
        for file in ["arrived", "release"] {
            std::fs::remove_file(held.path().join(file)).unwrap();
        }
    }
}
