//! YAML in the documents: objects are what the mesh takes, parts of objects are parts of some, and
//! values are values of the chart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use compiler::Output;
use compiler::yaml::{parse, values};
use crds::status::ConditionType;
use operator::source::reading::{Reading, read_folder};
use serde_json::Value;

use super::{Block, blocks, documents, read};

/// Kinds of others, which the documents show and the mesh doesn't read.
const OF_OTHERS: &[&str] = &["cert-manager.io/v1", "gateway.networking.k8s.io/v1"];

const KINDS: [&str; 3] = ["ApiRoute", "RetryPolicy", "RateLimit"];

/// Whether the chart has a value of this name, such as `operator.image.tag`.
pub(super) fn is_a_value_of_the_chart(name: &str) -> bool {
    let chart = read("charts/meshwright/values.yaml");
    let values = values("values.yaml", &chart).expect("the chart's values are YAML");
    let pointer = format!("/{}", name.replace('.', "/"));
    // Absent is what is `null` there.
    let declared = name
        .rsplit('.')
        .next()
        .is_some_and(|last| chart.contains(&format!("{last}:")));
    values
        .iter()
        .any(|values| values.pointer(&pointer).is_some() && declared)
}

fn yaml() -> Vec<Block> {
    let documents = documents();
    let all = documents.iter().flat_map(blocks);
    all.filter(|block| block.marked.split(' ').next() == Some("yaml"))
        .collect()
}

fn is_refused(block: &Block) -> bool {
    block.marked.split(' ').any(|word| word == "refused")
}

/// The objects of a block that are not of others; none where it holds no objects.
fn objects(block: &Block) -> Option<String> {
    let written = values(&block.place, &block.text);
    let written = written.unwrap_or_else(|problem| panic!("{problem}"));
    let is_object = |value: &Value| value.get("apiVersion").is_some();
    written.iter().any(is_object).then(|| {
        let parts = block.text.split("---\n");
        let ours = parts.filter(|part| {
            let version = values(&block.place, part).ok();
            let version =
                version.and_then(|values| Some(values.first()?["apiVersion"].to_string()));
            !version.is_some_and(|version| OF_OTHERS.contains(&version.trim_matches('"')))
        });
        Vec::from_iter(ours).join("---\n")
    })
}

/// A part of an object as a whole one, for each kind that it might be a part of.
fn completed(part: &str) -> Vec<String> {
    let head = |kind: &str| {
        format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: part, namespace: shop}}\n"
        )
    };
    if part.starts_with("spec:") {
        return KINDS.iter().map(|kind| head(kind) + part).collect();
    }
    let part = part
        .lines()
        .map(|line| format!("      {}\n", line.trim_end()));
    let rule = format!(
        "spec:\n  hosts: [part]\n  rules:\n    - name: part\n{}",
        part.collect::<String>()
    );
    vec![head("ApiRoute") + &dedented(&rule)]
}

/// What stands below `- name: part`, moved to where it stands.
fn dedented(rule: &str) -> String {
    let (head, part) = rule.split_once("name: part\n").expect("a rule");
    let least = part
        .lines()
        .map(|line| line.len() - line.trim_start().len())
        .min();
    let lines = part
        .lines()
        .map(|line| format!("      {}\n", &line[least.unwrap_or_default()..]));
    format!("{head}name: part\n{}", lines.collect::<String>())
}

/// The names of values that aren't the chart's.
fn unknown_values(value: &Value, path: &str, unknown: &mut Vec<String>) {
    let Some(map) = value.as_object() else {
        return;
    };
    for (key, value) in map {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        match is_a_value_of_the_chart(&path) {
            true => unknown_values(value, &path, unknown),
            false => unknown.push(path),
        }
    }
}

#[test]
fn every_object_in_a_document_is_taken_and_what_is_marked_as_refused_is_not() {
    let mut seen = BTreeMap::new();
    for block in yaml() {
        let place = &block.place;
        if let Some(text) = objects(&block) {
            let problems = parse(place, &text).problems;
            let refused = is_refused(&block);
            assert_eq!(!problems.is_empty(), refused, "{place}: {problems:#?}");
            *seen.entry("objects").or_insert(0) += 1;
            continue;
        }
        let wholes = completed(&block.text);
        let taken = wholes
            .iter()
            .any(|text| parse(place, text).problems.is_empty());
        if taken {
            *seen.entry("parts").or_insert(0) += 1;
            continue;
        }
        let mut unknown = Vec::new();
        let written = values(place, &block.text).unwrap_or_default();
        written
            .iter()
            .for_each(|value| unknown_values(value, "", &mut unknown));
        let problems = wholes.iter().flat_map(|text| parse(place, text).problems);
        let problems: Vec<_> = problems.collect();
        assert!(
            unknown.is_empty(),
            "{place}: part of nothing ({problems:#?}), and no values of the chart: {unknown:?}"
        );
        *seen.entry("values").or_insert(0) += 1;
    }
    assert!(seen["objects"] > 12 && seen["parts"] >= 3, "{seen:?}");
}

