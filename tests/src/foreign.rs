//! Unmodified programs that talk to each other twice: in a mesh of `meshwright up`, and without any.
//!
//! `tests/foreign/programs/build` makes them; it takes root, and so does this.
//!
//! Both times a server is called by the same name at the same port. What a client printed and what
//! its server wrote down is then compared; nothing may differ but what `foreign/sight.rs` names.
//!
//! ```ignore
//! let pair = Pair::new(8080, Some("http"), "exec $BIN/http-server");
//! pair.is_the_same(&[("a page", "curl --silent --include $URL/page")]);
//! ```

mod sight;

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use self::sight::{difference, normalised};
use crate::panics;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// How long a client may take, in seconds, before it counts as one that hangs.
const CLIENT_LIMIT: &str = "60";

/// The name of every server, which clients call.
const SERVER: &str = "server";

/// A server, and what its clients need to know.
#[derive(Debug)]
pub struct Pair {
    port: u16,
    /// The name of the Service's port, which declares its protocol.
    declared: Option<&'static str>,
    server: String,
    folder: tempfile::TempDir,
}

/// What one side of an exchange saw, normalised.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// By exchange.
    clients: Vec<String>,
    server: String,
}

/// A place where the server runs and clients can be started.
trait Place {
    /// A command that runs `script` beside the server.
    fn client(&self, script: &str) -> Command;
}

/// Network and mount namespaces with nothing of a mesh in them.
struct Without {
    child: Child,
    variables: Vec<(String, String)>,
}

/// A `meshwright up`.
struct Mesh {
    child: Child,
    state: PathBuf,
}

/// Compiled programs, and those of interpreters.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let build = sources().join("build");
        let output = Command::new(build)
            .stderr(Stdio::inherit())
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "the programs can't be built");
        let text = String::from_utf8(output.stdout).expect("a path is text");
        PathBuf::from(text.lines().last().expect("a path is printed"))
    })
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/programs")
}

/// `meshwright`, which is beside the folder of this test.
fn meshwright() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent);
    let program = folder.context("a folder")?.join("meshwright");
    ensure!(
        program.exists(),
        "{} is not built: cargo build --workspace --bins",
        program.display()
    );
    Ok(program)
}

/// One mesh at a time: together they would only be slower.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Pair ===

impl Pair {
    /// A server that listens on `port`, which is declared by a name such as `http` or not at all.
    ///
    /// The scripts of servers and clients find programs in `$BIN`, sources in `$PROGRAMS`, a folder
    /// of their own in `$OWN`, and the server at `$HOST:$PORT`. A server writes what it sees to the
    /// file `$SAW`.
    pub fn new(port: u16, declared: Option<&'static str>, server: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // A server that gives up its privileges has to find its own.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a folder");
        Self {
            port,
            declared,
            server: server.to_owned(),
            folder,
        }
    }

    /// Each exchange, by its name, is the same with and without a mesh.
    ///
    /// # Panics
    /// When something differs, or a client fails without a mesh.
    #[track_caller]
    pub fn is_the_same(&self, exchanges: &[(&str, &str)]) {
        let seen = self.seen(exchanges);
        let (without, meshed) = seen.unwrap_or_else(|error| panic!("{error:#}"));
        let mut differences = String::new();
        let pairs = without.clients.iter().zip(&meshed.clients);
        for ((name, _), (without, meshed)) in exchanges.iter().zip(pairs) {
            if without != meshed {
                differences += &format!("{name}, as its client saw it:\n");
                differences += &difference(without, meshed);
            }
        }
        if without.server != meshed.server {
            differences += "as the server saw it:\n";
            differences += &difference(&without.server, &meshed.server);
        }
        assert!(
            differences.is_empty(),
            "the mesh is noticed (- without, + with):\n{differences}"
        );
    }

    fn seen(&self, exchanges: &[(&str, &str)]) -> Result<(Seen, Seen)> {
        let _turn = turn();
        let without = self.exchange(&Without::start(self)?, "without", exchanges, None)?;
        let meshed = Mesh::start(self)?;
        let seen = self.exchange(&meshed, "meshed", exchanges, Some(&without))?;
        meshed.was_in_between()?;
        Ok((without, seen))
    }

