//! Where events go: from `crds::EventTarget` to `mesh::subscription::Target`.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crds::EventSubscriptionSpec;
use crds::event_subscription::{DeliveryMode, EventTargetType, TopicTarget, UrlTarget};
use crds::status::Reason;
use k8s_openapi::api::core::v1::Secret;
use wire::mesh::{self, Protocol, subscription::Target};

use super::{Reader, UNTIL, invalid};
use crate::access::certificates;
use crate::access::keys::text;
use crate::api_route::{Refusal, ended, listed, service_ref};
use crate::broker;
use crate::client_certificate;
use crate::endpoints::{is_external_name, protocol, tcp_ports};
use crate::index::selector;
use crate::inputs::ObjectKey;

/// The longest value of `Authorization`, in bytes.
const MAX_AUTHORIZATION: usize = 16 * 1024;

// === impl Reader ===

impl Reader<'_> {
    /// Where events go, and what they can't be sent for the want of.
    pub(super) fn target(
        &self,
        lost: &mut BTreeSet<ObjectKey>,
        refusals: &mut Vec<Refusal>,
    ) -> (Option<Target>, Option<Refusal>) {
        let target = &self.spec.target;
        let written = (
            target.workload.as_ref(),
            target.service.as_ref(),
            target.url.as_ref(),
            target.topic.as_ref(),
        );
        match (target.type_, written) {
            (EventTargetType::Workload, (Some(workload), None, None, None)) => {
                if workload.selector.is_empty() {
                    refusals.push(invalid(
                        "spec.target.workload.selector: without a label it selects nothing."
                            .to_owned(),
                    ));
                }
                (Some(Target::ApplicationPort(workload.port.into())), None)
            }
            (EventTargetType::Service, (None, Some(service), None, None)) => {
                let key = ObjectKey::new(&*self.key.namespace, &*service.name);
                refusals.extend(self.unusable(&key, service.port, lost));
                let service = mesh::EventService {
                    service: Some(service_ref(&key)),
                    port: service.port.into(),
                };
                (Some(Target::Service(service)), None)
            }
            (EventTargetType::Url, (None, None, Some(url), None)) => {
                let (url, unresolved) = self.url(url, refusals);
                (Some(Target::Url(url)), unresolved)
            }
            (EventTargetType::Topic, (None, None, None, Some(topic))) => {
                let (topic, unresolved) = self.topic(topic, refusals);
                (Some(Target::TopicTarget(topic)), unresolved)
            }
            _ => {
                refusals.push(invalid(
                    "spec.target: type Workload has workload, Service has service, URL has url, and Topic has topic."
                        .to_owned(),
                ));
                (None, None)
            }
        }
    }

    /// What is wrong with a Service as a target.
    fn unusable(
        &self,
        key: &ObjectKey,
        port: u16,
        lost: &mut BTreeSet<ObjectKey>,
    ) -> Option<Refusal> {
        let ObjectKey { namespace, name } = key;
        let at = "spec.target.service";
        let Some(service) = self.services.get(key) else {
            lost.insert(key.clone());
            let suggestion = ended(self.suggestions.instead_of(key));
            return Some(Refusal {
                reason: Reason::TargetNotFound,
                message: format!(
                    "{at}.name: there is no Service {name:?} in namespace {namespace}{suggestion}"
                ),
            });
        };
        if is_external_name(service) || selector(service).is_none_or(BTreeMap::is_empty) {
            return Some(Refusal {
                reason: Reason::UnsupportedTarget,
                message: format!(
                    "{at}.name: Service {name:?} in namespace {namespace} selects no pods: name one \
                     that does, or deliver to what is outside the mesh with type: URL."
                ),
            });
        }
        match tcp_ports(service).find(|(number, _)| *number == port) {
            None => Some(Refusal {
                reason: Reason::TargetNotFound,
                message: format!(
                    "{at}.port: Service {name:?} in namespace {namespace} has no port {port}, {}.",
                    listed(service)
                ),
            }),
            Some((_, declared)) if protocol(declared) == Protocol::Tcp => Some(Refusal {
                reason: Reason::UnsupportedProtocol,
                message: format!(
                    "{at}.port: events are posted, and port {port} of Service {name:?} in namespace \
                     {namespace} is declared to speak no HTTP: set its appProtocol to http, or name it http, \
                     if it does."
                ),
            }),
            Some(_) => None,
        }
    }

    /// A topic as a target.
    fn topic(
        &self,
        written: &TopicTarget,
        refusals: &mut Vec<Refusal>,
    ) -> (mesh::EventTopic, Option<Refusal>) {
        let at = "spec.target.topic";
        let source = self.spec.source.broker.as_ref();
        let name = written
            .broker
            .as_ref()
            .or(source.map(|source| &source.name));
        let Some(name) = name else {
            refusals.push(invalid(format!(
                "{at}.broker: a schedule has no broker: name the one that has the topic."
            )));
            return (mesh::EventTopic::default(), None);
        };
        if source.is_some_and(|source| source.name == *name && source.topic == written.name) {
            refusals.push(invalid(format!(
                "{at}.name: the events come from this topic, and would come again for ever: name another one."
            )));
        }
        let (broker, unresolved) = match &written.broker {
            Some(name) => self.brokers.broker(&format!("{at}.broker"), name, UNTIL),
            // It is said of the source.
            None => (self.brokers.broker(at, name, UNTIL).0, None),
        };
        let kind = broker::kind(&broker);
        let problem =
            kind.and_then(|kind| broker::topic_problem(kind, &format!("{at}.name"), &written.name));
        refusals.extend(problem.map(invalid));
        let topic = mesh::EventTopic {
            broker: Some(broker),
            topic: written.name.clone(),
        };
        (topic, unresolved)
    }

    /// A system outside the mesh as a target; without an address, and why, when what it asks for can't be had.
    fn url(
        &self,
        written: &UrlTarget,
        refusals: &mut Vec<Refusal>,
    ) -> (mesh::EventUrl, Option<Refusal>) {
        let domain = &self.brokers.settings.cluster_domain;
        if let Some(why) = problem(&written.address, domain) {
            refusals.push(invalid(format!("spec.target.url.address: {why}")));
        }
        let read = match &written.secret_ref {
            None => Ok(mesh::EventUrl::default()),
            Some(named) => self
                .secret(&named.name)
                .and_then(|(key, secret)| shown(&key, secret)),
        };
        match read {
            Ok(shown) => {
                let url = mesh::EventUrl {
                    url: written.address.clone(),
                    ..shown
                };
                (url, None)
            }
            Err(why) => {
                let message = format!("spec.target.url.secretRef: {why} {UNTIL}");
                let reason = Reason::SecretNotUsable;
                let unresolved = Refusal { reason, message };
                (mesh::EventUrl::default(), Some(unresolved))
            }
        }
    }

    fn secret(&self, name: &str) -> Result<(ObjectKey, &Secret), String> {
        let namespace = &self.key.namespace;
        let key = ObjectKey::new(&**namespace, name);
        match self.credentials.get(&key) {
            Some(secret) => Ok((key, secret)),
            None => Err(match self.brokers.unreadable.get(namespace) {
                Some(why) => why.sentence(namespace),
                None => format!(
                    "there is no Secret {name:?} with the label meshwright.dev/credential in namespace {namespace}."
                ),
            }),
        }
    }
}

