//! Of events as such here, and of each way in which they are sent beside.

mod http;
mod json;
mod message;
mod round_trip;

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use wire::cesql::Expression;

use super::*;

const JSON: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn event() -> Event {
    Event::new("A234-1234", "/mycontext", "com.example.some").unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// The headers of an event, and some more.
fn binary(more: &[(&str, &str)]) -> HeaderMap {
    let event = [
        ("ce-specversion", "1.0"),
        ("ce-id", "A234-1234"),
        ("ce-source", "/mycontext"),
        ("ce-type", "com.example.some"),
    ];
    headers(&[&event, more].concat())
}

fn received(headers: &HeaderMap, body: &'static str) -> Result<Event, Malformed> {
    match receive(headers, &Bytes::from_static(body.as_bytes()))? {
        Received::Event(event) => Ok(event),
        other => panic!("{other:?}"),
    }
}

/// The members of an event, and some more.
fn structured(more: &str) -> String {
    let event =
        r#""specversion":"1.0","id":"A234-1234","source":"/mycontext","type":"com.example.some""#;
    format!("{{{event}{more}}}")
}

fn read(json: &str) -> Result<Event, Malformed> {
    let body = Bytes::copy_from_slice(json.as_bytes());
    match receive(&headers(&[("content-type", JSON)]), &body)? {
        Received::Event(event) => Ok(event),
        other => panic!("{other:?}"),
    }
}

fn read_batch(json: &str) -> Result<Vec<Result<Event, Malformed>>, Malformed> {
    let body = Bytes::copy_from_slice(json.as_bytes());
    match receive(&headers(&[("content-type", BATCH)]), &body)? {
        Received::Batch(batch) => Ok(batch),
        other => panic!("{other:?}"),
    }
}

fn message(headers: &[(&str, &str)], data: &'static str) -> Result<Option<Event>, Malformed> {
    Event::from_message(headers.iter().copied(), Bytes::from_static(data.as_bytes()))
}

#[test]
fn an_event_has_what_every_event_has() {
    let event = event();
    let all: Vec<_> = event.attributes().collect();
    let expected = [
        ("id", "A234-1234"),
        ("source", "/mycontext"),
        ("specversion", "1.0"),
        ("type", "com.example.some"),
    ];
    assert_eq!(all, expected);
    assert_eq!(Event::new("", "a", "b"), Err(Malformed::Empty("id".into())));
    let refused = Event::new("a", "b c", "d");
    assert_eq!(refused, Err(Malformed::Reference("source".into())));
}

#[test]
fn an_attribute_that_is_refused_leaves_the_event_as_it_was() {
    let mut changed = event();
    assert_eq!(changed.set("time", "now"), Err(Malformed::Time));
    assert_eq!(changed.set("specversion", "0.3"), Err(Malformed::Version));
    assert_eq!(changed, event());
    changed.set("id", "2").unwrap();
    assert_eq!(changed.attribute("id"), Some("2"));
}

#[test]
fn only_extensions_are_removed() {
    let mut event = event();
    event.set("region", "eu").unwrap();
    event.set("subject", "a").unwrap();
    assert_eq!(event.remove_extension("region"), Some("eu".into()));
    assert_eq!(event.remove_extension("region"), None);
    assert_eq!(event.attribute("region"), None);
    for name in REQUIRED.iter().chain(&["subject"]) {
        assert_eq!(event.remove_extension(name), None);
        assert!(event.attribute(name).is_some(), "{name}");
    }
}

#[test]
fn attributes_are_bounded_in_number_and_together() {
    let mut many = event();
    for at in REQUIRED.len()..MAX_ATTRIBUTES {
        many.set(&format!("a{at}"), "").unwrap();
    }
    assert_eq!(many.set("b", ""), Err(Malformed::TooMany));
    many.set("a9", "another value").unwrap();

    let mut large = event();
    let long = "x".repeat(MAX_ATTRIBUTE_BYTES);
    for name in ["a", "b", "c"] {
        large.set(name, long.clone()).unwrap();
    }
    assert_eq!(large.set("d", long.clone()), Err(Malformed::TooLarge));
    large.set("c", long).unwrap();
}

#[test]
fn an_expression_reads_the_attributes_of_an_event() {
    let mut event = event();
    event.set("count", "5").unwrap();
    let passes = |text: &str| Expression::parse(text).unwrap().passes(&event);
    assert!(passes(
        "type LIKE 'com.example.%' AND count > 4 AND EXISTS specversion"
    ));
    assert!(!passes("EXISTS subject"));
}

#[test]
fn sentences_show_names_cut_short_and_no_values() {
    let name = format!("{}\n", "é".repeat(100));
    let refused = event().set(&name, "private").unwrap_err();
    let Malformed::Name(shown) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(shown.chars().count(), 64);
    let refused = event().set("time", "private").unwrap_err();
    assert!(!refused.to_string().contains("private"));
}
