//! Names outside the cluster that are called within limits: what calls must ask for to be meant.
//!
//! Where a call goes its address alone says, as for everything that the mesh does not know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use wire::mesh;

use super::rate_limit::{Limited, RateLimit};
use super::service::{Protocol, ServiceKey, parse_port};

/// A name outside the cluster, as a RateLimit is for it.
#[derive(Clone, Debug)]
pub struct Named {
    /// The Service that stands for it, `namespace/name`.
    pub service: Arc<str>,
    /// What requests and clients of TLS ask for, lower case.
    hosts: Vec<String>,
    /// Its ports, and how each is read; none: any port.
    ports: Vec<(u16, Protocol)>,
}

/// A name outside the cluster, and one of the RateLimits for it.
#[derive(Debug)]
pub struct Place {
    /// The name.
    pub named: Named,
    /// What limits calls to it.
    pub limited: Limited,
}

/// All that is called within limits.
#[derive(Debug, Default)]
pub struct Outside {
    by_host: HashMap<String, Vec<Arc<Place>>>,
    ports: HashSet<u16>,
    any_port: bool,
}

// === build ===

impl Named {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::LimitOutside) -> Result<Self, String> {
        let service = sent.service.ok_or("no Service stands for a name outside")?;
        if sent.hosts.is_empty() {
            return Err("nothing says what a name outside is called".to_owned());
        }
        let ports = sent.ports.iter();
        let ports = ports.map(|sent| Ok((parse_port(sent.port)?, Protocol::build(sent.protocol)?)));
        Ok(Self {
            service: ServiceKey::new(&service.namespace, &service.name)
                .text()
                .clone(),
            hosts: sent.hosts,
            ports: ports.collect::<Result<_, String>>()?,
        })
    }

    /// The namespace of the Service that stands for it.
    pub fn namespace(&self) -> &str {
        let (namespace, _) = self.service.split_once('/').unwrap_or_default();
        namespace
    }

    /// Whether it is called at a port.
    fn is_at(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|(number, _)| *number == port)
    }

    /// Whether a port of it is declared to carry requests and nothing else.
    pub fn is_http(&self, port: u16) -> bool {
        let http = |protocol| matches!(protocol, Protocol::Http | Protocol::Http2);
        let mut ports = self.ports.iter();
        ports.any(|(number, protocol)| *number == port && http(*protocol))
    }
}

impl Outside {
    /// Links what RateLimits say.
    pub fn link(rate_limits: &HashMap<String, Arc<RateLimit>>) -> Self {
        let mut outside = Self::default();
        // By id, so that who refuses does not depend on the order sent.
        let all: BTreeMap<_, _> = rate_limits.iter().collect();
        for rate_limit in all.into_values() {
            for (target, named) in rate_limit.outside() {
                outside.any_port |= named.ports.is_empty();
                outside
                    .ports
                    .extend(named.ports.iter().map(|(port, _)| port));
                let place = Arc::new(Place {
                    named: named.clone(),
                    limited: Limited {
                        rate_limit: rate_limit.clone(),
                        target: target.clone(),
                    },
                });
                for host in &named.hosts {
                    let places = outside.by_host.entry(host.clone()).or_default();
                    places.push(place.clone());
                }
            }
        }
        outside
    }

