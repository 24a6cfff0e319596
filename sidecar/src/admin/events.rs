//! EventSubscriptions, for people: how it goes with those that are carried out here, and what is done with their dead
//! letters.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use wire::discovery::SubscriptionReport;

use super::{Admin, Answer, Question, json as answer, text};
use crate::events::desk::What;

// === impl Admin ===

impl Admin {
    /// `GET` tells how it goes, `PUT` of words as [`What::read`] takes them has something done and answers in lines.
    pub(super) fn events(&self, question: &Question) -> Answer {
        if question.method != Method::PUT {
            let reports = self.metrics.events.reports().all();
            let told = reports.iter().map(told);
            return answer(
                StatusCode::OK,
                &json!({ "subscriptions": Vec::from_iter(told) }),
            );
        }
        let (object, what) = match question.words().and_then(What::read) {
            Ok(order) => order,
            Err(wrong) => return text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
        };
        let (namespace, name) = object.split_once('/').unwrap_or_default();
        let reports = self.metrics.events.reports().all();
        let is_here = |one: &SubscriptionReport| one.namespace == namespace && one.name == name;
        if !reports.iter().any(is_here) {
            let why = format!("EventSubscription {object} is not carried out here\n");
            return text(StatusCode::NOT_FOUND, why);
        }
        let lines = self.desk.order(&object, what);
        let lines = stream::unfold(lines, async |mut lines| {
            let line = lines.recv().await?;
            let line = Bytes::from(format!("{line}\n"));
            Some((Ok(Frame::data(line)), lines))
        });
        let mut response = Response::new(StreamBody::new(lines.boxed()).boxed_unsync());
        let kind = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

fn told(report: &SubscriptionReport) -> Value {
    let lag = report.lag.as_ref();
    let failure = report.failure.as_ref();
    let replay = report.replay.as_ref();
    json!({
        "subscription": format!("{}/{}", report.namespace, report.name),
        "subscribed": report.subscribed,
        "suspended": report.suspended,
        "targetGone": report.gone,
        "chosen": report.chosen,
        "nobodyThere": report.nobody,
        "why": report.why,
        "lag": lag.map(|lag| lag.waiting),
        "unacknowledged": lag.map(|lag| lag.unacknowledged),
        "inFlight": report.in_flight,
        "deadLettered": report.dead_lettered,
        "lastError": failure.map(|failure| json!({
            "code": (failure.status > 0).then_some(failure.status),
            "reason": failure.reason,
            "atMs": failure.at_ms,
        })),
        "replay": replay.map(|replay| json!({
            "request": replay.request,
            "done": replay.done,
            "failed": replay.failed,
            "finished": replay.finished,
            "why": replay.why,
        })),
    })
}
