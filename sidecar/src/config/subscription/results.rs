//! The subscription by which an ApiRoute's sidecars take what is replied to its events.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::{Exhausted, Mode, Ordering, Source, Subscription, Target};
use crate::config::async_reply::Kept;
use crate::config::broker::Broker;
use crate::events::broker::{Group, Start};
use crate::policy::retry::Backoff;

/// How many results are stored at once.
const MAX_IN_FLIGHT: usize = 16;

// === build ===

impl Subscription {
    /// Of this topic, in this group.
    pub(in crate::config) fn of_results(
        kept: &Arc<Kept>,
        broker: &Arc<Broker>,
        (topic, group): (String, String),
    ) -> Self {
        let kind = broker.address.as_ref().map(|address| address.kind);
        Self {
            circuit_breaker: None,
            object: kept.name.clone(),
            source: Source::Broker(broker.clone()),
            group: Group {
                name: group,
                topic,
                // What was replied before the group was there, where the broker has it still.
                start: match kind.is_none_or(|kind| kind.abilities().history) {
                    true => Start::Earliest,
                    false => Start::New,
                },
                create: true,
                window: None,
                kept: false,
            },
            counts_only: false,
            suspended: false,
            filters: Vec::new(),
            target: Target::Results(kept.clone()),
            path: PathAndQuery::from_static("/"),
            mode: Mode::Binary,
            timeout: Duration::ZERO,
            batch: None,
            reply: None,
            ordering: Ordering::None,
            max_in_flight: MAX_IN_FLIGHT,
            // Nothing is exhausted for want of the store: it is waited for. What is no event is no result.
            max_retries: 0,
            backoff: Backoff::NONE,
            expiry: None,
            exhausted: Exhausted::Drop,
            tells_body: false,
            reads_status: false,
            replay: None,
            deduplication: None,
            answers: Vec::new(),
        }
    }
}
