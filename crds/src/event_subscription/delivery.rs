//! How events are delivered, and what becomes of those that can't be.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::circuit_breaker::EventCircuitBreaker;
use crate::retry_policy::Backoff;
use crate::units::Duration;

/// How events are delivered. What the target answers decides: 2xx is done; 404, 408, 409, 425, 429,
/// 5xx, and no answer at all are failures, after which the event comes again; 410 ends deliveries until
/// the object is written anew; every other answer is for good, and exhausts the event at once.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("self.onExhausted != 'DeadLetter' || has(self.deadLetter)")
    .message("onExhausted: DeadLetter needs deadLetter.topic, or write onExhausted: Block or Drop"))]
#[x_kube(validation = Cel::new("self.onExhausted == 'DeadLetter' || !has(self.deadLetter)")
    .message("deadLetter is written with onExhausted: DeadLetter, and only there"))]
#[x_kube(validation = Cel::new("!has(self.orderingKey) || self.ordering == 'Key'")
    .message("orderingKey is written with ordering: Key, and only there"))]
#[x_kube(validation = Cel::new("!has(self.batch) || (self.mode == 'Structured' && self.ordering == 'None')")
    .message("a batch is JSON, and in no order: it is written with mode: Structured and ordering: None"))]
#[x_kube(validation = Cel::new("!self.bodyStatus || !has(self.batch)")
    .message("bodyStatus is of one event: the answer to a batch says of each what became of it"))]
pub struct Delivery {
    /// How an event is written in a request.
    #[serde(default)]
    pub mode: DeliveryMode,

    /// How long the target may take to answer.
    #[serde(default = "Delivery::default_timeout")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('100ms') && duration(self) <= duration('10m')"
    ).message("a delivery takes 100ms to 10m"))]
    pub timeout: Duration,

    /// Whether an event waits until those before it are done.
    #[serde(default)]
    pub ordering: EventOrdering,

    /// With `Key`: the attribute of events whose value is their key; `partitionkey` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), pattern(r"^[a-z0-9]+$"))]
    pub ordering_key: Option<String>,

    /// Events in batches; each for itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<EventBatch>,

    /// How many events, or batches, each sidecar delivers at once.
    #[serde(default = "Delivery::default_max_in_flight")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_in_flight: u32,

    /// How often an event comes again, and when.
    #[serde(default)]
    pub retries: Redelivery,

    /// When nothing is delivered for a while, since the target fails; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<EventCircuitBreaker>,

    /// What becomes of answers, instead of what is said above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub responses: Vec<ResponseRule>,

    /// Whether an answer of 2xx may say in its body what becomes of the event, as applications of Dapr do: JSON with a `status`, of which
    /// `SUCCESS` is done, `RETRY` comes again, and `DROP` is done with and counted as dropped. What says nothing is done.
    #[serde(default)]
    pub body_status: bool,

    /// How old an event may be, from when the broker got it; an older one is exhausted before it is
    /// delivered. As long as the broker keeps it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('8760h')"
    ).message("events expire after 1s to 8760h"))]
    pub expiry: Option<Duration>,

    /// What becomes of an event that has come as often as it may, that was refused for good, that is
    /// too old, or that nobody can read.
    #[serde(default)]
    pub on_exhausted: OnExhausted,

    /// Where such events go, with `DeadLetter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

/// How an event is written in a request.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// Its data as the body, its attributes as `ce-` headers.
    #[default]
    Binary,
    /// All of it as JSON (`application/cloudevents+json`).
    Structured,
    /// Its data as the body, and none of its attributes but the media type: for who knows nothing of CloudEvents,
    /// and can't tell which events are the same.
    Raw,
}

/// How many events come in one request, as a batch in JSON (`application/cloudevents-batch+json`). The answer may say of
/// each what became of it; an event that comes again comes alone.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventBatch {
    /// How many at most.
    #[serde(default = "EventBatch::default_max_size")]
    #[schemars(range(min = 2, max = 1000))]
    pub max_size: u32,

    /// For how long the first one waits for others.
    #[serde(default = "EventBatch::default_max_wait")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('10s')")
        .message("events wait for others for 10s at most"))]
    pub max_wait: Duration,

    /// About how many bytes at most; an event that is longer comes alone.
    #[serde(default = "EventBatch::default_max_bytes")]
    #[schemars(range(min = 1024, max = 8_388_608))]
    pub max_bytes: u64,
}

/// Whether an event waits until those before it are done: delivered, or exhausted and where such go.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventOrdering {
    /// It does not.
    #[default]
    None,
    /// It waits for those with its key. One sidecar delivers them at a time, and another one when that
    /// one is gone.
    Key,
    /// It waits for all before it.
    Global,
}

/// How often an event comes again, and when.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redelivery {
    /// How often, the first time not counted.
    #[serde(default = "Redelivery::default_max_retries")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_retries: u32,

    /// How long it waits; from `1s` to `5m`, twice as long each time, when absent.
    #[serde(default = "Redelivery::default_backoff")]
    pub backoff: Backoff,
}

/// What becomes of answers with certain statuses.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseRule {
    /// The statuses.
    #[schemars(length(min = 1, max = 32), inner(range(min = 200, max = 599)))]
    pub codes: Vec<u16>,

    /// What becomes of the event.
    pub action: ResponseAction,
}

/// What becomes of an event that was answered.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseAction {
    /// It is done.
    Acknowledge,
    /// It comes again.
    Retry,
    /// It is exhausted, and goes as `onExhausted` says.
    DeadLetter,
    /// It is done with, and counted as dropped.
    Drop,
}

/// What becomes of an event that is exhausted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExhausted {
    /// It is published to the dead letter topic, and done once the broker holds it there.
    #[default]
    DeadLetter,
    /// It comes again for ever, with the longest wait, and takes a place of `maxInFlight` only while
    /// it is delivered.
    Block,
    /// It is lost, and counted.
    Drop,
}

/// Where exhausted events go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// A topic of the same broker.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// Whether a dead letter has the beginning of what the target answered last, 1 KiB of it at most, as its attribute
    /// `dlqbody`. Such answers may repeat what stands in events.
    #[serde(default)]
    pub include_error_body: bool,
}

// === impl Delivery ===

impl Delivery {
    fn default_timeout() -> Duration {
        Duration::of_seconds(30)
    }

    fn default_max_in_flight() -> u32 {
        10
    }
}

// === impl EventBatch ===

impl EventBatch {
    fn default_max_size() -> u32 {
        100
    }

    fn default_max_wait() -> Duration {
        Duration::of_millis(100)
    }

    fn default_max_bytes() -> u64 {
        1024 * 1024
    }
}

// === impl Redelivery ===

impl Redelivery {
    fn default_max_retries() -> u32 {
        10
    }

    fn default_backoff() -> Backoff {
        Backoff {
            initial: Duration::of_seconds(1),
            max: Duration::of_seconds(300),
            ..Backoff::default()
        }
    }
}

impl Default for Redelivery {
    fn default() -> Self {
        Self {
            max_retries: Self::default_max_retries(),
            backoff: Self::default_backoff(),
        }
    }
}
