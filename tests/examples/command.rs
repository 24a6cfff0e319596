//! `docs/cli.md`: what it shows of the quickstart, and of connections, is what `meshwright` says.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::Value;
use tests::shown::{Typed, is_as_shown, typed};

use crate::{Up, meshwright, read, root};

/// What the page shows of something else.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "meshwright check post",
        "a folder that the page does not show: `cli/tests/up/stalls.rs` has one",
    ),
    (
        "meshwright check shop -n shop",
        "a cluster: `tests/cluster/commands.rs`",
    ),
    (
        "meshwright check --cluster",
        "a cluster: `tests/cluster/installing.rs`",
    ),
    (
        "meshwright inject --cluster deployment.yaml | kubectl apply -f -",
        "a cluster: `tests/cluster/procedures/everything.rs`",
    ),
    (
        "meshwright explain GET http://orders/admin --from web --to orders",
        "a folder that the page does not show: `cli/tests/up/asking.rs` has one",
    ),
    (
        "meshwright explain GET http://orders/ --from web --to orders",
        "a folder that the page does not show: `cli/tests/up/asking.rs` has one",
    ),
    (
        "meshwright cache show orders",
        "the example of caching, whose README shows it",
    ),
    (
        "meshwright cache purge orders --path /orders/slow",
        "the example of caching, whose README shows it",
    ),
    (
        "meshwright install --ha -f platform.yaml",
        "a cluster: `tests/cluster/procedures`",
    ),
    (
        "meshwright upgrade --set logLevel=debug",
        "a cluster: `tests/cluster/procedures`",
    ),
    (
        "meshwright uninstall --dry-run",
        "a cluster: `tests/cluster/procedures`",
    ),
];

/// What the page shows of a mesh on this machine: of the quickstart, or of the example whose port carries no HTTP.
fn shown(of_connections: bool) -> Vec<Typed> {
    let mut all = typed(&read(&root().join("docs/cli.md")));
    let stale: Vec<_> = ELSEWHERE
        .iter()
        .filter(|(other, _)| !all.iter().any(|one| one.command == *other))
        .collect();
    assert!(stale.is_empty(), "not on the page: {stale:?}");
    all.retain(|one| {
        let command = one.command.as_str();
        let connections = command.contains("ledger") || command.contains("explain http://1");
        let elsewhere = ELSEWHERE.iter().any(|(other, _)| *other == command);
        !elsewhere && connections == of_connections
    });
    for one in &mut all {
        // The endpoints that are not called are shown for when there are any.
        let end = one
            .answer
            .iter()
            .position(|line| line.starts_with("ENDPOINT "));
        one.answer.truncate(end.unwrap_or(one.answer.len()));
    }
    all
}

/// A line without numbers, prints and spaces, which differ from run to run.
fn alike(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let bare = word.trim_end_matches([',', ')']);
        let hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        match bare.len() {
            8 | 16 if hex => word.replace(bare, "#"),
            _ => word.to_owned(),
        }
    });
    let mut alike = String::new();
    for c in words.collect::<Vec<_>>().join(" ").chars() {
        match c.is_ascii_digit() {
            true if alike.ends_with('#') => {}
            true => alike.push('#'),
            false => alike.push(c),
        }
    }
    alike
}

/// What is said is as it is shown.
fn assert_is(Typed { command, answer }: &Typed, said: &str, read: fn(&str) -> String) {
    let shown: Vec<String> = answer.iter().map(|line| read(line)).collect();
    let lines: Vec<String> = said.trim_end().lines().map(read).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert!(
        is_as_shown(&shown, &lines),
        "{command}\n{said}\nis not as shown:\n{}",
        answer.join("\n")
    );
}

/// The same in any order.
fn assert_is_in_any_order(typed: &Typed, said: &str) {
    let sorted = |lines: &mut dyn Iterator<Item = &str>| {
        let mut lines: Vec<String> = lines.map(alike).collect();
        lines.sort();
        lines
    };
    let shown = sorted(&mut typed.answer.iter().map(String::as_str));
    assert_eq!(
        shown,
        sorted(&mut said.lines()),
        "{}: {said}",
        typed.command
    );
}

/// Asks the quickstart's `web` for a page, from outside of the mesh.
fn visit(address: &str, path: &str) {
    let mut stream = TcpStream::connect(address).expect("web is published");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

/// What a tap of one workload shows while somebody visits, once it watches.
fn tapped(up: &Up, command: &str, address: &str) -> String {
    let mut tap = up.shell(command);
    let mut tap = tap.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(tap.stdout.take().expect("a pipe")).lines();
    let mut said = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        if line.starts_with("watching ") {
            visit(address, "/");
            visit(address, "/slow");
        }
        said.push(line);
    }
    assert!(tap.wait().expect("it ends").success(), "{said:?}");
    said.join("\n")
}