    /// What is seen at a place. A server may write down what it saw after its client has ended: it
    /// is given time to come to what is `expected`, or to anything at all.
    fn exchange(
        &self,
        place: &dyn Place,
        name: &str,
        exchanges: &[(&str, &str)],
        expected: Option<&Seen>,
    ) -> Result<Seen> {
        let mut clients = Vec::new();
        for (what, script) in exchanges {
            let output = place.client(script).stdin(Stdio::null()).output()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            // Without a mesh nothing may fail: two failures are the same, and prove nothing.
            ensure!(
                expected.is_some() || output.status.success(),
                "{what} fails without a mesh: {}\n{stdout}{stderr}",
                output.status
            );
            let mut seen = normalised(&stdout);
            if !output.status.success() {
                seen += &format!("\n{}\n{stderr}", output.status);
            }
            clients.push(seen);
        }
        let saw = self.folder.path().join(name).join("saw");
        let server = || normalised(&std::fs::read_to_string(&saw).unwrap_or_default());
        let deadline = Instant::now() + Duration::from_secs(10);
        if let Some(expected) = expected {
            while server() != expected.server && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
        Ok(Seen {
            clients,
            server: server(),
        })
    }

    /// What scripts know, at a place of its own folder.
    fn variables(&self, name: &str) -> Result<Vec<(String, String)>> {
        let own = self.folder.path().join(name);
        std::fs::create_dir_all(&own)?;
        // Whoever the server is.
        std::fs::set_permissions(&own, Permissions::from_mode(0o777))?;
        let text = |path: &Path| path.display().to_string();
        let variables = [
            ("BIN", text(&programs().join("bin"))),
            ("NODE_PATH", text(&programs().join("node_modules"))),
            ("PYTHONPATH", text(&programs().join("python"))),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            ("PROGRAMS", text(&sources())),
            ("SAW", text(&own.join("saw"))),
            ("OWN", text(&own)),
            ("HOST", SERVER.to_owned()),
            ("PORT", self.port.to_string()),
            ("URL", format!("http://{SERVER}:{}", self.port)),
        ];
        let variables = variables.into_iter();
        Ok(variables
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    /// The server with its Service, and somebody to call it.
    fn documents(&self, variables: &[(String, String)]) -> Vec<Value> {
        let env: Vec<Value> = variables
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let deployment = |name: &str, script: &str, ports: Value| {
            let container = json!({
                "name": "app", "command": ["sh", "-c", script], "env": env, "ports": ports,
            });
            json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": { "name": name, "namespace": "foreign" },
                "spec": {
                    "selector": { "matchLabels": { "app": name } },
                    "template": {
                        "metadata": { "labels": { "app": name } },
                        "spec": {
                            "serviceAccountName": name,
                            "containers": [container],
                            "terminationGracePeriodSeconds": 1,
                        },
                    },
                },
            })
        };
        let port = json!({ "name": self.declared, "port": self.port, "targetPort": self.port });
        vec![
            deployment(
                SERVER,
                &self.server,
                json!([{ "containerPort": self.port }]),
            ),
            deployment("client", "exec sleep infinity", json!([])),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": SERVER, "namespace": "foreign" },
                "spec": { "selector": { "app": SERVER }, "ports": [port] },
            }),
        ]
    }
}

// === impl Without ===

impl Without {
    fn start(pair: &Pair) -> Result<Self> {
        let variables = pair.variables("without")?;
        let hosts = pair.folder.path().join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost {SERVER}\n"))?;
        let script = format!(
            "ip link set lo up && mount --bind {} /etc/hosts && exec sh -c \"$0\"",
            hosts.display()
        );
        let child = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
            ])
            .args([&script, &pair.server])
            .envs(variables.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut this = Self { child, variables };
        this.waits_for(pair.port)?;
        Ok(this)
    }

    /// Until somebody listens, whom a call to find out might confuse.
    fn waits_for(&mut self, port: u16) -> Result<()> {
        let listens = format!(":{port:04X} ");
        let deadline = Instant::now() + LONG;
        let mut heard = false;
        while !heard {
            ensure!(Instant::now() < deadline, "nobody listens on {port}");
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "the server ended: {ended:?}");
            std::thread::park_timeout(Duration::from_millis(20));
            let network = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
            if network(&self.child.id().to_string()) == network("self") {
                // Not yet in one of its own.
                continue;
            }
            let sockets = ["tcp", "tcp6"].map(|kind| {
                let file = format!("/proc/{}/net/{kind}", self.child.id());
                std::fs::read_to_string(file).unwrap_or_default()
            });
            heard = sockets
                .iter()
                .flat_map(|table| table.lines())
                .any(|line| line.contains(&listens) && line.contains(" 0A "));
        }
        Ok(())
    }
}

