//! A message that was delivered, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::{FutureExt as _, LocalBoxFuture};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::ChannelFlowOptions;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::message::read;
use super::queue::{Member, broke};
use crate::events::broker::{Delivered, Lost, Message};

/// There is no lease: what was delivered stays so for as long as the connection does. It is looked at this often.
const LEASE: Duration = Duration::from_secs(60);
/// What is given back for less than that is held here meanwhile.
const SHORT: Duration = Duration::from_millis(500);
/// The longest that anything is held here: after 30 minutes the broker ends a channel.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What became of what a consumer has sent.
#[derive(Default)]
pub(super) struct Share {
    /// How many messages somebody works on.
    pub(super) handed: AtomicUsize,
    /// How many are held here until they are given back.
    pub(super) held: AtomicUsize,
}

/// A message that was delivered.
pub(super) struct Event {
    unsettled: Arc<Unsettled>,
    message: Message,
}

/// A message that the broker waits to hear of.
pub(super) struct Unsettled {
    member: Arc<Member>,
    tag: u64,
    pub(super) properties: BasicProperties,
    pub(super) data: Bytes,
    pub(super) attempt: u32,
    pub(super) place: String,
    pub(super) published: Option<SystemTime>,
    /// Somebody sees to it.
    taken: AtomicBool,
    share: Arc<Share>,
    /// It counts among what somebody works on.
    counts: AtomicBool,
    /// It counts among what is not settled.
    open: AtomicBool,
}

// === impl Unsettled ===

impl Unsettled {
    /// Whether nobody sees to it yet: whoever asks does.
    fn take(&self) -> Result<(), Lost> {
        self.uncount();
        match self.taken.swap(true, Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Lost("it was done with before".to_owned())),
        }
    }

    /// The broker was told what becomes of it.
    fn settled(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            self.member.unsettled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn give_back(&self) -> Result<(), Lost> {
        self.member.give_back(self.tag).await?;
        self.settled();
        Ok(())
    }

    pub(super) async fn acknowledge(&self) -> Result<(), Lost> {
        self.member.acknowledge(self.tag).await?;
        self.settled();
        Ok(())
    }

    fn uncount(&self) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.share.handed.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives it back after so long, and holds it until then.
    async fn hold(self: Arc<Self>, after: Duration) {
        let counts = [&self.share.held, &self.member.held];
        for count in counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.member.holds.notify_one();
        tokio::select! {
            () = sleep(after.min(LONGEST)) => {}
            () = self.member.connected.ended() => {}
        }
        // Unheard, it comes again when the connection is over.
        let _ = self.give_back().await;
        for count in counts {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.settled();
        if *self.taken.get_mut() {
            return;
        }
        let (member, tag) = (self.member.clone(), self.tag);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { member.give_back(tag).await });
        }
    }
}

// === impl Event ===

impl Event {
    pub(super) fn new(member: &Arc<Member>, share: &Arc<Share>, delivery: Delivery) -> Self {
        let found = read(&delivery.properties);
        let tag = delivery.delivery_tag;
        let data = Bytes::from(delivery.data);
        member.unsettled.fetch_add(1, Ordering::Relaxed);
        share.handed.fetch_add(1, Ordering::Relaxed);
        // It has no name of its own: it is given one, which it keeps unless it comes again before it was given back
        // for later.
        let place = found.place;
        let place = place.unwrap_or_else(|| format!("{:016x}-{tag}", member.unique));
        Self {
            message: Message {
                headers: found.headers,
                data: data.clone(),
            },
            unsettled: Arc::new(Unsettled {
                member: member.clone(),
                tag,
                properties: delivery.properties,
                data,
                attempt: found.attempt,
                place,
                published: found.published,
                taken: AtomicBool::new(false),
                share: share.clone(),
                counts: AtomicBool::new(true),
                open: AtomicBool::new(true),
            }),
        }
    }

    async fn done(&self) -> Result<(), Lost> {
        self.unsettled.take()?;
        self.unsettled.acknowledge().await?;
        let member = &self.unsettled.member;
        // Nobody answers that. Whoever answers this has read that before.
        let flow = ChannelFlowOptions { active: true };
        member.answer(member.channel.channel_flow(flow)).await?;
        Ok(())
    }

    async fn back(&self, after: Duration) -> Result<(), Lost> {
        self.unsettled.take()?;
        let (one, member) = (self.unsettled.clone(), &self.unsettled.member);
        if member.connected.is_over() {
            return Err(broke());
        }
        if after.is_zero() {
            return one.give_back().await;
        }
        let later = async move {
            let delayed = match after < SHORT {
                true => Err(String::new()),
                false => one.member.delay(&one, after).await,
            };
            if let Err(why) = delayed {
                tracing::debug!(why, "what is given back is held here");
                tokio::spawn(one.hold(after));
            }
        };
        // It is done even if nobody waits for it.
        let _ = tokio::spawn(later).await;
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.unsettled.uncount();
    }
}

impl Delivered for Event {
    fn message(&self) -> &Message {
        &self.message
    }

    fn attempt(&self) -> u32 {
        self.unsettled.attempt
    }

    fn place(&self) -> String {
        self.unsettled.place.clone()
    }

    fn position(&self) -> u128 {
        self.unsettled.tag.into()
    }

    fn is_ours(&self) -> bool {
        let member = &self.unsettled.member;
        !member.connected.is_over() && member.channel.status().connected()
    }

    fn published(&self) -> Option<SystemTime> {
        self.unsettled.published
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        let kept = self.is_ours().then_some(()).ok_or_else(broke);
        std::future::ready(kept).boxed_local()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.done().boxed_local()
    }

    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.back(after).boxed_local()
    }
}
