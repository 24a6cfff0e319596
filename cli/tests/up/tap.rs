//! `meshwright tap`.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::mesh::{Folder, route, until};
use crate::shop;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A command that runs until it is told to end.
pub(crate) struct Runs {
    child: Child,
    pub(crate) output: BufReader<ChildStdout>,
    /// What it says beside its output, line by line.
    errors: Receiver<String>,
    told: RefCell<Vec<String>>,
}

impl Runs {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, errors) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        Self {
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            errors,
            told: RefCell::default(),
        }
    }

    /// Waits for a line beside its output, unless there was one.
    pub(crate) fn tells(&self, text: &str) {
        let mut told = self.told.borrow_mut();
        while !told.iter().any(|line| line.contains(text)) {
            let line = self.errors.recv_timeout(LONG);
            assert!(line.is_ok(), "it never told `{text}`: {told:?}");
            told.extend(line);
        }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end; returns the exit code and the rest of its output.
    pub(crate) fn ends(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        // However the test went.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tap(folder: &Folder, arguments: &[&str]) -> Runs {
    Runs::start(folder.command(&[&["tap"], arguments].concat()))
}

fn refused(folder: &Folder, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = folder.run(&[&["tap"], arguments].concat());
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_tap_of_the_whole_mesh_shows_a_call_at_both_of_its_ends_and_no_secret() {
    let folder = shop();
    folder.write("route.yaml", &[route("2s")]);
    let _mesh = folder.up(&[]);
    until("the route is in force", || {
        let routes = folder.run(&["routes", "web"]);
        String::from_utf8_lossy(&routes.stdout).contains("shop/orders ")
    });
    let service = ["--service", "shop/orders"];
    let mut tap = tap(
        &folder,
        &[&["-o", "json", "--count", "2"], &service[..]].concat(),
    );
    for pod in ["shop/web-0", "shop/orders-0", "shop/orders-1"] {
        tap.tells(&format!("watching {pod}"));
    }
    folder.get_from("web", "http://orders/1?token=s3cr3t");

    let (code, output) = tap.ends();
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("s3cr3t"), "{output}");
    let lines = output.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.map(Result::unwrap).collect();
    assert_eq!(lines.len(), 2, "{output}");
    let seen = |direction: &str| lines.iter().find(|line| line["direction"] == direction);
    let (outbound, inbound) = (seen("outbound").unwrap(), seen("inbound").unwrap());
    assert_eq!(outbound["workload"], "shop/web-0");
    assert_eq!(outbound["route"], "shop/orders");
    assert_eq!(outbound["path"], "/1");
    assert_eq!(outbound["endpoint"], inbound["workload"]);
    assert_eq!(inbound["source"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(outbound["trace_id"], inbound["trace_id"]);
}

fn rows_for_people(arguments: &[&str]) {
    let folder = shop();
    let mesh = folder.up(&[&["--publish", "web=0"], arguments].concat());
    // All replicas of a Deployment, and a pod.
    let both = tap(&folder, &["orders", "shop/web-0", "--path", "/wanted"]);
    for pod in ["shop/orders-0", "shop/orders-1", "shop/web-0"] {
        both.tells(&format!("watching {pod}"));
    }
    drop(both);

    let mut tap = tap(
        &folder,
        &["web", "--direction", "inbound", "--status", "2xx"],
    );
    tap.tells("watching shop/web-0");
    crate::programs::get(&format!("{}wanted", mesh.published("shop/web:80"))).unwrap();
    let titles = tap.line();
    let words: Vec<_> = titles.split_whitespace().collect();
    let expected = "TIME SEEN BY WAY STATUS LATENCY METHOD REQUEST ROUTE REASON PEER";
    assert_eq!(words.join(" "), expected);
    let row = tap.line();
    for cell in ["shop/web-0", "inbound", "200", "s ", "GET", "/wanted"] {
        assert!(row.contains(cell), "{row} lacks {cell}");
    }
    assert!(
        row.trim_end()
            .ends_with("meshwright-system/meshwright-ingress"),
        "{row}"
    );
    tap.signal(Signal::SIGINT);
    assert_eq!(tap.ends(), (Some(0), String::new()));
}

#[test]
fn a_tap_shows_rows_to_people_until_ctrl_c() {
    rows_for_people(&[]);
}

#[test]
fn a_tap_shows_rows_without_namespaces_too() {
    rows_for_people(&["--no-namespaces"]);
}

#[test]
fn what_can_not_be_watched_is_said_with_what_to_write() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let said = refused(&folder, &["ordres"]);
    assert!(said.contains("no workload is named `ordres`"), "{said}");
    assert!(said.contains("shop/orders"), "{said}");
    let said = refused(&folder, &["web", "--status", "6xx"]);
    assert!(said.contains("a class such as 5xx"), "{said}");
    let said = refused(&folder, &["web", "--reason", "because"]);
    assert!(said.contains("a reason is one of no_route"), "{said}");
}

#[test]
fn a_tap_ends_when_its_sidecars_have_ended() {
    let folder = shop();
    let mesh = folder.up(&[]);
    let mut tap = tap(&folder, &["web"]);
    tap.tells("watching shop/web-0");
    mesh.signal(Signal::SIGINT);
    tap.tells("shop/web-0 is watched no more: the sidecar has ended");
    assert_eq!(tap.ends().0, Some(1));
}
