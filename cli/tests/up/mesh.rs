//! A running `meshwright up`, and the folder it runs.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};

use crate::programs;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// Somebody without privileges.
const NOBODY: u32 = 65534;

/// A folder of documents, and the meshes that run it.
pub(crate) struct Folder {
    documents: PathBuf,
    state: PathBuf,
    /// Whose meshes these are, if they are another's than whose tests these are.
    user: Option<u32>,
    around: tempfile::TempDir,
}

/// One `meshwright up`.
pub(crate) struct Mesh {
    child: Child,
    state: PathBuf,
    said: Arc<(Mutex<Said>, Condvar)>,
    /// What it said itself of its panics.
    panics: Arc<Mutex<Vec<String>>>,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// Up to where a test has read.
    read: usize,
    ended: bool,
}

/// A Deployment that runs one of the test's programs, and its Service on port 80.
pub(crate) fn workload(
    name: &str,
    program: &str,
    replicas: u32,
    env: &[(&str, &str)],
) -> Vec<Value> {
    let mut variables = vec![json!({ "name": "PORT", "value": "8080" })];
    variables.extend(
        env.iter()
            .map(|(name, value)| json!({ "name": name, "value": value })),
    );
    let container = json!({
        "name": "app",
        "command": programs::command(program),
        "env": variables,
        "ports": [{ "containerPort": 8080 }],
    });
    let template = json!({
        "metadata": { "labels": { "app": name } },
        "spec": { "serviceAccountName": name, "containers": [container], "terminationGracePeriodSeconds": 5 },
    });
    vec![
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": template },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        }),
    ]
}

/// A route for calls to `orders`, with a timeout.
pub(crate) fn route(timeout: &str) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1",
        "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": "shop" },
        "spec": { "hosts": ["orders"], "timeouts": { "request": timeout } },
    })
}

/// The `meshwright` program, with the operator and the sidecar beside it.
fn meshwright() -> Command {
    let own = Path::new(env!("CARGO_BIN_EXE_meshwright"));
    // Cargo builds the programs of the package under test only. The others are not built here:
    // another choice of packages would be another choice of features, and build everything again.
    for name in ["meshwright-operator", "meshwright-sidecar"] {
        let program = own.with_file_name(name);
        assert!(
            program.exists(),
            "{} is not built: cargo build --workspace --bins",
            program.display()
        );
    }
    Command::new(own)
}

/// The logs of operators and sidecars within a folder; those of applications are their own.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut logs(&entry.path()));
        } else if name == "operator.log" || name.ends_with(".sidecar.log") {
            found.push(entry.path());
        }
    }
    found
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

// === impl Folder ===

impl Folder {
    pub(crate) fn new(documents: &[Value]) -> Self {
        let around = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = around.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let this = Self {
            documents: place("shop"),
            state: place("state"),
            user: None,
            around,
        };
        this.write("shop.yaml", documents);
        this
    }

    /// A folder whose meshes are run by somebody without any privileges: nobody, when the tests are
    /// run by root.
    pub(crate) fn of_an_ordinary_user(documents: &[Value]) -> Self {
        let mut this = Self::new(&[]);
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let mut documents = json!(documents).to_string();
        if geteuid().is_root() {
            this.user = Some(NOBODY);
            // Where programs are built, not everybody may go.
            let programs = this.around.path().join("programs");
            std::fs::create_dir(&programs).unwrap();
            let meshs = ["meshwright", "meshwright-operator", "meshwright-sidecar"]
                .map(|name| Path::new(env!("CARGO_BIN_EXE_meshwright")).with_file_name(name));
            for program in meshs.iter().map(PathBuf::as_path).chain([Path::new(own)]) {
                let copy = programs.join(program.file_name().unwrap());
                std::fs::copy(program, &copy).unwrap();
                std::fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
            }
            let copy = programs.join(Path::new(own).file_name().unwrap());
            documents = documents.replace(own, copy.to_str().unwrap());
            let file = this.path().join("shop.yaml");
            for path in [
                this.around.path(),
                &programs,
                this.path(),
                &file,
                this.state(),
            ] {
                std::os::unix::fs::chown(path, this.user, this.user).unwrap();
            }
        }
        let documents: Vec<Value> = serde_json::from_str(&documents).unwrap();
        this.write("shop.yaml", &documents);
        this
    }

