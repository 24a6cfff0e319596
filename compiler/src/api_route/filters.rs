//! Filters of a rule: from `crds::filters` to the fields of `mesh::Rule` from `request_headers` on.

use crds::status::Reason;
use crds::{ApiRouteSpec, BackendKind, BackendRef, PathChangeType, RouteRule};
use wire::path::normalise;
use wire::{capability, mesh};

use super::{MAX_SENTENCES, Reader, Refusal, Rules, ended, is_nowhere, service_ref};
use crate::inputs::ObjectKey;

/// What no sidecar could do, each with its place. Paths are read here exactly as sidecars read them.
pub(super) fn problems(spec: &ApiRouteSpec) -> Vec<Refusal> {
    let rules = spec.rules.iter().enumerate();
    let changes = rules.flat_map(|(index, rule)| {
        let rewrite = rule.rewrite.as_ref().and_then(|to| to.path.as_ref());
        let redirect = rule.redirect.as_ref().and_then(|to| to.path.as_ref());
        let place = move |field| format!("spec.rules[{index}].{field}.path.value");
        let changes = [("rewrite", rewrite), ("redirect", redirect)];
        changes
            .into_iter()
            .filter_map(move |(field, changed)| Some((place(field), changed?)))
    });
    let problems = changes.filter_map(|(place, changed)| {
        let why = normalise(changed.value.as_bytes()).err()?;
        Some(Refusal {
            reason: Reason::Invalid,
            message: format!("{place}: the path {:?}: {why}.", changed.value),
        })
    });
    problems.collect()
}

/// A wire rule that has the filters of `rule`, but for what names other objects, and nothing else
/// of it.
pub(super) fn compile(rule: &RouteRule) -> mesh::Rule {
    mesh::Rule {
        request_headers: rule.request_headers.as_ref().map(header_edits),
        response_headers: rule.response_headers.as_ref().map(header_edits),
        rewrite: rule.rewrite.as_ref().map(rewrite),
        redirect: rule.redirect.as_ref().map(redirect),
        direct_response: rule.direct_response.as_ref().map(direct_response),
        cors: rule.cors.as_ref().map(cors),
        fault: rule.fault.as_ref().map(fault),
        max_request_bytes: rule.max_request_bytes,
        compression: rule.compression.as_ref().map(compression),
        concurrency: rule.concurrency.as_ref().map(concurrency),
        ..mesh::Rule::default()
    }
}

/// What a sidecar must be able to do to enforce the filters of these rules, each said once.
pub(crate) fn needed(rules: &[mesh::Rule]) -> impl Iterator<Item = &'static str> {
    type Uses = fn(&mesh::Rule) -> bool;
    const NEEDS: &[(&str, Uses)] = &[
        (capability::FILTER_REQUEST_HEADERS, |rule| {
            rule.request_headers.is_some()
        }),
        (capability::FILTER_RESPONSE_HEADERS, |rule| {
            rule.response_headers.is_some()
        }),
        (capability::FILTER_REWRITE, |rule| rule.rewrite.is_some()),
        (capability::FILTER_REDIRECT, |rule| rule.redirect.is_some()),
        (capability::FILTER_DIRECT_RESPONSE, |rule| {
            rule.direct_response.is_some()
        }),
        (capability::FILTER_FAULT, |rule| rule.fault.is_some()),
        (capability::FILTER_MIRROR, |rule| rule.mirror.is_some()),
        (capability::FILTER_CORS, |rule| rule.cors.is_some()),
        (capability::FILTER_MAX_REQUEST_BYTES, |rule| {
            rule.max_request_bytes.is_some()
        }),
        (capability::FILTER_COMPRESSION, |rule| {
            rule.compression.is_some()
        }),
        (capability::FILTER_CONCURRENCY, |rule| {
            rule.concurrency.is_some()
        }),
        (capability::FILTER_IDLE_TIMEOUT, |rule| {
            rule.idle_timeout_ms.is_some()
        }),
    ];
    let needed = NEEDS.iter().filter(|(_, uses)| rules.iter().any(uses));
    needed.map(|(capability, _)| *capability)
}

