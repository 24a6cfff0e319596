//! A real Kubernetes for the tests of a whole cluster: one node, started once for all tests of a
//! binary, in network, PID and mount namespaces of its own. `cluster/up` starts it, and says how it
//! is built.
//!
//! ```ignore
//! let cluster = Cluster::start().await?;
//! cluster.import_image("localhost/orders:1", &[&binary]).await?;
//! cluster.apply("…").await?;
//! let answer = wait_until("orders answers", Duration::from_secs(30), async || {
//!     cluster.exec("shop", "web", "web", &["/web", "get", "http://orders"]).await
//! }).await?;
//! ```
//!
//! The cluster outlives no test run: `cluster/up --hold` takes it down as soon as its standard
//! input closes, and the kernel closes that when the test process ends, however it ends.

mod network;
mod process;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Output, Stdio};
use std::time::Duration;

pub(crate) use self::network::enter;
pub use self::process::started;
pub use crate::wait::wait_until;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How long any one command may take before it is ended and counted as failed.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// A running cluster, shared by the tests of a process. They keep apart by namespaces: see
/// [`Cluster::namespace`].
#[derive(Debug)]
pub struct Cluster {
    state: PathBuf,
    programs: PathBuf,
    netns: PathBuf,
    node_ip: String,
    web: OnceCell<()>,
    /// Closes when this process ends; see the module's description.
    _hold: ChildStdin,
}

/// The folder of the cluster's programs, helm and kubectl among them, which are built where they are
/// not there yet.
///
/// # Errors
/// What `programs/build` says.
pub async fn programs() -> Result<&'static Path> {
    static PROGRAMS: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let mut build = Command::new(folder().join("programs/build"));
        let output = build.stderr(Stdio::inherit()).output().await?;
        ensure!(output.status.success(), "programs/build: {}", output.status);
        let said = String::from_utf8(output.stdout)?;
        let path = said
            .lines()
            .last()
            .context("programs/build names no folder")?;
        Ok(PathBuf::from(path))
    };
    PROGRAMS.get_or_try_init(build).await.map(PathBuf::as_path)
}

// === Life ===

impl Cluster {
    /// The cluster, which the first call starts (12 s; the first ever on a machine builds
    /// Kubernetes, which takes about 9 minutes).
    pub async fn start() -> Result<&'static Self> {
        // A failure is kept too: what stops a cluster from starting stops it for every test, and is
        // not tried again for each.
        static CLUSTER: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
        let start = async || match tokio::task::spawn_blocking(Self::up).await {
            Ok(started) => started.map_err(|e| format!("{e:#}")),
            Err(panicked) => Err(panicked.to_string()),
        };
        CLUSTER
            .get_or_init(start)
            .await
            .as_ref()
            .map_err(|e| anyhow!("no cluster: {e}"))
    }

    /// A cluster that no other test shares, for what all of them would notice. It ends with this.
    pub async fn alone() -> Result<Self> {
        tokio::task::spawn_blocking(Self::up).await?
    }

    fn up() -> Result<Self> {
        let script = folder().join("up");
        let mut child = std::process::Command::new(&script)
            .arg("--hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal is for us; it then takes the cluster down in peace.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} can't be run", script.display()))?;
        let hold = child.stdin.take().context("up has no input")?;
        let stdout = child.stdout.take().context("up has no output")?;
        let mut state = String::new();
        BufReader::new(stdout).read_line(&mut state)?;
        if state.is_empty() {
            let status = child.wait()?;
            bail!(
                "{} failed ({status}); its reasons are above, on standard error",
                script.display()
            );
        }
        Self::read(PathBuf::from(state.trim_end()), hold)
    }

    fn read(state: PathBuf, hold: ChildStdin) -> Result<Self> {
        let env = std::fs::read_to_string(state.join("env"))?;
        let value = |name: &str| {
            env.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("the cluster's env has no {name}"))
        };
        Ok(Self {
            programs: value("PROGRAMS")?.into(),
            netns: value("NETNS")?.into(),
            node_ip: value("NODE_IP")?.to_owned(),
            state,
            web: OnceCell::const_new(),
            _hold: hold,
        })
    }

    /// The network namespace of the node, as a path: `nsenter --net=PATH`. API server, Services and
    /// pods are reached from nowhere else.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The node's address in that namespace.
    pub fn node_ip(&self) -> &str {
        &self.node_ip
    }

    /// The state folder: the programs' logs are in `log/`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// An administrator's kubeconfig, of use inside the network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }
}

