//! Our own: an operator that reads a folder, and real sidecars as explicit proxies.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tests::mesh::{Mesh, SOON, Sidecar, Workload};
use tests::{client, wait_until};

use crate::load::Upstream;
use crate::measure::Watched;

/// The variable by which sidecars are told to write no access log.
pub(crate) const ACCESS_LOG: &str = "MESHWRIGHT_ACCESS_LOG";

/// For a request: longer than any bulk takes.
pub(crate) const TIMEOUT: &str = "60s";

/// The Service whose endpoint is outside the mesh.
pub(crate) const PLAIN: &str = "plain";

/// The Service whose endpoint has a sidecar.
pub(crate) const MESHED: &str = "meshed";

/// A caller's sidecar for the hop, and two more for the pair.
pub(crate) struct Ours {
    /// Where calls to [`PLAIN`] go in.
    pub(crate) hop: SocketAddr,
    /// Where calls to [`MESHED`] go in.
    pub(crate) pair: SocketAddr,
    /// One process.
    pub(crate) hop_process: Watched,
    /// Both processes.
    pub(crate) pair_processes: Vec<Watched>,
    _running: Running,
}

/// Ends when dropped, sidecars first.
struct Running {
    _clients: [client::Client; 2],
    _workload: Workload,
    _upstreams: [Upstream; 2],
    _mesh: Mesh,
}

/// A Service whose port is declared so, and as in Envoy's configuration one prefix and one timeout.
pub(crate) fn service(name: &str, declared: &str, prefix: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080, \
         appProtocol: {declared}}}]}}\n\
         ---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  hosts: [{name}]\n  rules:\n\
         \x20   - name: api\n\
         \x20     matches: [{{path: {{type: Prefix, value: {prefix}}}}}]\n\
         \x20     timeouts: {{request: {TIMEOUT}}}\n"
    )
}

/// A Service whose bytes nobody reads.
pub(crate) fn opaque_service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080, \
         appProtocol: tcp}}]}}\n"
    )
}

/// Resident memory of a sidecar that has nothing to do, KiB.
pub(crate) async fn empty_sidecar_kib() -> Result<u64> {
    let mesh = Mesh::start("").await?;
    let client = mesh.client("web").await?;
    process(client.sidecar())?.resident_kib()
}

/// For its CPU time.
pub(crate) fn process(sidecar: &Sidecar) -> Result<Watched> {
    Watched::find(&format!("--listen-outbound={}", outbound(sidecar)))
}

/// Where the application calls.
pub(crate) fn outbound(sidecar: &Sidecar) -> SocketAddr {
    SocketAddr::new(sidecar.address().into(), 15001)
}

/// Puts the benchmark's upstream in the place of the harness's, which keeps all that it sees.
async fn replace(recording: &mut tests::upstream::Upstream) -> Result<Upstream> {
    recording.close();
    let address = recording.address();
    wait_until("the address is free", SOON, async || {
        Upstream::start(address).await
    })
    .await
}

// === impl Ours ===

impl Ours {
    /// Returns when every sidecar enforces what it should.
    pub(crate) async fn start() -> Result<Self> {
        let mesh = Mesh::start(
            &[PLAIN, MESHED]
                .map(|name| service(name, "http", "/api"))
                .join("---\n"),
        )
        .await?;
        let mut outsider = mesh.outsider(PLAIN).await?;
        let mut workload = mesh.workload(MESHED).await?;
        let upstreams = [
            replace(&mut outsider).await?,
            replace(&mut workload.upstream).await?,
        ];
        let clients = [mesh.client("hop").await?, mesh.client("pair").await?];
        for route in [PLAIN, MESHED] {
            mesh.programmed(route)
                .await
                .context("the mesh is not ready")?;
        }
        let [hop, pair] = &clients;
        Ok(Self {
            hop: outbound(hop.sidecar()),
            pair: outbound(pair.sidecar()),
            hop_process: process(hop.sidecar())?,
            pair_processes: vec![process(pair.sidecar())?, process(&workload.sidecar)?],
            _running: Running {
                _clients: clients,
                _workload: workload,
                _upstreams: upstreams,
                _mesh: mesh,
            },
        })
    }
}
