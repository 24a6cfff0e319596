//! The rules of the house that can be checked by reading it: arrows between crates, versions that
//! stand once, licences, one TLS provider, sizes of files, the anatomy of policies, promises that
//! have tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crate may use which: ARCHITECTURE.md, "Arrows". Anything else is a new arrow.
const ARROWS: &[(&str, &[&str])] = &[
    ("crds", &[]),
    ("wire", &[]),
    ("compiler", &["crds", "wire"]),
    ("operator", &["compiler", "crds", "wire"]),
    ("sidecar", &["wire"]),
    ("cni", &["sidecar", "wire"]),
    ("cli", &["compiler", "crds", "operator", "sidecar", "wire"]),
    (
        "tests",
        &[
            "cli", "cni", "compiler", "crds", "operator", "sidecar", "wire",
        ],
    ),
    ("quickstart", &[]),
];

/// Crates that protect the architecture by staying out: (crate, what it must never depend on).
/// `crds` knows no network, `wire` no Kubernetes, `compiler` no clock and no I/O, `sidecar` no CRD.
const NEVER: &[(&str, &[&str])] = &[
    ("crds", NETWORK),
    ("crds", RUNTIME),
    ("wire", &["kube", "k8s-openapi", "schemars", "rustls"]),
    ("compiler", NETWORK),
    ("compiler", RUNTIME),
    (
        "sidecar",
        &["kube", "k8s-openapi", "schemars", "serde_yaml"],
    ),
];
const NETWORK: &[&str] = &[
    "http",
    "http-body",
    "http-body-util",
    "hyper",
    "hyper-util",
    "rustls",
    "socket2",
    "tokio-rustls",
    "tonic",
    "tonic-prost",
    "tower",
];
/// Runtimes, clocks, chance, and what else makes of one input two outputs.
const RUNTIME: &[&str] = &[
    "chrono",
    "futures",
    "jiff",
    "nix",
    "notify",
    "rand",
    "rustix",
    "tempfile",
    "time",
    "tokio",
    "tokio-stream",
    "tokio-util",
];

/// Parts of the standard library that a pure function doesn't use.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "env",
    "fs",
    "io",
    "process",
    "thread",
];

/// Crates that would compile `protoc`, or bring it.
const PROTOC: &[&str] = &[
    "protobuf-codegen",
    "protobuf-src",
    "protoc-bin-vendored",
    "protoc-rust",
];

/// The oldest Rust that builds everything.
const RUST: &str = "1.95";

/// Licences that Apache-2.0 software can be linked with without further duties.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "Apache-2.0 WITH LLVM-exception",
];

/// Lines of a source file, tests at its end not counted.
const MAX_LINES: usize = 500;

/// Lines of the files that are the request path: they call, they do not compute.
const MAX_PATH_LINES: usize = 150;

/// Not in one piece, lest this file be found.
const UNSAFE: &str = concat!("un", "safe");

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the root").to_owned()
}

/// What cargo answers about this machine's platform: packages of another one were never downloaded
/// by building here, and a test that needs them fails on every fresh machine.
fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .arg("--locked")
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("cargo answers with text")
}

fn metadata() -> Value {
    let here = ["--filter-platform", "host-tuple"];
    let answer = cargo(&[&["metadata", "--format-version", "1"], &here[..]].concat());
    serde_json::from_str(&answer).expect("cargo metadata is JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Our crates and what their manifests name, for tests alone (`dev`) or otherwise.
fn members(metadata: &Value, dev: bool) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    list(metadata, "packages")
        .iter()
        .filter(|package| {
            package["id"]
                .as_str()
                .is_some_and(|id| members.contains(id))
        })
        .map(|package| {
            let names = list(package, "dependencies").iter();
            let names = names
                .filter(|dependency| (dependency["kind"] == "dev") == dev)
                .filter_map(|dependency| dependency["name"].as_str());
            let name = package["name"].as_str().unwrap_or_default();
            (name.to_owned(), names.map(str::to_owned).collect())
        })
        .collect()
}

/// Files of the checkout with an extension, without what is built or fetched.
fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).expect("a folder can be read");
        for entry in entries.map(|entry| entry.expect("an entry can be read")) {
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if name != "target" && name != ".git" {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), extension, &mut found);
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines that are no comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let (members, in_tests) = (members(&metadata, false), members(&metadata, true));
    let ours: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(ours, ARROWS.iter().map(|(name, _)| *name).collect());
    for (name, allowed) in ARROWS {
        // A test that leans on a crate above its own is in the wrong crate.
        let used: BTreeSet<&str> = members[*name]
            .union(&in_tests[*name])
            .map(String::as_str)
            .filter(|used| ours.contains(used))
            .collect();
        let new: Vec<_> = used.iter().filter(|used| !allowed.contains(used)).collect();
        assert!(new.is_empty(), "{name} must not use {new:?}");
    }
    for (name, banned) in NEVER {
        for banned in *banned {
            assert!(
                !members[*name].contains(*banned),
                "{name} must not use {banned}"
            );
        }
    }
}

