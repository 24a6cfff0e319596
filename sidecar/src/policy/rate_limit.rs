//! Rate limit: how much callers use.
//!
//! Phase: before the application, at the destination, after authentication and authorization. From
//! `RateLimit.limits`. A request that is too much is answered 429 with reason `rate_limited`, with
//! `Retry-After`, or waits in order (`Delay`), or is counted and let through (`Shadow`). Of a limit
//! in bytes, a body that says how long it is counts before it comes, and is answered 413 if it is
//! longer than could ever pass; any other counts as it comes, as fast as the limit lets it.
//!
//! A request must be within all limits that are about it; one that is refused counts in none. What was
//! used is known to all workers exactly ([`bucket`]), and goes on when a limit is edited that keeps
//! its name and its key: each key has as much of its burst left, in proportion, as before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::{Method, request::Parts};
use prost::Message;
use wire::mesh::{self, LimitAction, LimitWindow, limit_cost};

use crate::config::route::matching::Asked;
use crate::telemetry::metrics::rate_limit::{Counters, Counts};

pub mod bucket;
mod explained;
pub mod key;
pub mod leases;
pub mod question;
pub mod queue;
pub mod shared;
pub mod told;

use bucket::{Buckets, Key, Level, Rate, TooMuch};
use key::{Asking, Part};
use leases::Leases;
use queue::{Patience, Queues, Wanted};
use shared::Window;
use told::Standing;

/// One limit.
#[derive(Debug)]
pub struct Limit {
    /// Its name, unique in the RateLimit.
    pub name: Arc<str>,
    /// What became of requests.
    pub counts: Counts,
    rate: Rate,
    key: Vec<Part>,
    /// What kinds of keys these are, as sent.
    kinds: Box<[u8]>,
    methods: Vec<Method>,
    asked: Asked,
    cost: Cost,
    action: Action,
    overrides: HashMap<Box<[u8]>, Rate>,
    plans: HashMap<Box<str>, Rate>,
    window: Option<Window>,
    live: Arc<Live>,
}

/// What is known of callers, from one state to the next.
#[derive(Debug, Default)]
struct Live {
    buckets: Buckets,
    queues: Queues,
    leases: Leases,
}

/// What a request counts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cost {
    Request,
    Bytes,
    Header(HeaderName, u32),
}

/// What becomes of a request that is too much.
#[derive(Clone, Copy, Debug)]
enum Action {
    Reject,
    Delay(Patience),
    Shadow,
}

/// What a request has taken of one limit; given back when dropped before it is [`Taken::kept`], less
/// what has drained by then.
#[derive(Debug)]
pub struct Taken<'a> {
    limit: &'a Limit,
    wanted: Wanted,
    /// When it was taken, in nanoseconds.
    at: u64,
    /// Where its key stands with it.
    pub level: Level,
    /// It waited for it.
    pub waited: bool,
    /// It is too much, and passes all the same.
    pub exceeds: bool,
    kept: bool,
}

/// How fast the rest of a body may come.
#[derive(Debug)]
pub struct Pace {
    live: Arc<Live>,
    key: Key,
    rate: Rate,
    /// It is counted only.
    shadow: bool,
}

/// A request is too much.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// For this limit.
    pub limit: &'a Limit,
    /// The rate that holds for its key.
    pub rate: Rate,
    /// Why.
    pub too_much: TooMuch,
}

// === build ===