/// Services for everything that objects name and that stands nowhere in the text.
fn services(text: &str) -> String {
    let written = values("text", text).expect("YAML");
    let mut ports: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    let mut there = BTreeSet::new();
    for object in &written {
        let of = |value: &Value, or: &str| value.as_str().unwrap_or(or).to_owned();
        let home = of(&object["metadata"]["namespace"], "default");
        let mut need = |name: &Value, namespace: &Value, port: Option<u64>| {
            let name = of(name, "");
            let mut parts = name.split('.');
            let first = parts.next().unwrap_or_default().to_owned();
            let namespace = match parts.next() {
                Some(namespace) => namespace.to_owned(),
                None => of(namespace, &home),
            };
            ports
                .entry((namespace, first))
                .or_default()
                .extend(port.or(Some(80)));
        };
        if object["kind"] == "Service" {
            there.insert((home.clone(), of(&object["metadata"]["name"], "")));
        }
        let spec = &object["spec"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        if object["kind"] == "ApiRoute" {
            list(&spec["hosts"])
                .iter()
                .for_each(|host| need(host, &Value::Null, None));
        }
        for target in list(&spec["targetRefs"]) {
            need(&target["name"], &target["namespace"], None);
        }
        for rule in list(&spec["rules"]) {
            let mirrored = rule["mirror"].get("backendRef").cloned();
            for backend in list(&rule["backendRefs"]).into_iter().chain(mirrored) {
                need(
                    &backend["name"],
                    &backend["namespace"],
                    backend["port"].as_u64(),
                );
            }
        }
    }
    let mut text = String::new();
    for ((namespace, name), ports) in ports.iter().filter(|(key, _)| !there.contains(*key)) {
        let ports = ports
            .iter()
            .map(|port| format!("{{name: p{port}, port: {port}}}"));
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{}]}}\n",
            Vec::from_iter(ports).join(", ")
        ));
    }
    text
}

/// What the compiler has against a text, as far as `of` says what conditions matter.
fn refused(text: &str, of: &[ConditionType]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("text.yaml"), text).expect("a file");
    let reading = read_folder(&[folder.path().to_owned()], &Reading::default());
    let mut inputs = reading.inputs;
    inputs.settings.trust_domain = "cluster.local".to_owned();
    inputs.settings.cluster_domain = "cluster.local".to_owned();
    let output = compiler::compile(&inputs, Output::default());
    let verdicts = output.verdicts.values();
    let false_ones = verdicts.flat_map(|verdict| {
        let conditions = verdict.conditions.iter();
        let wrong = conditions.filter(|it| !it.status && of.contains(&it.type_));
        wrong.map(|it| format!("{:?}: {} ({})", verdict.object, it.message, it.reason))
    });
    let problems = reading
        .problems
        .iter()
        .map(|problem| problem.message.clone());
    problems.chain(false_ones).collect()
}

#[test]
fn what_a_document_shows_is_accepted_where_the_services_that_it_names_are_there() {
    let mut seen = 0;
    for block in yaml().iter().filter(|block| !is_refused(block)) {
        let Some(text) = objects(block) else {
            continue;
        };
        let text = format!("{text}\n{}", services(&text));
        let said = refused(&text, &[ConditionType::Accepted]);
        assert_eq!(said, Vec::<String>::new(), "{}", block.place);
        seen += 1;
    }
    assert!(seen > 12, "{seen}");
}

#[test]
fn the_objects_of_the_first_route_are_all_that_it_takes() {
    let all = yaml();
    let page = all
        .iter()
        .filter(|block| block.place.starts_with("docs/first-route.md:"));
    let texts: Vec<String> = page
        .filter(|block| !is_refused(block))
        .filter_map(objects)
        .collect();
    let text = texts.join("---\n");
    let of = [ConditionType::Accepted, ConditionType::ResolvedRefs];
    assert_eq!(refused(&text, &of), Vec::<String>::new());
    for kind in KINDS.iter().chain(&["Namespace", "Service", "Deployment"]) {
        assert!(
            text.contains(&format!("kind: {kind}\n")),
            "there is no {kind}"
        );
    }
}
