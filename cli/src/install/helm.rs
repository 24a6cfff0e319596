//! Helm, which installs the chart: a program of the user's, as kubectl is.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::version::Version;

/// The oldest that knows all that is asked of it.
const OLDEST: Version = Version::new(3, 14);
/// Where to get it.
const WHERE: &str = "https://helm.sh/docs/intro/install";

/// A Helm that is new enough.
#[derive(Clone, Debug)]
pub struct Helm {
    context: Option<String>,
}

/// An installation of the chart in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The release's name.
    pub name: String,
    /// Its namespace, which is the operator's.
    pub namespace: String,
    /// The version of the mesh.
    pub version: String,
    /// Helm's word for how it is: `deployed`, `failed`, `pending-install`, …
    pub status: String,
}

// === impl Helm ===

impl Helm {
    /// Finds Helm in the path.
    ///
    /// # Errors
    /// When it is not there, or too old.
    pub fn find(context: Option<&str>) -> anyhow::Result<Self> {
        let mut asking = Command::new("helm");
        asking.args(["version", "--template", "{{.Version}}"]);
        let said = run(&mut asking)?;
        match Version::read(&said) {
            Some(version) if version >= OLDEST => Ok(Self {
                context: context.map(str::to_owned),
            }),
            Some(version) => {
                bail!("helm {version} is too old: the chart needs {OLDEST} or later, from {WHERE}")
            }
            None => bail!("helm says that its version is {said:?}, which is none"),
        }
    }

    /// A command of Helm's, in the cluster that was asked for.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("helm");
        command.args(arguments);
        if let Some(context) = &self.context {
            command.args(["--kube-context", context]);
        }
        command
    }

    /// The installation of the chart in the cluster, of whatever name and in whatever namespace.
    ///
    /// # Errors
    /// When Helm can't tell.
    pub fn release(&self) -> anyhow::Result<Option<Release>> {
        // However it is: one that has failed, or is under way, is there too.
        let mut asking = self.command(&["list", "--all-namespaces", "-o", "json"]);
        asking.args(["--deployed", "--failed", "--pending", "--uninstalling"]);
        let said = run(&mut asking)?;
        let list: Value = serde_json::from_str(&said).context("helm list answered no JSON")?;
        Ok(ours(&list))
    }
}

/// The release of a list that is one of this chart.
fn ours(list: &Value) -> Option<Release> {
    let releases = list.as_array()?.iter();
    let mut ours = releases.filter_map(|release| {
        let text = |field: &str| release[field].as_str().map(str::to_owned);
        let chart = text("chart")?;
        // Not another chart whose name begins so.
        let version = chart.strip_prefix("meshwright-")?.to_owned();
        Version::read(&version)?;
        Some(Release {
            name: text("name")?,
            namespace: text("namespace")?,
            version,
            status: text("status")?,
        })
    });
    ours.next()
}

/// What a command of Helm's says.
///
/// # Errors
/// What Helm says when it fails, or where to get it.
pub fn run(helm: &mut Command) -> anyhow::Result<String> {
    let output = match helm.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "helm, which installs the chart, is not in PATH: get {OLDEST} or later from {WHERE}"
        ),
        Err(error) => return Err(error).context("helm can't be started"),
    };
    if !output.status.success() {
        bail!("{}", reason(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong, of all that Helm says: without the template and its place, where the chart itself
/// has refused in a sentence.
fn reason(said: &str) -> String {
    let said = said.trim();
    match said.rsplit_once("error calling fail: ") {
        Some((_, sentence)) => sentence.trim().to_owned(),
        None => format!("helm: {}", said.strip_prefix("Error: ").unwrap_or(said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_installation_is_known_by_its_chart_whatever_its_name() {
        let release = |name: &str, chart: &str| {
            json!({ "name": name, "namespace": "mesh", "revision": "1", "status": "failed",
                    "chart": chart, "app_version": "0.1.0" })
        };
        let others = [
            release("a", "redis-1.2.3"),
            release("b", "meshwright-extras-0.1.0"),
        ];
        assert_eq!(ours(&json!(others)), None);
        let [first, second] = others;
        let found = ours(&json!([
            first,
            second,
            release("own", "meshwright-0.1.0-rc.1")
        ]));
        let expected = Release {
            name: "own".into(),
            namespace: "mesh".into(),
            version: "0.1.0-rc.1".into(),
            status: "failed".into(),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn what_the_chart_refuses_is_told_without_the_place_in_its_templates() {
        let said = "Error: INSTALLATION FAILED: execution error at (meshwright/templates/checks.yaml:15:4): \
                    error calling include: error calling fail: there is one mesh in a cluster\n";
        assert_eq!(reason(said), "there is one mesh in a cluster");
        assert_eq!(reason("Error: no such chart\n"), "helm: no such chart");
    }
}
