//! Limits that replicas share: what is asked of the store, what it answers, and what is used without
//! asking.
//!
//! The store counts by its own clock, all limits of a request in one script: either each counts it, or
//! none. Far from a limit a sidecar takes some more at once, a lease ([`super::leases`]): at most a 16th
//! of the burst, 64, and what the rate gives in a second; only while half of the burst is left with it.
//! By as much for each replica more may pass in a span than the burst and the rate give, and no more.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::bucket::{Level, Rate, TooMuch};
use super::leases::{LEAST, LIFE};
use crate::net::resp::{Reply, Script, command};

/// What the store runs.
pub static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared.lua")));

/// What a lease is at most.
const MOST: u64 = 64;

/// A span of the calendar, UTC, in which a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
}

/// What is asked for one limit.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The name of what is counted, in the store.
    pub key: String,
    /// How fast; of a quota, how much.
    pub rate: Rate,
    /// Of a quota.
    pub window: Option<Window>,
    /// How much.
    pub cost: u64,
    /// It passes whatever is used.
    pub shadow: bool,
    /// The rate by which it is told whether the limit was edited.
    pub edition: Rate,
    /// How much more at once, if that is far from the limit.
    pub lease: u64,
    /// How much of the last lease goes back.
    pub back: u64,
    /// When that was given, as the store's clock said, in microseconds.
    pub since: u64,
}

/// What was answered for one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its key stands, or why it is too much.
    pub passes: Result<Level, TooMuch>,
    /// How much may be used without asking.
    pub lease: u64,
    /// When it was counted, by the store's clock, in microseconds.
    pub at: u64,
}

// === impl Window ===

impl Window {
    fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// How long it is, where it always is as long.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Hour => Some(3_600),
            Self::Day => Some(86_400),
            Self::Month => None,
        }
    }
}

// === impl Ask ===

/// What is counted, in the store, by a key of such kinds: nothing of the caller stands in it.
pub fn name((object, limit): (&str, &str), kinds: &[u8], text: &[u8]) -> String {
    let hash = digest(&SHA256, &[kinds, text].concat());
    let mut name = format!("meshwright:limit:{object}:{limit}:");
    for byte in hash.as_ref().iter().take(16) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// How much is taken at once at most, far from the limit; nothing, where that is not worth it.
pub fn lease(rate: Rate) -> u64 {
    let in_a_second = u128::from(LIFE) * u128::from(rate.requests) / u128::from(rate.per);
    let in_a_second = u64::try_from(in_a_second).unwrap_or(MOST);
    let most = MOST.min(u64::from(rate.burst) / 16).min(in_a_second);
    if most < LEAST { 0 } else { most }
}

/// `requests` and microseconds without a common divisor, so that the store's numbers stay exact.
fn reduced(rate: Rate) -> (u64, u64) {
    let (requests, per) = (u64::from(rate.requests), rate.per / 1_000);
    let (mut a, mut b) = (requests, per);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1);
    (requests / divisor, per / divisor)
}

/// In which time a whole burst drains, in microseconds.
fn full(rate: Rate) -> f64 {
    f64::from(rate.burst) * rate.per as f64 / 1_000.0 / f64::from(rate.requests)
}

/// The command that asks for all of them.
pub fn asks(asks: &[Ask]) -> Vec<u8> {
    let mut words = vec![b"EVALSHA".to_vec(), SCRIPT.sha().as_bytes().to_vec()];
    words.push(asks.len().to_string().into_bytes());
    words.extend(asks.iter().map(|ask| ask.key.clone().into_bytes()));
    for ask in asks {
        let (requests, per) = reduced(ask.rate);
        let (kind, requests, per) = match ask.window {
            Some(window) => (
                "quota",
                u64::from(ask.rate.requests),
                window.name().to_owned(),
            ),
            None => ("bucket", requests, per.to_string()),
        };
        let numbers = [
            kind.to_owned(),
            requests.to_string(),
            per,
            ask.rate.burst.to_string(),
            ask.cost.to_string(),
            u8::from(ask.shadow).to_string(),
            full(ask.edition).to_string(),
            ask.lease.to_string(),
            ask.back.to_string(),
            ask.since.to_string(),
        ];
        words.extend(numbers.map(String::into_bytes));
    }
    command(&words)
}

