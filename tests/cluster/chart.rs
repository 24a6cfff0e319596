//! The chart as Helm reads it, without a cluster: what it renders, and what it refuses.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use regex::Regex;
use tests::cluster::{programs, run};
use tokio::process::Command;

use crate::installation::{SYSTEM, root};

/// For which Kubernetes it renders; Helm asks none here.
const KUBERNETES: &str = "1.35.0";

/// Sets of values, each with the golden file of its name in tests/cluster/chart.
const SETS: [&str; 4] = ["default", "ha", "everything", "minimal"];

fn chart() -> PathBuf {
    root().join("charts/meshwright")
}

/// The values of a set: the chart's own, one of the chart's files, or one of ours.
fn values(set: &str) -> Option<PathBuf> {
    match set {
        "default" => None,
        "ha" => Some(chart().join("values-ha.yaml")),
        set => Some(root().join(format!("tests/cluster/chart/{set}.values.yaml"))),
    }
}

async fn helm(arguments: &[&str], set: &str) -> Result<String> {
    let mut helm = Command::new(programs().await?.join("helm"));
    // Settings and caches of whoever runs the tests are none of theirs.
    let home = tempfile::tempdir()?;
    helm.env_clear().env("HOME", home.path());
    helm.args(arguments).args(["--kube-version", KUBERNETES]);
    if let Some(file) = values(set) {
        helm.arg("--values").arg(file);
    }
    run(&mut helm, "").await
}

