//! `meshwright check`.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;

use compiler::yaml;
use serde_json::json;

use crate::mesh::{route, workload};
use crate::shop;

#[test]
fn check_says_file_line_and_remedy_and_runs_nothing() {
    let folder = shop();
    assert!(
        folder
            .run(&["check", folder.path().to_str().unwrap()])
            .status
            .success()
    );

    let mut wrong = route("2s");
    wrong["spec"]["host"] = serde_json::json!("orders");
    folder.write("route.yaml", &[wrong]);
    let checked = folder.run(&["check", folder.path().to_str().unwrap()]);
    let sentence = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        sentence.contains("route.yaml:") && sentence.contains("hosts"),
        "{sentence}"
    );
    assert!(
        sentence.contains("kubectl's strict validation"),
        "{sentence}"
    );
}

#[test]
fn everything_that_is_wrong_is_said_in_one_go() {
    let folder = shop();
    let mut wrong = route("2s");
    wrong["spec"]["host"] = json!("orders");
    folder.write("a.yaml", &[wrong]);
    folder.write("b.yaml", &[route("2s")]);
    folder.write("c.yaml", &[route("3s")]);
    let mut without_command = workload("billing", "server", 1, &[]);
    without_command[0]["spec"]["template"]["spec"]["containers"][0]["command"] = json!([]);
    folder.write("d.yaml", &without_command);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("e.yaml"), "").unwrap();
    symlink(outside.path().join("e.yaml"), folder.path().join("e.yaml")).unwrap();

    let checked = folder.run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    for (file, what) in [
        ("a.yaml:", "did you mean hosts?"),
        ("c.yaml:2:", "ApiRoute shop/orders is already in"),
        ("d.yaml:2:", "needs a command"),
        ("e.yaml:", "is a link out of its folder"),
    ] {
        let of_file = folder.path().join(file);
        let line = said
            .lines()
            .find(|line| line.starts_with(of_file.to_str().unwrap()));
        assert!(line.is_some_and(|line| line.contains(what)), "{said}");
    }
    // And who refuses unknown fields in a cluster.
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[test]
fn a_pipe_among_the_files_is_not_waited_for() {
    let folder = shop();
    let pipe = folder.path().join("pipe.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let checked = folder.run(&["check", folder.path().to_str().unwrap()]);
    assert!(checked.status.success());
}

#[test]
fn the_quickstart_can_be_applied_in_the_order_of_its_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let paths: BTreeSet<_> = entries.map(|entry| entry.path()).collect();
    let mut there = BTreeSet::from(["default".to_owned()]);
    for path in paths
        .iter()
        .filter(|path| path.extension() == Some("yaml".as_ref()))
    {
        let file = yaml::parse(
            &path.to_string_lossy(),
            &std::fs::read_to_string(path).unwrap(),
        );
        assert_eq!(file.problems, []);
        for document in file.documents {
            let key = document.key;
            if document.kind == "Namespace" {
                there.insert(key.name);
            } else {
                assert!(
                    there.contains(&key.namespace),
                    "{} {key} comes too early",
                    document.kind
                );
            }
        }
    }
}