    pub(crate) fn path(&self) -> &Path {
        &self.documents
    }

    /// Where the meshes keep what they keep.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Where the only mesh keeps something.
    pub(crate) fn kept(&self, what: &str) -> PathBuf {
        let user = self.user.unwrap_or(geteuid().as_raw());
        let user = self.state.join(format!("meshwright-{user}"));
        user.join("shop").join(what)
    }

    /// Writes documents to a file of the folder.
    pub(crate) fn write(&self, file: &str, documents: &[Value]) {
        let text: String = documents
            .iter()
            .map(|document| format!("---\n{document:#}\n"))
            .collect();
        self.write_text(file, &text);
    }

    pub(crate) fn write_text(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).unwrap();
    }

    /// `meshwright` with `arguments`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = meshwright();
        if let Some(user) = self.user {
            command = Command::new(self.around.path().join("programs/meshwright"));
            command.uid(user).gid(user);
            command.env("HOME", &self.state).env("TMPDIR", &self.state);
        }
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.state);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the folder and waits until all is ready.
    pub(crate) fn up(&self, arguments: &[&str]) -> Mesh {
        let mesh = self.start(arguments);
        mesh.waits_for("Ctrl-C ends all");
        mesh
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Mesh {
        let mut command = self.command(&["up", self.path().to_str().unwrap()]);
        command.args(arguments);
        Mesh::of(command, &self.state)
    }

    /// Runs a command inside a workload and returns its output.
    pub(crate) fn exec(&self, workload: &str, script: &str) -> String {
        let output = self.run(&["exec", workload, "--", "sh", "-c", script]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The same, when it may not be answered at all.
    pub(crate) fn try_get_from(&self, workload: &str, url: &str) -> String {
        let client = format!("URL={url} {}", programs::command("client").join(" "));
        let output = self.run(&["exec", workload, "--", "sh", "-c", &client]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a program inside a workload is answered by `url`.
    pub(crate) fn get_from(&self, workload: &str, url: &str) -> String {
        self.exec(
            workload,
            &format!("URL={url} {}", programs::command("client").join(" ")),
        )
    }

    /// What a program inside a workload hears, in hex, when it says `bytes` to an address, and for how
    /// many milliseconds the connection lives.
    pub(crate) fn says(&self, workload: &str, to: &str, bytes: &[u8]) -> (String, u128) {
        let say: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let sayer = programs::command("sayer").join(" ");
        let output = self.exec(workload, &format!("TO={to} SAY={say} {sayer}"));
        let heard = output.lines().find_map(|line| {
            let (said, until) = line.split_once("said [")?.1.split_once("] until ")?;
            Some((said.to_owned(), until.strip_suffix(" ms")?.parse().ok()?))
        });
        heard.unwrap_or_else(|| panic!("{output}"))
    }

    /// The sum of the series of a workload's metrics that have this name and all of these labels, each
    /// written as `name="value"`.
    pub(crate) fn counted(&self, workload: &str, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.get_from(workload, "http://127.0.0.1:15000/metrics");
        let series = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('{'))
                && labels.iter().all(|label| line.contains(label))
        });
        let values = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.sum()
    }

    /// Whether the sidecar of a pod has answered a request of whoever proved this identity.
    pub(crate) fn was_called_by(&self, pod: &str, identity: &str) -> bool {
        let log = self.kept(&format!("logs/shop.{pod}.sidecar.log"));
        let log = std::fs::read_to_string(log).unwrap();
        let mut lines = log.lines().flat_map(serde_json::from_str::<Value>);
        lines.any(|line| line["direction"] == "inbound" && line["source"] == identity)
    }

    /// What a workload's sidecar holds under a name; null when there is no such thing.
    pub(crate) fn held(&self, workload: &str, id: &str) -> Value {
        let answer = self.get_from(workload, "http://127.0.0.1:15000/config");
        let (from, to) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
        let config: Value = serde_json::from_str(&answer[from..=to]).unwrap();
        let held = config["held"].as_array().unwrap();
        let found = held.iter().find(|one| one["id"] == id);
        found.cloned().unwrap_or_default()
    }
}

// === impl Mesh ===

impl Mesh {
    pub(crate) fn of(mut command: Command, state: &Path) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let panics = Arc::new(Mutex::new(Vec::new()));
        let (output, heard) = (child.stderr.take().unwrap(), panics.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                eprintln!("{line}");
                if line.contains("panicked at") {
                    heard.lock().unwrap().push(line);
                }
            }
        });
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let (output, heard) = (child.stdout.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                heard.0.lock().unwrap().lines.push(line);
                heard.1.notify_all();
            }
            heard.0.lock().unwrap().ended = true;
            heard.1.notify_all();
        });
        Self {
            child,
            state: state.to_owned(),
            said,
            panics,
        }
    }

    /// Waits for a line that contains `text`, after those waited for before; returns it.
    pub(crate) fn waits_for(&self, text: &str) -> String {
        let (said, heard) = &*self.said;
        let mut said = said.lock().unwrap();
        let deadline = Instant::now() + LONG;
        loop {
            let read = said.read;
            if let Some(at) = said.lines[read..]
                .iter()
                .position(|line| line.contains(text))
            {
                said.read += at + 1;
                return said.lines[read + at].clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !said.ended && !left.is_zero(),
                "it never said `{text}`:\n{}",
                said.lines.join("\n")
            );
            said = heard.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Everything it said so far.
    pub(crate) fn said(&self) -> String {
        self.said.0.lock().unwrap().lines.join("\n")
    }

    /// Where a Service is published, by the table.
    pub(crate) fn published(&self, service: &str) -> String {
        let said = self.said();
        let line = said
            .lines()
            .find(|line| line.starts_with(service) && line.contains("http://"))
            .unwrap();
        format!("{}/", line.split_whitespace().last().unwrap())
    }

    /// Fails the test when the mesh, its operator or a sidecar has panicked: no input may bring that
    /// about, also where nobody would have noticed. Says so only, while the test fails already.
    fn check_for_panics(&self) {
        let mut told = self.panics.lock().unwrap().clone();
        for file in logs(&self.state) {
            let log = std::fs::read(&file).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            if let Some(at) = log.find("panicked at") {
                let rest: Vec<_> = log[at..].lines().take(4).collect();
                told.push(format!("{}: {}", file.display(), rest.join("\n")));
            }
        }
        match std::thread::panicking() {
            true => told.iter().for_each(|told| eprintln!("{told}")),
            false => assert!(told.is_empty(), "{}", told.join("\n")),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // What ends in order takes its logs along.
        self.check_for_panics();
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The process that is the application of a pod.
    pub(crate) fn application(&self, pod: &str) -> Pid {
        let holds = |id: i32, file: &str, text: &str| {
            let read = std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            read.split(|byte| *byte == 0)
                .any(|part| part == text.as_bytes())
        };
        let state = format!("XDG_RUNTIME_DIR={}", self.state.display());
        let is_it = |id: &i32| {
            holds(*id, "cmdline", "programs::server")
                && holds(*id, "environ", &state)
                && holds(*id, "environ", &format!("HOSTNAME={pod}"))
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        Pid::from_raw(ids.find(is_it).unwrap())
    }

    /// Waits for its end; returns the exit code.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Programs that run on its behalf, by their command lines.
    pub(crate) fn programs(&self) -> Vec<String> {
        let state = self.state.parent().unwrap().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(state))
            .collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // However the test went; what is inside dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.check_for_panics();
    }
}

#[test]
fn a_panic_of_the_mesh_or_in_a_log_of_its_own_fails_the_test() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let said = "thread 'worker-0' panicked at sidecar/src/x.rs:1:1:";
    for (script, log, fails) in [
        ("true", "operator.log", true),
        ("true", "shop.web-0.sidecar.log", true),
        ("true", "shop.web-0.log", false),
        ("echo \"$SAID\" >&2; echo it said so", "none", true),
    ] {
        let state = tempfile::tempdir().unwrap();
        let logs = state.path().join("meshwright-0/shop/logs");
        std::fs::create_dir_all(&logs).unwrap();
        if log != "none" {
            std::fs::write(logs.join(log), said).unwrap();
        }
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("SAID", said);
        let mesh = Mesh::of(command, state.path());
        if log == "none" {
            mesh.waits_for("it said so");
            until("its words have arrived", || {
                !mesh.panics.lock().unwrap().is_empty()
            });
        }
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(mesh)));
        assert_eq!(dropped.is_err(), fails, "{script} {log}");
    }
}
