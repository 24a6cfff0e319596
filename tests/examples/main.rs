//! Every example is right, and its README tells no tales: what it says to type exists, and answers
//! what it says. The quickstart, which people edit and break, is told by `make demo`.

mod command;
mod events;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::mesh::{SOON, binary};
use tests::shown::{Typed, is_as_shown, typed};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the root").to_owned()
}

/// The folders of all examples.
fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("examples")).expect("examples");
    let folders = entries.map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 9, "{folders:?}");
    folders
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn meshwright(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("meshwright").expect("the binaries are built"));
    command.args(arguments).current_dir(root());
    command
}

#[test]
fn nothing_is_wrong_with_any_example() {
    for folder in examples() {
        let folder = folder.to_str().expect("a name");
        let checked = meshwright(&["check", folder]).output().expect("it runs");
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{folder}: {said}");
        assert!(said.contains("nothing is wrong"), "{folder}: {said}");
    }
}

#[test]
fn what_a_readme_says_to_type_and_to_read_exists() {
    let others = [
        "cargo", "cd", "export", "make", "curl", "kubectl", "ctr", "pkill", "sed", "echo", "rm",
        "grep",
    ];
    for folder in examples() {
        let readme = read(&folder.join("README.md"));
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name");
        let documents = fs::read_dir(&folder).expect("a folder");
        let documents = documents
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|is| is == "yaml"));
        let yaml: String = documents.map(|path| read(&path)).collect();
        let commands = typed(&readme);
        assert!(
            commands
                .iter()
                .any(|one| one.command == format!("meshwright up examples/{name}")),
            "{name}: nobody is told how to open it"
        );
        for Typed { command, .. } in commands {
            let words: Vec<&str> = command.trim_start_matches('(').split(' ').collect();
            match words.as_slice() {
                ["meshwright", verb, rest @ ..] => {
                    let help = meshwright(&[verb, "--help"]).output().expect("it runs");
                    assert!(help.status.success(), "{name}: {command}");
                    if let (&"exec", [workload, "--", "shop", verb, ..]) = (verb, rest) {
                        let known = ["call", "grpc", "talk"].contains(verb);
                        assert!(known, "{name}: {command}");
                        let deployment = format!("metadata: {{name: {workload}, ");
                        assert!(yaml.contains(&deployment), "{name}: {command}");
                    }
                }
                [other, ..] => assert!(others.contains(other), "{name}: {command}"),
                [] => panic!("{name}: an empty command"),
            }
        }
        let links = readme.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split([')', '#']).next()) {
            let there = link.starts_with("http") || folder.join(link).exists();
            assert!(there, "{name}: {link}");
        }
    }
}

/// A running example, which ends when dropped. Readers edit it, so it is a copy.
struct Up {
    child: Child,
    checkout: TempDir,
}

impl Up {
    fn of(name: &str) -> Self {
        Self::of_with(name, &[])
    }