// === Commands ===

impl Cluster {
    /// A command that runs in the node's network namespace, with the cluster's kubectl and helm
    /// first in its path.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::from(enter(&self.netns, program));
        command
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("KUBECONFIG", self.kubeconfig())
            // Caches and settings of kubectl and helm are the cluster's, not the user's.
            .env("HOME", &self.state)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME");
        command
    }

    /// What kubectl answers. An error carries what it said on standard error.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        run(self.command("kubectl").args(args), "").await
    }

    /// What kubectl answers about objects, with `-o json` added to the arguments.
    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        let answer = run(self.command("kubectl").args(args).args(["-o", "json"]), "").await?;
        serde_json::from_str(&answer).with_context(|| format!("kubectl answered no JSON: {answer}"))
    }

    /// Applies objects on the server's side, as a user would from a file.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        run(
            self.command("kubectl").args([
                "apply",
                "--server-side",
                "--force-conflicts",
                "-f",
                "-",
            ]),
            yaml,
        )
        .await
    }

    /// Creates an object that only answers, such as a TokenReview, and returns the answer.
    pub async fn review(&self, object: &Value) -> Result<Value> {
        let answer = run(
            self.command("kubectl")
                .args(["create", "-f", "-", "-o", "json"]),
            &object.to_string(),
        )
        .await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What helm answers.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        run(self.command("helm").args(args), "").await
    }

    /// Makes a namespace with that prefix which no other test has, ready for pods.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "generateName": format!("{prefix}-") },
        });
        let made = self.review(&object).await?;
        let name = made["metadata"]["name"]
            .as_str()
            .context("a namespace without a name")?
            .to_owned();
        wait_until(
            &format!("{name} has its default service account"),
            Duration::from_secs(30),
            async || {
                self.kubectl(&["get", "serviceaccount", "default", "-n", &name])
                    .await
            },
        )
        .await?;
        Ok(name)
    }

    /// Has a namespace deleted with all that is in it, whenever that is done.
    pub fn forget_namespace(&self, name: &str) {
        let mut delete = self.command("kubectl");
        let namespace = ["delete", "namespace", name];
        let delete = delete.args(namespace).args(["--wait=false"]);
        let delete = delete.args(["--ignore-not-found", "--request-timeout=10s"]);
        // A test that has ended can do nothing about one that stays, and a cluster that is gone has none.
        let _ = delete.as_std_mut().output();
    }

    /// Puts static programs into an image and gives it to the node. The first program is the entry
    /// point; each stands at the root of the image under its own name, or where `FILE=PATH` says.
    /// The name is a whole one, such as `localhost/orders:1`.
    pub async fn import_image(&self, name: &str, binaries: &[&Path]) -> Result<()> {
        ensure!(!binaries.is_empty(), "an image of no programs");
        let mut command = Command::new(folder().join("programs/image"));
        command.arg(&self.state).arg(name).args(binaries);
        run(&mut command, "").await.map(drop)
    }

    /// Gives an image that was built already to the node: an OCI archive which holds one of that
    /// whole name.
    pub async fn import_archive(&self, name: &str, archive: &Path) -> Result<()> {
        let mut command = Command::new(folder().join("programs/image"));
        command
            .arg(&self.state)
            .arg("--archive")
            .arg(name)
            .arg(archive);
        run(&mut command, "").await.map(drop)
    }

    /// Gives an image that the node has another name beside its own, as if it were of another version.
    pub async fn also_name_image(&self, image: &str, other: &str) -> Result<()> {
        let mut command = Command::new(folder().join("programs/image"));
        command.arg(&self.state).args(["--also", other, image]);
        run(&mut command, "").await.map(drop)
    }

    /// The name of an image with the tests' application, `/web serve :8080` and `/web get URL`
    /// (`cluster/programs/web`), which is built in place at its first use.
    pub async fn web_image(&self) -> Result<&'static str> {
        const NAME: &str = "localhost/web:1";
        let make = async || {
            let output = self.state.join("web");
            let mut go = Command::new("go");
            go.arg("build")
                .arg("-C")
                .arg(folder().join("programs/web"))
                .args(["-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o"])
                .args([output.as_os_str(), OsStr::new(".")])
                .env("CGO_ENABLED", "0");
            run(&mut go, "").await?;
            self.import_image(NAME, &[&output]).await
        };
        self.web.get_or_try_init(make).await?;
        Ok(NAME)
    }
}