/// What is shown to a system outside, and what its certificate is below; never the address.
fn shown(key: &ObjectKey, secret: &Secret) -> Result<mesh::EventUrl, String> {
    let of = |field| text(secret, field).unwrap_or_default();
    let (token, user, password) = (of("token"), of("username"), of("password"));
    let authorization = match (token.is_empty(), user.is_empty() && password.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("Bearer {token}"),
        (true, false) if user.contains(':') => {
            return Err(format!(
                "what stands in \"username\" of Secret {key} has a colon, with which HTTP Basic ends a name."
            ));
        }
        (true, false) => {
            let pair = format!("{user}:{password}");
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }
        (false, false) => {
            return Err(format!(
                "Secret {key} has both \"token\" and \"username\" or \"password\": one system asks for one of them."
            ));
        }
    };
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if authorization.len() > MAX_AUTHORIZATION || !authorization.bytes().all(is_plain) {
        return Err(format!(
            "what stands in \"token\" of Secret {key} can't be sent in a header: it is longer than {MAX_AUTHORIZATION} \
             bytes, or has a line's end or another sign that is none of ASCII's."
        ));
    }
    let ca_certificates = of("ca.crt");
    if !ca_certificates.is_empty() && certificates("", &ca_certificates).is_some() {
        return Err(format!(
            "what stands in \"ca.crt\" of Secret {key} is no certificate in PEM, or not all of it is."
        ));
    }
    let (certificate, private_key) = client_certificate::read(key, secret)?;
    Ok(mesh::EventUrl {
        url: String::new(),
        ca_certificates,
        authorization,
        certificate,
        key: private_key,
    })
}

