//! Which version a container is of, as far as its image and its pod's labels say.

use std::collections::BTreeMap;

use operator::inject::SIDECAR;
use serde_json::Value;

use super::cluster::items;
use crate::install::version::Version;

/// The label that says of which version a pod of the chart is.
const LABEL: &str = "app.kubernetes.io/version";

/// The version that an image's tag is; none of a tag such as `next`, or of a digest.
pub(super) fn version_of(image: &str) -> Option<&str> {
    let named = image.split('@').next()?;
    // Of a registry, what stands behind the colon is a port.
    let last = named.rsplit('/').next()?;
    let (_, tag) = last.split_once(':')?;
    // As programs say it of themselves.
    let version = tag.strip_prefix('v').unwrap_or(tag);
    Version::read(version).map(|_| version)
}

/// The version of the operator that a pod or a template of one runs. A digest stands for what the chart's
/// label says; another tag for anything.
pub(super) fn of_the_operator(pod: &Value) -> Option<String> {
    let containers = pod["spec"]["containers"].as_array()?;
    let container = containers.iter().find(|one| one["name"] == "operator")?;
    let image = container["image"].as_str()?;
    let label = pod["metadata"]["labels"][LABEL].as_str();
    let label = label.filter(|_| image.contains('@'));
    version_of(image).or(label).map(str::to_owned)
}

/// The image of the sidecar of each pod that runs and has one, by namespace and name.
pub(super) fn of_sidecars(pods: &Value) -> BTreeMap<(String, String), String> {
    let meshed = items(pods).filter(|pod| pod["status"]["phase"] == "Running");
    let images = meshed.filter_map(|pod| {
        let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
        let mut containers = lists.into_iter().flatten().flatten();
        let container = containers.find(|one| one["name"] == SIDECAR)?;
        let part = |field: &str| pod["metadata"][field].as_str().map(str::to_owned);
        let image = container["image"].as_str().unwrap_or_default();
        Some(((part("namespace")?, part("name")?), image.to_owned()))
    });
    images.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_is_read_from_a_tag_and_from_nothing_else() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (image, version) in [
            ("ghcr.io/meshwright/sidecar:0.1.0", Some("0.1.0")),
            ("ghcr.io/meshwright/sidecar:v0.2.0-rc.1", Some("0.2.0-rc.1")),
            ("registry:5000/sidecar:0.1.0", Some("0.1.0")),
            (&format!("a/sidecar:0.1.0@{digest}"), Some("0.1.0")),
            (&format!("a/sidecar@{digest}"), None),
            ("registry:5000/sidecar", None),
            ("sidecar:next", None),
            ("", None),
        ] {
            assert_eq!(version_of(image), version, "{image}");
        }
    }

    #[test]
    fn of_a_digest_the_charts_label_says_the_version_and_of_another_tag_nobody() {
        let pod = |image: &str| {
            json!({
                "metadata": { "labels": { LABEL: "0.3.0" } },
                "spec": { "containers": [{ "name": "operator", "image": image }] },
            })
        };
        for (image, version) in [
            ("ghcr.io/meshwright/operator:0.2.0", Some("0.2.0")),
            ("ghcr.io/meshwright/operator@sha256:00", Some("0.3.0")),
            ("ghcr.io/meshwright/operator:next", None),
        ] {
            assert_eq!(of_the_operator(&pod(image)).as_deref(), version, "{image}");
        }
    }

    #[test]
    fn sidecars_are_those_of_pods_that_run() {
        let pod = |name: &str, phase: &str, container: &str| {
            json!({
                "metadata": { "namespace": "shop", "name": name },
                "spec": { "containers": [{ "name": "app", "image": "app:1" }],
                          "initContainers": [{ "name": container, "image": "a/sidecar:0.1.0" }] },
                "status": { "phase": phase },
            })
        };
        let pods = json!({ "items": [
            pod("web-1", "Running", SIDECAR),
            pod("old-1", "Succeeded", SIDECAR),
            pod("out-1", "Running", "migrate"),
        ] });
        let web = ("shop".to_owned(), "web-1".to_owned());
        let expected = BTreeMap::from([(web, "a/sidecar:0.1.0".to_owned())]);
        assert_eq!(of_sidecars(&pods), expected);
    }
}
