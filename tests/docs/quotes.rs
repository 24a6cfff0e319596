//! What the documents quote of the code and of each other: words, sentences, metrics, rights.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::yaml::is_a_value_of_the_chart;
use super::{quoted, read, root};

/// What Kubernetes and its programs say, and what is written for them.
const OF_OTHERS: &[&str] = &[
    "FailedCreate",
    "ImagePullBackOff",
    "CrashLoopBackOff",
    "FailedCreatePodSandBox",
    "Pending",
    "failed calling webhook",
    "violates PodSecurity",
    "only-if-cached",
    "exec",
    "WWW-Authenticate",
];

/// The folders whose words may be quoted.
const FOLDERS: &[&str] = &[
    "crds/src",
    "wire",
    "compiler/src",
    "operator/src",
    "sidecar/src",
    "cli/src",
    "cni/src",
    "charts",
];

/// All that programs and the chart may say, texts over several lines as one.
static SAID: LazyLock<String> = LazyLock::new(|| {
    let mut said = String::new();
    for folder in FOLDERS {
        gather(&root().join(folder), &mut said);
    }
    let continued = Regex::new(r"\\\n\s*").expect("a pattern");
    continued.replace_all(&said, "").replace("\\\"", "\"")
});

fn gather(folder: &Path, said: &mut String) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.map(|entry| entry.expect("an entry").path()) {
        let extension = entry.extension().and_then(|extension| extension.to_str());
        match extension {
            _ if entry.is_dir() => gather(&entry, said),
            Some("rs" | "yaml" | "tpl" | "proto") => {
                said.push_str(&fs::read_to_string(&entry).expect("a text"));
            }
            _ => {}
        }
    }
}

/// Metrics with their labels, as docs/telemetry.md has them, which is compared with the code.
fn metrics() -> Vec<(String, BTreeSet<String>)> {
    let text = read("docs/telemetry.md");
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `meshwright_"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let labels = rest.split('|').nth(2)?;
        let labels = labels.split('`').filter(|word| !word.trim().is_empty());
        Some((
            format!("meshwright_{name}"),
            labels.map(str::to_owned).collect(),
        ))
    });
    rows.collect()
}

/// Whether there is such a metric, with these labels where some are written.
fn is_a_metric(span: &str) -> bool {
    let (name, labels) = span.split_once('{').unwrap_or((span, ""));
    let metrics = metrics();
    let Some((_, known)) = metrics.iter().find(|(known, _)| known == name) else {
        return false;
    };
    let mut labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter(|label| !label.is_empty());
    labels.all(|label| {
        label
            .split_once('=')
            .is_some_and(|(key, _)| known.contains(key))
    })
}

/// Whether a part of what is quoted is a word of the code's.
fn is_said(part: &str) -> bool {
    let part = part.trim();
    part.is_empty()
        || OF_OTHERS.contains(&part)
        || SAID.contains(part)
        || is_a_metric(part)
        || is_a_value_of_the_chart(part)
        // A field by its path.
        || part.split('.').all(|word| !word.is_empty() && SAID.contains(word))
}

fn is_command(span: &str) -> bool {
    let programs = ["meshwright", "kubectl", "helm"];
    let first = span.split(' ').next().unwrap_or_default();
    // Or an option alone.
    first.starts_with('-') || programs.contains(&first)
}

#[test]
fn what_troubleshooting_quotes_is_said_by_the_code() {
    let (mut seen, mut problems) = (0, Vec::new());
    for (line, span) in quoted(&read("docs/troubleshooting.md")) {
        let whole = is_command(&span) || is_said(&span);
        let mut parts = span.split('…').flat_map(|part| part.split(": "));
        let unsaid = parts.find(|part| !is_said(part)).filter(|_| !whole);
        problems
            .extend(unsaid.map(|part| format!("line {line}: nothing says {part:?} of {span:?}")));
        seen += 1;
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(seen > 200, "only {seen} quotes");
}

#[test]
fn what_nothing_says_is_noticed() {
    assert!(is_said(
        "the operator did not answer in time; calls there are refused"
    ));
    assert!(!is_said("the operator does not answer in time"));
    assert!(is_a_metric("meshwright_requests_total{reason=\"…\"}"));
    assert!(!is_a_metric("meshwright_requests_total{cause=\"…\"}"));
    assert!(!is_a_metric("meshwright_request_total"));
}

/// The first words in backquotes of the lines of a table.
fn first_cells(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("| `"));
    lines
        .filter_map(|line| Some(line.split_once('`')?.0.to_owned()))
        // The head of a table of reasons is the header that has them.
        .filter(|cell| cell != "meshwright-reason")
        .collect()
}

#[test]
fn troubleshooting_has_every_reason_of_answers_and_of_conditions() {
    let text = read("docs/troubleshooting.md");
    let there = first_cells(&text);
    let reasons = first_cells(&read("docs/answers.md"));
    assert!(reasons.len() > 35, "{reasons:?}");
    for reason in reasons {
        assert!(
            there.contains(&reason),
            "docs/troubleshooting.md has no line for {reason}"
        );
    }
    let reference = read("docs/reference.md");
    let (_, conditions) = reference.split_once("### Reasons").expect("reasons");
    let negative = conditions.lines().filter(|line| line.contains("=False"));
    let negative: BTreeSet<String> = first_cells(&Vec::from_iter(negative).join("\n"));
    assert!(negative.len() > 12, "{negative:?}");
    for reason in negative {
        let named = text.contains(&format!("`{reason}`"));
        assert!(named, "docs/troubleshooting.md does not name {reason}");
    }
}

/// Each rule of the chart's roles for the operator: resources, names and verbs.
fn rights(template: &str) -> BTreeSet<String> {
    let list = |line: &str, field: &str| {
        let rest = line.trim_start_matches("- ").strip_prefix(field)?;
        Some(rest.trim().trim_matches(['[', ']']).replace('"', ""))
    };
    let mut rights = BTreeSet::new();
    let (mut resources, mut names) = (String::new(), String::new());
    for line in template.lines().map(str::trim) {
        if let Some(found) = list(line, "resources:") {
            (resources, names) = (found, String::new());
        } else if let Some(found) = list(line, "resourceNames:") {
            names = match found.contains("{{") {
                true => "`ca.secretName`".to_owned(),
                false => format!("`{found}`"),
            };
        } else if let Some(verbs) = list(line, "verbs:") {
            rights.insert(format!("{} | {names} | {verbs}", words(&resources)));
        }
    }
    rights
}

fn words(list: &str) -> String {
    let words = list.split(", ").map(|word| format!("`{word}`"));
    Vec::from_iter(words).join(", ")
}

#[test]
fn the_security_model_has_each_right_of_the_operator_and_no_other() {
    let charted = rights(&read("charts/meshwright/templates/rbac.yaml"));
    assert!(charted.len() >= 10, "{charted:?}");
    let text = read("docs/security-model.md");
    let (_, table) = text
        .split_once("| resources | names | verbs |")
        .expect("the table of rights");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let written = rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default().to_owned();
        format!("{} | {} | {}", cell(), cell(), cell())
    });
    assert_eq!(written.collect::<BTreeSet<_>>(), charted);
}