impl Place for Without {
    fn client(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--target", &self.child.id().to_string()])
            .args(["timeout", CLIENT_LIMIT, "bash", "-c", script])
            .envs(self.variables.clone());
        command
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        // All in its namespace of processes dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Mesh ===

impl Mesh {
    fn start(pair: &Pair) -> Result<Self> {
        let variables = pair.variables("meshed")?;
        let [documents, state] = ["documents", "state"].map(|name| pair.folder.path().join(name));
        std::fs::create_dir_all(&documents)?;
        std::fs::create_dir_all(&state)?;
        let text: String = pair
            .documents(&variables)
            .iter()
            .map(|document| format!("---\n{document:#}\n"))
            .collect();
        std::fs::write(documents.join("foreign.yaml"), text)?;
        let mut child = Command::new(meshwright()?)
            .arg("up")
            .arg(&documents)
            .env("XDG_RUNTIME_DIR", &state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        let this = Self { child, state };
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            // To the end, whoever listens: it must not wait for a reader.
            for line in output.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        let deadline = Instant::now() + LONG;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = said
                .recv_timeout(left)
                .map_err(|_| anyhow!("the mesh is not ready:\n{}", lines.join("\n")))?;
            if line.contains("Ctrl-C ends all") {
                // Otherwise an exchange would prove nothing of what is captured.
                let explicit = lines
                    .iter()
                    .any(|line: &String| line.contains("not enforced"));
                ensure!(!explicit, "without namespaces:\n{}", lines.join("\n"));
                return Ok(this);
            }
            lines.push(line);
        }
    }
}

impl Mesh {
    /// The sidecars of both sides have carried something: what goes around them differs in nothing.
    fn was_in_between(&self) -> Result<()> {
        for (workload, direction) in [("client", "outbound"), (SERVER, "inbound")] {
            let metrics = self
                .inside(workload)
                .args(["curl", "-sS", "http://127.0.0.1:15020/metrics"])
                .output()?;
            let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
            let carried = metrics.lines().any(|line| {
                line.starts_with("meshwright_connections_total{")
                    && line.contains(&format!("direction=\"{direction}\""))
                    && !line.contains("passthrough")
                    && !line.ends_with(" 0")
            });
            ensure!(
                carried,
                "{workload} has no {direction} connection:\n{metrics}"
            );
        }
        Ok(())
    }

    /// A command inside a workload, which is to follow.
    fn inside(&self, workload: &str) -> Command {
        let mut command = Command::new(meshwright().expect("it was started"));
        command
            .args(["exec", workload, "--"])
            .env("XDG_RUNTIME_DIR", &self.state);
        command
    }
}

impl Place for Mesh {
    fn client(&self, script: &str) -> Command {
        let mut command = self.inside("client");
        command.args(["timeout", CLIENT_LIMIT, "bash", "-c", script]);
        command
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // However the test went; what is inside dies with it, and its logs stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Those of servers and clients are their own.
        panics::check(&self.state, |name| {
            name == "operator.log" || name.ends_with(".sidecar.log")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_in_a_log_of_the_meshs_fails_the_test_and_one_in_an_applications_does_not()
    -> Result<()> {
        let said = b"{}\nthread 'worker-0' panicked at sidecar/src/x.rs:1:1:\nno\n";
        for (name, fails) in [
            ("operator.log", true),
            ("foreign.server-0.sidecar.log", true),
            ("foreign.server-0.log", false),
        ] {
            let around = tempfile::tempdir()?;
            let logs = around.path().join("meshwright-0/documents/logs");
            std::fs::create_dir_all(&logs)?;
            std::fs::write(logs.join(name), said)?;
            let mesh = Mesh {
                child: Command::new("true").spawn()?,
                state: around.path().to_owned(),
            };
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(mesh)));
            assert_eq!(dropped.is_err(), fails, "{name}");
        }
        Ok(())
    }
}
