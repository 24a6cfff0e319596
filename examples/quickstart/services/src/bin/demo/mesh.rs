//! The running mesh: `meshwright up` as a child, what it says, and questions to its workloads.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::folder::Folder;
use crate::print;

/// How long a command inside the mesh may take.
const COMMAND: Duration = Duration::from_secs(20);
/// How long the mesh may take to end.
const END: Duration = Duration::from_secs(60);
/// More lines than this are of no use to a story.
const MOST_LINES: usize = 10_000;

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    child: Child,
    program: PathBuf,
    name: String,
    said: watch::Receiver<Vec<String>>,
}

/// What `meshwright up` says where there can be no network namespaces.
const WITHOUT: &str = "without network namespaces";

/// A place in what was said; by default its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark(usize);

/// What a program printed, once it had ended.
#[derive(Clone, Debug)]
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

// === impl Mesh ===

impl Mesh {
    /// Starts `meshwright up` on the folder; with these further arguments.
    pub(crate) fn start(folder: &Folder, further: &[&str]) -> anyhow::Result<Self> {
        let program = folder.programs.join("meshwright");
        // Of its own, so that two demos beside each other don't ask each other's workloads.
        let name = format!("demo-{}", std::process::id());
        let mut child = Command::new(&program)
            .arg("up")
            .arg(&folder.path)
            .args(["--name", &name])
            .args(further)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the demo, which ends the mesh itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let (tell, said) = watch::channel(Vec::new());
        listen(child.stdout.take(), tell.clone());
        listen(child.stderr.take(), tell);
        Ok(Self {
            child,
            program,
            name,
            said,
        })
    }

    /// The name by which others ask it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id; none when it has ended.
    pub(crate) fn id(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Whether workloads have no network namespaces here: then calls are carried by explicit proxies,
    /// and a sidecar is at its workload's own address instead of 127.0.0.1.
    pub(crate) fn is_without_namespaces(&self) -> bool {
        self.said.borrow().iter().any(|line| line.contains(WITHOUT))
    }

    /// What will be said from now on is after this.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.said.borrow().len())
    }

    /// What was said since.
    pub(crate) fn said(&self, since: Mark) -> Vec<String> {
        let said = self.said.borrow();
        said.iter()
            .skip(since.0)
            .filter(|line| !line.trim().is_empty())
            .cloned()
            .collect()
    }

    /// Waits until a line was said that is as wanted, and returns it.
    pub(crate) async fn says(
        &mut self,
        since: Mark,
        what: &str,
        longest: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let find = |lines: &Vec<String>| {
            lines
                .iter()
                .skip(since.0)
                .find(|line| wanted(line))
                .cloned()
        };
        let mut said = self.said.clone();
        let heard = timeout(longest, said.wait_for(|lines| find(lines).is_some())).await;
        // The rest of a sentence that was begun belongs to the quotation.
        let all = || self.said(since).join("\n  ");
        match heard {
            Ok(Ok(lines)) => find(&lines).context("a line that was said is gone"),
            Ok(Err(_)) => bail!(
                "`meshwright up` ended instead of saying {what}; it said:\n  {}",
                all()
            ),
            Err(_) => {
                bail!(
                    "`meshwright up` did not say {what} within {} s; it said:\n  {}",
                    longest.as_secs(),
                    all()
                )
            }
        }
    }

    /// Repeats what is said from now on, until the mesh has ended.
    pub(crate) async fn repeat_what_it_says(&mut self) {
        let mut told = self.mark().0;
        while self.said.changed().await.is_ok() {
            let lines: Vec<_> = self
                .said
                .borrow_and_update()
                .iter()
                .skip(told)
                .cloned()
                .collect();
            told += lines.len();
            for line in lines {
                print(&line);
            }
        }
    }

    /// Runs `meshwright COMMAND ARGUMENTS` about this mesh.
    pub(crate) async fn meshwright(&self, arguments: &[&str]) -> anyhow::Result<Printed> {
        let (command, rest) = arguments.split_first().context("no command")?;
        let ran = Command::new(&self.program)
            .arg(command)
            .args(["--up", &self.name])
            .args(rest)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let what = arguments.join(" ");
        let output = timeout(COMMAND, ran).await.with_context(|| {
            format!(
                "`meshwright {what}` did not end within {} s",
                COMMAND.as_secs()
            )
        })??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Printed {
            status: output.status,
            output: text(&output.stdout),
            errors: text(&output.stderr),
        })
    }

    /// What `shop call` inside a workload is answered, as `curl -i` would show it.
    pub(crate) async fn call_from(
        &self,
        workload: &str,
        method: &str,
        url: &str,
    ) -> anyhow::Result<String> {
        let printed = self
            .meshwright(&["exec", workload, "--", "shop", "call", method, url])
            .await?;
        ensure!(
            printed.status.success(),
            "`meshwright exec {workload} -- shop call {method} {url}` ended with {}:\n  {}",
            printed.status,
            printed.errors.trim()
        );
        Ok(printed.output)
    }

    /// The body that a sidecar answers on its own pages, seen from inside its workload.
    pub(crate) async fn ask_sidecar(&self, workload: &str, path: &str) -> anyhow::Result<String> {
        let address = if self.is_without_namespaces() {
            self.address_of(workload).await?
        } else {
            "127.0.0.1".to_owned()
        };
        let url = format!("http://{address}:15000{path}");
        let answer = self.call_from(workload, "GET", &url).await?;
        let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
        ensure!(
            head.starts_with("HTTP/1.1 200"),
            "the sidecar of {workload} answered {path} with {head}"
        );
        Ok(body.to_owned())
    }

    /// The address of a pod, or of the first of a Deployment.
    async fn address_of(&self, workload: &str) -> anyhow::Result<String> {
        let status = self.meshwright(&["status", "--json"]).await?.output;
        let status: Value = serde_json::from_str(&status).context("the status is no JSON")?;
        let names = [format!("shop/{workload}"), format!("shop/{workload}-0")];
        let mut pods = status["pods"].as_array().into_iter().flatten();
        let pod = pods.find(|pod| names.iter().any(|name| pod["workload"] == name.as_str()));
        let address = pod.and_then(|pod| pod["address"].as_str());
        Ok(address
            .with_context(|| format!("`meshwright status` doesn't mention {workload}"))?
            .to_owned())
    }

    /// Asks it to end, as Ctrl-C does, and waits until it has.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(id) = self.id().and_then(Pid::from_raw) {
            // It may have ended by itself meanwhile; how it did is told below.
            let _ = kill_process(id, Signal::INT);
        }
        match timeout(END, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "`meshwright up` did not end within {} s of SIGINT and was killed",
                    END.as_secs()
                )
            }
        }
    }
}

fn listen(from: Option<impl AsyncRead + Unpin + Send + 'static>, tell: watch::Sender<Vec<String>>) {
    let Some(from) = from else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        // Read on even when it says too much: whoever isn't read stands still.
        while let Ok(Some(line)) = lines.next_line().await {
            tell.send_modify(|said| {
                if said.len() < MOST_LINES {
                    said.push(line);
                }
            });
        }
    });
}
