//! EventSubscriptions as YAML for people.

use serde_json::{Value, json};
use wire::mesh::{self, event_filter::Dialect, subscription::Start, subscription::Target};

use super::{publish, retry_policy, service};

pub(super) fn shown(sent: mesh::Subscription) -> Value {
    let (mode, on_exhausted) = (sent.mode(), sent.on_exhausted());
    let target = match sent.target.as_ref().unwrap() {
        Target::ApplicationPort(port) => format!("the application at port {port}"),
        Target::Service(to) => {
            format!("{} port {}", service(to.service.as_ref().unwrap()), to.port)
        }
        Target::TopicTarget(to) => {
            let broker = publish::broker(to.broker.as_ref().unwrap());
            format!("topic {} of {broker}", to.topic)
        }
        Target::Url(to) => outside(to),
    };
    let target = match sent.target.as_ref().unwrap() {
        Target::ApplicationPort(_) | Target::Service(_) => format!("{target}, path {}", sent.path),
        Target::TopicTarget(_) | Target::Url(_) => target,
    };
    let from = match &sent.schedule {
        Some(schedule) => times(schedule),
        None => topic(&sent),
    };
    let answers = sent.answers.iter().map(|answer| {
        let action = answer.action().as_str_name();
        format!("{:?} {action}", answer.statuses)
    });
    let backoff = sent.backoff.unwrap();
    let (growth, jitter) = (backoff.growth(), backoff.jitter());
    let mut shown = json!({
        "subscription": format!("{}/{}", sent.namespace, sent.name),
        "from": from,
        "to": target,
        "filters": Vec::from_iter(sent.filters.iter().map(filter)),
        "mode": mode.as_str_name(),
        "timeoutMs": sent.timeout_ms,
        "maxInFlight": sent.max_in_flight,
        "retries": {
            "max": sent.max_retries,
            "backoff": format!(
                "{} x{} {} to {} ms {}", growth.as_str_name(), backoff.multiplier,
                backoff.initial_ms, backoff.max_ms, jitter.as_str_name(),
            ),
        },
        "onExhausted": on_exhausted.as_str_name(),
    });
    if sent.counts_only {
        shown["countsOnly"] = json!(true);
    }
    if sent.suspended {
        shown["suspended"] = json!(true);
    }
    if !sent.answers.is_empty() {
        shown["answers"] = Value::from_iter(answers);
    }
    if let Some(breaker) = &sent.circuit_breaker {
        shown["circuitBreaker"] = retry_policy::circuit_breaker(breaker);
    }
    if let Some(expiry) = sent.expiry_ms {
        shown["expiryMs"] = json!(expiry);
    }
    if let Some(sent) = &sent.deduplication {
        let store = match &sent.store {
            None => "in memory".to_owned(),
            Some(store) => format!("in {:?} {}", store.url, store.on_failure().as_str_name()),
        };
        shown["deduplication"] = json!(format!(
            "{:?} for {} ms {store}",
            sent.attributes, sent.window_ms
        ));
    }
    if !sent.dead_letter_topic.is_empty() {
        shown["deadLetterTopic"] = json!(sent.dead_letter_topic);
    }
    if sent.body_status {
        shown["bodyStatus"] = json!(true);
    }
    if sent.dead_letter_body {
        shown["deadLetterBody"] = json!(true);
    }
    shown
}

/// A system outside, and what is shown to it, but for the secrets themselves.
fn outside(sent: &mesh::EventUrl) -> String {
    let mesh::EventUrl {
        url,
        ca_certificates,
        authorization,
        certificate,
        key,
    } = sent;
    let scheme = authorization.split(' ').next().unwrap_or_default();
    let parts = [
        (authorization, format!("as {scheme}")),
        (certificate, "a certificate".to_owned()),
        (key, "its key".to_owned()),
        (ca_certificates, "its own authority".to_owned()),
    ];
    let those = parts.iter().filter(|(given, _)| !given.is_empty());
    let those = Vec::from_iter(those.map(|(_, what)| what.as_str()));
    format!("{url:?} with {those:?}")
}

fn topic(sent: &mesh::Subscription) -> Value {
    let start = match sent.start.as_ref().unwrap() {
        Start::New(true) => "new".to_owned(),
        Start::Earliest(true) => "earliest".to_owned(),
        Start::SinceMs(moment) => format!("since {moment} ms"),
        Start::Place(place) => format!("from {}-{} on", place.first, place.second),
        never => panic!("{never:?}"),
    };
    json!({
        "broker": publish::broker(sent.broker.as_ref().unwrap()),
        "topic": sent.topic,
        "group": sent.group,
        "start": start,
        "create": sent.create,
    })
}

fn times(sent: &mesh::Schedule) -> Value {
    // What the rules are another version of the database may say otherwise.
    assert!(wire::cron::zone(&sent.time_zone, &sent.zone).is_ok());
    let mut shown = json!({
        "cron": sent.cron,
        "timeZone": sent.time_zone,
        "overlap": sent.overlap().as_str_name(),
        "delayMs": sent.delay_ms,
        "type": sent.event_type,
        "source": sent.event_source,
        "data": String::from_utf8(sent.data.to_vec()).unwrap(),
        "object": sent.object,
        "form": sent.form,
    });
    if let Some(deadline) = sent.starting_deadline_ms {
        shown["startingDeadlineMs"] = json!(deadline);
    }
    if let Some(since) = sent.since_ms {
        shown["sinceMs"] = json!(since);
    }
    shown
}

fn filter(sent: &mesh::EventFilter) -> Value {
    let values = |sent: &mesh::EventValues| {
        let values = sent.values.iter();
        let values = values.map(|one| format!("{}={}", one.attribute, one.value));
        Value::from_iter(values)
    };
    let list = |sent: &mesh::EventFilters| Value::from_iter(sent.filters.iter().map(filter));
    match sent.dialect.as_ref().unwrap() {
        Dialect::Exact(sent) => json!({"exact": values(sent)}),
        Dialect::Prefix(sent) => json!({"prefix": values(sent)}),
        Dialect::Suffix(sent) => json!({"suffix": values(sent)}),
        Dialect::All(sent) => json!({"all": list(sent)}),
        Dialect::Any(sent) => json!({"any": list(sent)}),
        Dialect::Not(sent) => json!({"not": filter(sent)}),
        Dialect::Sql(sql) => json!({"sql": sql}),
        Dialect::Data(sent) => {
            json!({"data": format!("{} {:?}", sent.path, sent.test.as_ref().unwrap())})
        }
    }
}
