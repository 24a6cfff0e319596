//! What became of a request in the cache, as it is told: `Cache-Status` (RFC 9211), the access log,
//! and the counts.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// RFC 9211 section 2.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why the application was asked (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache is not for such requests.
    Bypass,
    /// Not for this method.
    Method,
    /// Nothing is kept of it.
    Uri,
    /// Nothing is kept for a request with such headers.
    Vary,
    /// What is kept is stale.
    Stale,
    /// The request asks for it.
    Request,
    /// What is kept is not for who sends credentials.
    Miss,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Why the application was asked; nothing where it was not.
    pub forwarded: Option<Forwarded>,
    /// What it answered, where that is not what is passed on.
    pub answered: Option<u16>,
    /// How long what is given stays fresh, or since when it has not been.
    pub ttl: Option<(Duration, bool)>,
    /// Whether the answer is kept.
    pub stored: bool,
    /// Whether another's fetch brought it.
    pub collapsed: bool,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// What is kept was given, and is fresh.
    Hit,
    /// What is kept was given, and is stale.
    Stale,
    /// The application said that what is kept is still right.
    Revalidated,
    /// Another's fetch brought it.
    Collapsed,
    /// The application was asked.
    Miss,
    /// The cache has nothing to do with it.
    Bypass,
}

// === impl Status ===

impl Status {
    /// What is kept was given.
    pub fn hit(ttl: Duration) -> Self {
        Self {
            forwarded: None,
            answered: None,
            ttl: Some((ttl, true)),
            stored: false,
            collapsed: false,
        }
    }

    /// What is kept was given although it has been stale for so long.
    pub fn stale(since: Duration) -> Self {
        Self {
            ttl: Some((since, false)),
            ..Self::hit(Duration::ZERO)
        }
    }

    /// The application was asked.
    pub fn forwarded(why: Forwarded) -> Self {
        Self {
            forwarded: Some(why),
            ttl: None,
            ..Self::hit(Duration::ZERO)
        }
    }

    /// What is counted of it.
    pub fn outcome(&self) -> Outcome {
        match (self.forwarded, self.ttl) {
            (Some(_), _) if self.collapsed => Outcome::Collapsed,
            (Some(_), Some((_, false))) => Outcome::Stale,
            (Some(Forwarded::Bypass | Forwarded::Method), _) => Outcome::Bypass,
            (Some(_), _) if self.answered == Some(304) => Outcome::Revalidated,
            (Some(_), _) => Outcome::Miss,
            (None, Some((_, false))) => Outcome::Stale,
            (None, _) => Outcome::Hit,
        }
    }

    /// Says it in a response, of the cache of this name: behind what caches nearer to the application
    /// say.
    pub fn tell(&self, name: &str, headers: &mut HeaderMap) {
        let mut told = String::from(name);
        match self.forwarded {
            None => told.push_str("; hit"),
            Some(why) => {
                told.push_str("; fwd=");
                told.push_str(why.name());
            }
        }
        if let Some(status) = self.answered {
            let _ = write!(told, "; fwd-status={status}");
        }
        if let Some((span, fresh)) = self.ttl {
            let sign = if fresh || span.as_secs() == 0 {
                ""
            } else {
                "-"
            };
            let _ = write!(told, "; ttl={sign}{}", span.as_secs());
        }
        for (is, word) in [(self.stored, "; stored"), (self.collapsed, "; collapsed")] {
            if is {
                told.push_str(word);
            }
        }
        if let Ok(told) = HeaderValue::from_str(&told) {
            headers.append(CACHE_STATUS, told);
        }
    }
}

// === impl Forwarded ===

impl Forwarded {
    fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::Uri => "uri-miss",
            Self::Vary => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Miss => "miss",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 6] = [
        Outcome::Hit,
        Outcome::Stale,
        Outcome::Revalidated,
        Outcome::Collapsed,
        Outcome::Miss,
        Outcome::Bypass,
    ];

    /// Its name in the access log and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: Status) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_STATUS, HeaderValue::from_static("origin; hit"));
        status.tell("meshwright", &mut headers);
        let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(lines.len(), 2);
        lines[1].to_str().unwrap().to_owned()
    }

    #[test]
    fn it_is_told_as_rfc_9211_has_it_behind_what_others_say() {
        let secs = Duration::from_secs;
        assert_eq!(told(Status::hit(secs(52))), "meshwright; hit; ttl=52");
        assert_eq!(told(Status::stale(secs(3))), "meshwright; hit; ttl=-3");
        let mut status = Status::forwarded(Forwarded::Uri);
        status.stored = true;
        assert_eq!(told(status), "meshwright; fwd=uri-miss; stored");
        status.collapsed = true;
        status.stored = false;
        assert_eq!(told(status), "meshwright; fwd=uri-miss; collapsed");
        let mut status = Status::forwarded(Forwarded::Stale);
        status.answered = Some(304);
        assert_eq!(told(status), "meshwright; fwd=stale; fwd-status=304");
        assert_eq!(status.outcome(), Outcome::Revalidated);
    }
}
