//! `meshwright certificates`: what the mesh's certificates hang on, and that another root takes its place.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use k8s_openapi::jiff::Timestamp;
use operator::ca::Report;
use operator::ca::secret::{REQUEST, REQUESTED};
use operator::ca::store;
use serde_json::json;

use crate::exec::find;
use crate::kubectl::{self, Forward};
use crate::sidecar::{Cluster, Place};
use crate::up::control::{self, ask};
use crate::up::state::Layout;
use crate::up::table::{say, table};

/// Where the operator is, unless another namespace is named.
pub(crate) const SYSTEM: &str = "meshwright-system";
const OPERATOR: &str = "deployment/meshwright-operator";
/// Its port for people.
const PORT: &str = ":15014";

/// How long an operator may take to see that a rotation is asked for.
const SEEN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Shows the certificate authority's roots, or has another one take their place.
#[derive(Clone, Debug, clap::Args)]
pub struct CertificatesArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Which,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Which {
    /// Show roots and intermediates, when they end, and how far a rotation has come.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        place: Place,
    },
    /// Begin a rotation: a new root is trusted, then signs, and then the old one goes.
    ///
    /// No call fails meanwhile. Each step waits for a certificate's life (24 h, unless the operator was
    /// told otherwise). While a rotation is under way none begins.
    Rotate {
        #[command(flatten)]
        #[allow(missing_docs)]
        place: Place,
    },
}

/// A way to the operator.
enum Way {
    Here(Layout),
    There {
        cluster: Cluster,
        forward: Box<Forward>,
        to: std::net::SocketAddr,
    },
}

/// Does it; returns the exit code. Must be called while the process has one thread.
pub fn run(args: &CertificatesArgs) -> anyhow::Result<i32> {
    match &args.command {
        Which::Status { json, place } => {
            let report = Way::to(place)?.report()?;
            match json {
                true => say(serde_json::to_string_pretty(&report)?),
                false => say(shown(&report)),
            }
        }
        Which::Rotate { place } => say(rotate(&Way::to(place)?)?),
    }
    Ok(0)
}