/// The target as a status names it, where it is none of the mesh's: of an address the host alone, as what follows may be secret.
pub(crate) fn elsewhere(spec: &EventSubscriptionSpec) -> Option<String> {
    let target = &spec.target;
    match target.type_ {
        EventTargetType::Workload | EventTargetType::Service => None,
        EventTargetType::Url => {
            let host = authority(&target.url.as_ref()?.address)?;
            Some(format!("https://{host}"))
        }
        EventTargetType::Topic => {
            let TopicTarget { broker, name } = target.topic.as_ref()?;
            Some(match broker {
                Some(broker) => format!("topic {name} of {broker}"),
                None => format!("topic {name}"),
            })
        }
    }
}

/// The host of an address that is encrypted, and its port where one is written.
fn authority(address: &str) -> Option<&str> {
    let rest = address.strip_prefix("https://")?;
    rest.split(['/', '?', '#']).next()
}

/// Why nothing can be posted to an address.
fn problem(address: &str, cluster_domain: &str) -> Option<&'static str> {
    let Some(authority) = authority(address) else {
        return Some(
            "outside the mesh anybody could answer plaintext: write https://, or deliver to a Service with type Service.",
        );
    };
    if authority.contains('@') {
        return Some("who posts is said in a Secret (secretRef), and not in the address.");
    }
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let is_service = |host: &str| {
        let host = host.strip_suffix('.').unwrap_or(host);
        let in_full = host
            .strip_suffix(cluster_domain)
            .and_then(|rest| rest.strip_suffix('.'));
        let is_name = !host.contains(':');
        is_name && (!host.contains('.') || in_full.unwrap_or(host).ends_with(".svc"))
    };
    if !host.is_empty() && is_service(host) {
        return Some("this is a name of the cluster's: deliver to a Service with type Service.");
    }
    (host.is_empty() || !port)
        .then_some("it names no host, or a port that is none: write it as https://host:port/path.")
}

/// What a target can't have beside it, as sentences.
pub(super) fn problems(spec: &EventSubscriptionSpec) -> Vec<String> {
    let (target, delivery) = (&spec.target, &spec.delivery);
    let mut problems = Vec::new();
    let posts_by_path = matches!(
        target.type_,
        EventTargetType::Workload | EventTargetType::Service
    );
    if !posts_by_path && target.path != "/" {
        problems.push(
            "spec.target.path: a url has a path of its own, and a topic has none: leave it out."
                .to_owned(),
        );
    }
    if target.type_ != EventTargetType::Topic {
        return problems;
    }
    for (at, is_written) in [
        ("spec.reply", spec.reply.is_some()),
        ("spec.delivery.batch", delivery.batch.is_some()),
        ("spec.delivery.responses", !delivery.responses.is_empty()),
        (
            "spec.delivery.circuitBreaker",
            delivery.circuit_breaker.is_some(),
        ),
        ("spec.delivery.bodyStatus", delivery.body_status),
        (
            "spec.delivery.deadLetter.includeErrorBody",
            delivery
                .dead_letter
                .as_ref()
                .is_some_and(|to| to.include_error_body),
        ),
        ("spec.delivery.mode", delivery.mode != DeliveryMode::Binary),
    ] {
        if is_written {
            problems.push(format!(
                "{at}: a topic answers nothing, and takes events one at a time, as the broker writes them: leave it out."
            ));
        }
    }
    problems
}
