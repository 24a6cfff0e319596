//! The definitions of the kinds: whether they are there, and whether they have the fields of this version.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cluster::items;
use super::told::{Page, Remedy, Told, remedy};
use crate::install::chart;
use crate::install::cluster::some;
use crate::kubectl;
use crate::sidecar::Cluster;

/// Where the API server says which kinds of ours it knows, which everybody may ask.
const PATH: &str = "/apis/meshwright.dev/v1alpha1";

/// Those that are there, of the kinds that this program knows, by plural and group.
///
/// # Errors
/// When the API server can't be asked.
pub(super) fn there(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    Ok(known(&kubectl::raw(cluster, PATH)?.unwrap_or_default()))
}

fn known(answer: &Value) -> BTreeSet<String> {
    let resources = answer["resources"].as_array().into_iter().flatten();
    let names: BTreeSet<_> = resources.filter_map(|one| one["name"].as_str()).collect();
    let ours = chart::definitions().into_iter();
    ours.filter(|name| {
        name.split('.')
            .next()
            .is_some_and(|plural| names.contains(plural))
    })
    .collect()
}

/// What is to be said of those that are not there while the mesh is.
pub(super) fn missing(there: &BTreeSet<String>) -> Told {
    let mut told = Told::default();
    for name in chart::definitions() {
        if !there.contains(&name) {
            told.wrong(
                Page::UPGRADE,
                format_args!(
                    "there is no CustomResourceDefinition {name}, so that objects of its kind can't be written and the \
                     operator does without"
                ),
                brought_by(),
            );
        }
    }
    told
}

/// What brings a definition of this version.
fn brought_by() -> Remedy {
    remedy!(
        "`meshwright upgrade` brings it, and where somebody else applies the definitions (crds.install=false), \
         `kubectl apply --server-side -f crds/`"
    )
}

/// Compares the fields of those that are there with this version's, which is the operator's.
pub(super) fn compare(cluster: &Cluster, there: &BTreeSet<String>, told: &mut Told) {
    // Of no names, kubectl would tell of all that there are.
    if there.is_empty() {
        return;
    }
    let mut asking = kubectl::command(cluster, None);
    asking.args(["get", "customresourcedefinitions", "--ignore-not-found"]);
    asking.args(there);
    match kubectl::json(asking, None).and_then(|stored| findings(&stored)) {
        Ok(findings) => told.add(findings),
        Err(error) => {
            let what = format_args!("the definitions can't be looked at: {error:#}");
            let remedy = remedy!("it takes the right to get customresourcedefinitions");
            told.note(Page::RIGHTS, what, remedy);
        }
    }
}

fn findings(stored: &Value) -> anyhow::Result<Told> {
    let mut told = Told::default();
    for (file, text) in chart::FILES {
        if !file.starts_with("files/crds/") {
            continue;
        }
        for own in compiler::yaml::values(file, text)? {
            let name = &own["metadata"]["name"];
            let Some(there) = items(stored).find(|one| one["metadata"]["name"] == *name) else {
                continue;
            };
            let name = name.as_str().unwrap_or_default();
            let (own, there) = (fields(&own), fields(there));
            let lacking: Vec<_> = own.difference(&there).cloned().collect();
            if !lacking.is_empty() {
                told.wrong(
                    Page::UPGRADE,
                    format_args!(
                        "CustomResourceDefinition {name} is older than the operator and does not know {}, so that the \
                         API server refuses or drops it",
                        some(lacking.into_iter())
                    ),
                    brought_by(),
                );
            }
            let more: Vec<_> = there.difference(&own).cloned().collect();
            if !more.is_empty() {
                told.note(
                    Page::WITHOUT_OPERATOR,
                    format_args!(
                        "CustomResourceDefinition {name} is newer than the operator, which can't read {}",
                        some(more.into_iter())
                    ),
                    remedy!("upgrade the operator with the meshwright of that version"),
                );
            }
        }
    }
    Ok(told)
}

