//! A whole mesh on loopback addresses: one operator reading a folder, and a real sidecar process
//! beside each workload. Nothing in it is a stand-in but the applications, which record what they
//! see.
//!
//! Sidecars run as explicit proxies here (`HTTP_PROXY`), so that many meshes fit beside each other
//! in one process without privileges; the transparent redirect is tested by `meshwright up` and in
//! the cluster. Each mesh has addresses of its own under 127.0.0.0/8.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::panics;
use crate::upstream::Upstream;
use crate::wait_until;

mod certificates;
mod churn;
mod files;
mod sidecar;
mod streams;
mod volume;

pub use self::churn::Usage;
pub use self::sidecar::{Sidecar, series};
pub use self::volume::SmallVolume;

/// The namespace of every object of the tests that names none.
pub const NAMESPACE: &str = "shop";

/// The port that applications listen on.
pub const APPLICATION_PORT: u16 = 8080;

/// How long a test waits for what should take milliseconds, on a machine that does other things.
pub const SOON: Duration = Duration::from_secs(20);

/// A mesh: its operator, and the folder it reads.
pub struct Mesh {
    // Dropped first: processes end before their folders go.
    operator: Mutex<Option<Child>>,
    /// What the operator is told beside what every mesh's is.
    arguments: Vec<String>,
    /// The folder of the programs that are started next.
    programs: Mutex<PathBuf>,
    subnet: [u8; 2],
    next: AtomicU32,
    grpc: SocketAddr,
    http: SocketAddr,
    tokens: Mutex<Vec<Value>>,
    pods: Mutex<BTreeMap<String, Value>>,
    folder: TempDir,
}

/// An application with its sidecar, as an endpoint of a Service.
pub struct Workload {
    /// The application, which records what it sees.
    pub upstream: Upstream,
    /// What is beside it.
    pub sidecar: Sidecar,
}

/// The folder of the built binaries: beside the folder of the running test.
pub fn built() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent);
    Ok(folder.context("no build folder")?.to_owned())
}

/// One of the built binaries.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = built()?.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: cargo build --workspace --bins",
            path.display()
        );
    }
    Ok(path)
}

/// The namespace and the name of an application.
fn of(app: &str) -> (&str, &str) {
    app.split_once('/').unwrap_or((NAMESPACE, app))
}

// === impl Mesh ===

impl Mesh {
    /// Starts an operator over `yaml`: ApiRoutes, and Services whose endpoints [`Mesh::workload`]
    /// brings. Returns when the operator is ready.
    pub async fn start(yaml: &str) -> Result<Self> {
        Self::start_with(yaml, &[]).await
    }

    /// The same, with arguments for the operator.
    pub async fn start_with(yaml: &str, arguments: &[&str]) -> Result<Self> {
        let mut mesh = Self::prepare()?;
        mesh.arguments = arguments.iter().map(|&one| one.to_owned()).collect();
        mesh.write("routes.yaml", yaml)?;
        mesh.start_operator().await?;
        Ok(mesh)
    }

