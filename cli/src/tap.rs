//! `meshwright tap`: requests as they end, as the sidecars see them.

mod watch;
mod words;

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tokio::sync::mpsc;

use crate::sidecar::{Place, Reached, reach_all};
use crate::signals::told_to_end;
use watch::{Seen, watch};
use words::Columns;

/// Requests that wait to be shown; behind them the sidecars wait, and drop what they can't keep.
const QUEUE: usize = 1024;

/// Shows requests as they end, as the sidecars see them: route, reason, latency. Nothing of their
/// queries, bodies or credentials is shown.
///
/// Every request between two workloads is seen twice: outbound beside the caller, inbound beside the
/// called.
#[derive(Clone, Debug, clap::Args)]
pub struct TapArgs {
    /// Deployments (all replicas) or pods, as `meshwright config` takes them; without any, all of the
    /// mesh on this machine, or of the namespace of a cluster.
    #[arg(value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Only this method.
    #[arg(long)]
    pub method: Option<String>,
    /// Only paths that begin so.
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// Only this status, such as 503, or a class of them, such as 5xx.
    #[arg(long)]
    pub status: Option<String>,
    /// Only what this Service answers: namespace/name.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<String>,
    /// Only what this ApiRoute governs: namespace/name.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub route: Option<String>,
    /// Only what the mesh answered itself, or delayed, for this reason, such as no_endpoints.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only what the workload calls (outbound), or what calls it (inbound).
    #[arg(long, value_parser = ["outbound", "inbound"])]
    pub direction: Option<String>,
    /// Only a share of the traces, in percent: all hops of a call, or none.
    #[arg(long, value_name = "PERCENT")]
    pub sample: Option<String>,
    /// End after so many requests.
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// `json` for programs: one object a line, as in the access log.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// How requests are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Shows requests until it is told to end; returns the exit code. Must be called while the process has
/// one thread.
///
/// # Errors
/// When no sidecar can be watched, or none is left.
pub fn run(args: &TapArgs) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before anything is started that has to be ended.
    let ending = {
        let _inside = runtime.enter();
        told_to_end()?
    };
    let reached = reach_all(&args.workloads, &args.place)?;
    runtime.block_on(async {
        tokio::select! {
            shown = show(args, reached) => shown,
            () = ending => Ok(0),
        }
    })
}

async fn show(args: &TapArgs, reached: Vec<Reached>) -> anyhow::Result<i32> {
    if args.count == Some(0) {
        return Ok(0);
    }
    let mut columns = Columns::of(reached.iter().map(|one| one.pod.as_str()));
    let (sender, mut seen) = mpsc::channel(QUEUE);
    let query = query(args);
    for one in reached {
        tokio::spawn(watch(one, format!("/tap?{query}"), sender.clone()));
    }
    drop(sender);
    let mut left = args.count;
    let mut failed = None;
    while let Some(seen) = seen.recv().await {
        match seen {
            Seen::Open(pod) => tell(format_args!("watching {pod}")),
            Seen::Request(pod, line) => {
                let shown = match args.output {
                    Output::Json => words::with_pod(&pod, &line),
                    Output::Table => columns.row(&pod, &line),
                };
                // Whoever reads has had enough.
                if write(&shown).is_err() {
                    return Ok(0);
                }
                if let Some(left) = &mut left {
                    *left -= 1;
                    if *left == 0 {
                        return Ok(0);
                    }
                }
            }
            Seen::Lost(pod, requests) => {
                if args.output == Output::Json && write(&words::lost(&pod, requests)).is_err() {
                    return Ok(0);
                }
                tell(format_args!(
                    "{requests} requests of {pod} are not shown: they came faster than they were \
                     read; --sample shows a share"
                ));
            }
            Seen::Gone(pod, error) => {
                tell(format_args!("{pod} is watched no more: {error:#}"));
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) => Err(error).context("no sidecar is left to watch"),
        None => bail!("there is no sidecar to watch"),
    }
}

fn query(args: &TapArgs) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [
        ("method", &args.method),
        ("path", &args.path),
        ("status", &args.status),
        ("service", &args.service),
        ("route", &args.route),
        ("reason", &args.reason),
        ("direction", &args.direction),
        ("sample", &args.sample),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn write(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// What is no request is told beside.
fn tell(line: impl std::fmt::Display) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}
