//! The operator's end of the stream on a network: [`Sent`] with timeouts, woken by a [`Mailbox`].
//!
//! A thousand streams cost little: each is one task and one set of ids. Whoever compiles puts the
//! changed ids into the mailboxes of the streams that they concern; a task that is waiting for an
//! Ack is not even woken for them.

mod outbox;
mod pace;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use crate::{
    ResourceId,
    delta::{MAX_HELD, MAX_HELLO_BYTES, Outcome, Sent, View},
    discovery::{Claim, Claims, Delta, FromSidecar, Grant, Lookup, Report},
    grant::MAX_CLAIMS,
    lookup::{MAX_LOOKUPS, Question},
    message::Said,
};
pub use outbox::Deltas;
use outbox::{Outbox, Unsent, outbox};
use pace::Pace;
pub use pace::{LOOKUPS_AT_ONCE, LOOKUPS_EVERY};

/// How long a sidecar may take to say Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a sidecar may take to acknowledge a delta. It applies one in milliseconds; one that
/// is silent this long hangs, and is better off with a new connection.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// By how many times as much it may come later where what the sidecar asks had to wait before it.
const ACKS_WAIT: u32 = 4;

/// How often a sidecar whose resources don't change is told how new they are (see
/// [`Sent::refresh`]): a message of some 60 bytes.
pub const REFRESH: Duration = Duration::from_secs(30);

/// The largest message that a server must accept from a sidecar, in bytes: the Hello of one that
/// holds as much as it may, a delta more (see [`Apply`](crate::delta::Apply)), version and
/// capabilities. An Ack that rejects everything is smaller. Give it to
/// `DiscoveryServer::max_decoding_message_size`.
pub const MAX_MESSAGE_BYTES: usize = MAX_HELLO_BYTES + 1024 * 1024;

/// Who a stream is with, as far as the rest of the operator is concerned. Dropped when the stream
/// has ended, however it ended.
pub trait Subscriber: Send + 'static {
    /// The snapshot type; cheap to take, such as an `Arc` of the compiler's output and a key.
    type View: View;

    /// The newest snapshot of what this sidecar may receive. Publish a new one *before* putting
    /// its changed ids into the mailbox.
    fn view(&self) -> Self::View;

    /// What the sidecar says that it can do, before anything else of its Hello is looked at: the view may
    /// depend on it.
    fn introduced(&mut self, capabilities: &[String]);

    /// The sidecar wants to be told these answers, and no longer those: before Hello is looked at, what it
    /// holds of them already. [`Question::of`] reads each. The view has what follows from it as soon as
    /// this returns, and the mailbox what that changes.
    fn asked(&mut self, wanted: Vec<ResourceId>, unwanted: Vec<ResourceId>);

    /// The sidecar claims these: at most [`MAX_CLAIMS`]. What is decided comes by [`Mailbox::granted`], for each
    /// that can be.
    fn claimed(&mut self, claims: Vec<Claim>);

    /// The sidecar has said Hello; what it holds can be read from `sent`.
    fn opened(&mut self, sent: &Sent);

    /// How it goes with what the sidecar carries out.
    fn reported(&mut self, report: Report);

    /// What the sidecar has done with the last delta.
    fn acked(&mut self, outcomes: Vec<(ResourceId, Outcome)>);
}

/// Where the changes for one stream wait. However slow the stream, it holds each id once.
#[derive(Debug, Default)]
pub struct Mailbox {
    pending: Mutex<Pending>,
    changed: Notify,
    closing: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    ids: BTreeSet<ResourceId>,
    /// More ids than are worth remembering: compare the whole view.
    everything: bool,
    advanced: bool,
    grants: Vec<Grant>,
}

// === impl Mailbox ===

impl Mailbox {
    /// An empty one, to be shared between the publisher and [`serve`].
    pub fn new() -> Arc<Mailbox> {
        Arc::default()
    }

