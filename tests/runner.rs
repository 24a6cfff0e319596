//! The scripts that run everything else: what they ask of a machine, and how they count.
//!
//! The programs that they call are bash functions here, from a file that every bash reads first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a script did.
struct Run {
    /// Of stdout; nothing here counts for whoever runs this test.
    lines: Vec<String>,
    success: bool,
}

/// A machine that has what the scripts need.
const MACHINE: &str = "
cargo() {
  case $1 in
    --version) echo 'cargo 1.95.0' ;;
    test) tested ;;
  esac
}
tested() { echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; }
cc() { :; }
go() { echo 'go version go1.26.0 linux/amd64'; }
unshare() { :; }
redis-server() { :; }
rabbitmq-server() { :; }
id() { echo 0; }
apt-get() { echo 'apt-get is not called here'; }
dpkg-query() { echo installed; }
";

/// Runs a script of the checkout on a machine that has `also` changed.
fn run(script: &str, args: &[&str], also: &str) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let functions = folder.path().join("functions");
    fs::write(&functions, format!("{MACHINE}\n{also}\n")).expect("a file");
    let output = Command::new(root().join(script))
        .args(args)
        .env("BASH_ENV", functions)
        .output()
        .expect("a script runs");
    let text = String::from_utf8(output.stdout).expect("text");
    Run {
        lines: text.lines().map(str::to_owned).collect(),
        success: output.status.success(),
    }
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the root").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a file of the checkout")
}

// === impl Run ===

impl Run {
    #[track_caller]
    fn ends(&self, count: &str, success: bool) {
        assert_eq!(self.lines.last().map(String::as_str), Some(count));
        assert_eq!(self.success, success, "{:?}", self.lines);
    }

    fn line(&self, start: &str) -> Option<&str> {
        let mut lines = self.lines.iter().map(String::as_str);
        lines.find(|line| line.starts_with(start))
    }
}

#[test]
fn what_a_machine_lacks_is_said_before_anything_is_built() {
    let lacking = "
        go() { echo 'go version go1.22.1 linux/amd64'; }
        unshare() { return 1; }
        dpkg-query() { case ${!#} in runc|tcpdump) ;; *) echo installed ;; esac; }
        tested() { echo 'this must not run'; }";
    let all = run("tests/run", &["unit", "mesh", "cluster"], lacking);
    all.ends("0 passed, 1 failed, 0 skipped", false);
    assert_eq!(
        all.line("too old"),
        Some("too old: go 1.22.1 (1.26 or later is needed)")
    );
    let namespaces = all.line("missing: user namespaces").unwrap_or_default();
    assert!(namespaces.contains("sysctl -w"), "{:?}", all.lines);
    assert_eq!(
        all.line("will be installed").map(str::trim),
        Some("will be installed for the cluster tier: runc tcpdump")
    );
    assert_eq!(all.line("=="), None, "{:?}", all.lines);

    // Of what other tiers need, a tier says nothing.
    let unit = run("tests/run", &["unit"], "unshare() { return 1; }");
    unit.ends("3 passed, 0 failed, 0 skipped", true);
    assert_eq!(unit.line("missing"), None, "{:?}", unit.lines);
    assert_eq!(unit.line("will be installed"), None, "{:?}", unit.lines);
}

#[test]
fn the_last_line_counts_and_each_tier_says_how_long_it_took() {
    let passed = run("tests/run", &["unit"], "");
    passed.ends("3 passed, 0 failed, 0 skipped", true);
    let took = passed.line("== unit took ").unwrap_or_default();
    assert!(took.ends_with(" s"), "{:?}", passed.lines);

    let failed =
        "tested() { echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; return 101; }";
    run("tests/run", &["unit"], failed).ends("2 passed, 1 failed, 0 skipped", false);
    // What doesn't build has no results.
    let broken = "tested() { return 101; }";
    run("tests/run", &["unit"], broken).ends("0 passed, 1 failed, 0 skipped", false);
    // A test that another one runs is not skipped.
    let ignored = "tested() {
        echo 'test inner ... ignored, in a namespace, run by its caller'
        echo 'test slow ... ignored'
        echo 'test result: ok. 3 passed; 0 failed; 2 ignored'
    }";
    run("tests/run", &["unit"], ignored).ends("3 passed, 0 failed, 1 skipped", true);
}

#[test]
fn the_last_lines_say_what_failed_and_leave_out_what_was_logged() {
    let failed = "tested() {
        printf '%s\\n' '---- life::it_stops stdout ----' 'what it did' '[pod/orders] a line of a log' \\
            'Error: waited 20s in vain' '' 'Caused by:' '    {\"status\": 200}' '{\"time\": \"x\"}' '' \\
            '---- life::it_starts stdout ----' \"thread 'it_starts' panicked at a.rs:1:2:\" 'not so' '' \\
            'failures:' '    life::it_stops' 'test result: FAILED. 2 passed; 2 failed; 0 ignored'
        return 101
    }";
    let ran = run("tests/run", &["unit"], failed);
    ran.ends("2 passed, 2 failed, 0 skipped", false);
    let last: Vec<&str> = ran.lines.iter().rev().take(4).map(String::as_str).collect();
    let said = [
        "2 passed, 2 failed, 0 skipped",
        "",
        "life::it_starts: thread 'it_starts' panicked at a.rs:1:2: not so",
        "life::it_stops: Error: waited 20s in vain Caused by:     {\"status\": 200}",
    ];
    assert_eq!(last, said);
}

