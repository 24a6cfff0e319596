//! `meshwright consumer` in a folder, as it is typed.

use std::process::Output;

use cli::consumer::key::is_key;

use crate::mesh::{Folder, workload};

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_key_is_alone_on_standard_output_and_what_cannot_be_read_is_told() {
    let folder = Folder::new(&workload("orders", "server", 1, &[]));
    let path = folder.path().to_str().unwrap();
    let run = |verb: &str, more: &[&str]| {
        let typed = [&["consumer", verb, "--folder", path], more].concat();
        said(&folder.run(&typed))
    };
    let (code, key, told) = run("create", &["acme"]);
    assert_eq!(code, Some(0), "{told}");
    let key = key.strip_suffix('\n').unwrap();
    assert!(is_key(key), "{key}");
    let id = key.split('_').nth(1).unwrap();
    assert!(told.starts_with(&format!("key {id} of consumer acme is taken from now")));
    assert!(!told.contains(key), "{told}");
    // What is in the folder can be run.
    assert!(folder.run(&["check", path]).status.success());

    folder.write_text("half.yaml", "kind: [\n");
    let (code, shown, told) = run("create", &["globex"]);
    assert_eq!((code, &*shown), (Some(1), ""));
    assert!(told.contains("can't be read whole"), "{told}");
    let (code, shown, told) = run("list", &[]);
    assert_eq!(code, Some(1));
    assert!(shown.contains(id), "{shown}");
    assert!(told.contains("half.yaml:"), "{told}");
    // One that was stolen does not wait until somebody has mended the rest.
    let (code, _, told) = run("revoke", &["acme", "--key", id]);
    assert_eq!(code, Some(1));
    assert!(
        told.contains(&format!("key {id} of consumer acme is revoked")),
        "{told}"
    );
    assert!(told.contains("half.yaml:"), "{told}");
    assert!(!run("list", &[]).1.contains(id));
}
