//! The handle of one sidecar process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{SOON, SmallVolume, Usage, lock, tail};
use crate::client::{Answer, Client};
use crate::wait_until;

/// What a sidecar is called in a folder of programs.
pub(super) const PROGRAM: &str = "meshwright-sidecar";

/// The port that applications publish at.
const PUBLISH: u16 = 15090;

/// A sidecar beside an application or a client.
pub struct Sidecar {
    process: Mutex<Option<Child>>,
    command: Mutex<SidecarCommand>,
    log: PathBuf,
    address: Ipv4Addr,
    pod: String,
}

/// How to start a sidecar again.
struct SidecarCommand {
    program: PathBuf,
    arguments: Vec<String>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts one for the first time.
    pub(super) fn launch(
        program: PathBuf,
        arguments: Vec<String>,
        log: PathBuf,
        address: Ipv4Addr,
        pod: &str,
    ) -> Result<Self> {
        let sidecar = Self {
            process: Mutex::default(),
            command: Mutex::new(SidecarCommand { program, arguments }),
            log,
            address,
            pod: pod.to_owned(),
        };
        sidecar.start()?;
        Ok(sidecar)
    }

    /// Starts the process, or starts it again after [`Sidecar::kill`].
    pub fn start(&self) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let SidecarCommand { program, arguments } = &*lock(&self.command);
        let child = Command::new(program)
            .args(arguments)
            // Not an argument: programs of older versions know none of it.
            .env(
                "MESHWRIGHT_LISTEN_PUBLISH",
                format!("{}:{PUBLISH}", self.address),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        *lock(&self.process) = Some(child);
        Ok(())
    }

    /// The same, as the program of this folder: of another version, say.
    pub fn start_of(&self, folder: &Path) -> Result<()> {
        lock(&self.command).program = folder.join(PROGRAM);
        self.start()
    }

    /// Ends it, and starts it with a volume of its own behind its folder that holds so many bytes, and what
    /// was in the folder.
    ///
    /// # Errors
    /// Also where nobody may make user namespaces, in which the volume is mounted.
    pub async fn restart_with_volume(&self, bytes: usize) -> Result<SmallVolume> {
        self.restart_in(bytes, None).await
    }

    /// Kills it and starts it anew where `/etc/hosts` says this, as long as what is returned is held.
    ///
    /// # Errors
    /// Also where nobody may make user namespaces.
    pub async fn restart_with_hosts(&self, hosts: &str) -> Result<SmallVolume> {
        self.restart_in(64 << 20, Some(hosts)).await
    }

    async fn restart_in(&self, bytes: usize, hosts: Option<&str>) -> Result<SmallVolume> {
        let folder = self.state();
        self.kill().await?;
        let volume = SmallVolume::mount(&folder, bytes, hosts).await?;
        {
            let mut command = lock(&self.command);
            let program = std::mem::replace(&mut command.program, "nsenter".into());
            let entering = volume.entering().into_iter();
            let program = program.into_os_string().into_string();
            let program = program.map_err(|path| anyhow!("a program in UTF-8: {path:?}"))?;
            let entering: Vec<_> = entering.chain([program]).collect();
            command.arguments.splice(0..0, entering);
        }
        self.start()?;
        self.ready().await?;
        Ok(volume)
    }

    /// Ends the process at once, as `kill -9` does.
    pub async fn kill(&self) -> Result<()> {
        let child = lock(&self.process).take();
        if let Some(mut child) = child {
            child.kill().await?;
        }
        Ok(())
    }

    /// Asks the process to end; returns its exit code once it has.
    pub async fn terminate(&self) -> Result<Option<i32>> {
        self.signal(Signal::SIGTERM)?;
        let child = lock(&self.process).take();
        match child {
            Some(mut child) => Ok(child.wait().await?.code()),
            None => bail!("{} does not run", self.pod),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = lock(&self.process);
        let id = process
            .as_ref()
            .and_then(Child::id)
            .context("it does not run")?;
        Ok(kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("http://{}:15021/ready", self.address);
        wait_until(&format!("{} is ready", self.pod), SOON, async || {
            let answer = Client::direct()
                .get(&url)
                .await
                .with_context(|| tail(&self.log))?;
            if answer.status != 200 {
                bail!("{}\n{}", answer.body.trim(), tail(&self.log));
            }
            Ok(())
        })
        .await
    }

    /// Its name as a pod.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What it logged: its own lines and the access log.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The folder where it keeps what survives it.
    pub fn state(&self) -> PathBuf {
        self.log.with_extension("state")
    }

    /// What its process takes.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(lock(&self.process).as_ref().context("it does not run")?)
    }

    /// The memory that its process has in RAM, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        Ok(self.usage()?.resident)
    }

    /// How many files its process may have open: now, and at the most.
    pub fn open_files(&self) -> Result<(String, String)> {
        let process = lock(&self.process);
        let id = process.as_ref().and_then(Child::id);
        let id = id.context("it does not run")?;
        let limits = std::fs::read_to_string(format!("/proc/{id}/limits"))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let mut words = line.context("no such limit")?.split_whitespace();
        let mut next = || words.next().map(str::to_owned).context("no number");
        Ok((next()?, next()?))
    }

    /// `GET /config`.
    pub async fn config(&self) -> Result<Value> {
        let answer = Client::direct()
            .get(&format!("http://{}:15000/config", self.address))
            .await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// `GET /plaintext`.
    pub async fn plaintext(&self) -> Result<Value> {
        let answer = Client::direct()
            .get(&format!("http://{}:15000/plaintext", self.address))
            .await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// The sum of its metrics that are of such [`series`]; `None` when there are none.
    pub async fn metric(&self, of: &str) -> Result<Option<f64>> {
        let answer = Client::direct()
            .get(&format!("http://{}:15020/metrics", self.address))
            .await?;
        let values = series(&answer.body, of).into_iter();
        Ok(values.reduce(|sum, value| sum + value))
    }

    /// Asks its admin: `GET` without a body, else `PUT`.
    pub async fn admin(&self, path: &str, body: Option<&str>) -> Result<Answer> {
        let method = if body.is_some() {
            Method::PUT
        } else {
            Method::GET
        };
        let url = format!("http://{}:15000{path}", self.address);
        let body = Bytes::from(body.unwrap_or_default().to_owned());
        Client::direct().send(method, &url, &[], body).await
    }
}

/// What a page of metrics says of the series that have this name and at least these labels, such as
/// `meshwright_requests_total{code="200"}`.
pub fn series(page: &str, of: &str) -> Vec<f64> {
    let (name, labels) = of.split_once('{').unwrap_or((of, ""));
    let labels = labels.trim_end_matches('}');
    let labels = labels.strip_suffix('"').unwrap_or(labels);
    let labels: Vec<&str> = labels.split_terminator("\",").collect();
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (held, value) = rest.rsplit_once(' ')?;
        let has = |label: &&str| {
            let mut before = ["{", ","].into_iter();
            before.any(|before| held.contains(&format!("{before}{label}\"")))
        };
        let same = held.is_empty() || held.starts_with('{');
        (same && labels.iter().all(has)).then(|| value.parse().ok())?
    });
    values.collect()
}
