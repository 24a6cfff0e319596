//! What a limit would do with a request, for people: nothing is taken for it, and no value of a key is
//! told.

use std::time::Duration;

use super::key::{Asking, Part};
use super::{Action, Limit};

impl Limit {
    /// What becomes of a request that is too much, as it is written.
    pub fn action(&self) -> &'static str {
        match self.action {
            Action::Reject => "Reject",
            Action::Delay(_) => "Delay",
            Action::Shadow => "Shadow",
        }
    }

    /// How long a request waits at most, where it may wait.
    pub fn patience(&self) -> Option<Duration> {
        match self.action {
            Action::Delay(patience) => Some(patience.max),
            Action::Reject | Action::Shadow => None,
        }
    }

    /// Which requests a request is counted with, in words.
    pub fn bucket(&self, asking: Asking<'_>) -> String {
        let parts = self.key.iter().map(|part| part.bucket(asking));
        match self.key.is_empty() {
            true => "of everybody".to_owned(),
            false => Vec::from_iter(parts).join(" and "),
        }
    }

    /// Whether the peer's address decides which requests a request is counted with.
    pub fn asks_for_the_address(&self, asking: Asking<'_>) -> bool {
        let mut parts = self.key.iter();
        parts.any(|part| part.is_the_peers_address(asking))
    }
}

impl Part {
    fn bucket(&self, asking: Asking<'_>) -> String {
        let what = match self {
            Self::Consumer => "consumer".to_owned(),
            Self::Identity => "identity".to_owned(),
            Self::ClientIp(_) => "address".to_owned(),
            Self::Header(name) => format!("header {name}"),
            Self::Claim(name) => format!("claim {name}"),
            Self::Target => return format!("for {}", asking.target),
        };
        match self.of(asking).is_some() {
            true => format!("of its {what}"),
            false => format!("of all without {what}"),
        }
    }
}
