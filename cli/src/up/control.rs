//! What others may ask a running mesh: over a Unix socket that only its user may open.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::troubles::Trouble;
use crate::fds;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// How to get inside a workload: a Deployment's name, `deployment/name`, or a pod's name.
    Enter(String),
    /// How everything is.
    Status,
    /// The names of the pods of a workload that may be named as in [`Request::Enter`], all of a
    /// Deployment's; of all when none is named.
    Pods(Option<String>),
    /// Who calls in plaintext.
    Plaintext,
    /// How the certificate authority is, as the operator tells it.
    Certificates,
    /// Which ports made callers wait for a server that speaks first.
    Stalls,
}

/// How a program runs inside a workload. Accompanied by its user, process, mount and network
/// namespaces, if it has its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entrance {
    /// The pod's name.
    pub pod: String,
    /// The environment of its application.
    pub env: Vec<(String, String)>,
    /// Where its application runs.
    pub cwd: PathBuf,
}

/// How everything is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The mesh's name.
    pub mesh: String,
    /// The user's folder.
    pub folder: PathBuf,
    /// One row for each pod.
    pub pods: Vec<Row>,
    /// What is published on this machine: what, where.
    pub published: BTreeMap<String, String>,
    /// The operator's verdicts, as it tells them.
    pub verdicts: serde_json::Value,
    /// Endpoints that are not called at the moment, and who does not call them.
    #[serde(default)]
    pub endpoints: Vec<Trouble>,
}

/// One pod, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its namespace and name.
    pub workload: String,
    /// Its address inside the mesh.
    pub address: String,
    /// Its SPIFFE id.
    pub identity: String,
    /// The ports of its application.
    pub ports: String,
    /// How it is.
    pub state: String,
}

/// The answer to an [`Request`], or a sentence why there is none.
pub type Answer = Result<serde_json::Value, String>;

/// A question that waits for its answer.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<(Answer, Vec<OwnedFd>)>,
}

/// Answers at `path` from now on, as long as the process lives.
pub(super) fn listen(path: &Path, asked: mpsc::UnboundedSender<Asked>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    // Messages with descriptors are read and written by blocking calls: in threads, one for each
    // who asks, which are few.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = asked.clone();
            std::thread::spawn(move || {
                // Who asked and went away needs no answer.
                let _ = converse(&stream, &asked);
            });
        }
    });
    Ok(())
}

fn converse(stream: &UnixStream, asked: &mpsc::UnboundedSender<Asked>) -> io::Result<()> {
    let (request, _) = fds::receive(stream)?;
    let (sender, answer) = oneshot::channel();
    let ending = || (Err("the mesh is ending".to_owned()), Vec::new());
    let (answer, descriptors) = match asked.send(Asked {
        request,
        answer: sender,
    }) {
        Ok(()) => answer.blocking_recv().unwrap_or_else(|_| ending()),
        Err(_) => ending(),
    };
    fds::send(
        stream,
        &answer,
        &descriptors.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>(),
    )
}

/// Asks the mesh that listens at `path`. Blocks.
pub fn ask<T: serde::de::DeserializeOwned>(
    path: &Path,
    request: &Request,
) -> anyhow::Result<(T, Vec<OwnedFd>)> {
    let stream = UnixStream::connect(path)?;
    fds::send(&stream, request, &[])?;
    let (answer, descriptors) = fds::receive::<Answer>(&stream)?;
    Ok((
        serde_json::from_value(answer.map_err(anyhow::Error::msg)?)?,
        descriptors,
    ))
}