    /// The same with further documents in its folder.
    fn of_with(name: &str, also: &[(&str, &str)]) -> Self {
        let checkout = tempfile::tempdir().expect("a folder");
        let folder = format!("examples/{name}");
        let copy = checkout.path().join(&folder);
        fs::create_dir_all(&copy).expect("a folder");
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                fs::copy(entry.path(), copy.join(entry.file_name())).expect("a file");
            }
        }
        for (file, text) in also {
            fs::write(copy.join(file), text).expect("a file");
        }
        let inventory = root().join(&folder).join("inventory");
        if inventory.exists() {
            let mut build = Command::new("go");
            build
                .args(["build", "-buildvcs=false", "-o"])
                .arg(checkout.path());
            let built = build.arg(".").current_dir(inventory).status();
            assert!(built.expect("go runs").success(), "inventory is not built");
        }
        let mut child = meshwright(&["up", &folder])
            .env("PATH", path(checkout.path()))
            .env("XDG_RUNTIME_DIR", checkout.path())
            .current_dir(checkout.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let said = child.stdout.take().expect("it says something");
        let this = Self { child, checkout };
        let mut lines = BufReader::new(said).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("Ctrl-C ends all")));
        assert!(ready, "{folder} ended before it was ready");
        // What it says later is read, so that saying it never waits.
        std::thread::spawn(move || lines.count());
        this
    }

    /// What a command answers, both of its outputs in one.
    fn types(&self, command: &str) -> String {
        let output = self.shell(command).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command with both of its outputs in one.
    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .current_dir(self.checkout.path())
            .env("PATH", path(self.checkout.path()))
            .env("XDG_RUNTIME_DIR", self.checkout.path());
        shell
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let _ = kill(Pid::from_raw(id), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

/// With what was built here first, then what is in a folder, and the brokers of examples.
fn path(folder: &Path) -> String {
    let own = binary("meshwright").expect("the binaries are built");
    let own = own.parent().expect("a folder").display();
    let path = std::env::var("PATH").unwrap_or_default();
    let brokers = tests::brokers::nats_server();
    let brokers = brokers.parent().expect("a folder").display();
    format!("{own}:{}:{brokers}:{path}", folder.display())
}

/// Names the examples whose commands are typed, with commas between them: without it, those of all are.
const ONLY: &str = "MESHWRIGHT_EXAMPLES";

fn asked_for(name: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| only.split(',').any(|one| one == name))
}

#[test]
fn the_commands_of_a_readme_answer_what_it_says() {
    let mut told = BTreeSet::new();
    for folder in examples() {
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name").to_owned();
        if name == "quickstart" || !asked_for(&name) {
            continue;
        }
        let commands = typed(&read(&folder.join("README.md")));
        let after = commands
            .iter()
            .skip_while(|one| !one.command.starts_with("meshwright up "));
        let up = Up::of(&name);
        let mut edited = false;
        for Typed { command, answer } in after.skip(1) {
            // What has been counted is counted when its request has ended, what was published arrives, what is
            // watched is written, and what was edited is enforced, a moment later.
            let later = ["15020/metrics", "/inbox", " steps.json", " events list"];
            let again = edited || later.iter().any(|what| command.contains(what));
            edited = command.starts_with("sed -i") || command.contains(" --folder ");
            let deadline = Instant::now() + SOON;
            loop {
                let said = up.types(command);
                let lines: Vec<&str> = said.trim_end().lines().collect();
                if is_as_shown(answer, &lines) {
                    break;
                }
                assert!(
                    again && Instant::now() < deadline,
                    "{name}: {command}\n{said}\nis not as shown:\n{}",
                    answer.join("\n")
                );
                std::thread::park_timeout(Duration::from_millis(50));
            }
            told.insert(name.clone());
        }
    }
    let least = if std::env::var_os(ONLY).is_some() {
        1
    } else {
        8
    };
    assert!(told.len() >= least, "only {told:?} say something to type");
}

/// How long the greeting took, in milliseconds, as `shop talk` says.
fn greeted(said: &str) -> u32 {
    let rest = said.strip_prefix("greeted after ");
    let took = rest.and_then(|rest| rest.split(' ').next()?.parse().ok());
    took.unwrap_or_else(|| panic!("nobody was greeted: {said}"))
}

#[test]
fn a_server_that_speaks_first_is_not_waited_for_where_its_port_is_declared() {
    let up = Up::of("tcp");
    let all = |name: &str| {
        let command = format!("meshwright exec web -- shop talk {name}:7000 SUM");
        Vec::from_iter((0..5).map(|_| greeted(&up.types(&command))))
    };
    let (declared, undeclared) = (all("ledger"), all("undeclared"));
    // The time in which a client that has something to say would have.
    let said = format!("{declared:?} ms, undeclared {undeclared:?} ms");
    assert!(declared.iter().any(|took| *took < 100), "{said}");
    assert!(undeclared.iter().all(|took| *took >= 190), "{said}");
    assert!(undeclared.iter().any(|took| *took < 1000), "{said}");
}