    /// A mesh with nothing in it, whose operator is yet to be started.
    pub fn prepare() -> Result<Self> {
        // 127.1.0.0 to 127.126.255.0, by process and by mesh: tests that run side by side in
        // several processes do not meet.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = std::process::id()
            .wrapping_mul(61)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let subnet = [(place / 256 % 126 + 1) as u8, (place % 256) as u8];
        let folder = tempfile::Builder::new()
            .prefix("meshwright-test-")
            .tempdir()?;
        for name in ["files", "runtime", "state"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let own = Ipv4Addr::new(127, subnet[0], subnet[1], 1);
        let mesh = Self {
            operator: Mutex::default(),
            arguments: Vec::new(),
            programs: Mutex::new(built()?),
            subnet,
            next: AtomicU32::new(2),
            grpc: SocketAddr::new(own.into(), 15012),
            http: SocketAddr::new(own.into(), 15014),
            tokens: Mutex::default(),
            pods: Mutex::default(),
            folder,
        };
        mesh.write_tokens()?;
        Ok(mesh)
    }

    /// Whatever is started from now on is a program of this folder: of another version, say.
    pub fn run_programs_of(&self, folder: &Path) {
        folder.clone_into(&mut lock(&self.programs));
    }

    /// Starts the operator, or starts it again.
    pub async fn start_operator(&self) -> Result<()> {
        let path = |name: &str| self.folder.path().join(name);
        self.check_for_panics();
        let log = std::fs::File::create(path("operator.log"))?;
        let child = Command::new(lock(&self.programs).join("meshwright-operator"))
            .arg("--files")
            .arg(path("files"))
            .arg("--files")
            .arg(path("runtime"))
            .arg("--state")
            .arg(path("state"))
            .arg("--tokens")
            .arg(path("tokens.json"))
            .arg(format!("--listen-grpc={}", self.grpc))
            .arg(format!("--listen-http={}", self.http))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        *lock(&self.operator) = Some(child);
        let ready = format!("http://{}/ready", self.http);
        wait_until("the operator is ready", SOON, async || {
            let answer = Client::direct().get(&ready).await?;
            if answer.status != 200 {
                bail!("{}: {}", answer.status, self.log("operator.log"));
            }
            Ok(())
        })
        .await
    }

    /// Ends the operator at once, as a crash would.
    pub async fn kill_operator(&self) -> Result<()> {
        let child = lock(&self.operator).take();
        if let Some(mut child) = child {
            child.kill().await?;
        }
        Ok(())
    }

    /// The operator's verdict on an ApiRoute, as `GET /verdicts` gives it.
    pub async fn verdict(&self, name: &str) -> Result<Value> {
        let answer = Client::direct()
            .get(&format!("http://{}/verdicts", self.http))
            .await?;
        let verdicts: Vec<Value> = serde_json::from_str(&answer.body)?;
        let found = verdicts.into_iter().find(|verdict| verdict["name"] == name);
        found.with_context(|| format!("no verdict on {name}: {}", answer.body))
    }

    /// Files that the operator cannot read, as `GET /problems` gives them.
    pub async fn problems(&self) -> Result<Vec<Value>> {
        let answer = Client::direct()
            .get(&format!("http://{}/problems", self.http))
            .await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// What the operator logged since it was last started.
    pub fn operator_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(
            self.folder.path().join("operator.log"),
        )?)
    }

    /// Waits until all sidecars that should enforce an ApiRoute do, as it is written now.
    pub async fn programmed(&self, name: &str) -> Result<()> {
        wait_until(&format!("{name} is programmed"), SOON, async || {
            let verdict = self.verdict(name).await?;
            let programmed = &verdict["programmed"];
            if programmed["m"].as_u64().is_some_and(|m| m > 0) && programmed["n"] == programmed["m"]
            {
                return Ok(());
            }
            bail!("{verdict}")
        })
        .await
    }

    /// An application behind the Service whose selector is `app: <app>`, with its sidecar, ready.
    pub async fn workload(&self, app: &str) -> Result<Workload> {
        let (address, application) = self.addresses();
        let upstream =
            Upstream::start(SocketAddr::new(application.into(), APPLICATION_PORT)).await?;
        let inbound = format!("--listen-inbound={address}:{APPLICATION_PORT}");
        let to = format!("--application-address={application}");
        let sidecar = self.sidecar(app, address, &[inbound, to]).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        sidecar.ready().await?;
        Ok(Workload { upstream, sidecar })
    }

    /// A sidecar, ready, beside an application that the test itself is: whoever calls the Service
    /// whose selector is `app: <app>` arrives at the listener.
    pub async fn listener(&self, app: &str) -> Result<(TcpListener, Sidecar)> {
        let (address, application) = self.addresses();
        let listener = TcpListener::bind((application, APPLICATION_PORT)).await?;
        let inbound = format!("--listen-inbound={address}:{APPLICATION_PORT}");
        let to = format!("--application-address={application}");
        let sidecar = self.sidecar(app, address, &[inbound, to]).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        sidecar.ready().await?;
        Ok((listener, sidecar))
    }

