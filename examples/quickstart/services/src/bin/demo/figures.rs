//! What a sidecar says of itself: its counters, and the configuration in force.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;

/// Counters of one sidecar at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The configuration in force in one sidecar, as its `/config` tells.
#[derive(Clone, Debug)]
pub(crate) struct Config(Value);

/// A pod, as its callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its namespace and name.
    pub(crate) pod: String,
    /// Its address and port.
    pub(crate) address: String,
    /// Whom it must prove to be.
    pub(crate) identity: String,
}

// === impl Figures ===

impl Figures {
    /// Reads the Prometheus text format, as far as sidecars use it.
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(sample)
                .collect(),
        )
    }

    /// The sum of a counter's series that have all these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has = |sample: &Sample| {
            let held = |(name, value): &(&str, &str)| {
                sample.labels.get(*name).is_some_and(|own| own == value)
            };
            sample.name == name && labels.iter().all(held)
        };
        let sum: f64 = self
            .0
            .iter()
            .filter(|sample| has(sample))
            .map(|sample| sample.value)
            .sum();
        // Counters are whole, and small enough here to be exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let sum = sum as u64;
        sum
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut parsed = BTreeMap::new();
    let mut rest = labels;
    // No label value of a sidecar contains a quote.
    while let Some((label, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        parsed.insert(label.trim_start_matches(',').to_owned(), value.to_owned());
        rest = after;
    }
    Some(Sample {
        name: name.to_owned(),
        labels: parsed,
        value: value.parse().ok()?,
    })
}

// === impl Config ===

impl Config {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text)
            .map(Self)
            .context("a sidecar's /config is no JSON")
    }

    /// Who the sidecar is, as its certificate says.
    pub(crate) fn identity(&self) -> String {
        text(&self.0["certificate"]["identity"])
    }

    /// The hash of a resource held, such as `route/shop/orders`; empty when it is not held.
    pub(crate) fn hash(&self, resource: &str) -> String {
        let held = self.0["held"].as_array().into_iter().flatten();
        let found = held.into_iter().find(|line| line["id"] == resource);
        found.map(|line| text(&line["hash"])).unwrap_or_default()
    }

    /// The endpoints of a Service, such as `shop/orders`, in the order of pods.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        let services = self.0["inForce"]["services"]
            .as_array()
            .into_iter()
            .flatten();
        let ports = services
            .filter(|one| one["service"] == service)
            .flat_map(|service| service["ports"].as_array().into_iter().flatten());
        let mut endpoints: Vec<_> = ports
            .flat_map(|port| port["endpoints"].as_array().into_iter().flatten())
            .map(|endpoint| Endpoint {
                pod: text(&endpoint["pod"]),
                address: text(&endpoint["address"]),
                identity: text(&endpoint["identity"]),
            })
            .collect();
        endpoints.sort_by(|one, other| one.pod.cmp(&other.pod));
        endpoints
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Its name without the namespace.
    pub(crate) fn name(&self) -> &str {
        self.pod.rsplit('/').next().unwrap_or_default()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_the_labels_asked_for() {
        let figures = Figures::parse(
            "# TYPE meshwright_requests counter\n\
             meshwright_requests_total{direction=\"outbound\",service=\"shop/orders-v1\",code=\"200\",reason=\"\"} 7\n\
             meshwright_requests_total{direction=\"outbound\",service=\"shop/orders-v1\",code=\"504\",reason=\"request_timeout\"} 1\n\
             meshwright_operator_connected 1\n# EOF\n",
        );
        let sum = |labels: &[(&str, &str)]| figures.sum("meshwright_requests_total", labels);
        assert_eq!(sum(&[("service", "shop/orders-v1")]), 8);
        assert_eq!(sum(&[("code", "504"), ("reason", "request_timeout")]), 1);
        assert_eq!(sum(&[("service", "shop/orders-v2")]), 0);
        assert_eq!(figures.sum("meshwright_operator_connected", &[]), 1);
    }

    #[test]
    fn the_configuration_in_force_names_endpoints_with_their_identity() {
        let config = Config::parse(
            r#"{"certificate": {"identity": "spiffe://x/ns/shop/sa/web"},
                "held": [{"id": "route/shop/orders", "hash": "ab"}],
                "inForce": {"services": [{"service": "shop/orders", "ports": [{"endpoints": [
                    {"pod": "shop/b", "address": "10.0.0.2:8080", "identity": "spiffe://x/ns/shop/sa/orders"},
                    {"pod": "shop/a", "address": "10.0.0.1:8080", "identity": null}]}]}]}}"#,
        )
        .unwrap();
        assert_eq!(config.identity(), "spiffe://x/ns/shop/sa/web");
        assert_eq!(
            (
                config.hash("route/shop/orders"),
                config.hash("route/shop/web")
            ),
            ("ab".into(), String::new())
        );
        let endpoints = config.endpoints("shop/orders");
        assert_eq!(endpoints[0].name(), "a");
        assert_eq!(endpoints[1].identity, "spiffe://x/ns/shop/sa/orders");
    }
}
