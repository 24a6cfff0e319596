//! `meshwright up`: a mesh on one machine, without a cluster and without privileges.
//!
//! The same operator reads a folder instead of a cluster (a copy of the user's, as it was when all of
//! it was right), the same sidecars enforce what it says, and each workload has a network namespace
//! of its own with the same redirect as in a pod.
//!
//! ```text
//!  host's network                      │ namespaces of one's own
//!                                      │
//!  127.0.0.1:30080 ── descriptor ──────┼▶ ingress ─▶ its sidecar ═╗ mutual TLS
//!                                      │                          ║
//!  way out ◀───────── descriptor ──────┼── sidecar of web ◀═══════╝
//!                                      │      ▲▼
//!                                      │     web ─▶ (captured) ─▶ sidecar ═▶ sidecar of orders ─▶ orders
//! ```
//!
//! Where to start reading: [`host`] is the outer side, [`inside`] the way in, [`mesh`] what then
//! runs there, [`pod`] the life of one workload.

mod accepted;
mod addresses;
mod answers;
pub(crate) mod callers;
mod carrier;
pub(crate) mod changes;
pub mod control;
mod dns;
pub mod enter;
mod fleet;
mod gate;
mod ground;
pub mod host;
mod hosts;
pub mod inside;
mod keep;
mod launches;
mod link;
mod links;
mod mesh;
mod operator;
pub mod place;
pub(crate) mod plan;
mod pod;
mod process;
mod publish;
mod runtime;
mod settled;
pub(crate) mod stalls;
pub mod state;
pub(crate) mod table;
pub mod troubles;
mod written;

use std::path::PathBuf;

pub use publish::Publish;

/// Runs the services of a folder as a mesh on this machine, until Ctrl-C.
///
/// The folder holds ordinary documents: Deployments (with a command), Services, ApiRoutes and
/// RetryPolicies. The same folder can be applied to a cluster. Edits take effect while it runs.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// The folder of documents.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// What to call this mesh; by default as its folder.
    #[arg(long)]
    pub name: Option<String>,
    /// Publish a Service on 127.0.0.1: `web=8080`, `shop/web:80=8080`; 0 is any free port
    /// (repeatable). Services of type NodePort are published at their nodePort.
    #[arg(long, value_name = "SERVICE=PORT")]
    pub publish: Vec<Publish>,
    /// Use loopback addresses and explicit proxying instead of namespaces, as where user namespaces
    /// are blocked. Applications must then listen on $HOST, use $http_proxy, and can be reached
    /// around their sidecar.
    #[arg(long)]
    pub no_namespaces: bool,
}

/// A sentence that begins with the name of a file, without the folder that everybody is in.
pub(crate) fn plain(sentence: &str) -> &str {
    sentence.strip_prefix("./").unwrap_or(sentence)
}
