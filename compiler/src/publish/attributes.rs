//! What else is said of events that come as plain bodies: from `crds::PublishedEvent` to `mesh::EventAttribute`.

use std::collections::BTreeSet;

use crds::status::Reason;
use crds::{ApiRouteSpec, CredentialPlace, PublishedEvent, ValueFrom};
use wire::data::Path;
use wire::mesh::{self, event_attribute::From as Sent};

use crate::api_route::Refusal;
use crate::cache::at_caller::places;

/// What shows who sends a request, and is in no event.
const SECRET: [&str; 5] = [
    "authorization",
    "x-api-key",
    "cookie",
    "proxy-authorization",
    "set-cookie",
];
/// What an extension can't be called: attributes that an event has anyway, its data, and what others write.
const TAKEN: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "data",
    "traceparent",
    "tracestate",
];
/// With which names begin that the mesh writes.
const OWN: [&str; 2] = ["meshwright", "dlq"];

/// What is sent of them.
pub(super) fn attributes(event: &PublishedEvent) -> Vec<mesh::EventAttribute> {
    let named = |name: &str, from| mesh::EventAttribute {
        name: name.to_owned(),
        from,
    };
    let id = event.id_from.as_ref().map(|from| named("id", sent(from)));
    let subject = event.subject_from.as_ref();
    let subject = subject.map(|from| named("subject", sent(from)));
    let extensions = event.extensions.iter().map(|one| {
        let from = match &one.value {
            Some(value) => Some(Sent::Value(value.clone())),
            None => one.from.as_ref().and_then(sent),
        };
        named(&one.name, from)
    });
    id.into_iter().chain(subject).chain(extensions).collect()
}

fn sent(from: &ValueFrom) -> Option<Sent> {
    match (&from.header, &from.data) {
        (Some(header), _) => Some(Sent::Header(header.to_ascii_lowercase())),
        (None, data) => data.clone().map(Sent::Data),
    }
}

/// What is wrong with them.
pub(super) fn problems(spec: &ApiRouteSpec) -> Vec<Refusal> {
    let places = spec.auth.iter().flat_map(places);
    let own = places.filter(|(place, _)| *place == CredentialPlace::Header);
    let own = own.map(|(_, name)| name.to_ascii_lowercase());
    let own = BTreeSet::from_iter(own);
    let shows = |header: &str| {
        let header = header.to_ascii_lowercase();
        SECRET.contains(&&*header) || own.contains(&header)
    };
    let rules = spec.rules.iter().enumerate();
    let problems = rules.flat_map(|(place, rule)| {
        let publish = rule.publish.as_ref();
        let event = publish.and_then(|publish| publish.event.as_ref());
        let at = format!("spec.rules[{place}].publish.event");
        let splits = publish.is_some_and(|publish| publish.split.is_some());
        event.map_or_else(Vec::new, |event| of_an_event(&at, event, splits, &shows))
    });
    let refusal = |message| Refusal {
        reason: Reason::Invalid,
        message,
    };
    problems.map(refusal).collect()
}

fn of_an_event(
    at: &str,
    event: &PublishedEvent,
    splits: bool,
    shows: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    if splits && event.id_from.is_some() {
        problems.push(format!(
            "{at}.idFrom: records are told apart by the key of their request and their number, by which an upload goes on: \
             leave it out."
        ));
    }
    let named = [
        ("idFrom", event.id_from.as_ref()),
        ("subjectFrom", event.subject_from.as_ref()),
    ];
    for (field, from) in named {
        let from = from.map(|from| (format!("{at}.{field}"), from));
        problems.extend(from.and_then(|(at, from)| of_a_place(&at, from, shows)));
    }
    for (place, one) in event.extensions.iter().enumerate() {
        let at = format!("{at}.extensions[{place}]");
        let name = &*one.name;
        if TAKEN.contains(&name) || OWN.iter().any(|own| name.starts_with(own)) {
            problems.push(format!(
                "{at}.name: {name} is no extension of yours: it is an attribute that an event has anyway, or that the mesh writes."
            ));
        }
        if event
            .extensions
            .iter()
            .take(place)
            .any(|other| other.name == one.name)
        {
            problems.push(format!("{at}.name: there is a {name} before it."));
        }
        match (&one.value, &one.from) {
            (Some(_), None) => {}
            (None, Some(from)) => problems.extend(of_a_place(&format!("{at}.from"), from, shows)),
            _ => problems.push(format!("{at}: write value or from, one of them.")),
        }
    }
    problems
}

/// `shows` says of which headers show who sends a request.
fn of_a_place(at: &str, from: &ValueFrom, shows: &dyn Fn(&str) -> bool) -> Option<String> {
    match (&from.header, &from.data) {
        (Some(header), None) if shows(header) => Some(format!(
            "{at}.header: {header} shows who sends a request, and whoever reads the topic would be shown it: take a claim of it \
             (auth.jwt, claimsToHeaders), or another header."
        )),
        (Some(_), None) => None,
        (None, Some(data)) => match Path::parse(data) {
            Ok(path) if path.is_singular() => None,
            Ok(_) => Some(format!(
                "{at}.data: it leads to several places: name one, such as [0] instead of [*]."
            )),
            Err(why) => Some(format!("{at}.data: {why}.")),
        },
        _ => Some(format!("{at}: write header or data, one of them.")),
    }
}