    /// A caller whose sidecar has so many workers, ready.
    pub async fn client_with_workers(&self, app: &str, workers: usize) -> Result<Client> {
        let (address, _) = self.addresses();
        let more = [
            format!("--listen-inbound={address}:15006"),
            format!("--workers={workers}"),
        ];
        let sidecar = self.sidecar(app, address, &more).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        sidecar.ready().await?;
        Ok(Client::through(sidecar))
    }

    /// `N` of them.
    pub async fn workloads<const N: usize>(&self, app: &str) -> Result<[Workload; N]> {
        let mut made = Vec::with_capacity(N);
        for _ in 0..N {
            made.push(self.workload(app).await?);
        }
        match made.try_into() {
            Ok(made) => Ok(made),
            Err(_) => bail!("not {N} workloads"),
        }
    }

    /// An endpoint outside the mesh behind the Service whose selector is `app: <app>`.
    pub async fn outsider(&self, app: &str) -> Result<Upstream> {
        let (address, _) = self.addresses();
        let upstream = Upstream::start(SocketAddr::new(address.into(), APPLICATION_PORT)).await?;
        let pod = format!("{app}-{}", address.octets()[3]);
        self.set_pod(&pod, app, address, false)?;
        Ok(upstream)
    }

    /// A caller with its sidecar, ready. As for all others, `app` is its label and its service account, in
    /// the namespace before a slash or in [`NAMESPACE`].
    pub async fn client(&self, app: &str) -> Result<Client> {
        let (address, _) = self.addresses();
        let sidecar = self.sidecar(app, address, &[]).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        sidecar.ready().await?;
        Ok(Client::through(sidecar))
    }

    /// A sidecar that nobody waits for.
    pub async fn unready(&self, app: &str) -> Result<Sidecar> {
        let (address, _) = self.addresses();
        let sidecar = self.sidecar(app, address, &[]).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        Ok(sidecar)
    }

    /// A sidecar with a token that was not issued.
    pub async fn with_token(&self, app: &str, token: &str) -> Result<Sidecar> {
        let (address, _) = self.addresses();
        let pod = format!("{app}-{}", address.octets()[3]);
        self.sidecar_with(&pod, token, address, &[]).await
    }

    /// Makes a pod's document name another service account than its sidecar proves.
    pub fn claim(&self, pod: &str, service_account: &str) -> Result<()> {
        if let Some(pod) = lock(&self.pods).get_mut(pod) {
            pod["spec"]["serviceAccountName"] = json!(service_account);
        }
        self.write_pods()
    }

    /// Gives a pod's document another label or annotation: `field` is `labels` or `annotations`.
    pub fn mark(&self, pod: &str, field: &str, key: &str, value: &str) -> Result<()> {
        if let Some(pod) = lock(&self.pods).get_mut(pod) {
            pod["metadata"][field][key] = json!(value);
        }
        self.write_pods()
    }

    /// Says that a pod is no longer ready, as the kubelet would.
    pub fn not_ready(&self, pod: &str) -> Result<()> {
        if let Some(pod) = lock(&self.pods).get_mut(pod) {
            pod["status"]["conditions"][0]["status"] = json!("False");
        }
        self.write_pods()
    }