    /// Every place, once.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let mut all: Vec<_> = self
            .by_host
            .values()
            .flatten()
            .map(|place| &**place)
            .collect();
        let key = |place: &&Place| {
            let object = place.limited.rate_limit.object.clone();
            (place.named.service.clone(), object)
        };
        all.sort_by_key(key);
        all.dedup_by_key(|place| key(place));
        all.into_iter()
    }

    // === request ===

    /// Whether something that is called at a port is limited.
    pub fn is_limited(&self, port: u16) -> bool {
        self.any_port || self.ports.contains(&port)
    }

    /// What limits calls to a host, without its port, at a port.
    pub fn at(&self, host: &str, port: u16) -> impl Iterator<Item = &Place> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let found = match self.by_host.get(host) {
            None if !self.by_host.is_empty() => self.by_host.get(&host.to_ascii_lowercase()),
            found => found,
        };
        let places = found.into_iter().flatten().map(|place| &**place);
        let mut before: Option<&Arc<RateLimit>> = None;
        places.filter(move |place| {
            // Two Services may stand for one host: what a RateLimit says of it holds once.
            let rate_limit = &place.limited.rate_limit;
            let counts = place.named.is_at(port)
                && before.is_none_or(|before| !Arc::ptr_eq(before, rate_limit));
            if counts {
                before = Some(rate_limit);
            }
            counts
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::rate_limit::Counters;

    /// The Service of this name, for a host outside at these ports; none: any.
    fn target(name: &str, host: &str, ports: &[u32]) -> mesh::LimitTarget {
        let ports = ports.iter().map(|port| mesh::OutsidePort {
            port: *port,
            protocol: mesh::Protocol::Http.into(),
        });
        let outside = mesh::LimitOutside {
            service: Some(mesh::ServiceRef {
                namespace: "shop".into(),
                name: name.into(),
            }),
            hosts: vec![name.into(), host.into()],
            ports: ports.collect(),
        };
        mesh::LimitTarget {
            name: format!("Service/{name}"),
            outside: Some(outside),
            ..mesh::LimitTarget::default()
        }
    }

    fn rate_limit(name: &str, targets: Vec<mesh::LimitTarget>) -> (String, Arc<RateLimit>) {
        let sent = mesh::RateLimit {
            namespace: "shop".into(),
            name: name.into(),
            targets,
            limits: vec![mesh::Limit {
                name: "all".into(),
                rate: Some(mesh::LimitRate {
                    requests: 1,
                    burst: 1,
                }),
                per_ms: 1_000,
                action: mesh::LimitAction::Reject.into(),
                ..mesh::Limit::default()
            }],
            headers: mesh::LimitHeaders::None.into(),
            store: None,
        };
        let built = RateLimit::build(sent, None, &Counters::default()).unwrap();
        (format!("rate-limit/shop/{name}"), Arc::new(built))
    }

    #[test]
    fn a_call_is_limited_by_what_is_for_its_host_at_its_port() {
        let all = [
            rate_limit("any", vec![target("any", "api.example.com", &[])]),
            rate_limit("web", vec![target("web", "api.example.com", &[80, 8080])]),
        ];
        let [_, web] = all.clone();
        let outside = Outside::link(&HashMap::from(all));
        let found = |host: &str, port| {
            let found = outside.at(host, port);
            Vec::from_iter(found.map(|place| place.named.service.to_string()))
        };
        assert_eq!(found("api.example.com", 80), ["shop/any", "shop/web"]);
        assert_eq!(found("API.Example.com.", 80), ["shop/any", "shop/web"]);
        assert_eq!(found("api.example.com", 443), ["shop/any"]);
        assert_eq!(found("web", 8080), ["shop/web"]);
        assert!(found("other.example.com", 80).is_empty());
        assert!(outside.is_limited(1));
        assert_eq!(outside.places().count(), 2);
        let outside = Outside::link(&HashMap::from([web]));
        assert!(outside.is_limited(80));
        assert!(!outside.is_limited(443));
        assert!(outside.at("web", 80).all(|place| place.named.is_http(80)));
    }

    #[test]
    fn what_one_says_of_a_host_holds_once_however_many_services_stand_for_it() {
        let targets = ["one", "two"].map(|name| target(name, "api.example.com", &[80]));
        let twice = rate_limit("twice", targets.into());
        let other = rate_limit("web", vec![target("web", "api.example.com", &[80])]);
        let outside = Outside::link(&HashMap::from([twice, other]));
        let found = outside.at("api.example.com", 80);
        let found = Vec::from_iter(found.map(|place| &*place.named.service));
        assert_eq!(found, ["shop/one", "shop/web"]);
    }
}
