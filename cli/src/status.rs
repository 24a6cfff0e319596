//! `meshwright status`: how a running mesh is.

use serde_json::Value;

use crate::exec::find;
use crate::up::changes::outcome;
use crate::up::control::{Request, Status, ask};
use crate::up::table::{say, table, workloads};
use crate::up::troubles::Trouble;

/// Shows how a mesh that `meshwright up` runs is: its workloads, and which sidecars enforce what.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Which mesh, when several run: the name that `meshwright up` tells.
    #[arg(long, value_name = "NAME")]
    pub up: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Shows the status; returns the exit code.
pub fn run(args: &StatusArgs) -> anyhow::Result<i32> {
    let mesh = find(args.up.as_deref())?;
    let (status, _) = ask::<Status>(&mesh.control(), &Request::Status)?;
    if args.json {
        say(serde_json::to_string_pretty(&status)?);
        return Ok(0);
    }
    say(format_args!(
        "{} ({})\n",
        status.mesh,
        status.folder.display()
    ));
    say(workloads(&status.pods, &status.published));
    match &status.verdicts {
        Value::Array(reports) if !reports.is_empty() => {
            let text =
                |report: &Value, field: &str| report[field].as_str().unwrap_or_default().to_owned();
            let rows: Vec<_> = reports
                .iter()
                .map(|report| {
                    let name = format!(
                        "{} {}/{}",
                        text(report, "kind"),
                        text(report, "namespace"),
                        text(report, "name")
                    );
                    vec![
                        name,
                        text(report, "target"),
                        outcome(report, true).unwrap_or_default(),
                    ]
                })
                .collect();
            say(format_args!(
                "\n{}",
                table(&["OBJECT", "TARGET", "STATE"], &rows)
            ));
        }
        Value::Null => say("\nthe operator does not answer; workloads run on as they were"),
        _ => {}
    }
    if !status.endpoints.is_empty() {
        let rows: Vec<_> = status.endpoints.iter().map(row).collect();
        say(format_args!(
            "\n{}",
            table(&["ENDPOINT", "OF", "STATE", "SEEN BY"], &rows)
        ));
    }
    Ok(0)
}

/// An endpoint that is not called.
fn row(trouble: &Trouble) -> Vec<String> {
    let endpoint = match trouble.pod.as_str() {
        "" => trouble.address.as_str(),
        pod => pod,
    };
    let service = format!("{}:{}", trouble.service, trouble.port);
    vec![
        endpoint.to_owned(),
        service,
        trouble.state.clone(),
        trouble.seen_by.clone(),
    ]
}
