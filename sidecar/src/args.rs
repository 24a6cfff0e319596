//! What is fixed for the life of the process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::capture::RedirectArgs;
use crate::capture::in_force::CapturedBy;
use crate::telemetry::access_log::selection::{Filter, Sample};

/// The Meshwright sidecar: carries an application's calls, in and out.
#[derive(Clone, Debug, Parser)]
#[command(name = "meshwright-sidecar", version)]
pub struct Cli {
    /// What to do; without a command, run the sidecar.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub args: Args,
}

/// What else the binary does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Send the connections of this network namespace through the sidecar, and exit.
    Redirect(RedirectArgs),
}

/// Settings of a running sidecar.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The operator's gRPC address, host:port.
    #[arg(
        long,
        env = "MESHWRIGHT_OPERATOR",
        default_value = "meshwright-operator.meshwright-system.svc:15012"
    )]
    pub operator: String,
    /// The workload's token, exchanged once for a certificate.
    #[arg(
        long,
        env = "MESHWRIGHT_TOKEN_FILE",
        default_value = "/var/run/secrets/meshwright/token"
    )]
    pub token_file: PathBuf,
    /// PEM roots to trust before the operator has said more.
    #[arg(
        long,
        env = "MESHWRIGHT_BUNDLE_FILE",
        default_value = "/var/run/meshwright/bundle/roots.pem"
    )]
    pub bundle_file: PathBuf,
    /// The same roots as a value instead of a file.
    #[arg(long, env = "MESHWRIGHT_BUNDLE", hide_env_values = true)]
    pub bundle: Option<String>,
    /// The trust domain of this mesh.
    #[arg(long, env = "MESHWRIGHT_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// A folder in memory for key, certificate and the last good configuration.
    #[arg(
        long,
        env = "MESHWRIGHT_STATE",
        default_value = "/var/run/meshwright/state/sidecar"
    )]
    pub state: PathBuf,
    /// Threads that carry requests; by default one for each core the process may use, at most 4.
    #[arg(long, env = "MESHWRIGHT_WORKERS")]
    pub workers: Option<usize>,
    /// Where the application's connections arrive.
    #[arg(long, default_value = "[::]:15001")]
    pub listen_outbound: SocketAddr,
    /// Where peers' connections arrive; may be given several times.
    #[arg(long, default_value = "[::]:15006")]
    pub listen_inbound: Vec<SocketAddr>,
    /// Questions about the configuration; never reachable from other hosts.
    #[arg(long, default_value = "127.0.0.1:15000")]
    pub listen_admin: SocketAddr,
    /// Where the application publishes events; never reachable from other hosts.
    #[arg(
        long,
        env = "MESHWRIGHT_LISTEN_PUBLISH",
        default_value = "127.0.0.1:15090"
    )]
    pub listen_publish: SocketAddr,
    /// Metrics for scrapers.
    #[arg(long, default_value = "[::]:15020")]
    pub listen_metrics: SocketAddr,
    /// Readiness for the kubelet.
    #[arg(long, default_value = "[::]:15021")]
    pub listen_ready: SocketAddr,
    /// What the kubelet may ask the application through the sidecar, on the same port, as injection
    /// writes it.
    #[arg(long, env = "MESHWRIGHT_PROBES", hide_env_values = true)]
    pub probes: Option<String>,
    /// Mark all sockets with this, where the redirect knows the sidecar by mark.
    #[arg(long)]
    pub mark: Option<u32>,
    /// Where the application listens, when it is not at the address that peers call (explicit
    /// proxying).
    #[arg(long)]
    pub application_address: Option<IpAddr>,
    /// The socket of the process that opens connections to the host's network (local mesh).
    #[arg(long)]
    pub way_out: Option<PathBuf>,
    /// Who was to redirect this pod's connections. The sidecar then sees whether they are, and ends
    /// at its start if they are not: it is never ready beside an application that nobody captured.
    #[arg(long, env = "MESHWRIGHT_CAPTURED_BY", value_enum)]
    pub captured_by: Option<CapturedBy>,
    /// How long to wait for connections to end after SIGTERM, such as 25s: less than the grace that
    /// a pod has by default (30 s), after which it would be killed.
    #[arg(long, default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// One line for each request on standard output, or none.
    #[arg(long, env = "MESHWRIGHT_ACCESS_LOG", value_enum, default_value_t = AccessLogFormat::Json)]
    pub access_log: AccessLogFormat,
    /// Percentage of traces that are logged, of requests that went well and pass the filter; what
    /// went wrong is always logged. Can be set at run time (PUT /access-log).
    #[arg(long, env = "MESHWRIGHT_ACCESS_LOG_SAMPLE", default_value = "100")]
    pub access_log_sample: Sample,
    /// What is logged: all, errors, or what is slow as well (slow:500ms). Can be set at run time.
    #[arg(long, env = "MESHWRIGHT_ACCESS_LOG_FILTER", default_value = "all")]
    pub access_log_filter: Filter,
    /// What to log on standard error: error, warn, info, debug, or a filter such as
    /// info,sidecar=debug. Can be set at run time (PUT /log-level).
    #[arg(long, env = "MESHWRIGHT_LOG", default_value = "info")]
    pub log: String,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// Nothing.
    Off,
}

// === impl Args ===

impl Args {
    /// Threads that carry requests, at least 1.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.unwrap_or_else(|| cores().min(4)).max(1)
    }
}

/// Seconds or milliseconds: `30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write 30s or 500ms");
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1000),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}