    /// The addresses of the next sidecar and its application.
    fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        let host = self.next.fetch_add(1, Ordering::Relaxed) as u8;
        assert!(host < 100, "a test mesh has room for 98 workloads");
        let [a, b] = self.subnet;
        (
            Ipv4Addr::new(127, a, b, host),
            Ipv4Addr::new(127, a, b, host + 100),
        )
    }

    async fn sidecar(&self, app: &str, address: Ipv4Addr, more: &[String]) -> Result<Sidecar> {
        let pod = format!("{}-{}", of(app).1, address.octets()[3]);
        let token = self.issue(app, &pod)?;
        self.sidecar_with(&pod, &token, address, more).await
    }

    async fn sidecar_with(
        &self,
        pod: &str,
        token: &str,
        address: Ipv4Addr,
        more: &[String],
    ) -> Result<Sidecar> {
        let path = |name: &str| self.folder.path().join(name);
        let token_file = path(&format!("{pod}.token"));
        std::fs::write(&token_file, token)?;
        let mut arguments = vec![
            format!("--operator={}", self.grpc),
            format!("--token-file={}", token_file.display()),
            format!("--bundle-file={}", path("state/roots.pem").display()),
            format!("--state={}", path(&format!("{pod}.state")).display()),
        ];
        if !more.iter().any(|more| more.starts_with("--drain-timeout=")) {
            arguments.push("--drain-timeout=5s".to_owned());
        }
        if !more.iter().any(|more| more.starts_with("--workers=")) {
            arguments.push("--workers=1".to_owned());
        }
        for (name, port) in [
            ("outbound", 15001),
            ("admin", 15000),
            ("metrics", 15020),
            ("ready", 15021),
        ] {
            arguments.push(format!("--listen-{name}={address}:{port}"));
        }
        match more {
            // A client is called by nobody; without this it would listen on every address.
            [] => arguments.push(format!("--listen-inbound={address}:15006")),
            more => arguments.extend_from_slice(more),
        }
        let log = path(&format!("{pod}.log"));
        let program = lock(&self.programs).join(sidecar::PROGRAM);
        Sidecar::launch(program, arguments, log, address, pod)
    }

    fn issue(&self, app: &str, pod: &str) -> Result<String> {
        let (namespace, app) = of(app);
        let token = hex(&rand::random::<[u8; 32]>());
        lock(&self.tokens).push(json!({
            "sha256": hex(digest(&SHA256, token.as_bytes()).as_ref()),
            "namespace": namespace, "serviceAccount": app, "pod": pod, "uid": format!("uid-{pod}"),
            "expires": 4_102_444_800u64,
        }));
        self.write_tokens()?;
        Ok(token)
    }

    fn write_tokens(&self) -> Result<()> {
        let table = json!({ "tokens": *lock(&self.tokens) });
        let path = self.folder.path().join("tokens.json");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, table.to_string())?;
        Ok(std::fs::rename(temporary, path)?)
    }

    fn set_pod(&self, pod: &str, app: &str, address: Ipv4Addr, meshed: bool) -> Result<()> {
        let (namespace, app) = of(app);
        let ports = json!([{ "containerPort": APPLICATION_PORT, "name": "http" }]);
        let mut document = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod, "namespace": namespace, "uid": format!("uid-{pod}"), "labels": { "app": app },
            },
            "spec": { "serviceAccountName": app, "containers": [{ "name": app, "image": app, "ports": ports }] },
            "status": {
                "phase": "Running", "podIP": address.to_string(), "podIPs": [{ "ip": address.to_string() }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        if meshed {
            document["spec"]["initContainers"] =
                json!([{ "name": "meshwright-sidecar", "image": "sidecar" }]);
        }
        lock(&self.pods).insert(pod.to_owned(), document);
        self.write_pods()
    }

    fn write_pods(&self) -> Result<()> {
        // JSON is YAML.
        let documents: Vec<String> = lock(&self.pods).values().map(Value::to_string).collect();
        let path = self.folder.path().join("runtime/pods.yaml");
        let temporary = self.folder.path().join("pods.new");
        std::fs::write(&temporary, documents.join("\n---\n"))?;
        Ok(std::fs::rename(temporary, path)?)
    }

    /// Fails the test when an operator or a sidecar has panicked.
    fn check_for_panics(&self) {
        panics::check(self.folder.path(), |name| name.ends_with(".log"));
    }

    fn log(&self, name: &str) -> String {
        tail(&self.folder.path().join(name))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.check_for_panics();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The end of a log, for the message of a failed test.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_in_any_log_fails_the_test() -> Result<()> {
        let said = b"{}\nthread 'worker-0' panicked at sidecar/src/x.rs:1:1:\nno\n";
        for name in ["operator.log", "orders-2.log"] {
            let mesh = Mesh::prepare()?;
            std::fs::write(mesh.folder.path().join(name), said)?;
            assert!(
                catch_unwind(AssertUnwindSafe(|| drop(mesh))).is_err(),
                "{name}"
            );
        }
        let mesh = Mesh::prepare()?;
        std::fs::write(mesh.folder.path().join("orders-2.log"), b"{}\n")?;
        drop(mesh);
        Ok(())
    }
}