async fn template(set: &str, more: &[&str]) -> Result<String> {
    let chart = chart();
    let chart = chart.to_str().context("a path in UTF-8")?;
    let arguments = ["template", "meshwright", chart, "--namespace", SYSTEM];
    helm(&[&arguments[..], more].concat(), set).await
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The documents of a rendered chart, each behind its `# Source:` line.
fn documents(rendered: &str) -> Vec<&str> {
    let documents = rendered.split("---\n").map(str::trim);
    documents.filter(|document| !document.is_empty()).collect()
}

/// What is rendered, with the definitions of resources by their names alone.
fn in_short(rendered: &str) -> String {
    let name = Regex::new(r"(?m)^  name: (\S+)$");
    let name = name.expect("a regular expression");
    let lines = documents(rendered).into_iter().map(|document| {
        if !document.contains("\nkind: CustomResourceDefinition\n") {
            return format!("{document}\n");
        }
        let name = name
            .captures(document)
            .map_or("", |found| found.get(1).map_or("", |name| name.as_str()));
        format!("# The CustomResourceDefinition {name}\n")
    });
    lines.collect::<Vec<_>>().join("---\n")
}

#[tokio::test]
async fn the_chart_renders_what_is_written_down_for_each_set_of_values() -> Result<()> {
    let mut wrong = Vec::new();
    for set in SETS {
        let rendered = in_short(&template(set, &[]).await?);
        let path = root().join(format!("tests/cluster/chart/{set}.golden.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &rendered)?;
        } else if read(&path)? != rendered {
            wrong.push(format!(
                "{set} differs; UPDATE=1 writes it. It is now:\n{rendered}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn the_definitions_are_upgraded_with_the_chart_and_outlive_it() -> Result<()> {
    let rendered = template("default", &[]).await?;
    let mut seen = 0;
    for document in documents(&rendered) {
        let Some((_, definition)) = document.split_once('\n') else {
            continue;
        };
        if !definition.contains("\nkind: CustomResourceDefinition\n") {
            continue;
        }
        let keep = "\n  annotations:\n    helm.sh/resource-policy: keep\n";
        ensure!(definition.contains(keep), "{definition:.300}");
        // As `make crds` writes it, but for that.
        let generated = definition.replace(keep, "\n");
        let plural = generated
            .lines()
            .find_map(|line| line.strip_prefix("    plural: "));
        let plural = plural.context("a plural")?;
        let written = read(&root().join(format!("crds/{plural}.yaml")))?;
        ensure!(written.trim() == generated.trim(), "crds/{plural}.yaml");
        seen += 1;
    }
    ensure!(seen >= 3, "only {seen} definitions");
    let without = template("default", &["--set", "crds.install=false"]).await?;
    ensure!(!without.contains("CustomResourceDefinition"), "{without}");
    Ok(())
}

#[tokio::test]
async fn helm_finds_nothing_wrong_with_the_chart() -> Result<()> {
    let chart = chart();
    for set in SETS {
        let said = helm(
            &["lint", "--strict", chart.to_str().context("a path")?],
            set,
        )
        .await?;
        ensure!(!said.contains("[WARNING]"), "{set}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_mistyped_or_that_nobody_knows_is_refused_by_its_name() -> Result<()> {
    for (setting, expected) in [
        (
            "operator.replicas=three",
            "'/operator/replicas': got string, want integer",
        ),
        (
            "operator.replicas=0",
            "'/operator/replicas': minimum: got 0, want 1",
        ),
        (
            "operator.replica=2",
            "'/operator': additional properties 'replica' not allowed",
        ),
        (
            "oprator.replicas=2",
            "additional properties 'oprator' not allowed",
        ),
        (
            "operator.image.pullPolicy=always",
            "'/operator/image/pullPolicy': value must be one of",
        ),
        (
            "sidecar.image.digest=sha256:12",
            "'/sidecar/image/digest': 'sha256:12' does not match pattern",
        ),
        (
            "trustDomain=Mesh",
            "'/trustDomain': 'Mesh' does not match pattern",
        ),
        (
            "networkPolicy.apiServerCIDRs={10.0.0.1}",
            "'/networkPolicy/apiServerCIDRs/0': '10.0.0.1' does not match pattern",
        ),
        (
            "networkPolicy.enabled=yes",
            "'/networkPolicy/enabled': got string, want boolean",
        ),
        (
            "monitoring.interval=often",
            "'/monitoring/interval': 'often' does not match pattern",
        ),
        (
            "imagePullSecrets=registry",
            "'/imagePullSecrets': got string, want array",
        ),
    ] {
        let refused = template("default", &["--set", setting]).await;
        let said = format!("{:#}", refused.err().with_context(|| setting.to_owned())?);
        ensure!(said.contains(expected), "{setting}: {said}");
    }
    Ok(())
}

/// Each key of values.yaml that has a value of its own, with whether a comment stands above it.
fn keys(values: &str) -> Vec<(String, bool)> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let (mut keys, mut commented) = (Vec::new(), false);
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.starts_with('#') {
            commented = true;
            continue;
        }
        let key = text.split_once(':').filter(|_| !text.starts_with('-'));
        if let Some((key, value)) = key {
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key));
            let names: Vec<_> = path.iter().map(|(_, name)| *name).collect();
            // What has a comment is explained with all that is in it.
            if commented || !value.is_empty() {
                keys.push((names.join("."), commented));
            }
        }
        commented = false;
    }
    keys
}

#[tokio::test]
async fn every_value_has_a_comment_and_a_row_in_the_documentation() -> Result<()> {
    let values = read(&chart().join("values.yaml"))?;
    let documented = read(&root().join("docs/install.md"))?;
    let rows: Vec<&str> = documented
        .lines()
        .skip_while(|line| !line.starts_with("| value |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let keys = keys(&values);
    ensure!(keys.len() > 30, "{keys:?}");
    let within = |inner: &str, outer: &str| {
        inner == outer
            || inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.starts_with('.'))
    };
    for (key, _) in &keys {
        let commented = keys
            .iter()
            .any(|(outer, commented)| *commented && within(key, outer));
        ensure!(commented, "{key} has no comment in values.yaml");
        let told = rows.iter().any(|row| within(key, row) || within(row, key));
        ensure!(told, "{key} has no row in docs/install.md");
    }
    for row in &rows {
        let known = keys
            .iter()
            .any(|(key, _)| within(key, row) || within(row, key));
        ensure!(known, "docs/install.md has {row}, which is no value");
    }
    Ok(())
}

#[tokio::test]
async fn alerts_follow_the_lives_that_certificates_are_given() -> Result<()> {
    let leaf = "meshwright_certificate_expiry_timestamp_seconds > 0) - time() < ";
    let root = "certificate=\"root\"}) - time() < ";
    let issuer = "certificate=\"intermediate\"}) - time() < ";
    for (leaf_life, root_life, expected) in [
        (
            "24h",
            "87600h",
            [(leaf, 21_600), (root, 1_209_600), (issuer, 604_800)],
        ),
        (
            "1h30m",
            "720h",
            [(leaf, 1_350), (root, 259_200), (issuer, 43_200)],
        ),
    ] {
        let lives = [
            format!("ca.leafLife={leaf_life}"),
            format!("ca.rootLife={root_life}"),
        ];
        let rendered = template("everything", &["--set", &lives[0], "--set", &lives[1]]).await?;
        for (expression, seconds) in expected {
            let expected = Regex::new(&format!(r"{}{seconds}\b", regex::escape(expression)))?;
            ensure!(expected.is_match(&rendered), "no {expected}: {rendered}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_alert_names_metrics_that_there_are_and_stands_in_the_documentation() -> Result<()> {
    let rendered = template("everything", &[]).await?;
    let rules = documents(&rendered);
    let rules = rules
        .iter()
        .find(|one| one.contains("\nkind: PrometheusRule\n"));
    let rules = rules.context("a PrometheusRule")?;
    let telemetry = read(&root().join("docs/telemetry.md"))?;
    let documented = read(&root().join("docs/install.md"))?;
    let metric = Regex::new("meshwright_[a-z_]+")?;
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().context("a name")?;
        ensure!(
            documented.contains(&format!("| `{name}` |")),
            "{name} is not in docs/install.md"
        );
        for part in ["expr: ", "severity: ", "summary: ", "description: "] {
            ensure!(rule.contains(part), "{name} has no {part}");
        }
        let expression = rule
            .lines()
            .find(|line| line.trim_start().starts_with("expr: "));
        let expression = expression.context("an expression")?;
        let mut metrics = metric
            .find_iter(expression)
            .map(|found| found.as_str())
            .peekable();
        ensure!(metrics.peek().is_some(), "{name} asks for no metric");
        for metric in metrics {
            let row = format!("| `{metric}` |");
            ensure!(
                telemetry.contains(&row),
                "{name}: {metric} is not in docs/telemetry.md"
            );
        }
        alerts += 1;
    }
    ensure!(alerts > 5, "only {alerts} alerts");
    Ok(())
}
