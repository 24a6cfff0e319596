//! Events that are due at times.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::units::Duration;

/// When events are due. Each is delivered by one of the sidecars that it is for, whichever of them die. Its `id` is that of
/// the object and the time that it was due at, its `time` that time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleSource {
    /// When: minute, hour, day of the month, month and day of the week, such as `0 2 * * *`; of six fields the first is
    /// the second. Or `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`.
    #[schemars(length(min = 1, max = 128))]
    pub cron: String,

    /// The time zone by whose clocks, a name of the IANA's, such as `Europe/Madrid`. An hour that these skip is due at
    /// its end, and one that they repeat is due once; where the hour begins with `*`, time that passes counts.
    #[serde(default = "ScheduleSource::default_time_zone")]
    #[schemars(
        length(min = 1, max = 64),
        pattern(r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$")
    )]
    pub time_zone: String,

    /// How much later than due an event may begin to be delivered; one that is later is missed. However late when
    /// absent. Of several that are late the newest is delivered, and the others are missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('8760h')"
    ).message("a deadline is 1s to 8760h"))]
    pub starting_deadline: Option<Duration>,

    /// What becomes of what is due while an event is not done.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,

    /// Everything is due later by a time of at most this, which is the same each time and another one for each
    /// object: what is written alike is not due at one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('1h')")
        .message("jitter is 1h at most"))]
    pub jitter: Option<Duration>,

    /// The data of each event, as JSON; 64 KiB at most. None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub data: Option<Map<String, Value>>,

    /// What events are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ScheduledEvent>,
}

/// What becomes of what is due while an event is not done: delivered, or exhausted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConcurrencyPolicy {
    /// It is delivered beside it, as many as `maxInFlight` says.
    #[default]
    Allow,
    /// It waits, as long as `startingDeadline` says; of several that wait the newest is delivered.
    Forbid,
    /// It is delivered instead: the delivery that is under way is broken off.
    Replace,
}

/// Attributes of events that are due.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledEvent {
    /// Their `type`; `dev.meshwright.schedule` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub type_: Option<String>,

    /// Their `source`; `/eventsubscriptions/<namespace>/<name>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[!-~]+$"))]
    pub source: Option<String>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 256,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

// === impl ScheduleSource ===

impl ScheduleSource {
    fn default_time_zone() -> String {
        "Etc/UTC".to_owned()
    }
}
