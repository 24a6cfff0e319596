//! At which ports callers of a running mesh wait for a server that speaks first, because nothing is
//! declared of them, as their sidecars remember it.

use std::collections::BTreeMap;
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

/// How long a sidecar may take to answer; one that doesn't has nothing to tell of.
const ANSWER: Duration = Duration::from_secs(2);

/// What has waited, by pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stalls {
    /// The folder that the mesh runs, by its real name.
    folder: PathBuf,
    /// A pod, and every port at which it has waited.
    waited: Vec<(String, Vec<Stall>)>,
}

/// One port at which connections have waited, as a sidecar tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stall {
    /// `namespace/service`.
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) connections: u64,
    pub(crate) last: Option<String>,
}

/// What a sidecar answers.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) stalls: Vec<Stall>,
}

/// Asks every sidecar.
pub(super) async fn gather(folder: PathBuf, pods: Vec<(ObjectKey, Arc<Place>)>) -> Stalls {
    let mut waited = Vec::new();
    for (key, place) in pods {
        match timeout(ANSWER, of(&place)).await {
            Ok(Ok(stalls)) if !stalls.is_empty() => waited.push((key.to_string(), stalls)),
            _ => {}
        }
    }
    Stalls { folder, waited }
}

async fn of(place: &Place) -> anyhow::Result<Vec<Stall>> {
    let stream = place.connect_to_admin().await?;
    let (_, body) = http::ask(stream, "localhost", "/stalls").await?;
    Ok(serde_json::from_slice::<Answer>(&body)?.stalls)
}

/// What has waited where a folder runs.
pub(crate) fn where_it_runs(folder: &Path) -> Vec<(String, Vec<Stall>)> {
    // Whoever checks a folder need not run it, nor have a mesh that can be asked this.
    let meshes = running().unwrap_or_default().into_iter();
    let answers = meshes.filter_map(|(_, layout)| {
        let (stalls, _) = ask::<Stalls>(&layout.control(), &Request::Stalls).ok()?;
        (stalls.folder == folder).then_some(stalls.waited)
    });
    answers.flatten().collect()
}

/// A sentence for every port: who waits. `place` tells where a Service stands written, and how its ports
/// are.
pub(crate) fn lines(
    waited: &[(String, Vec<Stall>)],
    place: impl Fn(&str, u16) -> String,
) -> Vec<String> {
    let mut ports: BTreeMap<(&str, u16), (u64, Vec<&str>)> = BTreeMap::new();
    for (pod, stalls) in waited {
        for stall in stalls {
            let known = ports.entry((&stall.service, stall.port)).or_default();
            known.0 += stall.connections;
            known.1.push(pod);
        }
    }
    let lines = ports
        .into_iter()
        .map(|((service, port), (connections, pods))| {
            let (times, each) = match connections {
                1 => ("1 connection".to_owned(), ""),
                more => (format!("{more} connections"), " each"),
            };
            format!(
                "{}Service {service}: port {port} is not declared and its server speaks first: {times} \
             of {} waited 0.2 s{each}",
                place(service, port),
                pods.join(", ")
            )
        });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_line_however_many_have_waited_at_it() {
        let stall = |port, connections| Stall {
            service: "shop/mail".into(),
            port,
            connections,
            last: None,
        };
        let waited = [
            ("shop/web-0".to_owned(), vec![stall(25, 1), stall(110, 1)]),
            ("shop/web-1".to_owned(), vec![stall(25, 2)]),
        ];
        let lines = lines(&waited, |_, port| format!("mail.yaml:{port}: "));
        assert_eq!(
            lines,
            [
                "mail.yaml:25: Service shop/mail: port 25 is not declared and its server speaks \
                 first: 3 connections of shop/web-0, shop/web-1 waited 0.2 s each",
                "mail.yaml:110: Service shop/mail: port 110 is not declared and its server speaks \
                 first: 1 connection of shop/web-0 waited 0.2 s",
            ]
        );
    }
}