#[test]
fn every_test_target_of_the_workspace_is_in_a_tier() {
    // Where nothing is installed nor started.
    let prints = "id() { echo 1000; }
        make() { :; }
        cargo() { case $1 in --version) echo 'cargo 1.95.0' ;; *) echo \"cargo $*\" ;; esac; }
        unshare() { :; }";
    let mut ran = run("tests/run", &["unit", "mesh"], prints).lines;
    // Those of the tiers that this machine skips.
    ran.extend(read("tests/run").lines().map(str::to_owned));
    let cargo = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&cargo.stdout).expect("JSON");
    let targets = metadata["packages"].as_array().into_iter().flatten();
    let targets = targets.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test");
    let names = Vec::from_iter(tests.filter_map(|test| test["name"].as_str()));
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let argument = format!(" --test {name} ");
        assert!(
            ran.iter().any(|line| line.contains(&argument)),
            "no tier of tests/run runs --test {name}"
        );
    }
}

#[test]
fn a_tier_that_a_machine_cannot_run_is_counted_as_skipped() {
    let other = run("tests/run", &["unit", "cluster"], "id() { echo 1000; }");
    other.ends("3 passed, 0 failed, 1 skipped", true);
    assert!(other.line("skipping the cluster tier: ").is_some());
}

#[test]
fn foreign_programs_are_announced_or_counted_as_skipped() {
    let other = "id() { echo 1000; }
        make() { :; }";
    let run_by_others = run("tests/run", &["mesh"], other);
    run_by_others.ends("3 passed, 0 failed, 1 skipped", true);
    assert!(
        run_by_others
            .line("skipping the foreign programs")
            .is_some()
    );

    // Where they are to be installed, that is said before anything else is done.
    let lacking = "
        unshare() { return 1; }
        command() { [[ $* != '-v redis-server' ]] && builtin command \"$@\"; }";
    let lacks = run("tests/run", &["mesh"], lacking);
    lacks.ends("0 passed, 1 failed, 0 skipped", false);
    let announced = lacks.line("will be installed for the mesh tier: ");
    assert!(
        announced.is_some_and(|line| line.contains("redis-server")),
        "{:?}",
        lacks.lines
    );
}

#[test]
fn a_change_lands_only_when_lint_passes_and_no_test_fails_or_is_skipped() {
    let make = |lint: &str, test: &str| {
        let make = format!("make() {{ case $2 in lint) {lint} ;; test) {test} ;; esac; }}");
        run(".ci/run", &[], &make)
    };
    let counted = |count: &str, status: u8| format!("echo '{count}'; return {status}");
    let good = "9 passed, 0 failed, 0 skipped";
    make(":", &counted(good, 0)).ends(good, true);
    for count in [
        "8 passed, 0 failed, 1 skipped",
        "8 passed, 1 failed, 0 skipped",
    ] {
        make(":", &counted(count, 0)).ends(count, false);
    }
    make(":", &counted(good, 1)).ends(good, false);
    let unlinted = make("return 1", &counted(good, 0));
    assert!(!unlinted.success, "{:?}", unlinted.lines);
    assert!(unlinted.line("lint failed").is_some());
}

#[test]
fn the_workflow_installs_what_the_runner_asks_for() {
    let (runner, workflow) = (read("tests/run"), read(".github/workflows/ci.yml"));
    let wanted = |program: &str| {
        let mut lines = runner.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(&format!("recent {program} ")));
        let version = line.and_then(|line| line.rsplit(' ').next());
        version.expect("a version is asked for").to_owned()
    };
    let (rust, go) = (wanted("cargo"), wanted("go"));
    assert!(read("Cargo.toml").contains(&format!("\nrust-version = \"{rust}\"\n")));
    for step in [
        &format!("rustup toolchain install {rust} "),
        &format!("rustup default {rust}"),
        &format!("go-version: \"{go}\""),
        "--component clippy",
        "--component rustfmt",
        "bash .ci/run",
    ] {
        assert!(workflow.contains(step), "the workflow lacks {step:?}");
    }
}
