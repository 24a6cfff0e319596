//! The consumer of a group: what it must be, and what is made of it.

use serde_json::{Value, json};

use super::{IN_ORDER, Nats, code, nanos, refused};
use crate::events::broker::{Group, Start, Unsubscribed};

/// How many messages may be unacknowledged. What was given back counts, and must not hold up others.
const UNACKNOWLEDGED: i64 = 10_000;
/// The part of a lease after which a member that has asked for nothing is not the one any more that is delivered to in order.
const PINNED: u32 = 2;
/// The fields of a consumer that must be as they are wanted. One that we leave out must not be there:
/// with `deliver_subject` it can't be pulled, `backoff` goes before the lease.
const FIXED: [&str; 9] = [
    "filter_subject",
    "filter_subjects",
    "ack_policy",
    "max_deliver",
    "ack_wait",
    "deliver_subject",
    "backoff",
    "headers_only",
    "replay_policy",
];
/// Those that are set so: one with `inactive_threshold` goes when nobody is left in it, `priority_` says
/// whether one member at a time is delivered to, the others bound what may be asked for.
const SET: [&str; 8] = [
    "priority_policy",
    "priority_groups",
    "priority_timeout",
    "max_ack_pending",
    "inactive_threshold",
    "max_batch",
    "max_bytes",
    "max_expires",
];

// === impl Nats ===

impl Nats {
    /// The configuration of the consumer, which is created if it may be.
    pub(super) async fn consumer(
        &self,
        stream: &str,
        name: &str,
        group: &Group,
    ) -> Result<Value, Unsubscribed> {
        let wanted = self.wanted(name, group)?;
        let create = format!("CONSUMER.CREATE.{stream}.{name}.{}", group.topic);
        let mut tried = false;
        loop {
            let info = format!("CONSUMER.INFO.{stream}.{name}");
            let there = match self.ask(&info, &json!({})).await? {
                Ok(there) => there,
                Err(failure) => match failure.err_code {
                    code::STREAM_NOT_FOUND => return Err(Unsubscribed::MissingTopic),
                    code::CONSUMER_NOT_FOUND if !group.create => {
                        return Err(Unsubscribed::MissingGroup);
                    }
                    code::CONSUMER_NOT_FOUND => {
                        let action = "create";
                        let body =
                            json!({ "stream_name": stream, "config": wanted, "action": action });
                        match self.ask(&create, &body).await? {
                            Ok(created) => created,
                            // Another member was faster, with another start.
                            Err(failure) if failure.err_code == code::CONSUMER_EXISTS && !tried => {
                                tried = true;
                                continue;
                            }
                            Err(failure) => return Err(refused(failure)),
                        }
                    }
                    _ => return Err(refused(failure)),
                },
            };
            let mut config = there["config"].clone();
            // What these say can't be changed without changing what the group is.
            same(&config, &wanted, &FIXED)?;
            let Some(differs) = SET.iter().find(|field| differ(&config, &wanted, field)) else {
                return Ok(config);
            };
            if !group.create {
                return Err(Unsubscribed::Differs((*differs).to_owned()));
            }
            // The rest stays as it is: its position above all, and what others have set.
            let there = config.as_object_mut();
            let there =
                there.ok_or_else(|| Unsubscribed::Refused("it has no configuration".to_owned()))?;
            for field in SET {
                match wanted.get(field) {
                    Some(wanted) => drop(there.insert(field.to_owned(), wanted.clone())),
                    None => drop(there.remove(field)),
                }
            }
            let body = json!({ "stream_name": stream, "config": config, "action": "update" });
            let updated = self.ask(&create, &body).await?.map_err(refused)?;
            same(&updated["config"], &wanted, &SET)?;
            return Ok(updated["config"].clone());
        }
    }

    fn wanted(&self, name: &str, group: &Group) -> Result<Value, Unsubscribed> {
        let mut wanted = json!({
            "durable_name": name,
            "name": name,
            "filter_subject": group.topic,
            "ack_policy": "explicit",
            "ack_wait": nanos(self.lease),
            "max_deliver": -1,
            "max_ack_pending": UNACKNOWLEDGED,
            "replay_policy": "instant",
        });
        if let Some(window) = group.window {
            wanted["max_ack_pending"] = window.into();
            wanted["priority_policy"] = "pinned_client".into();
            wanted["priority_groups"] = json!([IN_ORDER]);
            wanted["priority_timeout"] = nanos(self.lease / PINNED).into();
        }
        starts(&mut wanted, group.start)?;
        Ok(wanted)
    }
}

/// Writes where a consumer starts.
pub(super) fn starts(wanted: &mut Value, start: Start) -> Result<(), Unsubscribed> {
    match start {
        Start::New => wanted["deliver_policy"] = "new".into(),
        Start::Earliest => wanted["deliver_policy"] = "all".into(),
        Start::Time(time) => {
            let time = jiff::Timestamp::try_from(time);
            let time = time.map_err(|error| Unsubscribed::Refused(error.to_string()))?;
            wanted["deliver_policy"] = "by_start_time".into();
            wanted["opt_start_time"] = time.to_string().into();
        }
        Start::Place(number, _) => {
            wanted["deliver_policy"] = "by_start_sequence".into();
            wanted["opt_start_seq"] = number.max(1).into();
        }
    }
    Ok(())
}

/// Whether a configuration that is there says of a field what is wanted. What is left out is nothing,
/// whichever nothing it is.
fn differ(there: &Value, wanted: &Value, field: &str) -> bool {
    let something = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(it) => *it,
        Value::Number(it) => it.as_i64() != Some(0),
        Value::String(it) => !it.is_empty(),
        Value::Array(it) => !it.is_empty(),
        Value::Object(it) => !it.is_empty(),
    };
    let said = |config: &Value| config.get(field).filter(|value| something(value)).cloned();
    said(there) != said(wanted)
}

pub(super) fn same(there: &Value, wanted: &Value, fields: &[&str]) -> Result<(), Unsubscribed> {
    match fields.iter().find(|field| differ(there, wanted, field)) {
        Some(field) => Err(Unsubscribed::Differs((*field).to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_the_same_however_it_is_written() {
        let there = json!({ "a": 0, "b": "", "c": [], "d": false, "e": 1 });
        for field in ["a", "b", "c", "d", "f"] {
            assert!(!differ(&there, &json!({}), field), "{field}");
        }
        assert!(differ(&there, &json!({}), "e"));
        assert!(differ(&there, &json!({ "e": 2 }), "e"));
        assert!(!differ(&there, &json!({ "e": 1 }), "e"));
    }
}