/// What was answered; `None` when that is no answer to what was asked.
pub fn found(asks: &[Ask], reply: &Reply) -> Option<Vec<Found>> {
    let Reply::Array(numbers) = reply else {
        return None;
    };
    let numbers = numbers.iter().map(|one| match one {
        Reply::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    });
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    if numbers.len() != asks.len() * 3 + 1 {
        return None;
    }
    let at = *numbers.last()?;
    let each = asks.iter().zip(numbers.chunks_exact(3));
    each.map(|(ask, numbers)| match numbers {
        [passes, used, more] => Some(Found {
            at,
            ..ask.found(*passes == 1, *used, *more)
        }),
        _ => None,
    })
    .collect()
}

impl Ask {
    fn found(&self, passes: bool, used: u64, more: u64) -> Found {
        match self.window {
            Some(_) => {
                let (most, end) = (u64::from(self.rate.requests), Duration::from_micros(more));
                let level = |used| Level {
                    left: most.saturating_sub(used),
                    unused_in: end,
                };
                let passes = match passes {
                    true => Ok(level(used.saturating_add(self.cost))),
                    false => Err(TooMuch {
                        wait: (self.cost <= most).then_some(end),
                        level: level(used),
                    }),
                };
                Found {
                    passes,
                    lease: 0,
                    at: 0,
                }
            }
            None => {
                let (requests, per) = reduced(self.rate);
                let holds = u128::from(self.rate.burst) * u128::from(per);
                let drains = |used: u128| {
                    let micros = used.div_ceil(u128::from(requests.max(1)));
                    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
                };
                let level = |used: u128| Level {
                    left: u64::try_from(holds.saturating_sub(used) / u128::from(per.max(1)))
                        .unwrap_or(u64::MAX),
                    unused_in: drains(used),
                };
                let (used, cost) = (u128::from(used), u128::from(self.cost) * u128::from(per));
                let passes = match passes {
                    true => Ok(level(used + cost)),
                    false => Err(TooMuch {
                        wait: (cost <= holds).then(|| drains((used + cost).saturating_sub(holds))),
                        level: level(used),
                    }),
                };
                Found {
                    passes,
                    lease: more,
                    at: 0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, per_ms: u64, burst: u32) -> Rate {
        Rate::build(requests, per_ms, burst).unwrap()
    }

    #[test]
    fn a_lease_is_a_small_part_of_the_burst_and_no_more_than_drains_in_its_life() {
        assert_eq!(lease(rate(1_000, 1_000, 1_000)), 62);
        assert_eq!(lease(rate(10_000, 1_000, 10_000)), 64);
        assert_eq!(lease(rate(10, 1_000, 32)), 2);
        assert_eq!(lease(rate(10, 1_000, 31)), 0);
        assert_eq!(lease(rate(1_000, 86_400_000, 1_000)), 0);
    }

    #[test]
    fn an_answer_says_where_each_limit_stands() {
        let ask = Ask {
            key: "a".into(),
            rate: rate(10, 1_000, 20),
            window: None,
            cost: 1,
            shadow: false,
            edition: rate(10, 1_000, 20),
            lease: 0,
            back: 0,
            since: 0,
        };
        let quota = Ask {
            window: Some(Window::Hour),
            ..ask.clone()
        };
        let asks = [ask, quota];
        let numbers = |numbers: &[i64]| {
            Reply::Array(
                numbers
                    .iter()
                    .map(|number| Reply::Integer(*number))
                    .collect(),
            )
        };
        // Tenths of a second for each of the ten: 100 000 microseconds, of which one is a request.
        let all = found(&asks, &numbers(&[1, 100_000, 3, 0, 10, 60_000_000, 7])).unwrap();
        assert_eq!((all[0].lease, all[0].at), (3, 7));
        assert_eq!(all[0].passes.unwrap().left, 18);
        let refused = all[1].passes.unwrap_err();
        assert_eq!(refused.wait, Some(Duration::from_secs(60)));
        assert_eq!(found(&asks, &numbers(&[1, 0, 0])), None);
        assert_eq!(found(&asks, &Reply::Integer(1)), None);
        assert_eq!(found(&asks, &numbers(&[1, -1, 0, 1, 0, 0, 7])), None);
    }
}
