//! Who still calls the workloads of a running mesh in plaintext, as their sidecars remember it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use compiler::ObjectKey;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::control::{Request, ask};
use super::ground::Place;
use super::state::running;
use crate::http;

/// How long a sidecar may take to answer; one that doesn't has nobody to tell of.
const ANSWER: Duration = Duration::from_secs(2);

/// Who calls in plaintext, by workload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Callers {
    /// The folder that the mesh runs, by its real name.
    folder: PathBuf,
    /// A pod, and everyone who has called it in plaintext.
    called: Vec<(String, Vec<Caller>)>,
}

/// One address that has called in plaintext, as a sidecar tells it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Caller {
    address: String,
    service: String,
    requests: u64,
    last: Option<String>,
}

/// What a sidecar answers.
#[derive(Deserialize)]
struct Answer {
    callers: Vec<Caller>,
}

/// Asks every sidecar.
pub(super) async fn gather(folder: PathBuf, pods: Vec<(ObjectKey, Arc<Place>)>) -> Callers {
    let mut called = Vec::new();
    for (key, place) in pods {
        match timeout(ANSWER, of(&place)).await {
            Ok(Ok(callers)) if !callers.is_empty() => called.push((key.to_string(), callers)),
            _ => {}
        }
    }
    Callers { folder, called }
}

async fn of(place: &Place) -> anyhow::Result<Vec<Caller>> {
    let stream = place.connect_to_admin().await?;
    let (_, body) = http::ask(stream, "localhost", "/plaintext").await?;
    Ok(serde_json::from_slice::<Answer>(&body)?.callers)
}

/// A line for everyone who calls workloads of a folder in plaintext, where that folder runs.
pub(crate) fn lines(folder: &Path) -> Vec<String> {
    // Whoever checks a folder need not run it, nor have a mesh that can be asked this.
    let meshes = running().unwrap_or_default().into_iter();
    let answers = meshes.filter_map(|(_, layout)| {
        let (callers, _) = ask::<Callers>(&layout.control(), &Request::Plaintext).ok()?;
        (callers.folder == folder).then_some(callers.called)
    });
    let called = answers.flatten();
    called
        .flat_map(|(pod, callers)| callers.into_iter().map(move |caller| caller.line(&pod)))
        .collect()
}

// === impl Caller ===

impl Caller {
    pub(crate) fn line(&self, pod: &str) -> String {
        let times = match self.requests {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        let last = self.last.as_deref().unwrap_or("at an unknown time");
        format!(
            "plaintext: {} calls {pod} ({}) without mutual TLS: {times}, last {last}",
            self.address, self.service
        )
    }
}