    /// These have been added to the stream's view, changed, or have left it.
    pub fn changed(&self, ids: impl IntoIterator<Item = ResourceId>) {
        self.put(|pending| {
            if !pending.everything {
                pending.ids.extend(ids);
                if pending.ids.len() > MAX_HELD {
                    pending.everything = true;
                    pending.ids.clear();
                }
            }
        });
    }

    /// Anything may have changed, such as the audience that the stream belongs to.
    pub fn everything_changed(&self) {
        self.put(|pending| {
            pending.everything = true;
            pending.ids.clear();
        });
    }

    /// This replica's position has advanced. Only streams that withhold something care: those of
    /// sidecars that came from a replica that was ahead of this one.
    pub fn advanced(&self) {
        self.put(|pending| pending.advanced = true);
    }

    /// What was decided about a claim of this stream's.
    pub fn granted(&self, grant: Grant) {
        self.put(|pending| pending.grants.push(grant));
    }

    /// Ends the stream, at once and whatever it waits for: this replica is going away and the
    /// sidecar is to go to another, or a newer stream has taken its place.
    pub fn close(&self) {
        self.closing.notify_one();
    }

    fn put(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn take(&self) -> Pending {
        std::mem::take(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === serve ===

/// Serves one stream in a task of its own, until the sidecar leaves, breaks the protocol or a
/// timeout, or the mailbox is closed.
///
/// Register the mailbox with the publisher before calling this, so that nothing published since is
/// missed. Dead connections are found by the transport: give the server HTTP/2 keep-alives.
pub fn serve<M, S>(messages: M, mailbox: Arc<Mailbox>, subscriber: S) -> Deltas
where
    M: Stream<Item = Result<FromSidecar, Status>> + Send + 'static,
    S: Subscriber,
{
    let (outbox, deltas) = outbox();
    tokio::spawn(async move {
        if let Err(status) = converse(messages, &mailbox, subscriber, &outbox).await {
            tracing::debug!(%status, "stream ended");
            outbox.end(status);
        }
    });
    deltas
}

/// What is taken only as often as [`Pace`] says, since it costs more than an Ack.
enum Waits {
    Lookup(Lookup),
    Report(Report),
    Claims(Claims),
}

async fn converse<M, S>(
    messages: M,
    mailbox: &Mailbox,
    mut subscriber: S,
    outbox: &Outbox,
) -> Result<(), Status>
where
    M: Stream<Item = Result<FromSidecar, Status>>,
    S: Subscriber,
{
    let mut messages = pin!(messages);
    // A stream that is no longer wanted must not keep its place, nor what it has received of a
    // message, until the timeout: who says no Hello can open many.
    let hello = tokio::select! {
        () = outbox.unwanted() => return Ok(()),
        () = mailbox.closing.notified() => return Err(closed()),
        hello = timeout(HELLO_TIMEOUT, messages.next()) => {
            hello.map_err(|_| Status::deadline_exceeded("no Hello in time"))?
        }
    };
    let Some(hello) = hello else { return Ok(()) };
    let mut sent = open(hello?, &mut subscriber)?;
    let mut refresh_at = Instant::now() + REFRESH;
    let (mut ack_by, mut ack_at_last) = (Instant::now(), Instant::now());
    let mut pace = Pace::new();
    // What it says before it may: nothing more is read until then.
    let mut waits: Option<(Waits, Instant)> = None;
    // One for all that has its time: a stream lasts for hours, and there are thousands.
    let mut timer = pin!(sleep_until(refresh_at));
    loop {
        if let Some(delta) = next(&mut sent, mailbox, &subscriber) {
            ack_by = Instant::now() + ACK_TIMEOUT;
            ack_at_last = Instant::now() + ACK_TIMEOUT * ACKS_WAIT;
            match outbox.put(delta) {
                Ok(()) => {}
                Err(Unsent::Unwanted) => return Ok(()),
                Err(Unsent::Full) => return Err(Status::internal("a second delta in flight")),
            }
        }
        let due = match &waits {
            Some(_) => refresh_at.min(pace.due()),
            None if sent.is_in_flight() => refresh_at.min(ack_by),
            None => refresh_at,
        };
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        tokio::select! {
            () = outbox.unwanted() => return Ok(()),
            () = mailbox.closing.notified() => return Err(closed()),
            message = messages.next(), if waits.is_none() => match message {
                None => return Ok(()),
                Some(message) => {
                    match message?.into_said().map_err(invalid)? {
                        Said::Ack(ack) => {
                            let outcomes = sent.on_ack(ack);
                            if !outcomes.is_empty() {
                                subscriber.acked(outcomes);
                            }
                        }
                        Said::Lookup(lookup) => {
                            waits = Some((Waits::Lookup(lookup), Instant::now()));
                        }
                        Said::Report(report) => {
                            waits = Some((Waits::Report(report), Instant::now()));
                        }
                        Said::Claims(claims) => {
                            waits = Some((Waits::Claims(claims), Instant::now()));
                        }
                    }
                }
            },
            () = mailbox.changed.notified(), if !sent.is_in_flight() => {}
            () = timer.as_mut() => {
                let now = Instant::now();
                if waits.is_none() && sent.is_in_flight() && now >= ack_by {
                    return Err(Status::deadline_exceeded("no Ack in time"));
                }
                if now >= refresh_at {
                    refresh_at = now + REFRESH;
                    sent.refresh();
                }
                if now >= pace.due() && let Some((said, since)) = waits.take() {
                    pace.read();
                    // An Ack may be behind it, and is not late for what it had to wait.
                    ack_by = (ack_by + since.elapsed()).min(ack_at_last);
                    match said {
                        Waits::Lookup(lookup) => {
                            subscriber.asked(ids(lookup.wanted), ids(lookup.unwanted));
                        }
                        Waits::Report(report) => subscriber.reported(report),
                        Waits::Claims(claims) => {
                            let claims = claims.claims.into_iter().take(MAX_CLAIMS);
                            subscriber.claimed(claims.collect());
                        }
                    }
                }
            }
        }
    }
}

fn invalid(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(why.to_string())
}

fn closed() -> Status {
    Status::unavailable("this replica of the operator has ended the stream")
}

fn open(hello: FromSidecar, subscriber: &mut impl Subscriber) -> Result<Sent, Status> {
    let hello = hello.into_hello().map_err(invalid)?;
    subscriber.introduced(&hello.capabilities);
    // What it has been told it wants to hear of further.
    let holding = hello.holding.iter().map(|holding| holding.id.clone());
    subscriber.asked(ids(holding), Vec::new());
    let sent = Sent::new(hello, &subscriber.view()).map_err(invalid)?;
    subscriber.opened(&sent);
    Ok(sent)
}

/// The answers among ids that a sidecar names.
fn ids(texts: impl IntoIterator<Item = String>) -> Vec<ResourceId> {
    let ids = texts.into_iter().filter_map(|text| text.parse().ok());
    let asked = ids.filter(|id| Question::of(id).is_some());
    asked.take(MAX_LOOKUPS).collect()
}

/// The next delta, with whatever has come into the mailbox meanwhile. What comes while one is in
/// flight stays in the mailbox.
fn next(sent: &mut Sent, mailbox: &Mailbox, subscriber: &impl Subscriber) -> Option<Delta> {
    if sent.is_in_flight() {
        return None;
    }
    // First the ids, then the view, which is thus at least as new.
    let pending = mailbox.take();
    let view = subscriber.view();
    sent.changed(pending.ids);
    if pending.everything {
        sent.everything_changed(&view);
    }
    if pending.advanced {
        sent.advanced();
    }
    sent.grant(pending.grants);
    sent.next(&view)
}
