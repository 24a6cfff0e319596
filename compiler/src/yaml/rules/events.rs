//! The rules of what becomes an event, and of EventSubscriptions.

use serde_json::Value;

use super::filters::has;
use super::retry_policy::millis;
use super::{Rule, is};

pub(super) const RULES: &[Rule] = &[
    (
        "!has(self.publish) || !(has(self.backendRefs) || has(self.redirect) || \
         has(self.directResponse) || has(self.rewrite) || has(self.mirror))",
        |rule| {
            let of_what_is_sent_on = [
                "backendRefs",
                "redirect",
                "directResponse",
                "rewrite",
                "mirror",
            ];
            !has(rule, "publish") || !of_what_is_sent_on.iter().any(|field| has(rule, field))
        },
    ),
    (
        "!has(self.stream) || !(has(self.publish) || has(self.backendRefs) || has(self.redirect) || \
         has(self.directResponse) || has(self.rewrite) || has(self.mirror))",
        |rule| {
            let others = [
                "publish",
                "backendRefs",
                "redirect",
                "directResponse",
                "rewrite",
                "mirror",
            ];
            !has(rule, "stream") || !others.iter().any(|field| has(rule, field))
        },
    ),
    ("has(self.split) || self.maxBytes <= 8388608", |publish| {
        let max = publish.get("maxBytes").and_then(Value::as_u64);
        has(publish, "split") || max.is_none_or(|max| max <= 8_388_608)
    }),
    (
        "!has(self.split) || !has(self.event) || !has(self.event.idFrom)",
        |publish| !has(publish, "split") || publish.pointer("/event/idFrom").is_none(),
    ),
    (
        "self.all(e, self.exists_one(o, o.name == e.name))",
        |extensions| {
            let all = extensions.as_array().into_iter().flatten();
            let mut names = std::collections::BTreeSet::new();
            all.into_iter()
                .all(|one| names.insert(one["name"].as_str()))
        },
    ),
    ("has(self.value) != has(self.from)", |extension| {
        has(extension, "value") != has(extension, "from")
    }),
    ("has(self.header) != has(self.data)", |from| {
        has(from, "header") != has(from, "data")
    }),
    ("!has(self.split) || self.ack == 'Broker'", |publish| {
        let ack = publish.get("ack");
        !has(publish, "split") || ack.is_none_or(|ack| ack == "Broker")
    }),
    (
        "!has(self.split) || !has(self.split.deadLetter) || self.split.deadLetter.topic != self.topic",
        |publish| {
            let to = publish.pointer("/split/deadLetter/topic");
            to.is_none() || to != publish.get("topic")
        },
    ),
    (
        "!has(self.asyncReply) || (self.ack == 'Broker' && !has(self.split))",
        |publish| {
            let waits = publish.get("ack").is_none_or(|ack| ack == "Broker");
            !has(publish, "asyncReply") || (waits && !has(publish, "split"))
        },
    ),
    (
        "!has(self.asyncReply) || self.asyncReply.topic != self.topic",
        |publish| {
            let replies = publish.pointer("/asyncReply/topic");
            replies.is_none() || replies != publish.get("topic")
        },
    ),
    ("(self.format == 'XML') == has(self.recordPath)", |split| {
        let xml = split.get("format").is_some_and(|format| format == "XML");
        xml == has(split, "recordPath")
    }),
    (
        "(self.onRecordError != 'Abort') == has(self.maxFailedRecords)",
        |split| {
            let does = split.get("onRecordError");
            let goes_on = does.is_some_and(|does| does != "Abort");
            goes_on == has(split, "maxFailedRecords")
        },
    ),
    (
        "(self.onRecordError == 'DeadLetter') == has(self.deadLetter)",
        |split| {
            let does = split.get("onRecordError");
            does.is_some_and(|does| does == "DeadLetter") == has(split, "deadLetter")
        },
    ),
    (
        "!has(self.delivery.deadLetter) || !has(self.source.broker) || \
         self.delivery.deadLetter.topic != self.source.broker.topic",
        |spec| {
            let to = spec.pointer("/delivery/deadLetter/topic");
            to.is_none() || to != spec.pointer("/source/broker/topic")
        },
    ),
    (
        "!has(self.reply) || !has(self.source.broker) || self.reply.topic != self.source.broker.topic",
        |spec| {
            let to = spec.pointer("/reply/topic");
            to.is_none() || to != spec.pointer("/source/broker/topic")
        },
    ),
    ("!has(self.reply) || !has(self.delivery.batch)", |spec| {
        !has(spec, "reply") || spec.pointer("/delivery/batch").is_none()
    }),
    ("!has(self.reply) || !self.delivery.bodyStatus", |spec| {
        let reads = spec.pointer("/delivery/bodyStatus");
        !has(spec, "reply") || !reads.is_some_and(|reads| reads == true)
    }),
    (
        "!has(self.replay) || self.replay.from.type != 'DeadLetter' || has(self.delivery.deadLetter)",
        |spec| {
            let from = spec.pointer("/replay/from/type");
            from.is_none_or(|from| from != "DeadLetter")
                || spec.pointer("/delivery/deadLetter").is_some()
        },
    ),
    (
        "self.source.type != 'Schedule' || (!has(self.reply) && !has(self.replay) && \
         self.delivery.onExhausted != 'DeadLetter')",
        |spec| {
            let dead_letters = spec.get("delivery").is_some_and(dead_letters);
            let needs_a_broker = has(spec, "reply") || has(spec, "replay") || dead_letters;
            !is_scheduled(spec) || !needs_a_broker
        },
    ),
    (
        "self.source.type != 'Schedule' || (!has(self.filters) && !has(self.delivery.batch) && \
         self.delivery.ordering == 'None')",
        |spec| {
            let ordering = spec.pointer("/delivery/ordering");
            let ordered = ordering.is_some_and(|ordering| ordering != "None");
            let batched = spec.pointer("/delivery/batch").is_some();
            !is_scheduled(spec) || (!has(spec, "filters") && !batched && !ordered)
        },
    ),
    ("(self.type == 'Broker') == has(self.broker)", |source| {
        is(source, "Broker") == has(source, "broker")
    }),
    (
        "(self.type == 'Schedule') == has(self.schedule)",
        |source| is(source, "Schedule") == has(source, "schedule"),
    ),
    ("duration(self) <= duration('1h')", |written| {
        millis(written).is_none_or(|span| span <= 3_600_000)
    }),
    (
        "!has(self.orderingKey) || self.ordering == 'Key'",
        |delivery| {
            !has(delivery, "orderingKey") || delivery.get("ordering").is_some_and(|it| it == "Key")
        },
    ),
    (
        "!has(self.batch) || (self.mode == 'Structured' && self.ordering == 'None')",
        |delivery| {
            let structured = delivery
                .get("mode")
                .is_some_and(|mode| mode == "Structured");
            let ordered = delivery.get("ordering").is_some_and(|it| it != "None");
            !has(delivery, "batch") || (structured && !ordered)
        },
    ),
    ("duration(self) <= duration('10s')", |written| {
        millis(written).is_none_or(|span| span <= 10_000)
    }),
    ("(self.type == 'Sequence') == has(self.sequence)", |start| {
        is(start, "Sequence") == has(start, "sequence")
    }),
    ("(self.type == 'Time') == has(self.time)", |start| {
        is(start, "Time") == has(start, "time")
    }),
    (
        "(self.type == 'Workload') == has(self.workload)",
        |target| is(target, "Workload") == has(target, "workload"),
    ),
    ("(self.type == 'Service') == has(self.service)", |target| {
        is(target, "Service") == has(target, "service")
    }),
    ("(self.type == 'URL') == has(self.url)", |target| {
        is(target, "URL") == has(target, "url")
    }),
    ("(self.type == 'Topic') == has(self.topic)", |target| {
        is(target, "Topic") == has(target, "topic")
    }),
    (
        "self.path == '/' || self.type in ['Workload', 'Service']",
        |target| {
            let path = target.get("path");
            path.is_none_or(|path| path == "/") || is(target, "Workload") || is(target, "Service")
        },
    ),
    (
        "(self.store == 'Redis') == has(self.redis)",
        |deduplication| {
            let store = deduplication.get("store");
            store.is_some_and(|store| store == "Redis") == has(deduplication, "redis")
        },
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('168h')",
        |written| millis(written).is_none_or(|span| (1_000..=604_800_000).contains(&span)),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('24h')",
        |written| millis(written).is_none_or(|span| (1_000..=86_400_000).contains(&span)),
    ),
    ("self.size() > 0", |map| {
        map.as_object().is_none_or(|map| !map.is_empty())
    }),
    (
        "self.onExhausted != 'DeadLetter' || has(self.deadLetter)",
        |delivery| !dead_letters(delivery) || has(delivery, "deadLetter"),
    ),
    (
        "self.onExhausted == 'DeadLetter' || !has(self.deadLetter)",
        |delivery| dead_letters(delivery) || !has(delivery, "deadLetter"),
    ),
    ("!self.bodyStatus || !has(self.batch)", |delivery| {
        let reads = delivery.get("bodyStatus");
        !reads.is_some_and(|reads| reads == true) || !has(delivery, "batch")
    }),
    (
        "duration(self) >= duration('100ms') && duration(self) <= duration('10m')",
        |written| millis(written).is_none_or(|span| (100..=600_000).contains(&span)),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('8760h')",
        |written| millis(written).is_none_or(|span| (1_000..=31_536_000_000).contains(&span)),
    ),
    (
        "[has(self.exact), has(self.prefix), has(self.suffix), has(self.sql), has(self.data), \
         has(self.all), has(self.any), has(self.not)].filter(one, one).size() == 1",
        |filter| {
            one_of(
                filter,
                &[
                    "exact", "prefix", "suffix", "sql", "data", "all", "any", "not",
                ],
            )
        },
    ),
    (
        "[has(self.exact), has(self.prefix), has(self.suffix), has(self.sql), has(self.data)]\
         .filter(one, one).size() == 1",
        |filter| one_of(filter, &["exact", "prefix", "suffix", "sql", "data"]),
    ),
    (
        "[has(self.equals), has(self.lessThan), has(self.lessThanOrEqual), has(self.greaterThan), \
         has(self.greaterThanOrEqual), has(self.exists)].filter(one, one).size() == 1",
        |data| {
            let numbers = [
                "lessThan",
                "lessThanOrEqual",
                "greaterThan",
                "greaterThanOrEqual",
            ];
            let count = numbers.iter().chain(&["equals", "exists"]);
            count.filter(|field| has(data, field)).count() == 1
        },
    ),
];

fn is_scheduled(spec: &Value) -> bool {
    spec.get("source")
        .is_some_and(|source| is(source, "Schedule"))
}

fn dead_letters(delivery: &Value) -> bool {
    let given = delivery.get("onExhausted");
    given.is_none_or(|given| given == "DeadLetter")
}

fn one_of(filter: &Value, fields: &[&str]) -> bool {
    fields.iter().filter(|field| has(filter, field)).count() == 1
}