/// The fields that a definition knows, by their paths: `spec.rules[].mirror`.
fn fields(definition: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let versions = definition["spec"]["versions"].as_array();
    for version in versions.into_iter().flatten() {
        let mut open = vec![(String::new(), &version["schema"]["openAPIV3Schema"])];
        while let Some((path, schema)) = open.pop() {
            let named = schema["properties"].as_object().into_iter().flatten();
            for (name, schema) in named {
                let path = match path.is_empty() {
                    true => name.clone(),
                    false => format!("{path}.{name}"),
                };
                found.insert(path.clone());
                open.push((path, schema));
            }
            open.extend(schema.get("items").map(|each| (format!("{path}[]"), each)));
            let others = schema
                .get("additionalProperties")
                .filter(|each| each.is_object());
            open.extend(others.map(|each| (format!("{path}{{}}"), each)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn as_stored() -> Vec<Value> {
        let files = chart::FILES
            .iter()
            .filter(|(file, _)| file.starts_with("files/crds/"));
        let files = files.flat_map(|(file, text)| compiler::yaml::values(file, text).unwrap());
        files.collect()
    }

    #[test]
    fn the_api_server_says_which_kinds_it_knows() {
        let answer = json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "meshwright.dev/v1alpha1",
            "resources": [
                { "name": "apiroutes", "kind": "ApiRoute", "namespaced": true, "verbs": ["get", "list"] },
                { "name": "apiroutes/status", "kind": "ApiRoute", "namespaced": true, "verbs": ["get"] },
                { "name": "eventsubscriptions", "kind": "EventSubscription", "namespaced": true, "verbs": ["get"] },
                { "name": "ratelimits", "kind": "RateLimit", "namespaced": true, "verbs": ["get", "list"] },
                { "name": "others", "kind": "Other", "namespaced": true, "verbs": ["get", "list"] },
            ],
        });
        let there = known(&answer);
        let expected = [
            "apiroutes.meshwright.dev",
            "eventsubscriptions.meshwright.dev",
            "ratelimits.meshwright.dev",
        ];
        assert_eq!(there, expected.map(str::to_owned).into());
        assert_eq!(known(&Value::Null), BTreeSet::new());
        let told = missing(&there);
        let (wrong, _) = told.parts();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        let expected = "there is no CustomResourceDefinition retrypolicies.meshwright.dev, ";
        assert!(wrong[0].starts_with(expected), "{wrong:?}");
        let (group, version) = PATH
            .strip_prefix("/apis/")
            .unwrap()
            .split_once('/')
            .unwrap();
        for definition in as_stored() {
            assert_eq!(definition["spec"]["group"], group);
            assert_eq!(definition["spec"]["versions"][0]["name"], version);
        }
    }

    #[test]
    fn a_definition_without_a_field_of_this_version_is_wrong_and_one_with_another_is_told() {
        let stored = as_stored();
        assert_eq!(stored.len(), chart::definitions().len());
        assert_eq!(
            findings(&json!({ "items": stored })).unwrap(),
            Told::default()
        );

        let mut old = stored[0].clone();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let rule = format!("{spec}/rules/items/properties");
        let rule = old.pointer_mut(&rule).unwrap().as_object_mut().unwrap();
        rule.remove("mirror").unwrap();
        let told = findings(&json!({ "items": [old] })).unwrap();
        let (wrong, notes) = told.parts();
        assert!(notes.is_empty(), "{notes:?}");
        let expected = "CustomResourceDefinition apiroutes.meshwright.dev is older than the operator and does not know \
                        spec.rules[].mirror";
        assert!(wrong[0].starts_with(expected), "{wrong:?}");

        let mut new = stored[0].clone();
        new.pointer_mut(spec).unwrap()["later"] = json!({ "type": "string" });
        let told = findings(&new).unwrap();
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(
            notes[0].contains("which can't read spec.later: "),
            "{notes:?}"
        );
    }
}
