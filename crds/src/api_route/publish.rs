//! Publish: requests that become events.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rate_limit::Store;
use crate::units::Duration;

/// Requests are published to a topic of a broker instead of reaching the application. Whoever sent one
/// is answered 202 once the broker holds it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.split) || self.maxBytes <= 8388608")
    .message("maxBytes is at most 8388608 (8 MiB) where a body is one event; with split it may be more"))]
#[x_kube(validation = Cel::new("!has(self.split) || self.ack == 'Broker'")
    .message("what is split is answered with what the broker holds: leave ack out"))]
#[x_kube(validation = Cel::new(
    "!has(self.split) || !has(self.split.deadLetter) || self.split.deadLetter.topic != self.topic"
).message("split.deadLetter.topic is another topic than topic"))]
#[x_kube(validation = Cel::new("!has(self.split) || !has(self.event) || !has(self.event.idFrom)")
    .message("records are told apart by the key of their request and their number, by which an upload goes on: leave event.idFrom out"))]
#[x_kube(validation = Cel::new("!has(self.asyncReply) || (self.ack == 'Broker' && !has(self.split))")
    .message("a job is one event that the broker holds: with asyncReply there is neither split nor ack: None"))]
#[x_kube(validation = Cel::new("!has(self.asyncReply) || self.asyncReply.topic != self.topic")
    .message("asyncReply.topic, where replies go, is another topic than topic"))]
pub struct Publish {
    /// The broker: a Secret of the object's namespace with the label `meshwright.dev/broker: <name>`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub broker: String,

    /// The topic.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// What events are called that come as plain bodies. CloudEvents say so themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<PublishedEvent>,

    /// The most bytes of a request's body; a larger one is answered 413. At most 8 MiB, and a broker may
    /// take less; with `split`, which holds no more of it than a few records, at most 64 GiB.
    #[serde(default = "Publish::default_max_bytes")]
    #[schemars(range(min = 1, max = 68_719_476_736_u64))]
    pub max_bytes: u64,

    /// What is waited for before 202 is answered.
    #[serde(default)]
    pub ack: PublishAck,

    /// A body is records, and each becomes an event while the body comes. The answer is a report: how
    /// many the broker holds, and which were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<PublishSplit>,

    /// What is replied to an event is kept, for whoever published it: the answer says where it is
    /// fetched. The event has the extension `meshwrightjob`, and so has its reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_reply: Option<AsyncReply>,
}

/// Where what is replied to an event is kept, and fetched.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AsyncReply {
    /// The path of results: `GET <resultPath>/<token>` at the same hosts, as the answer's `Location` says.
    /// It is one more match of the rule, and governed by what governs the object's other requests.
    #[schemars(
        length(min = 2, max = 64),
        pattern(r"^(/[A-Za-z0-9_-][A-Za-z0-9._~-]*)+$")
    )]
    pub result_path: String,

    /// The topic of the same broker where replies are published, as an EventSubscription's `reply` says. One
    /// that has the extension `meshwrightjob` of a job is its result; the first counts.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// For how long a job waits for its result, and a result is kept.
    #[serde(default = "AsyncReply::default_time_to_live")]
    #[x_kube(validation = Cel::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("a job lives for 1s to 24h"))]
    pub time_to_live: Duration,

    /// Where jobs and results are kept, for all replicas.
    pub store: Store,
}

/// How a body is split into records.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.format == 'XML') == has(self.recordPath)")
    .message("recordPath says which elements of XML are records: it is written with format: XML, and only there"))]
#[x_kube(validation = Cel::new("(self.onRecordError != 'Abort') == has(self.maxFailedRecords)")
    .message("maxFailedRecords says how many may fail: it is written with onRecordError: Skip or DeadLetter, and only there"))]
#[x_kube(validation = Cel::new("(self.onRecordError == 'DeadLetter') == has(self.deadLetter)")
    .message("deadLetter is written with onRecordError: DeadLetter, and only there"))]
pub struct PublishSplit {
    /// How records stand in a body. All of them are in UTF-8.
    pub format: SplitFormat,

