//! Jobs: from what a rule says of replies to `mesh::AsyncReply`, and the match by which they are fetched.

use crds::status::Reason;
use crds::{ApiRouteSpec, AsyncReply, Match, Method, PathMatch, PathType, RouteRule};
use wire::mesh;
use wire::path::{Pattern, Segment};

use super::Reader;
use crate::api_route::{Refusal, request_match};
use crate::store;

/// What a rule is about: its matches, and that of its results.
pub(crate) fn matches(rule: &RouteRule) -> Vec<mesh::Match> {
    let mut matches = Vec::from_iter(rule.matches.iter().map(request_match));
    if let Some(reply) = async_reply(rule) {
        if matches.is_empty() {
            // Without any it is about every request, and is still.
            matches.push(mesh::Match::default());
        }
        let path = PathMatch {
            type_: PathType::Pattern,
            value: format!("{}/{{job}}", reply.result_path),
        };
        matches.push(request_match(&Match {
            path: Some(path),
            method: Some(Method::Get),
            ..Match::default()
        }));
    }
    matches
}

/// Why results could not be told from what other rules are about.
pub(super) fn problems(spec: &ApiRouteSpec) -> Vec<Refusal> {
    let rules = || spec.rules.iter().enumerate();
    let replies = rules().filter_map(|(place, rule)| Some((place, async_reply(rule)?)));
    let problems = replies.filter_map(|(place, reply)| {
        let mut others = rules().filter(|(other, _)| *other != place);
        let (other, _) = others.find(|(other, rule)| {
            let same = async_reply(rule).is_some_and(|one| one.result_path == reply.result_path);
            let mut matches = rule.matches.iter();
            (same && *other < place) || matches.any(|one| is_about(one, &reply.result_path))
        })?;
        Some(Refusal {
            reason: Reason::Invalid,
            message: format!(
                "spec.rules[{place}].publish.asyncReply.resultPath: what is fetched there is what \
                 spec.rules[{other}] is about: write another path, such as {}-{place}.",
                reply.result_path
            ),
        })
    });
    problems.collect()
}

fn async_reply(rule: &RouteRule) -> Option<&AsyncReply> {
    rule.publish.as_ref()?.async_reply.as_ref()
}

/// Whether a match is no less specific about a result than what is made of its path. Of those that are, a prefix
/// or a regular expression, results are taken out; nobody knows a token who could write it as an exact path.
fn is_about(written: &Match, path: &str) -> bool {
    let gets = written.method.is_none_or(|method| method == Method::Get);
    let pattern = written.path.as_ref();
    let pattern = pattern.filter(|path| path.type_ == PathType::Pattern);
    let pattern = pattern.and_then(|path| Pattern::parse(&path.value).ok());
    pattern.is_some_and(|pattern| {
        let segments = path.split('/').skip(1);
        let (own, of) = (segments.clone().count(), &pattern.segments);
        let literals = segments
            .zip(of)
            .all(|(own, of)| matches!(of, Segment::Literal(literal) if literal == own));
        let last = matches!(of.last(), Some(Segment::Variable(_)));
        gets && pattern.rest.is_none() && of.len() == own + 1 && literals && last
    })
}

// === impl Reader ===

impl Reader<'_> {
    /// What is sent of it, and why its store can't be had.
    pub(super) fn async_reply(
        &self,
        place: usize,
        written: &AsyncReply,
    ) -> (mesh::AsyncReply, Option<Refusal>) {
        let reader = store::Reader {
            key: self.key,
            credentials: self.credentials,
            unreadable: self.brokers.unreadable,
            settings: self.brokers.settings,
        };
        let at = format!("spec.rules[{place}].publish.asyncReply.store");
        let (url, unresolved) = reader.url(&at, &written.store);
        let authorities = written.store.redis.ca_certificates.clone();
        let sent = mesh::AsyncReply {
            result_path: written.result_path.clone(),
            time_to_live_ms: written.time_to_live.millis(),
            store: Some(mesh::SharedStore {
                url,
                ca_certificates: authorities.unwrap_or_default(),
                on_failure: mesh::StoreFailure::Deny.into(),
            }),
            topic: written.topic.clone(),
            // By its path, as rules change places; nobody's `consumerGroup` has a slash in it.
            group: format!(
                "{}.{}{}",
                self.key.namespace, self.key.name, written.result_path
            ),
        };
        (sent, unresolved)
    }
}