impl Limit {
    /// Builds from what was sent; of one that had the name and the key, what was used goes on.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(
        sent: mesh::Limit,
        object: &Arc<str>,
        old: Option<&Limit>,
        counters: &Counters,
    ) -> Result<Self, String> {
        let action = match sent.action() {
            LimitAction::Reject => Action::Reject,
            LimitAction::Shadow => Action::Shadow,
            LimitAction::Delay => {
                let delay = sent.delay.ok_or("nothing says how long requests wait")?;
                Action::Delay(Patience {
                    max: Duration::from_millis(delay.max_ms),
                    max_queue: delay.max_queue,
                })
            }
            LimitAction::Unspecified => {
                return Err("the action is one that this sidecar does not know".to_owned());
            }
        };
        let window = match sent.window() {
            LimitWindow::None => None,
            LimitWindow::Hour => Some(Window::Hour),
            LimitWindow::Day => Some(Window::Day),
            LimitWindow::Month => Some(Window::Month),
        };
        let per_ms = sent.per_ms;
        let rate = |sent: Option<mesh::LimitRate>| {
            let sent = sent.unwrap_or_default();
            Rate::build(sent.requests, per_ms, sent.burst)
        };
        let kinds = sent.key.iter();
        let kinds = kinds.flat_map(Message::encode_length_delimited_to_vec);
        let kinds = kinds.collect();
        let key = sent.key.into_iter().map(Part::build);
        let key = key.collect::<Result<Vec<_>, _>>()?;
        let cost = Cost::build(sent.cost)?;
        let methods = sent.methods.iter().map(|name| {
            Method::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no method"))
        });
        let mut overrides = HashMap::new();
        for one in sent.overrides {
            let rate = rate(one.rate)?;
            let Some(part) = key.first() else {
                return Err("overrides are for values of a key, and there is none".to_owned());
            };
            for value in one.values {
                overrides.entry(part.written(value)).or_insert(rate);
            }
        }
        let plans = sent.plans.into_iter();
        let plans = plans.map(|plan| Ok((plan.name.into_boxed_str(), rate(plan.rate)?)));
        let plans = plans.collect::<Result<_, String>>()?;
        let old = old.filter(|old| old.key == key && old.cost.unit() == cost.unit());
        let name: Arc<str> = sent.name.into();
        Ok(Self {
            rate: rate(sent.rate)?,
            methods: methods.collect::<Result<_, _>>()?,
            asked: Asked::build(sent.paths, Vec::new())?,
            overrides,
            plans,
            live: old.map_or_else(Arc::default, |old| old.live.clone()),
            counts: counters.of(object, &name),
            name,
            key,
            kinds,
            cost,
            action,
            window,
        })
    }

    /// It takes the place of another: what was used there, if it goes on, is as large a part of its own
    /// bursts. Nothing of the other may be enforced any more.
    pub fn replaces(&self, old: &Limit) {
        if !Arc::ptr_eq(&self.live, &old.live) {
            return;
        }
        let plans = old.plans.keys().chain(self.plans.keys());
        let plans = plans.map(|plan| (old.planned(plan), self.planned(plan)));
        let special = old.overrides.keys().chain(self.overrides.keys());
        let special = special.map(|value| (old.overridden(value), self.overridden(value)));
        let all = std::iter::once((old.rate, self.rate));
        let rates = Vec::from_iter(all.chain(plans).chain(special));
        if rates.iter().any(|(old, new)| old != new) {
            let buckets = &self.live.buckets;
            buckets.rescale(&rates, buckets.now());
        }
    }

    fn planned(&self, plan: &str) -> Rate {
        *self.plans.get(plan).unwrap_or(&self.rate)
    }

    fn overridden(&self, value: &[u8]) -> Rate {
        *self.overrides.get(value).unwrap_or(&self.rate)
    }

    // === request ===

    /// Whether it is about a request.
    pub fn is_about(&self, head: &Parts) -> bool {
        (self.methods.is_empty() || self.methods.contains(&head.method))
            && (self.asked.is_anything() || self.asked.fits(head))
    }

    /// Whether it is only told what would become of requests.
    pub fn is_shadow(&self) -> bool {
        matches!(self.action, Action::Shadow)
    }

    /// How many keys are counted on their own now.
    pub fn keys(&self) -> usize {
        self.live.buckets.len()
    }

    /// How many requests wait now.
    pub fn waiting(&self) -> u32 {
        self.live.queues.waiting()
    }

    /// Counts a request, at once or in turn.
    ///
    /// # Errors
    /// That it is too much.
    pub async fn take(
        &self,
        asking: Asking<'_>,
        patience: Option<Duration>,
    ) -> Result<Taken<'_>, Refused<'_>> {
        let wanted = self.wanted(asking);
        let Wanted { key, rate, cost } = wanted;
        let buckets = &self.live.buckets;
        let now = buckets.now();
        let taken = match self.action {
            Action::Reject => {
                let level = buckets.take(key, rate, cost, now);
                level.map(|level| (level, (false, now), false))
            }
            Action::Shadow => Ok(match buckets.take(key, rate, cost, now) {
                Ok(level) => (level, (false, now), false),
                Err(too_much) => (too_much.level, (false, now), true),
            }),
            Action::Delay(own) => {
                let max = patience.map_or(own.max, |callers| own.max.min(callers));
                let own = Patience { max, ..own };
                let taken = Box::pin(self.live.queues.take(buckets, wanted, own)).await;
                taken.map(|(level, waited, at)| (level, (waited, at), false))
            }
        };
        let refused = |too_much| Refused {
            limit: self,
            rate,
            too_much,
        };
        let (level, (waited, at), exceeds) = taken.map_err(refused)?;
        Ok(Taken {
            limit: self,
            wanted,
            at,
            level,
            waited,
            exceeds,
            // Nothing was taken of what is too much.
            kept: exceeds,
        })
    }

    /// Whether it counts in a span of the calendar.
    pub fn is_quota(&self) -> bool {
        self.window.is_some()
    }

    /// What would become of a request now, as far as this sidecar counts: nothing is taken for it.
    ///
    /// # Errors
    /// That it would be too much.
    pub fn would(&self, asking: Asking<'_>) -> Result<Level, TooMuch> {
        let Wanted { key, rate, cost } = self.wanted(asking);
        let buckets = &self.live.buckets;
        buckets.would(key, rate, cost, buckets.now())
    }

    /// What is said of it, where a key stands so.
    fn standing(&self, rate: Rate, level: Level) -> Standing<'_> {
        Standing {
            name: &self.name,
            unit: self.cost.unit(),
            rate,
            window: match self.window {
                Some(window) => window.seconds(),
                None => rate.seconds(),
            },
            level,
        }
    }

    fn wanted(&self, asking: Asking<'_>) -> Wanted {
        self.wanted_by(&key::text(&self.key, asking), asking)
    }

    fn wanted_by(&self, text: &[u8], asking: Asking<'_>) -> Wanted {
        let special = match (self.overrides.is_empty(), self.key.first()) {
            (false, Some(part)) => part
                .of(asking)
                .and_then(|value| self.overrides.get(&*value)),
            _ => None,
        };
        let planned = || match self.plans.is_empty() {
            true => None,
            false => self.plans.get(asking.plan()),
        };
        Wanted {
            key: self.live.buckets.key(text),
            rate: *special.or_else(planned).unwrap_or(&self.rate),
            cost: self.cost.of(asking),
        }
    }
}