    /// Which elements of XML are records: the names of elements, without prefixes, from the root on, such as
    /// `orders/order`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        pattern(r"^[A-Za-z_][-A-Za-z0-9_.]*(/[A-Za-z_][-A-Za-z0-9_.]*)*$")
    )]
    pub record_path: Option<String>,

    /// The most bytes of a record, and of what it becomes; a longer one fails. A broker may take less.
    #[serde(default = "PublishSplit::default_max_record_bytes")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub max_record_bytes: u64,

    /// What becomes of a record that is none, or is too long.
    #[serde(default)]
    pub on_record_error: RecordError,

    /// How many records of one body may fail; with one more nothing more of it is published. 0 with `Abort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_failed_records: Option<u64>,

    /// Where records go that fail, with `DeadLetter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<RecordDeadLetter>,
}

/// How records stand in a body.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitFormat {
    /// A record is a line of JSON.
    #[serde(rename = "NDJSON")]
    Ndjson,
    /// A record is an element of the one array that the body is.
    #[serde(rename = "JSONArray")]
    JsonArray,
    /// A record is a line of CSV (RFC 4180) behind a header; it becomes a JSON object of strings.
    #[serde(rename = "CSV")]
    Csv,
    /// A record is an element, as `recordPath` says.
    #[serde(rename = "XML")]
    Xml,
}

/// What becomes of a record that fails.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordError {
    /// Nothing more of the body is published.
    #[default]
    Abort,
    /// It is published to the dead letter topic, as it came.
    DeadLetter,
    /// It is left out.
    Skip,
}

/// What is waited for before whoever sent something is answered.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishAck {
    /// That the broker holds the event.
    #[default]
    Broker,
    /// Nothing: 202 says that an event was read. It is lost, and counted, when the broker does not take it, or when
    /// too many wait for the broker.
    None,
}

/// Attributes of events that come as plain bodies.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedEvent {
    /// Their `type`; the topic when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub type_: Option<String>,

    /// Their `source`; `/apiroutes/<namespace>/<name>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[!-~]+$"))]
    pub source: Option<String>,

    /// Where their `id` is taken from; a request without it is answered 400. Their `Idempotency-Key`, or one
    /// that nobody else has, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_from: Option<ValueFrom>,

    /// Where their `subject` is taken from; they have none when absent, or where that is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_from: Option<ValueFrom>,

    /// Their extensions, such as the `partitionkey` by which they are in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Cel::new("self.all(e, self.exists_one(o, o.name == e.name))")
        .message("two extensions have the same name"))]
    pub extensions: Vec<PublishedExtension>,
}

/// An extension of events that come as plain bodies.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.value) != has(self.from)")
    .message("an extension has a value, or a place that it is taken from: write value or from"))]
pub struct PublishedExtension {
    /// Its name, as CloudEvents has it.
    #[schemars(length(min = 1, max = 20), pattern(r"^[a-z0-9]+$"))]
    pub name: String,

    /// Its value, the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[ -~]+$"))]
    pub value: Option<String>,

    /// Where its value is taken from; where that is missing, the event has no such extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ValueFrom>,
}

/// Where an attribute's value is taken from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.header) != has(self.data)")
    .message("a value is taken from one place: write header or data"))]
pub struct ValueFrom {
    /// A header of the request; of several of the name, the first. None that shows who sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub header: Option<String>,

    /// A path into data that are JSON, of RFC 9535, that leads to one place, such as `$.order.customer`. There
    /// stands a string, a number, `true` or `false`; anything else is as if it were missing. With `split`, it
    /// leads into each record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub data: Option<String>,
}

/// Where records go that fail.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordDeadLetter {
    /// A topic of the same broker.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,
}

// === impl PublishSplit ===

impl PublishSplit {
    fn default_max_record_bytes() -> u64 {
        1024 * 1024
    }
}

// === impl AsyncReply ===

impl AsyncReply {
    fn default_time_to_live() -> Duration {
        Duration::of_seconds(60 * 60)
    }
}

// === impl Publish ===

impl Publish {
    fn default_max_bytes() -> u64 {
        1024 * 1024
    }
}