impl Reader<'_> {
    /// Reads `mirror` of the rule at `index`. What can't be reached is said as of a backend.
    pub(super) fn mirror(
        &self,
        index: usize,
        rule: &RouteRule,
        hosts: &[ObjectKey],
        compiled: &mut Rules,
        refusals: &mut Vec<Refusal>,
    ) -> Option<mesh::Mirror> {
        let written = rule.mirror.as_ref()?;
        let to = BackendRef {
            kind: BackendKind::Service,
            name: written.backend_ref.name.clone(),
            namespace: written.backend_ref.namespace.clone(),
            port: written.backend_ref.port,
            weight: 1,
        };
        let namespace = to.namespace.as_ref().unwrap_or(&self.key.namespace);
        let key = ObjectKey::new(namespace, &*to.name);
        let shown = refusals.len() < MAX_SENTENCES;
        let problem = self.problem(&to, &key, hosts, shown, &mut compiled.lost);
        if let Some((reason, field, problem)) = &problem {
            refusals.push(Refusal {
                reason: *reason,
                message: format!(
                    "spec.rules[{index}].mirror.backendRef.{field}: {} The rule's requests are \
                     not mirrored meanwhile.",
                    ended(problem.clone()),
                ),
            });
        }
        let nowhere = problem.is_some_and(|(reason, _, _)| is_nowhere(reason));
        let sent = mesh::Mirror {
            service: Some(match nowhere {
                true => mesh::ServiceRef::default(),
                false => service_ref(&key),
            }),
            port: to.port.into(),
            percent: written.percent.into(),
        };
        compiled.services.insert(key);
        Some(sent)
    }
}

fn header_edits(written: &crds::HeaderEdits) -> mesh::HeaderEdits {
    mesh::HeaderEdits {
        remove: written
            .remove
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        set: written.set.iter().map(header).collect(),
        add: written.add.iter().map(header).collect(),
    }
}

fn header(written: &crds::Header) -> mesh::Header {
    mesh::Header {
        name: written.name.to_ascii_lowercase(),
        value: written.value.clone(),
    }
}

fn rewrite(written: &crds::Rewrite) -> mesh::Rewrite {
    mesh::Rewrite {
        host: written.host.clone().unwrap_or_default(),
        path: written.path.as_ref().map(path_change),
    }
}

fn redirect(written: &crds::Redirect) -> mesh::Redirect {
    mesh::Redirect {
        scheme: written
            .scheme
            .map(|scheme| scheme.as_str().to_owned())
            .unwrap_or_default(),
        host: written.host.clone().unwrap_or_default(),
        port: written.port.map(u32::from),
        path: written.path.as_ref().map(path_change),
        status: written.status_code.into(),
    }
}

fn direct_response(written: &crds::DirectResponse) -> mesh::DirectResponse {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let body = written.body.clone().unwrap_or_default();
    let content_type = match (&written.content_type, body.is_empty()) {
        (Some(written), _) => written.clone(),
        (None, true) => String::new(),
        (None, false) => PLAIN.to_owned(),
    };
    mesh::DirectResponse {
        status: written.status.into(),
        body,
        content_type,
    }
}

fn path_change(written: &crds::PathChange) -> mesh::PathChange {
    use mesh::path_change::Change;
    let value = written.value.as_str();
    mesh::PathChange {
        change: Some(match written.type_ {
            PathChangeType::ReplaceFull => Change::Full(value.to_owned()),
            PathChangeType::ReplacePrefix => Change::Prefix(value.trim_end_matches('/').to_owned()),
        }),
    }
}

pub(crate) fn cors(written: &crds::Cors) -> mesh::Cors {
    let methods = written.allow_methods.iter();
    mesh::Cors {
        allow_origins: written.allow_origins.clone(),
        allow_methods: methods.map(|method| method.as_str().to_owned()).collect(),
        allow_headers: written.allow_headers.clone(),
        expose_headers: written.expose_headers.clone(),
        allow_credentials: written.allow_credentials,
        max_age_s: written.max_age.as_ref().map(|age| age.millis() / 1000),
    }
}

fn compression(written: &crds::Compression) -> mesh::Compression {
    mesh::Compression {
        min_bytes: written.min_bytes,
    }
}

fn concurrency(written: &crds::Concurrency) -> mesh::Concurrency {
    const SECOND: u64 = 1000;
    let timeout = written.queue_timeout.as_ref();
    mesh::Concurrency {
        max: written.max,
        queue: written.queue,
        queue_timeout_ms: timeout.map_or(SECOND, crds::Duration::millis),
    }
}

fn fault(written: &crds::Fault) -> mesh::Fault {
    mesh::Fault {
        delay: written.delay.as_ref().map(|delay| mesh::FaultDelay {
            duration_ms: delay.duration.millis(),
            percent: delay.percent.into(),
        }),
        abort: written.abort.as_ref().map(|abort| mesh::FaultAbort {
            status: abort.status.into(),
            percent: abort.percent.into(),
        }),
    }
}
