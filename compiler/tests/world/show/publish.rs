//! Which requests become events, for people.

use serde_json::{Value, json};
use wire::mesh::{self, event_attribute::From};

use super::filters::cors;
use super::{request_match, service};

pub(super) fn shown(sent: mesh::Publish) -> Value {
    let rules = sent.rules.iter().map(|rule| {
        let matches = Vec::from_iter(rule.matches.iter().map(request_match));
        let mut shown = json!({"name": rule.name, "matches": matches});
        if let Some(publish) = &rule.publish {
            shown["publish"] = publishing(publish);
        }
        if let Some(stream) = &rule.stream {
            shown["stream"] = json!({
                "of": format!("{} of {}", stream.topic, stream.broker),
                "from": format!("{:?}", stream.start),
                "pages": stream.cors.as_ref().map(cors),
                "idleTimeoutMs": stream.idle_timeout_ms,
            });
        }
        shown
    });
    json!({
        "route": format!("{}/{}", sent.namespace, sent.name),
        "at": Vec::from_iter(sent.services.iter().map(service)),
        "rules": Vec::from_iter(rules),
        "brokers": Vec::from_iter(sent.brokers.iter().map(broker)),
    })
}

fn publishing(sent: &mesh::Publishing) -> Value {
    let mut shown = json!({
        "to": format!("{} of {}", sent.topic, sent.broker),
        "type": sent.r#type,
        "source": sent.source,
        "maxBytes": sent.max_bytes,
    });
    if sent.unwaited {
        shown["answered"] = "before it is confirmed".into();
    }
    if !sent.attributes.is_empty() {
        let attributes = sent.attributes.iter().map(|one| {
            let from = match one.from.as_ref().unwrap() {
                From::Value(value) => format!("{value:?}"),
                From::Header(header) => format!("header {header}"),
                From::Data(path) => format!("data {path}"),
            };
            (one.name.clone(), Value::from(from))
        });
        shown["attributes"] = Value::Object(attributes.collect());
    }
    if let Some(split) = &sent.split {
        let mesh::Split {
            format: _,
            record_path,
            max_record_bytes,
            max_failed_records,
            dead_letter_topic,
        } = split;
        shown["split"] = json!({
            "format": split.format().as_str_name(),
            "records": record_path,
            "maxBytes": max_record_bytes,
            "mayFail": max_failed_records,
            "deadLetters": dead_letter_topic,
        });
    }
    if let Some(reply) = &sent.async_reply {
        let mesh::AsyncReply {
            result_path,
            time_to_live_ms,
            store,
            topic,
            group,
        } = reply;
        let store = store.as_ref();
        let can_be_had = store.is_some_and(|store| !store.url.is_empty());
        let closes = store.is_some_and(|store| store.on_failure() == mesh::StoreFailure::Deny);
        shown["asyncReply"] = json!({
            "below": result_path,
            "kept": format!("{time_to_live_ms} ms"),
            "from": format!("{topic}, by {group}"),
            "store": if can_be_had { "redis" } else { "none" },
            "withoutStore": if closes { "refused" } else { "published" },
        });
    }
    shown
}

/// A broker, and by what it knows who asks, but for the secret itself.
pub(super) fn broker(sent: &mesh::Broker) -> Value {
    let mesh::Broker {
        name,
        url,
        user,
        password,
        token,
        ca_certificates,
        virtual_host,
        certificate,
        key,
    } = sent;
    let credentials = [
        (user, "user"),
        (password, "password"),
        (token, "token"),
        (ca_certificates, "its own authority"),
        (virtual_host, "a virtual host"),
        (certificate, "a certificate"),
        (key, "its key"),
    ];
    let those = credentials.iter().filter(|(given, _)| !given.is_empty());
    let those = Vec::from_iter(those.map(|(_, what)| *what));
    json!({"name": name, "url": url, "with": those.join(", ")})
}