/// The fields of a line of JSON, and the values of those that are the same each time.
fn fields(text: &str) -> (Vec<String>, Vec<String>) {
    let line = text.lines().last().expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let keys = line.as_object().expect("an object").keys().cloned();
    let fixed = [
        "direction",
        "method",
        "path",
        "route",
        "rule",
        "status",
        "reason",
        "outcome",
    ];
    (
        keys.collect(),
        fixed.map(|key| line[key].to_string()).to_vec(),
    )
}

/// The line that `port-forward` says first, of a port that is free here.
fn forwarded(up: &Up, workload: &str, ports: &str) -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let (here, there) = ports.split_once(':').expect("two ports");
    let port = address.port().to_string();
    let mut forward = meshwright(&["port-forward", workload, &format!("{port}:{there}")])
        .env("XDG_RUNTIME_DIR", up.checkout.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    let said = lines.next().expect("a line").expect("text");
    let _ = forward.kill();
    let _ = forward.wait();
    said.replace(&port, here)
}

/// The id of the key that a command has made.
fn key(said: &str) -> Option<String> {
    let line = said
        .lines()
        .find(|line| line.contains(" is taken from now"))?;
    Some(line.strip_prefix("key ")?.split(' ').next()?.to_owned())
}

/// What keys are called on the page, and here.
#[derive(Default)]
struct Keys(Vec<(String, String)>);

impl Keys {
    fn here(&self, shown: &str) -> String {
        let by = |text: String, (shown, here): &(String, String)| text.replace(shown, here);
        self.0.iter().fold(shown.to_owned(), by)
    }

    /// What is said, with the page's names for keys.
    fn shown(&mut self, typed: &Typed, said: &str) -> String {
        self.0.extend(key(&typed.answer.join("\n")).zip(key(said)));
        let by = |text: String, (shown, here): &(String, String)| text.replace(here, shown);
        self.0.iter().fold(said.to_owned(), by)
    }
}

#[test]
fn what_the_page_of_the_command_shows_of_a_mesh_here_is_what_is_said() {
    let up = Up::of("quickstart");
    let status = up.types("meshwright status");
    let published = status.lines().find_map(|line| line.split_once("http://"));
    let (_, address) = published.unwrap_or_else(|| panic!("not published: {status}"));
    let address = address.trim();
    // The page keeps keys in a folder `shop`, and gives them to a clipboard.
    let clipboard = up.checkout.path().join("wl-copy");
    fs::write(&clipboard, "#!/bin/sh\ncat >/dev/null\n").expect("a file");
    fs::set_permissions(&clipboard, fs::Permissions::from_mode(0o755)).expect("a mode");
    let copied = up.types("cp -r examples/quickstart shop");
    assert!(copied.is_empty(), "{copied}");

    let mut keys = Keys::default();
    let all = shown(false);
    assert!(all.len() >= 15, "only {all:?}");
    for typed in all {
        let words: Vec<&str> = typed.command.split(' ').collect();
        let command = keys.here(&typed.command);
        match words.as_slice() {
            ["meshwright", "up", ..] => {
                let said: Vec<String> = status.lines().map(alike).collect();
                let mut shown = typed.answer.iter().map(|line| alike(line));
                assert!(shown.all(|line| said.contains(&line)), "{status}");
            }
            ["meshwright", "tap", _, "-o", "json", ..] => {
                let said = tapped(&up, &command, address);
                assert_eq!(fields(&typed.answer.join("\n")), fields(&said), "{said}");
            }
            ["meshwright", "tap", ..] => {
                assert_is_in_any_order(&typed, &tapped(&up, &command, address));
            }
            ["meshwright", "port-forward", workload, ports] => {
                assert_eq!(forwarded(&up, workload, ports), typed.answer.join("\n"));
            }
            // Keys are listed in the order of their ids, which chance has made.
            ["meshwright", "consumer", "list", ..] => {
                let said = keys.shown(&typed, &up.types(&command));
                assert_is_in_any_order(&typed, &said);
            }
            ["meshwright", "consumer", ..] => {
                let said = keys.shown(&typed, &up.types(&command));
                assert_is(&typed, &said, alike);
            }
            ["meshwright", "exec" | "config" | "certificates", ..] => {
                assert_is(&typed, &up.types(&command), alike);
            }
            _ => assert_is(&typed, &up.types(&command), str::to_owned),
        }
    }
}

/// The RetryPolicy that the page speaks of.
const BALANCED: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: {name: ledger, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: ledger}]
  loadBalancing: {type: ConsistentHash, hashOn: {type: Source}}
";

#[test]
fn what_the_page_of_the_command_shows_of_connections_is_what_is_said() {
    let up = Up::of_with("tcp", &[("balanced.yaml", BALANCED)]);
    let status = up.types("meshwright status");
    let row = status
        .lines()
        .find(|line| line.starts_with("shop/ledger-next-0 "));
    let row = row.unwrap_or_else(|| panic!("{status}"));
    let address = row.split_whitespace().nth(1).expect("an address");
    let all = shown(true);
    assert_eq!(all.len(), 4, "{all:?}");
    for typed in all {
        let said = up.types(&typed.command.replace("10.244.0.3", address));
        assert_is(&typed, &said.replace(address, "10.244.0.3"), str::to_owned);
    }
}
