//! The rights that the chart gives to the operator, one by one.

use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::cluster::Cluster;

use crate::installation::SYSTEM;

/// One right: what is done with which resource, in the cluster or in the operator's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    /// A Role's, and not a ClusterRole's.
    pub(super) own: bool,
    group: String,
    resource: String,
    names: Value,
    pub(super) verb: String,
}

// === impl Right ===

impl Right {
    /// Every right that the chart gives.
    pub(super) async fn all(cluster: &Cluster) -> Result<Vec<Right>> {
        let mut all = Vec::new();
        for (kind, own) in [("clusterroles", false), ("roles", true)] {
            let label = "app.kubernetes.io/component=operator";
            let args = ["get", kind, "-l", label, "-n", SYSTEM];
            let roles = cluster.json(&args).await?;
            let roles = roles["items"].as_array().context("a list")?;
            let rules = roles.iter().flat_map(|role| role["rules"].as_array());
            for rule in rules.flatten() {
                let texts = |field: &str| {
                    let texts = rule[field].as_array().into_iter().flatten();
                    let texts = texts.map(|text| text.as_str().unwrap_or_default().to_owned());
                    texts.collect::<Vec<_>>()
                };
                for group in texts("apiGroups") {
                    for resource in texts("resources") {
                        for verb in texts("verbs") {
                            all.push(Right {
                                own,
                                group: group.clone(),
                                resource: resource.clone(),
                                names: rule["resourceNames"].clone(),
                                verb,
                            });
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    pub(super) fn rule(&self) -> Value {
        let mut rule = json!({ "apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb] });
        if !self.names.is_null() {
            rule["resourceNames"] = self.names.clone();
        }
        rule
    }

    /// Whether it is about Secrets, wherever something refers to them.
    pub(super) fn is_of_references(&self) -> bool {
        !self.own && self.resource == "secrets"
    }

    /// What the API server says to who lacks it. `references` is where something refers to Secrets.
    pub(super) fn missed(&self, own: &str, references: &str) -> String {
        let Right {
            group,
            resource,
            verb,
            ..
        } = self;
        let place = match (self.own, self.is_of_references()) {
            (true, _) => format!(" in the namespace \"{own}\""),
            (_, true) => format!(" in the namespace \"{references}\""),
            _ => String::new(),
        };
        format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"{place}")
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.own { "Role" } else { "ClusterRole" };
        let (verb, resource, group) = (&self.verb, &self.resource, &self.group);
        write!(f, "{kind}: {verb} {resource} of \"{group}\"")
    }
}