impl Cost {
    fn build(sent: Option<mesh::LimitCost>) -> Result<Self, String> {
        let Some(sent) = sent else {
            return Ok(Self::Request);
        };
        match sent.of {
            Some(limit_cost::Of::Bytes(_)) => Ok(Self::Bytes),
            Some(limit_cost::Of::Header(header)) => {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                let name = name.map_err(|_| format!("`{}` is no header name", header.name))?;
                Ok(Self::Header(name, header.max.max(1)))
            }
            None => Err("what counts is of a kind that this sidecar does not know".to_owned()),
        }
    }

    fn unit(&self) -> Option<&'static str> {
        match self {
            Self::Request => Some("requests"),
            Self::Bytes => Some("content-bytes"),
            Self::Header(..) => None,
        }
    }

    fn of(&self, asking: Asking<'_>) -> u64 {
        match self {
            Self::Request => 1,
            Self::Bytes => asking.length.unwrap_or_default(),
            Self::Header(name, max) => {
                let mut lines = asking.head.headers.get_all(name).iter();
                let Some(value) = lines.next() else {
                    return 1;
                };
                // What is no number, or several, must not be cheaper than what is: of several lines
                // nobody knows which the application reads.
                let alone = lines.next().is_none();
                let text = value.to_str().ok().filter(|_| alone);
                let number = text.and_then(|text| text.trim().parse().ok());
                number.unwrap_or(*max).clamp(1, *max).into()
            }
        }
    }
}

impl<'a> Refused<'a> {
    /// What is said of it.
    pub fn standing(&self) -> Standing<'a> {
        self.limit.standing(self.rate, self.too_much.level)
    }
}

impl<'a> Taken<'a> {
    /// The request goes on: what it has taken stays taken. Answers how fast the rest of its body may
    /// come, if that is what counts and it does not say how long it is.
    pub fn kept(mut self, asking: Asking<'_>) -> Option<Pace> {
        self.kept = true;
        let counts = &self.limit.counts;
        match (self.exceeds, self.waited) {
            (true, _) => counts.would_limit(),
            (false, true) => counts.delayed(),
            (false, false) => counts.passed(),
        }
        let streams = self.limit.cost == Cost::Bytes && asking.length.is_none();
        streams.then(|| Pace {
            live: self.limit.live.clone(),
            key: self.wanted.key,
            rate: self.wanted.rate,
            shadow: self.limit.is_shadow(),
        })
    }

    /// The limit.
    pub fn limit(&self) -> &'a Limit {
        self.limit
    }

    /// What is said of it.
    pub fn standing(&self) -> Standing<'a> {
        self.limit.standing(self.wanted.rate, self.level)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let Wanted { key, rate, cost } = self.wanted;
            let buckets = &self.limit.live.buckets;
            buckets.give_back(key, rate, cost, (self.at, buckets.now()));
        }
    }
}

impl Pace {
    /// Takes up to so many bytes; answers how many, and if none after which time there will be some.
    ///
    /// # Errors
    /// That time.
    pub fn take(&self, most: u64) -> Result<u64, Duration> {
        let buckets = &self.live.buckets;
        match buckets.take_some(self.key, self.rate, most, buckets.now()) {
            Ok(some) if !self.shadow => Ok(some),
            Ok(_) | Err(_) if self.shadow => Ok(most),
            Ok(some) => Ok(some),
            Err(too_much) => Err(too_much.wait.unwrap_or(Duration::from_secs(1))),
        }
    }
}

#[cfg(test)]
mod tests;
