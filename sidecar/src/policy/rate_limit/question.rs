//! What a store is asked for a request, of each limit that replicas share.

use super::bucket::{Level, TooMuch};
use super::key::{self, Asking};
use super::queue::Wanted;
use super::shared::{self, Ask, Found};
use super::told::Standing;
use super::{Limit, Live, Refused};

/// What a request would take of a limit that replicas share.
#[derive(Debug)]
pub struct Question<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What the store is asked.
    pub ask: Ask,
    wanted: Wanted,
}

impl Limit {
    /// What the store is asked for a request.
    pub fn question(&self, object: &str, asking: Asking<'_>, leases: bool) -> Question<'_> {
        let text = key::text(&self.key, asking);
        let wanted = self.wanted_by(&text, asking);
        let live = &self.live;
        let lease = match leases && !self.is_shadow() {
            true => shared::lease(wanted.rate),
            false => 0,
        };
        let asks = lease > 0 && live.leases.is_wanted(wanted.key, live.buckets.now());
        Question {
            limit: self,
            ask: Ask {
                key: shared::name(object, &self.name, &text),
                rate: wanted.rate,
                window: self.window,
                cost: wanted.cost,
                lease: if asks { lease } else { 0 },
                shadow: self.is_shadow(),
            },
            wanted,
        }
    }
}

impl<'a> Question<'a> {
    /// Takes of each of them what may be used without asking, if that is enough for all.
    pub fn leased(all: &[Self]) -> Option<Vec<Level>> {
        let mut levels = Vec::with_capacity(all.len());
        for question in all {
            let Live {
                buckets, leases, ..
            } = &*question.limit.live;
            let Wanted { key, cost, .. } = question.wanted;
            match leases.take(key, cost, buckets.now()) {
                Some(level) => levels.push(level),
                None => {
                    for taken in all.iter().take(levels.len()) {
                        let Wanted { key, cost, .. } = taken.wanted;
                        taken.limit.live.leases.give_back(key, cost);
                    }
                    return None;
                }
            }
        }
        Some(levels)
    }

    /// The request goes on, and stands there.
    pub fn passed(&self, level: Level) -> Standing<'a> {
        self.limit.counts.passed();
        self.limit.standing(self.wanted.rate, level)
    }

    /// Keeps what the store let it use without asking.
    pub fn keep(&self, found: &Found) {
        let Live {
            buckets, leases, ..
        } = &*self.limit.live;
        if self.ask.lease > 0 {
            let level = found.passes.ok();
            leases.give(self.wanted.key, found.lease, level, buckets.now());
        }
    }

    /// The request is too much.
    pub fn refused(&self, too_much: TooMuch) -> Refused<'a> {
        Refused {
            limit: self.limit,
            rate: self.wanted.rate,
            too_much,
        }
    }
}
