//! Cache: which answers the sidecars beside a Service's pods keep, and for how long.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// Answers to GET are kept and given again, to HEAD too, as RFC 9111 lets a cache that several
/// callers share. What an answer says of itself (`Cache-Control`, `Expires`, `Vary`) holds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!has(self.maxEntryBytes) || self.maxEntryBytes <= self.maxBytes / 4"
).message("maxEntryBytes is a quarter of maxBytes at most: one answer must leave room for others"))]
pub struct Cache {
    /// How long an answer counts as fresh that does not say it itself, such as `30s`. With `0s`,
    /// only answers that say it are kept.
    #[serde(default = "Cache::never", rename = "defaultTTL")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('24h')")
        .message("an answer that does not say how long it is fresh is kept for 24h at most"))]
    pub default_ttl: Duration,

    /// The most bytes that the answers kept by one sidecar may have, with their headers. Where there
    /// are more, those that are asked for least go.
    #[serde(default = "Cache::default_max_bytes")]
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub max_bytes: u64,

    /// The most answers that one sidecar keeps.
    #[serde(default = "Cache::default_max_entries")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_entries: u32,

    /// The most bytes that the body of one answer may have; a larger one is not kept. At most a
    /// quarter of `maxBytes`; 1 MiB when absent, or that quarter if it is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 67_108_864))]
    pub max_entry_bytes: Option<u64>,

    /// Headers of requests that tell answers apart, beside those that an answer names in `Vary`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))
    )]
    #[x_kube(validation = Cel::new("self.all(h, self.exists_one(o, o.lowerAscii() == h.lowerAscii()))")
        .message("two of the headers have the same name"))]
    pub key_headers: Vec<String>,

    /// The parameters of the query that tell answers apart: those of these names and no others, `[]`
    /// for none of them. When absent the whole query does, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub key_query: Option<Vec<String>>,

    /// For how long an answer that is no longer fresh is given while a new one is fetched in the
    /// background, where it says nothing of that itself; `0s` is not at all.
    #[serde(default = "Cache::never")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('24h')")
        .message("an answer is given for 24h at most when it is no longer fresh"))]
    pub stale_while_revalidate: Duration,

    /// For how long an answer that is no longer fresh is given when the application can't be asked or
    /// answers with 500, 502, 503 or 504, where it says nothing of that itself; `0s` is not at all.
    #[serde(default = "Cache::never")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('24h')")
        .message("an answer is given for 24h at most when it is no longer fresh"))]
    pub stale_if_error: Duration,

    /// Lets the sidecars of callers keep answers too, each for its own pod and apart for whatever
    /// credentials a request has: what they give of them asks nobody, so that nobody decides whether
    /// the caller may still enter. Absent: only the sidecars beside the Service's pods keep any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_caller: Option<AtCaller>,
}

/// For how long callers' sidecars give what they keep. Its presence turns it on.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AtCaller {
    /// For how long a caller's sidecar gives an answer without asking, counted from when it was asked
    /// for, however long it is fresh: for so long whoever got it may get it although it may no longer
    /// enter.
    #[serde(default = "AtCaller::default_max_age")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1m')"
    ).message("callers give what they keep for 1s to 1m: for so long nobody decides whether they may \
               still enter"))]
    pub max_age: Duration,
}

// === impl Cache ===

impl Cache {
    /// The most bytes that the body of one answer may have.
    pub fn most_of_an_entry(&self) -> u64 {
        const USUAL: u64 = 1024 * 1024;
        let quarter = self.max_bytes / 4;
        self.max_entry_bytes.unwrap_or(USUAL).min(quarter)
    }

    fn default_max_bytes() -> u64 {
        16 * 1024 * 1024
    }

    fn default_max_entries() -> u32 {
        10_000
    }

    fn never() -> Duration {
        Duration::of_seconds(0)
    }
}

// === impl AtCaller ===

impl AtCaller {
    fn default_max_age() -> Duration {
        Duration::of_seconds(10)
    }
}
