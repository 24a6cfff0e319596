//! What the filters of a rule do to a request, in words and in the order in which they do it. Where
//! it depends on the request, the filter itself is asked.

use http::header::{HOST, LOCATION};
use http::request::Parts;
use wire::mesh;

use crate::config::route::filters::Filters;
use crate::policy::cache::at_caller::AtCaller;
use crate::policy::redirect::Redirect;
use crate::policy::rewrite::Rewrite;

/// What an ApiRoute with a cache says of a request that can be answered with what is kept.
pub(super) const KEPT: &str = "answers may be those that the called workload's sidecar keeps: which is \
                               told in cache-status";

/// The same where callers keep answers.
pub(super) fn kept_here(kept: &AtCaller) -> String {
    format!(
        "answers may be those that this sidecar keeps itself, for {} s at most and apart for whatever \
         credentials are sent: then nobody is asked",
        kept.max_age().as_secs_f64()
    )
}

/// What an ApiRoute that carries calls out once says of a request that may change something.
pub(super) fn once(header: &str) -> String {
    format!(
        "with the same {header} it is carried out once, and answered again as it was the first time \
         (idempotent-replayed), if the called workload's ApiRoute is about it"
    )
}

/// The request that is explained.
pub(super) struct Called<'a> {
    pub(super) head: &'a Parts,
    /// The port that it calls.
    pub(super) port: u16,
    /// The bytes of its path by which the rule was found.
    pub(super) prefix: usize,
}

/// One sentence for each thing that is done. No values of headers: they may be secrets.
pub(super) fn told(sent: &mesh::Rule, built: &Filters, called: &Called<'_>) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(cors) = &sent.cors {
        told.push(format!(
            "lets pages of {} read the answers, and answers their preflights",
            cors.allow_origins.join(", ")
        ));
    }
    if let Some(fault) = &sent.fault {
        let delay = fault.delay.as_ref();
        told.extend(delay.map(|to| format!("delays {} % by {} ms", to.percent, to.duration_ms)));
        let abort = fault.abort.as_ref();
        told.extend(abort.map(|to| format!("answers {} % with {}", to.percent, to.status)));
    }
    told.extend(built.redirect.as_ref().map(|to| redirected(to, called)));
    if let Some(direct) = &sent.direct_response {
        told.push(format!("answers {} itself", direct.status));
    }
    if let Some(bytes) = sent.max_request_bytes {
        told.push(format!("refuses bodies of more than {bytes} bytes: 413"));
    }
    if let Some(bound) = &sent.concurrency {
        let queue = match bound.queue {
            0 => String::new(),
            queue => format!("{queue} more wait {} ms; ", bound.queue_timeout_ms),
        };
        told.push(format!(
            "sends at most {} at once, {queue}others are answered 503",
            bound.max
        ));
    }
    told.extend(sent.request_headers.as_ref().map(|to| edits("request", to)));
    told.extend(built.rewrite.as_ref().map(|to| rewritten(to, called)));
    if let Some(mirror) = &sent.mirror {
        let to = mirror.service.clone().unwrap_or_default();
        told.push(format!(
            "copies {} % to {}/{}:{}",
            mirror.percent, to.namespace, to.name, mirror.port
        ));
    }
    told.extend(
        sent.response_headers
            .as_ref()
            .map(|to| edits("response", to)),
    );
    if let Some(compression) = &sent.compression {
        told.push(format!(
            "compresses text of {} bytes and more for who accepts it: gzip",
            compression.min_bytes
        ));
    }
    told
}

fn edits(of: &str, sent: &mesh::HeaderEdits) -> String {
    let names = |headers: &[mesh::Header]| {
        let names = headers.iter().map(|header| header.name.clone());
        Vec::from_iter(names)
    };
    let done = [
        ("removes", sent.remove.clone()),
        ("sets", names(&sent.set)),
        ("adds", names(&sent.add)),
    ];
    let done = done.into_iter().filter(|(_, names)| !names.is_empty());
    let done = done.map(|(verb, names)| format!("{verb} {}", names.join(", ")));
    format!("{of} headers: {}", Vec::from_iter(done).join("; "))
}

