//! Panics that nobody would have noticed: each fails the test whose processes wrote of it.

use std::path::{Path, PathBuf};

/// Fails the test when a log of the folder, or of a folder in it, tells of a panic of an operator or a
/// sidecar: no input may bring that about. `is_ours` chooses among the names of files.
///
/// # Panics
/// Then; says so only, while the test fails already.
pub(crate) fn check(folder: &Path, is_ours: fn(&str) -> bool) {
    for file in files(folder, is_ours) {
        let log = std::fs::read(&file).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let Some(at) = log.lines().position(|line| line.contains("panicked at")) else {
            continue;
        };
        let told: Vec<_> = log.lines().skip(at).take(4).collect();
        let told = format!("{}: {}", file.display(), told.join("\n"));
        match std::thread::panicking() {
            true => eprintln!("{told}"),
            false => panic!("{told}"),
        }
    }
}

fn files(folder: &Path, is_ours: fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut files(&entry.path(), is_ours));
        } else if entry.file_name().to_str().is_some_and(is_ours) {
            found.push(entry.path());
        }
    }
    found
}