// === Pods ===

impl Cluster {
    /// What a command prints in a container of a pod (`pod`, or `deployment/name`).
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<String> {
        let args = ["exec", "-n", namespace, pod, "-c", container, "--"];
        run(self.command("kubectl").args(args).args(command), "").await
    }

    /// What a container has logged.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.kubectl(&["logs", "-n", namespace, pod, "-c", container])
            .await
    }

    /// Waits until a pod, `deployment/name` or another workload is ready, and says why not when it
    /// is not.
    pub async fn ready(&self, namespace: &str, workload: &str, limit: Duration) -> Result<()> {
        let seconds = format!("--timeout={}s", limit.as_secs());
        let waited = match workload.contains('/') {
            true => {
                self.kubectl(&["rollout", "status", "-n", namespace, workload, &seconds])
                    .await
            }
            false => {
                self.kubectl(&[
                    "wait",
                    "--for=condition=Ready",
                    "-n",
                    namespace,
                    &format!("pod/{workload}"),
                    &seconds,
                ])
                .await
            }
        };
        let Err(error) = waited else { return Ok(()) };
        let pods = self
            .kubectl(&["get", "pods", "-n", namespace, "-o", "wide"])
            .await
            .unwrap_or_default();
        let events = self
            .kubectl(&["events", "-n", namespace, "--types=Warning"])
            .await
            .unwrap_or_default();
        Err(error.context(format!(
            "{workload} in {namespace} is not ready\n{pods}\n{events}"
        )))
    }

    /// The id, on this machine, of the first process of a running container: an ordinary one, or a
    /// sidecar.
    pub async fn container_pid(&self, namespace: &str, pod: &str, container: &str) -> Result<u32> {
        let object = self.json(&["get", "pod", "-n", namespace, pod]).await?;
        let status = &object["status"];
        let id = [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ]
        .iter()
        .filter_map(|list| status[list].as_array())
        .flatten()
        .find(|one| one["name"] == container)
        .and_then(|one| one["containerID"].as_str()?.strip_prefix("containerd://"))
        .with_context(|| {
            format!("{namespace}/{pod} has no started container {container}: {status}")
        })?;
        process::first(id)?
            .with_context(|| format!("container {container} of {namespace}/{pod} has no process"))
    }

    /// Sends a signal from outside to the first process of a container: `SIGSTOP` for one that
    /// hangs, `SIGKILL` for one that dies.
    pub async fn signal(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        signal: Signal,
    ) -> Result<()> {
        let pid = self.container_pid(namespace, pod, container).await?;
        signal_process(pid, signal)
            .with_context(|| format!("{signal} to {container} of {namespace}/{pod}"))
    }

    /// The id, on this machine, of a program of the cluster itself, such as `kube-apiserver`.
    pub fn process(&self, program: &str) -> Result<u32> {
        process::of_cluster(program, &self.state)?
            .with_context(|| format!("there is no {program} of {}", self.state.display()))
    }

    /// A command of this machine that runs in the network namespace of a container's pod, such as
    /// tcpdump.
    pub async fn command_in_pod(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        program: impl AsRef<OsStr>,
    ) -> Result<Command> {
        let pid = self.container_pid(namespace, pod, container).await?;
        let network = format!("/proc/{pid}/ns/net");
        Ok(enter(Path::new(&network), program).into())
    }
}

// === Small things ===

/// Where the cluster's scripts are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// Sends a signal to a process of this machine that is the cluster's.
pub fn signal_process(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// Runs a command to its end, with that input, and returns its output.
pub async fn run(command: &mut Command, input: &str) -> Result<String> {
    let line = describe(command);
    let output = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin.take() {
                // Who ends without reading it all says in its own words what is wrong.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    };
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(COMMAND_LIMIT, output)
        .await
        .with_context(|| format!("{line}: not done within {COMMAND_LIMIT:?}"))?
        .with_context(|| format!("{line}: can't be run"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!(
            "{line}: {status}\n{}{stdout}",
            String::from_utf8_lossy(&stderr)
        );
    }
    Ok(stdout)
}

/// The command without the way into its namespace, and without long arguments.
fn describe(command: &Command) -> String {
    let command = command.as_std();
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().chars().take(200).collect())
        .collect();
    let start = words
        .iter()
        .position(|word| word == "--")
        .filter(|_| words[0] == "nsenter")
        .map_or(0, |at| at + 1);
    words[start..].join(" ")
}
