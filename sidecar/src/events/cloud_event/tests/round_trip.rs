//! Of whatever is sent: what is written is read as it was, and nothing panics.

use ::http::header::CONTENT_TYPE;
use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

/// A text as attributes may have it, in any script.
fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let one = any::<char>().prop_filter("not allowed", |c| {
        attribute::check("a", c.encode_utf8(&mut [0; 4])).is_ok()
    });
    // Those that encodings treat in their own way come too seldom by chance.
    let one = prop_oneof![
        one,
        prop::sample::select(vec!['"', '%', '\\', ' ', ';', 'a', '\u{a0}'])
    ];
    prop::collection::vec(one, length).prop_map(String::from_iter)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        bytes(),
        text(0..32).prop_map(String::into_bytes),
        text(0..32).prop_map(|text| serde_json::json!({ text: [1, null, {}] })
            .to_string()
            .into()),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let media_types = vec![
        None,
        Some("application/json"),
        Some("application/vnd.a+json; charset=utf-8"),
        Some("text/plain"),
        Some("text/csv; charset=\"UTF-8\"; header=\"a;b\""),
        Some("text/html; charset=iso-8859-1"),
        Some("application/xml"),
        Some("application/octet-stream"),
        Some(JSON),
        Some("application/cloudevents+avro"),
    ];
    let reference =
        || text(1..20).prop_map(|text| format!("/{}", text.replace(char::is_whitespace, "-")));
    let required = (text(1..20), reference(), text(1..20));
    let extensions = prop::collection::btree_map("[a-z][a-z0-9]{0,20}", text(0..20), 0..8);
    let optional = (prop::option::of(text(1..20)), prop::option::of(reference()));
    let media_types = prop::sample::select(media_types);
    (required, optional, extensions, media_types, data()).prop_map(
        |((id, source, kind), (subject, schema), extensions, media_type, data)| {
            let mut event = Event::new(id, source, kind).unwrap();
            for (name, value) in extensions {
                // Not every text is a time.
                let _ = event.set(&name, value);
            }
            let optional = [("subject", subject), ("dataschema", schema)];
            for (name, value) in optional {
                value
                    .into_iter()
                    .for_each(|value| event.set(name, value).unwrap());
            }
            if let Some(media_type) = media_type {
                event.set("datacontenttype", media_type).unwrap();
            }
            event.data = data.into();
            event
        },
    )
}

/// What JSON makes of an event: no whitespace around data that are JSON, of which it is said that they are.
fn through_json(mut event: Event) -> Event {
    if event.media_type().is_none_or(media_type::is_json)
        && !event.media_type().is_some_and(media_type::is_of_events)
        && serde_json::from_slice::<IgnoredAny>(&event.data).is_ok()
        && let Ok(json) = str::from_utf8(&event.data)
    {
        event.data = Bytes::copy_from_slice(json.trim().as_bytes());
        if event.media_type().is_none() {
            event.set("datacontenttype", "application/json").unwrap();
        }
    }
    event
}

proptest! {
    #[test]
    fn an_event_that_is_written_to_http_is_read_as_it_was(event in events()) {
        let mut headers = HeaderMap::new();
        let body = event.to_http(&mut headers);
        for value in headers.values() {
            prop_assert!(value.to_str().is_ok());
        }
        prop_assert_eq!(receive(&headers, &body), Ok(Received::Event(event)));
    }

    #[test]
    fn an_event_that_is_written_as_json_is_read_as_it_was(event in events()) {
        let json = String::from_utf8(event.to_json()).unwrap();
        prop_assert_eq!(read(&json), Ok(through_json(event)));
    }

    #[test]
    fn an_event_that_is_written_as_a_message_is_read_as_it_was(event in events()) {
        let (headers, data) = event.to_message();
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (_, value) in pairs.clone() {
            prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
        prop_assert_eq!(Event::from_message(pairs, data), Ok(Some(event)));
    }

    #[test]
    fn no_bytes_panic(body in bytes()) {
        let body = Bytes::from(body);
        for media_type in [JSON, BATCH, "text/plain"] {
            drop(receive(&headers(&[("content-type", media_type)]), &body));
        }
    }

    #[test]
    fn no_headers_panic(name in "ce-[a-z0-9_-]{0,12}", value in bytes(), media_type in bytes()) {
        let mut all = binary(&[]);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            all.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        if let Ok(media_type) = HeaderValue::from_bytes(&media_type) {
            all.append(CONTENT_TYPE, media_type);
        }
        drop(receive(&all, &Bytes::new()));
        let (value, media_type) = (String::from_utf8_lossy(&value), String::from_utf8_lossy(&media_type));
        let pairs = [(name.as_str(), &*value), ("content-type", &*media_type), ("ce-id", "1")];
        drop(Event::from_message(pairs.into_iter(), Bytes::new()));
    }

    #[test]
    fn json_that_is_spoilt_is_refused_or_means_one_event(
        event in events(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut json = event.to_json();
        for (at, byte) in spoilt {
            let at = at.index(json.len());
            json[at] = byte;
        }
        let read = receive(&headers(&[("content-type", JSON)]), &json.into());
        if let Ok(Received::Event(event)) = read {
            let json = String::from_utf8(event.to_json()).unwrap();
            prop_assert_eq!(self::read(&json), Ok(through_json(event)));
        }
    }
}