fn redirected(redirect: &Redirect, called: &Called<'_>) -> String {
    match redirect.answer(called.head, called.port, called.prefix) {
        Ok(answer) => {
            let location = answer.headers().get(LOCATION);
            let location = location.and_then(|to| to.to_str().ok()).unwrap_or_default();
            format!("redirects with {} to {location}", answer.status().as_u16())
        }
        Err(error) => format!("answers {}: {}", error.status().as_u16(), error.detail),
    }
}

fn rewritten(rewrite: &Rewrite, called: &Called<'_>) -> String {
    let mut head = called.head.clone();
    match rewrite.apply(&mut head, called.prefix) {
        Ok(()) => {
            let host = match head.uri.authority() {
                Some(authority) => authority.as_str(),
                None => head
                    .headers
                    .get(HOST)
                    .and_then(|host| host.to_str().ok())
                    .unwrap_or_default(),
            };
            format!("sends it as host {host}, path {}", head.uri.path())
        }
        Err(error) => format!("answers {}: {}", error.status().as_u16(), error.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::Route;

    fn told_of(rule: mesh::Rule, uri: &str) -> Vec<String> {
        let rules = vec![rule];
        let sent = mesh::Route {
            rules,
            ..Default::default()
        };
        let route = Route::build(sent.clone(), None).unwrap();
        let request = http::Request::get(uri).header("host", "orders");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let found = route.find(&head).unwrap();
        let called = Called {
            head: &head,
            port: 80,
            prefix: found.prefix,
        };
        told(&sent.rules[0], &route.rules()[0].filters, &called)
    }

    fn change(change: mesh::path_change::Change) -> Option<mesh::PathChange> {
        Some(mesh::PathChange {
            change: Some(change),
        })
    }

    #[test]
    fn every_filter_is_told_in_the_order_in_which_it_acts_and_no_value_of_a_header() {
        let header = |name: &str| mesh::Header {
            name: name.into(),
            value: "secret".into(),
        };
        let rule = mesh::Rule {
            matches: vec![mesh::Match {
                path: Some(mesh::r#match::Path::Prefix("/v1".into())),
                ..Default::default()
            }],
            cors: Some(mesh::Cors {
                allow_origins: vec!["https://a".into(), "https://b".into()],
                ..Default::default()
            }),
            fault: Some(mesh::Fault {
                delay: Some(mesh::FaultDelay {
                    duration_ms: 100,
                    percent: 10,
                }),
                abort: Some(mesh::FaultAbort {
                    status: 503,
                    percent: 5,
                }),
            }),
            max_request_bytes: Some(1000),
            concurrency: Some(mesh::Concurrency {
                max: 100,
                queue: 50,
                queue_timeout_ms: 1000,
            }),
            compression: Some(mesh::Compression { min_bytes: 1024 }),
            request_headers: Some(mesh::HeaderEdits {
                remove: vec!["x-a".into()],
                set: vec![header("x-b"), header("x-c")],
                add: vec![],
            }),
            rewrite: Some(mesh::Rewrite {
                host: "legacy".into(),
                path: change(mesh::path_change::Change::Prefix("/api".into())),
            }),
            mirror: Some(mesh::Mirror {
                service: Some(mesh::ServiceRef {
                    namespace: "shop".into(),
                    name: "shadow".into(),
                }),
                port: 81,
                percent: 50,
            }),
            response_headers: Some(mesh::HeaderEdits {
                add: vec![header("x-d")],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            told_of(rule, "/v1/a?b=secret"),
            [
                "lets pages of https://a, https://b read the answers, and answers their preflights",
                "delays 10 % by 100 ms",
                "answers 5 % with 503",
                "refuses bodies of more than 1000 bytes: 413",
                "sends at most 100 at once, 50 more wait 1000 ms; others are answered 503",
                "request headers: removes x-a; sets x-b, x-c",
                "sends it as host legacy, path /api/a",
                "copies 50 % to shop/shadow:81",
                "response headers: adds x-d",
                "compresses text of 1024 bytes and more for who accepts it: gzip",
            ]
        );
    }

    #[test]
    fn an_answer_of_the_rule_is_told_as_it_would_be_given() {
        let redirect = mesh::Rule {
            redirect: Some(mesh::Redirect {
                scheme: "https".into(),
                status: 308,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            told_of(redirect, "/a?b"),
            ["redirects with 308 to https://orders/a?b"]
        );
        let direct = mesh::Rule {
            direct_response: Some(mesh::DirectResponse {
                status: 503,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(told_of(direct, "/"), ["answers 503 itself"]);
    }
}
