//! Copies of requests, as [`crate::policy::mirror`] wants them: made while the original passes, sent
//! when it has passed, and never waited for.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::Proxy;
use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::destination::{Backend, Routed};
use super::forward::forward;
use crate::policy::mirror::{self, MAX_ANSWER, MAX_BODY, PATIENCE, Place};
use crate::policy::retry::Retries;
use crate::policy::timeout::Deadline;
use crate::telemetry::metrics::{Direction, MirrorLabels, MirrorOutcome, RequestMetrics, Shared};

/// A copy that is not sent yet. Counts what became of it when dropped.
pub struct Copy {
    head: Parts,
    body: BytesMut,
    to: Backend,
    _place: Place,
    account: Account,
}

struct Account {
    outcome: MirrorOutcome,
    route: (Arc<str>, Arc<str>),
    metrics: Rc<RequestMetrics>,
}

/// Begins a copy of a request if its rule wants one: the original goes on with the body returned.
/// What is to become another protocol has no copy.
pub fn begin(
    px: &Proxy,
    cx: &Context,
    routed: &Routed,
    head: &Parts,
    body: RequestBody,
) -> RequestBody {
    let mirror = routed.filters().mirror.as_ref();
    let mirror = mirror.filter(|mirror| cx.upgrade.is_none() && mirror.draw());
    let (Some(_), Some(route)) = (mirror, routed.names()) else {
        return body;
    };
    let mut account = Account {
        outcome: MirrorOutcome::failed,
        route,
        metrics: px.metrics.clone(),
    };
    let Some(to) = routed.mirror.clone() else {
        return body;
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        account.outcome = MirrorOutcome::too_large;
        return body;
    }
    let Some(place) = px.copies.take() else {
        account.outcome = MirrorOutcome::dropped;
        return body;
    };
    account.outcome = MirrorOutcome::unfinished;
    let copy = Copy {
        head: mirror::head(head),
        body: BytesMut::new(),
        to,
        _place: place,
        account,
    };
    match body {
        RequestBody::Empty => {
            copy.send();
            RequestBody::Empty
        }
        body => body.copied(copy),
    }
}

// === impl Copy ===

impl Copy {
    /// More of the original's body passes. Returns nothing when there is too much of it to copy.
    pub fn with(mut self, data: &Bytes) -> Option<Self> {
        if self.body.len() + data.len() > MAX_BODY {
            self.account.outcome = MirrorOutcome::too_large;
            return None;
        }
        // Copied: what hyper has read stays in memory as long as a part of it is held.
        self.body.extend_from_slice(data);
        Some(self)
    }

    /// All of the original has passed.
    pub fn send(self) {
        tokio::task::spawn_local(self.exchange());
    }

    async fn exchange(self) {
        let Self {
            mut head,
            body,
            to,
            _place,
            mut account,
        } = self;
        let mut cx = Context::new(Direction::outbound, &mut head);
        let deadline = Deadline::start(Some(PATIENCE), Instant::now());
        let body = RequestBody::whole(body.freeze());
        let retries = Retries::without_policy();
        match forward(&mut cx, &to, retries, deadline, head, body).await {
            Ok(response) => {
                account.outcome = MirrorOutcome::sent;
                read(response.into_body()).await;
            }
            Err(error) => {
                account.outcome = MirrorOutcome::failed;
                tracing::debug!(%error, route = %account.route.0, "a copy was not answered");
            }
        }
    }
}

/// Reads an answer to its end, within bounds: what is left unread would cost the connection.
async fn read(mut body: ResponseBody) {
    let mut left = MAX_ANSWER;
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(data) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy").finish_non_exhaustive()
    }
}

// === impl Account ===

impl Drop for Account {
    fn drop(&mut self) {
        let (route, rule) = &self.route;
        self.metrics.all().mirrored(&MirrorLabels {
            route: Shared(route.clone()),
            rule: Shared(rule.clone()),
            outcome: self.outcome,
        });
    }
}
