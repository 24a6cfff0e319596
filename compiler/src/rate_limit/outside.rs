//! Names outside the cluster: the sidecars of those who call them limit that, by the names that requests
//! and clients of TLS ask for. What these sidecars could not see is refused.

use crds::rate_limit::{CostType, KeyPart, KeyType, LimitKey};
use crds::status::Reason;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use wire::mesh::{self, Protocol};

use super::{Reader, invalid};
use crate::api_route::{Refusal, service_ref};
use crate::endpoints::{is_external_name, is_tls, protocol, tcp_ports};
use crate::host;
use crate::inputs::ObjectKey;

/// What is asked of a limit or a quota that the caller's side may not know.
struct Asked<'a> {
    at: String,
    key: &'a LimitKey,
    plans: bool,
    /// Fields that are about requests, and about nothing that is encrypted.
    of_requests: Vec<&'static str>,
}

impl Reader<'_> {
    /// The name that a target stands for, where that is one outside the cluster.
    pub(super) fn outside(
        &self,
        at: &str,
        key: &ObjectKey,
    ) -> Option<Result<mesh::LimitOutside, Refusal>> {
        let service = self.services.get(key)?;
        is_external_name(service).then(|| self.named(at, key, service))
    }

    fn named(
        &self,
        at: &str,
        key: &ObjectKey,
        service: &Service,
    ) -> Result<mesh::LimitOutside, Refusal> {
        let ObjectKey { namespace, name } = key;
        let domain = &self.settings.cluster_domain;
        let refusal = |reason, why: String| Refusal {
            reason,
            message: format!("{at}: Service {name:?} in namespace {namespace} {why}"),
        };
        let unsupported = |why| Err(refusal(Reason::UnsupportedTarget, why));
        let spec = service.spec.as_ref();
        let external = spec.and_then(|spec| spec.external_name.as_deref());
        let external = external.unwrap_or_default().trim_end_matches('.');
        let external = external.to_ascii_lowercase();
        if external.is_empty() || external.parse::<std::net::IpAddr>().is_ok() {
            return unsupported(format!(
                "has externalName {external:?}, which is no name that callers could ask for: write the \
                 name of the host there."
            ));
        }
        let inside = external.strip_suffix(&**domain);
        if inside.is_some_and(|rest| rest.ends_with('.')) || external.ends_with(".svc") {
            return unsupported(format!(
                "leads to {external:?}, which is inside the cluster: name the Service that it leads to."
            ));
        }
        let ports = tcp_ports(service).map(|(number, port)| {
            let sent = mesh::OutsidePort {
                port: number.into(),
                protocol: protocol(port).into(),
            };
            match is_readable(port) {
                true => Ok(sent),
                false => Err(refusal(
                    Reason::UnsupportedProtocol,
                    format!(
                        "has port {number}, of whose bytes no name is read: take the port out, or set \
                         its appProtocol to http, or to tls, if it is one of these."
                    ),
                )),
            }
        });
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        if ports.is_empty() && spec.is_some_and(|spec| spec.ports.iter().flatten().count() > 0) {
            return Err(refusal(
                Reason::UnsupportedProtocol,
                "has no port of TCP: declare the ports that are to be limited, or none.".to_owned(),
            ));
        }
        let mut hosts = host::names(key, domain);
        hosts.extend([name.clone(), external]);
        Ok(mesh::LimitOutside {
            service: Some(service_ref(key)),
            hosts,
            ports,
        })
    }

    /// What a RateLimit for names outside can't be, as sentences.
    pub(super) fn unseen(&self, targets: &[mesh::LimitTarget]) -> Vec<Refusal> {
        let outside = || {
            let targets = targets.iter();
            targets.filter_map(|target| target.outside.as_ref())
        };
        if outside().next().is_none() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if targets.iter().any(|target| target.outside.is_none()) {
            problems.push(
                "spec.targetRefs: what is called outside the cluster is limited beside those who call, \
                 and everything else beside those who are called: write a RateLimit for each."
                    .to_owned(),
            );
        }
        let http = [Protocol::Http, Protocol::Http2].map(i32::from);
        let is_http = |one: &mesh::LimitOutside| {
            !one.ports.is_empty() && one.ports.iter().all(|port| http.contains(&port.protocol))
        };
        let encrypted = outside().find(|one| !is_http(one));
        let encrypted = encrypted.and_then(|one| Some(&one.service.as_ref()?.name));
        for asked in self.asked() {
            let at = &asked.at;
            let unknown = parts(asked.key).find_map(|(field, part)| {
                let why = match part {
                    KeyType::Consumer => "keys of consumers are known where they are shown",
                    KeyType::JWTClaim => "tokens are read where they are shown",
                    KeyType::ClientIP => "a sidecar that calls carries the calls of one pod",
                    _ => return None,
                };
                Some(format!(
                    "{at}.key{field}.type: {why}: for a name outside the cluster, write Global, Identity, \
                     Header or Route."
                ))
            });
            problems.extend(unknown);
            if asked.plans {
                problems.push(format!(
                    "{at}.plans: they are of consumers, who are not known where a name outside the \
                     cluster is called: take them out."
                ));
            }
            if let (Some(field), Some(service)) = (asked.of_requests.first(), encrypted) {
                problems.push(format!(
                    "{at}.{field}: it is read of requests, and to Service {service:?} connections may go \
                     that are encrypted: declare its ports, each with appProtocol http, or take {field} \
                     out."
                ));
            }
        }
        problems.into_iter().map(invalid).collect()
    }

    fn asked(&self) -> impl Iterator<Item = Asked<'_>> {
        let has_header = |key: &LimitKey| parts(key).any(|(_, part)| part == KeyType::Header);
        let fields = move |key: &LimitKey, methods: bool, paths: bool, cost: bool| {
            let all = [
                ("key", has_header(key)),
                ("methods", methods),
                ("paths", paths),
                ("cost", cost),
            ];
            let named = all.into_iter().filter(|(_, is_written)| *is_written);
            named.map(|(name, _)| name).collect()
        };
        let limits = self.spec.limits.iter().enumerate();
        let limits = limits.map(move |(place, limit)| {
            let cost = limit.cost.as_ref();
            let cost = cost.is_some_and(|cost| cost.type_ != CostType::Request);
            let (methods, paths) = (!limit.methods.is_empty(), !limit.paths.is_empty());
            Asked {
                at: format!("spec.limits[{place}]"),
                key: &limit.key,
                plans: !limit.plans.is_empty(),
                of_requests: fields(&limit.key, methods, paths, cost),
            }
        });
        let quotas = self.spec.quotas.iter().enumerate();
        let quotas = quotas.map(move |(place, quota)| {
            let (methods, paths) = (!quota.methods.is_empty(), !quota.paths.is_empty());
            Asked {
                at: format!("spec.quotas[{place}]"),
                key: &quota.key,
                plans: !quota.plans.is_empty(),
                of_requests: fields(&quota.key, methods, paths, false),
            }
        });
        limits.chain(quotas)
    }
}

/// The kinds of a key, each with the place in the key where it stands.
fn parts(key: &LimitKey) -> impl Iterator<Item = (String, KeyType)> {
    let own = (key.type_ != KeyType::Compound).then(|| (String::new(), key.type_));
    let parts = key.parts.iter().enumerate();
    let parts =
        parts.map(|(place, part): (usize, &KeyPart)| (format!(".parts[{place}]"), part.type_));
    own.into_iter().chain(parts)
}

/// Whether the name that is asked for can be read of a port's bytes.
fn is_readable(port: &ServicePort) -> bool {
    protocol(port) != Protocol::Tcp || is_tls(port)
}
