//! What was replied to a job: taken from its topic, and done there once the store has it.

use std::rc::Rc;

use tokio::time::Instant;

use super::super::cloud_event::Event;
use super::super::running::Running;
use super::super::settle::{AGAIN, Verdict};
use super::{JOB, Unavailable, get, is_job, named, set, stored};
use crate::config::async_reply::Kept;
use crate::proxy::Proxy;
use crate::proxy::error::Reason;
use crate::telemetry::metrics::events::Delivered;

/// Has the store keep a reply; nothing when the subscription ends before that. While the store is away it is waited
/// for, and the broker keeps what was replied.
pub(in crate::events) async fn keep(
    running: &Running,
    px: &Rc<Proxy>,
    kept: &Kept,
    reply: &Event,
) -> Option<Verdict> {
    // Others reply to the same topic.
    let Some(job) = reply.attribute(JOB).filter(|job| is_job(job)) else {
        return Some(Verdict::Done(Delivered::Filtered));
    };
    let mut pause = AGAIN.0;
    loop {
        if let Ok(outcome) = once(px, kept, job, reply).await {
            running.unreached(None);
            return Some(Verdict::Done(outcome));
        }
        px.metrics
            .all()
            .events
            .delivered(&running.subscription.object, Delivered::Unreached);
        running.unreached(Some(Reason::JobsUnavailable));
        let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
        running.pause_until(Instant::now() + wait);
        if !running.waits(wait).await {
            return None;
        }
        pause = (pause * 2).min(AGAIN.1);
    }
}

async fn once(
    px: &Rc<Proxy>,
    kept: &Kept,
    job: &str,
    reply: &Event,
) -> Result<Delivered, Unavailable> {
    // Of another ApiRoute, or of one that nobody waits for any more.
    let Some(who) = get(px, kept, &named(kept, "waits", job)).await? else {
        return Ok(Delivered::Filtered);
    };
    let result = stored::write(&who, reply);
    match set(px, kept, &named(kept, "result", job), &result).await? {
        true => Ok(Delivered::Acknowledged),
        // The first counts. One that comes again is the same.
        false => Ok(Delivered::Duplicate),
    }
}
