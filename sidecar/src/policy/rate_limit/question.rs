//! What a store is asked for a request, of each limit that replicas share.

use super::bucket::{Level, TooMuch};
use super::key::{self, Asking, Part};
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
    /// How much may be used without asking at most.
    most: u64,
}

impl Limit {
    /// What the store is asked for a request.
    pub fn question(&self, object: &str, asking: Asking<'_>) -> Question<'_> {
        let text = key::text(&self.key, asking);
        let wanted = self.wanted_by(&text, asking);
        let most = match self.is_quota() || self.is_shadow() {
            true => 0,
            false => shared::lease(wanted.rate),
        };
        // Where consumers on several plans share a key, that another one asks is no edit.
        let own = self.plans.is_empty() || self.key.contains(&Part::Consumer);
        Question {
            limit: self,
            ask: Ask {
                key: shared::name((object, &self.name), &self.kinds, &text),
                rate: wanted.rate,
                window: self.window,
                cost: wanted.cost,
                shadow: self.is_shadow(),
                edition: if own { wanted.rate } else { self.rate },
                lease: 0,
                back: 0,
                since: 0,
            },
            wanted,
            most,
        }
    }
}

impl<'a> Question<'a> {
    /// Whether the store need not be asked each time: only if that is so of all, because all are asked
    /// together.
    pub fn may_lease(all: &[Self]) -> bool {
        all.iter().all(|question| question.most > 0)
    }

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

    /// Asks for as much more as may be used without asking, and gives back what was not.
    pub fn lease(&mut self) {
        let Live {
            buckets, leases, ..
        } = &*self.limit.live;
        let Wanted { key, cost, .. } = self.wanted;
        let wish = leases.wish(key, cost, self.most, buckets.now());
        self.ask.lease = wish.lease;
        (self.ask.back, self.ask.since) = (wish.back, wish.since);
    }

    /// Keeps what the store let it use without asking, if the request passes.
    pub fn keep(&self, found: &Found, passes: bool) {
        if self.ask.lease > 0 {
            let Live {
                buckets, leases, ..
            } = &*self.limit.live;
            let level = found.passes.ok().filter(|_| passes);
            let given = (level, found.at);
            leases.give(self.wanted.key, found.lease, given, buckets.now());
        }
    }

    /// The request goes on, and stands there.
    pub fn passed(&self, level: Level) -> Standing<'a> {
        self.limit.counts.passed();
        self.limit.standing(self.wanted.rate, level)
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
