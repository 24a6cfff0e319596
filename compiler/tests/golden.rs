//! The compiler's specification by example: `golden/*.in.yaml` is what people write, `*.out.yaml`
//! the resources and verdicts that it becomes. `UPDATE=1 cargo test -p compiler` rewrites them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::fs;
use std::path::Path;

use compiler::{Output, compile};
use world::show;

#[test]
fn what_people_write_becomes_what_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".in.yaml")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 10, "golden files are missing");

    let mut stale = Vec::new();
    for name in names {
        let text = fs::read_to_string(folder.join(format!("{name}.in.yaml"))).unwrap();
        let inputs = world::inputs(&format!("{name}.in.yaml"), &text);
        let shown = show::output(&compile(&inputs, Output::default()));
        let path = folder.join(format!("{name}.out.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &shown).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != shown {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} differ: see what changed with UPDATE=1 and git diff"
    );
}