#[test]
fn the_compiler_asks_neither_clock_nor_disk_nor_network() {
    let pure = [root().join("compiler/src"), root().join("crds/src")];
    let tools = root().join("crds/src/bin");
    let sources = files("rs");
    let sources = sources
        .iter()
        .filter(|path| pure.iter().any(|folder| path.starts_with(folder)))
        .filter(|path| !path.starts_with(&tools));
    let mut seen = 0;
    for path in sources {
        for (number, line) in code(&read(path)).filter(|(_, line)| line.contains("std::")) {
            let impure = words(line).find(|word| IMPURE.contains(word));
            let place = path.display();
            assert!(impure.is_none(), "{place}:{number} uses {impure:?}");
        }
        seen += 1;
    }
    assert!(seen > 15, "only {seen} files were read");
}

#[test]
fn versions_and_lints_stand_once_in_the_workspace() {
    let root_manifest = root().join("Cargo.toml");
    let workspace = read(&root_manifest);
    // An operator whose panics end the process serves nobody while one object meets a bug.
    assert!(!workspace.contains("\npanic = "), "panics unwind");
    for fact in [
        &format!("\nrust-version = \"{RUST}\"\n"),
        "\nunsafe_code = \"forbid\"\n",
        "\nmissing_docs = \"warn\"\n",
    ] {
        assert!(workspace.contains(fact), "Cargo.toml lacks {fact}");
    }
    let renamed = workspace.contains("package = ");
    assert!(!renamed, "by another name, a crate could have two versions");
    let mut members = 0;
    for path in files("toml") {
        if !path.ends_with("Cargo.toml") || path == root_manifest {
            continue;
        }
        let (text, place) = (read(&path), path.display());
        for fact in [
            "\n[lints]\nworkspace = true\n",
            "\nrust-version.workspace = true\n",
        ] {
            assert!(text.contains(fact), "{place} lacks {fact:?}");
        }
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
                let own = line.contains("dependencies.");
                assert!(!own, "{place}: {line} is no line of [dependencies]");
            } else if section.ends_with("dependencies]") && !line.is_empty() {
                let shared = line.starts_with('#') || line.contains("workspace = true");
                assert!(shared, "{place} has a version of its own: {line}");
            }
        }
        members += 1;
    }
    assert_eq!(members, ARROWS.len());
    for toolchain in ["rust-toolchain", "rust-toolchain.toml"] {
        let exists = root().join(toolchain).exists();
        assert!(!exists, "{toolchain}: rustup would download another Rust");
    }
}

#[test]
fn the_protocol_is_compiled_without_protoc() {
    let build = read(&root().join("wire/build.rs"));
    assert!(build.contains("protox::compile("), "{build}");
    assert!(build.contains(".compile_fds("), "{build}");
    for path in files("rs").iter().filter(|path| path.ends_with("build.rs")) {
        // The functions of tonic-prost-build and prost-build that run it.
        let runs = read(path).contains(concat!("compile_", "protos("));
        assert!(!runs, "{} runs protoc", path.display());
    }
    let lock = read(&root().join("Cargo.lock"));
    for name in PROTOC {
        let locked = lock.contains(&format!("name = \"{name}\"\n"));
        assert!(!locked, "{name} is in Cargo.lock");
    }
}