fn rotate(way: &Way) -> anyhow::Result<String> {
    let report = way.report()?;
    refuse(&report)?;
    let request = Timestamp::try_from(SystemTime::now())?.to_string();
    way.request(&request)?;
    let since = Instant::now();
    loop {
        let report = way.report()?;
        if report.request.as_deref() == Some(&request) {
            return Ok(shown(&report));
        }
        if let Some(problem) = report.problem {
            bail!("the rotation does not begin: {problem}");
        }
        if since.elapsed() > SEEN {
            bail!(
                "the rotation is asked for, and the operator has not begun it within {} s; its log says \
                 why, and `meshwright certificates status` whether it has since",
                SEEN.as_secs()
            );
        }
        runtime()?.block_on(async { tokio::time::sleep(LOOK_AGAIN).await });
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

/// A rotation that can't begin is not asked for.
fn refuse(report: &Report) -> anyhow::Result<()> {
    if report.authority != OURS {
        bail!(
            "the roots are not the operator's to make: they are in {}; have its issuer renewed, and the \
             operator takes the next root over in the same steps",
            report.authority
        );
    }
    if report.stage != "settled" {
        let until = report.until.as_deref().unwrap_or("its end");
        bail!(
            "a rotation is under way ({}: {}), until {until} at the soonest: none begins before it has \
             ended",
            report.stage,
            report.message
        );
    }
    Ok(())
}

/// Where roots come from that are not provided.
pub(crate) const OURS: &str = "Meshwright";

/// A report for people.
fn shown(report: &Report) -> String {
    let mut lines = vec![format!("authority: {}", report.authority)];
    let until = report.until.iter();
    let until: String = until
        .map(|until| format!(", until {until} at the soonest"))
        .collect();
    let latest = report.latest.iter();
    let latest: String = latest
        .map(|latest| format!(" and {latest} at the latest"))
        .collect();
    lines.push(format!(
        "stage: {} ({}{until}{latest})",
        report.stage, report.message
    ));
    if let Some(waiting @ 1..) = report.waiting {
        lines.push(match report.stage == "retiring" {
            true => format!(
                "{waiting} sidecars of this replica have not acknowledged the root that signs, and can't call who \
                 has a certificate of it: see their logs, and make their pods anew"
            ),
            false => format!("waiting for {waiting} sidecars of this replica to acknowledge it"),
        });
    }
    if let Some(problem) = &report.problem {
        lines.push(format!("problem: {problem}"));
    }
    let rows = report.certificates.iter().map(|one| {
        let fingerprint = one.fingerprint.get(..16).unwrap_or(&one.fingerprint);
        [&one.kind, &one.part, &one.ends, &one.subject, fingerprint]
            .map(str::to_owned)
            .to_vec()
    });
    let header = ["CERTIFICATE", "PART", "ENDS", "SUBJECT", "SHA-256"];
    lines.push(format!("\n{}", table(&header, &rows.collect::<Vec<_>>())));
    lines.join("\n")
}

/// What the operator of a cluster says of its certificates.
///
/// # Errors
/// When it can't be reached.
pub(crate) fn of_cluster(cluster: &Cluster) -> anyhow::Result<Report> {
    Way::through(cluster)?.report()
}

// === impl Way ===

impl Way {
    fn to(place: &Place) -> anyhow::Result<Self> {
        match place.is_here()? {
            true => Ok(Self::Here(find(place.up.as_deref())?)),
            false => Self::through(&place.cluster),
        }
    }

    fn through(cluster: &Cluster) -> anyhow::Result<Self> {
        let ports = [PORT.to_owned()];
        let mut forward = Forward::start(cluster, Some(SYSTEM), OPERATOR, &ports)?;
        let to = forward.forwarded()?;
        Ok(Self::There {
            cluster: cluster.clone(),
            forward: Box::new(forward),
            to,
        })
    }

    fn report(&self) -> anyhow::Result<Report> {
        let asking = "asking the operator for its certificates";
        match self {
            Self::Here(mesh) => {
                let asked = control::Request::Certificates;
                Ok(ask::<Report>(&mesh.control(), &asked).context(asking)?.0)
            }
            Self::There { to, .. } => {
                let (status, body) = runtime()?
                    .block_on(crate::http::get(*to, "/certificates"))
                    .context(asking)?;
                if status != 200 {
                    bail!("{asking}: it answered {status}; it may be an older one");
                }
                serde_json::from_slice(&body).context(asking)
            }
        }
    }

    fn request(&self, request: &str) -> anyhow::Result<()> {
        match self {
            Self::Here(mesh) => {
                let path = mesh.operator().join(store::REQUEST);
                let beside = path.with_extension("new");
                std::fs::write(&beside, request)
                    .and_then(|()| std::fs::rename(&beside, &path))
                    .with_context(|| format!("{} can't be written", path.display()))
            }
            Self::There { cluster, .. } => {
                let namespace = cluster.namespace.as_deref().unwrap_or(SYSTEM);
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": { "name": REQUEST, "namespace": namespace },
                    "data": { REQUESTED: request },
                });
                let mut applying = kubectl::command(cluster, Some(SYSTEM));
                // What is there is not read first: that would take one more right.
                applying.args(["apply", "--server-side", "--force-conflicts"]);
                applying.args(["--field-manager=meshwright", "-f", "-"]);
                kubectl::done(applying, Some(&object))
            }
        }
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(mesh) => f.debug_tuple("Here").field(mesh).finish(),
            Self::There { forward, .. } => f.debug_tuple("There").field(forward).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(authority: &str, stage: &str) -> Report {
        serde_json::from_value(json!({
            "now": "2026-01-01T00:00:00Z", "authority": authority, "stage": stage, "message": "so it is",
            "until": "2026-01-02T00:00:00Z", "waiting": 3,
            "certificates": [{
                "kind": "root", "part": "signs", "subject": "CN=one", "fingerprint": "0123456789abcdef00",
                "begins": "2026-01-01T00:00:00Z", "ends": "2036-01-01T00:00:00Z",
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_rotation_is_refused_while_one_is_under_way_and_where_roots_are_somebody_elses() {
        refuse(&report(OURS, "settled")).unwrap();
        for stage in ["announced", "retiring"] {
            let said = refuse(&report(OURS, stage)).unwrap_err().to_string();
            assert!(
                said.contains("under way") && said.contains("2026-01-02"),
                "{said}"
            );
        }
        let theirs = report("the Secret meshwright-system/mesh-ca", "settled");
        let said = refuse(&theirs).unwrap_err().to_string();
        assert!(said.contains("Secret meshwright-system/mesh-ca"), "{said}");
    }

    #[test]
    fn people_are_shown_stage_and_certificates() {
        let text = shown(&report(OURS, "announced"));
        for part in [
            "authority: Meshwright",
            "stage: announced (so it is, until 2026-01-02T00:00:00Z at the soonest)",
            "waiting for 3 sidecars",
            "root         signs  2036-01-01T00:00:00Z  CN=one   0123456789abcdef",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let mut held = report(OURS, "announced");
        held.latest = Some("2026-01-04T00:00:00Z".to_owned());
        let until =
            "until 2026-01-02T00:00:00Z at the soonest and 2026-01-04T00:00:00Z at the latest)";
        assert!(shown(&held).contains(until), "{}", shown(&held));
        let left = shown(&report(OURS, "retiring"));
        assert!(
            left.contains("3 sidecars of this replica have not"),
            "{left}"
        );
    }
}
