//! Of events over HTTP.

use ::http::header::CONTENT_TYPE;

use super::*;

#[test]
fn headers_and_a_body_are_an_event() {
    let more = [
        ("ce-time", "2018-04-05T03:56:24Z"),
        ("Ce-Subject", "Euro%20%E2%82%AC"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    let read = received(&binary(&more), "{}").unwrap();
    let mut expected = event();
    expected.set("time", "2018-04-05T03:56:24Z").unwrap();
    expected.set("subject", "Euro €").unwrap();
    let media_type = "application/json; charset=utf-8";
    expected.set("datacontenttype", media_type).unwrap();
    expected.data = Bytes::from_static(b"{}");
    assert_eq!(read, expected);
}

#[test]
fn a_body_alone_is_no_event() {
    for plain in [
        headers(&[]),
        headers(&[("content-type", "application/json")]),
        headers(&[("ce-region", "eu"), ("x-ce-id", "1"), ("id", "1")]),
    ] {
        let plain = receive(&plain, &Bytes::from_static(b"{}"));
        assert_eq!(plain, Ok(Received::Plain));
    }
}

#[test]
fn a_header_that_is_no_attribute_is_not_read() {
    let more = [
        ("x-region", "eu"),
        ("ceregion", "eu"),
        ("authorization", "private"),
    ];
    assert_eq!(received(&binary(&more), ""), Ok(event()));
}

#[test]
fn whoever_sends_some_of_an_event_is_told_what_is_missing() {
    for mark in REQUIRED {
        let some = headers(&[(&format!("ce-{mark}"), "1.0")]);
        let missing = REQUIRED.into_iter().find(|name| *name != mark).unwrap();
        assert_eq!(received(&some, ""), Err(Malformed::Missing(missing)));
    }
}

#[test]
fn headers_that_no_event_has_are_refused() {
    let repeated = |name: &str| Malformed::Repeated(name.into());
    for (more, refused) in [
        (("ce-id", "other"), repeated("id")),
        (("ce-my-region", "eu"), Malformed::Name("my-region".into())),
        (("ce-", "eu"), Malformed::Name("".into())),
        (("ce-data", "eu"), Malformed::Name("data".into())),
        (("ce-a", "%0A"), Malformed::Character("a".into())),
        (("ce-a", "%C0%A0"), Malformed::Percent("a".into())),
        (("ce-a", "\"b"), Malformed::Quotes("a".into())),
        (("ce-subject", ""), Malformed::Empty("subject".into())),
        (("ce-time", "now"), Malformed::Time),
        (("content-type", "json"), Malformed::MediaType),
        (("content-type", "a/b; c=é"), Malformed::MediaType),
        (("ce-datacontenttype", "a/b"), Malformed::TypeInHeader),
    ] {
        assert_eq!(received(&binary(&[more]), ""), Err(refused), "{more:?}");
    }
    let two = [("content-type", "a/b"), ("content-type", JSON)];
    assert_eq!(received(&binary(&two), ""), Err(repeated("content-type")));
    let mut old = binary(&[]);
    old.insert("ce-specversion", HeaderValue::from_static("0.3"));
    assert_eq!(received(&old, ""), Err(Malformed::Version));
}

#[test]
fn a_format_that_is_not_read_is_an_unsupported_media_type() {
    for other in [
        "application/cloudevents",
        "application/cloudevents+avro",
        "Application/CloudEvents-batch+protobuf; a=b",
        "application/cloudevents+xml; a=é",
    ] {
        // Headers of an event beside it make it no event in binary mode.
        let refused = received(&binary(&[("content-type", other)]), "").unwrap_err();
        assert_eq!(refused, Malformed::Format);
        assert!(refused.is_unsupported_format());
    }
    for format in [JSON, BATCH] {
        let latin = format!("{format}; charset=iso-8859-1");
        let refused = received(&headers(&[("content-type", &latin)]), "{}").unwrap_err();
        assert_eq!(refused, Malformed::Charset);
        assert!(refused.is_unsupported_format());
    }
    assert!(!Malformed::Version.is_unsupported_format());
    let json = structured("");
    let media_type = format!("{JSON}; charset=\"UTF-8\"");
    let read = receive(&headers(&[("content-type", &media_type)]), &json.into());
    assert_eq!(read, Ok(Received::Event(event())));
}

#[test]
fn headers_of_another_event_do_not_stay() {
    let mut headers = binary(&[
        ("ce-region", "eu"),
        ("content-type", "text/plain"),
        ("x-request-id", "1"),
    ]);
    let mut event = event();
    event.set("subject", "a \"b\" 100%").unwrap();
    event.data = Bytes::from_static(b"x");
    assert_eq!(event.to_http(&mut headers), "x");
    let subject = ("ce-subject", "a%20%22b%22%20100%25");
    assert_eq!(headers, binary(&[subject, ("x-request-id", "1")]));
}

#[test]
fn an_event_of_an_event_is_not_taken_for_the_one_inside() {
    let mut outer = event();
    outer.set("datacontenttype", JSON).unwrap();
    outer.set("reason", "expired").unwrap();
    outer.data = event().to_json().into();
    let mut headers = HeaderMap::new();
    let body = outer.to_http(&mut headers);
    assert_eq!(headers.get(CONTENT_TYPE).unwrap(), JSON);
    assert_eq!(receive(&headers, &body), Ok(Received::Event(outer.clone())));
    let (headers, data) = outer.to_message();
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(Event::from_message(pairs, data), Ok(Some(outer)));
}