#[test]
fn every_dependency_has_a_licence_that_ours_permits() {
    let metadata = metadata();
    for package in list(&metadata, "packages") {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        let licence = licence.replace(['(', ')'], "").replace('/', " OR ");
        // Each part of an AND must be permitted; of an OR, one.
        let permitted = licence
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())));
        assert!(permitted, "{name} is licensed as {licence:?}");
    }
}

#[test]
fn there_is_one_tls_provider_in_the_tree() {
    // Not `cargo metadata`: it follows weak features (`ring?/alloc` of rustls-webpki) to crates of
    // the lock file that no build includes.
    let all = ["--edges", "all", "--prefix", "none", "--format", "{p}"];
    let tree = cargo(&[&["tree", "--workspace"], &all[..]].concat());
    let built: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(built.contains("aws-lc-rs"), "the tree is not ours: {tree}");
    for other in ["ring", "openssl-sys", "native-tls", "boring-sys"] {
        assert!(!built.contains(other), "{other} is built");
    }
}

#[test]
fn no_file_holds_more_than_a_newcomer_can_read() {
    for path in files("rs") {
        let text = read(&path);
        let code = text
            .split("\n#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let lines = code.lines().count();
        let short = path.strip_prefix(root()).unwrap_or(&path).display();
        assert!(
            lines <= MAX_LINES,
            "{short} has {lines} lines; split it by subject"
        );
    }
    for name in ["inbound.rs", "outbound.rs", "forward.rs"] {
        let lines = read(&root().join("sidecar/src/proxy").join(name))
            .lines()
            .count();
        assert!(
            lines <= MAX_PATH_LINES,
            "{name} has {lines} lines: it calls, it does not compute"
        );
    }
}

#[test]
fn every_policy_is_in_the_table_and_has_the_anatomy() {
    let folder = root().join("sidecar/src/policy");
    let table = read(&folder.join("mod.rs"));
    for entry in std::fs::read_dir(&folder).expect("policies") {
        let path = entry.expect("a file").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // A folder holds parts of the policy of its name.
        if name == "mod" || path.is_dir() {
            continue;
        }
        assert!(
            table.contains(&format!("| [`{name}`] |")),
            "{name} is not in the table"
        );
        let text = read(&path);
        for part in ["//! ", "Phase: ", "// === request ===", "#[cfg(test)]"] {
            assert!(text.contains(part), "{name}.rs lacks {part:?}");
        }
    }
}

#[test]
fn yaml_is_read_in_one_place_and_unsafe_is_nowhere() {
    let allowed = ["compiler/src/yaml", "crds/", "tests/", "compiler/tests"];
    for path in files("rs") {
        let short = path.strip_prefix(root()).unwrap_or(&path).to_owned();
        let short = short.to_string_lossy().into_owned();
        let text = read(&path);
        if text.contains(concat!("serde_", "yaml::")) {
            assert!(
                allowed.iter().any(|prefix| short.starts_with(prefix)),
                "{short} reads YAML"
            );
        }
        // Blocks, functions, traits and implementations alike.
        let uses = code(&text).find(|(_, line)| words(line).any(|word| word == UNSAFE));
        assert!(uses.is_none(), "{short} uses {UNSAFE}: {uses:?}");
    }
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X "),
    ];
    for extension in ["rs", "go", "yaml", "md", "proto"] {
        for path in files(extension) {
            let text = read(&path);
            for mark in marks {
                assert!(!text.contains(mark), "{} has a {mark}", path.display());
            }
        }
    }
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let output = Command::new(root().join("tests/promised"))
        .output()
        .expect("tests/promised runs");
    assert!(output.status.success());
    let promised = String::from_utf8(output.stdout).expect("names");
    let promised: Vec<&str> = promised.lines().collect();
    assert!(!promised.is_empty(), "nothing names a test");
    let sources: Vec<String> = files("rs").iter().map(|path| read(path)).collect();
    for name in promised {
        let declared = format!("fn {name}(");
        assert!(
            sources.iter().any(|text| text.contains(&declared)),
            "docs/promises.md or SECURITY.md names {name}, which is no test"
        );
    }
}
