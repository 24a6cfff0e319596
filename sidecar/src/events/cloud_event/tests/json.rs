//! Of events and batches in JSON.

use super::*;

#[test]
fn values_of_attributes_are_texts_whatever_json_they_were() {
    let read = read(&structured(
        r#","a":true,"b":-5,"c":2147483647,"d":"\u00e9\ud83d\ude00","subject":null,"no_name":null"#,
    ));
    let mut expected = event();
    for (name, value) in [
        ("a", "true"),
        ("b", "-5"),
        ("c", "2147483647"),
        ("d", "é😀"),
    ] {
        expected.set(name, value).unwrap();
    }
    assert_eq!(read, Ok(expected));
}

#[test]
fn members_that_no_event_has_are_refused() {
    let kind = Malformed::Type("a".into());
    let long = format!(r#","a":"{}""#, "x".repeat(7 * MAX_ATTRIBUTE_BYTES));
    for (more, refused) in [
        (r#","a":{}"#, kind.clone()),
        (r#","a":[1]"#, kind.clone()),
        (r#","a":1.0"#, kind.clone()),
        (r#","a":1e3"#, kind.clone()),
        (r#","a":2147483648"#, kind),
        (r#","a":"\n""#, Malformed::Character("a".into())),
        (r#","a":"\udead""#, Malformed::Character("a".into())),
        (r#","A":"b""#, Malformed::Name("A".into())),
        (r#","a\u0000b":"c""#, Malformed::Name("a\\0b".into())),
        (r#","id":"A234-1234""#, Malformed::Repeated("id".into())),
        (r#","i\u0064":null"#, Malformed::Repeated("id".into())),
        (r#","data":1,"data":1"#, Malformed::Repeated("data".into())),
        (r#","data":null,"data_base64":"""#, Malformed::TwoData),
        (r#","data_base64":"a""#, Malformed::Base64),
        (r#","data_base64":1"#, Malformed::Base64),
        (
            r#","datacontenttype":"text/plain; charset=utf-16","data":"a""#,
            Malformed::DataCharset,
        ),
        (&long, Malformed::Long("a".into())),
    ] {
        assert_eq!(read(&structured(more)), Err(refused), "{more}");
    }
    let old = r#"{"specversion":"0.3","id":"1","source":"a","type":"b"}"#;
    assert_eq!(read(old), Err(Malformed::Version));
    let less = r#"{"specversion":"1.0","id":null,"source":"a","type":"b"}"#;
    assert_eq!(read(less), Err(Malformed::Missing("id")));
    let many: String = (0..1000).map(|at| format!(r#","a{at}":"""#)).collect();
    assert_eq!(read(&structured(&many)), Err(Malformed::TooMany));
}

#[test]
fn what_is_no_json_is_refused_with_the_place() {
    for text in ["", "[]", "null", "\"private\"", "\u{feff}{}"] {
        assert_eq!(read(text), Err(Malformed::NotAnObject), "{text}");
    }
    for text in [
        "{",
        "{} {}",
        "{\"private\":1,}",
        "{\"a\":01}",
        "{private:1}",
    ] {
        let refused = read(text).unwrap_err();
        assert!(matches!(refused, Malformed::Json { line: 1, .. }), "{text}");
        assert!(!refused.to_string().contains("private"), "{refused}");
    }
    let body = Bytes::from_static(b"{\n\"a\":\"\xff\"}");
    let refused = receive(&headers(&[("content-type", JSON)]), &body);
    let place = Malformed::Json { line: 2, column: 6 };
    assert_eq!(refused, Err(place));
}

#[test]
fn data_in_json_become_bytes_by_their_media_type() {
    for (media_type, member, data) in [
        (
            None,
            r#""data": {"a" : 1.50, "a": 1e999} "#,
            r#"{"a" : 1.50, "a": 1e999}"#,
        ),
        (
            None,
            r#""data":"I'm just a string""#,
            r#""I'm just a string""#,
        ),
        (None, r#""data":null"#, "null"),
        (None, r#""data_base64":"AGE=""#, "\0a"),
        (None, r#""data_base64":null"#, ""),
        (Some("application/vnd.a+json"), r#""data":"a""#, r#""a""#),
        (Some("text/json"), r#""data":["\ud800"]"#, r#"["\ud800"]"#),
        (
            Some("application/xml"),
            r#""data":"<a b=\"c\"/>""#,
            r#"<a b="c"/>"#,
        ),
        (Some("text/plain"), r#""data":null"#, ""),
        (Some("text/plain"), r#""data":5"#, "5"),
        (Some("application/octet-stream"), r#""data":"a""#, "a"),
    ] {
        let said = media_type.map(|of| format!(r#","datacontenttype":"{of}""#));
        let json = structured(&format!("{},{member}", said.unwrap_or_default()));
        let read = read(&json).unwrap();
        assert_eq!(read.data, data, "{json}");
        let implied = member.contains("\"data\"").then_some("application/json");
        assert_eq!(read.attribute("datacontenttype"), media_type.or(implied));
    }
}

#[test]
fn data_are_written_in_the_plainest_way_that_loses_nothing() {
    for (media_type, data, member) in [
        (None, "{\"a\" : 1.50}", r#""data":{"a" : 1.50}"#),
        (None, " 1\n", r#""data":1"#),
        (None, "a", r#""data_base64":"YQ==""#),
        (Some("application/json"), "{", r#""data_base64":"ew==""#),
        (Some("application/vnd.a+json"), "null", r#""data":null"#),
        (Some("text/plain"), "\"a\"", r#""data":"\"a\"""#),
        (Some("image/svg+xml"), "<a/>", r#""data":"<a/>""#),
        (
            Some("text/plain; charset=iso-8859-1"),
            "a",
            r#""data_base64":"YQ==""#,
        ),
        (
            Some("application/octet-stream"),
            "a",
            r#""data_base64":"YQ==""#,
        ),
    ] {
        let mut event = event();
        if let Some(media_type) = media_type {
            event.set("datacontenttype", media_type).unwrap();
        }
        event.data = Bytes::from_static(data.as_bytes());
        let json = String::from_utf8(event.to_json()).unwrap();
        assert!(json.ends_with(&format!(",{member}}}")), "{json}");
    }
    let json = String::from_utf8(event().to_json()).unwrap();
    assert!(!json.contains("data"), "{json}");
}

#[test]
fn what_looks_like_the_end_of_a_member_inside_of_one_is_not() {
    let strange = r#","a" : "}],:\"\\" , "b":"\\","data":{"c,":["}\"",{"d":":"}],"e":[,]}"#;
    assert!(matches!(
        read(&structured(strange)),
        Err(Malformed::Json { .. })
    ));
    let read = read(&structured(&strange.replace("[,]", "[ ]"))).unwrap();
    assert_eq!(read.attribute("a"), Some("}],:\"\\"));
    assert_eq!(read.attribute("b"), Some("\\"));
    assert_eq!(read.data, r#"{"c,":["}\"",{"d":":"}],"e":[ ]}"#);
}

#[test]
fn data_that_nest_too_deep_are_refused_and_never_written_as_json() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let of = |depth| read(&structured(&format!(",\"data\":{}", nested(depth))));
    assert_eq!(of(MAX_DEPTH).unwrap().data, nested(MAX_DEPTH));
    assert_eq!(of(MAX_DEPTH + 1), Err(Malformed::Deep));
    assert_eq!(of(1_000_000), Err(Malformed::Deep));
    assert!(read(&structured(r#","data":"[[\"[[[""#)).is_ok());

    let mut deep = event();
    deep.data = nested(MAX_DEPTH + 1).into();
    let json = String::from_utf8(deep.to_json()).unwrap();
    assert!(json.contains("data_base64"));
    assert_eq!(read(&json), Ok(deep));
    // What serde_json builds is what this lets pass.
    assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
    assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH + 1)).is_err());
}

#[test]
fn an_entry_of_a_batch_that_is_no_event_spoils_no_other() {
    let batch = format!("[{0}, 5, {{\"id\": 1}}, {0}]", structured(""));
    let expected = vec![
        Ok(event()),
        Err(Malformed::NotAnObject),
        Err(Malformed::Missing("specversion")),
        Ok(event()),
    ];
    assert_eq!(read_batch(&batch), Ok(expected));
    assert_eq!(read_batch(" [ ] "), Ok(Vec::new()));
    assert_eq!(read_batch(&structured("")), Err(Malformed::NotAnArray));
    let cut = read_batch(&format!("[{}", structured("")));
    assert!(matches!(cut, Err(Malformed::Json { .. })));
}

#[test]
fn a_batch_has_so_many_events_and_no_more() {
    let batch = |count: usize| read_batch(&format!("[{}]", vec!["1"; count].join(",")));
    assert_eq!(batch(MAX_BATCH).unwrap().len(), MAX_BATCH);
    assert_eq!(batch(MAX_BATCH + 1), Err(Malformed::TooManyEvents));
}

#[test]
fn a_batch_that_is_written_is_read() {
    let mut second = event();
    second.set("id", "2").unwrap();
    second.data = Bytes::from_static(b"\xff");
    let events = [event(), second];
    let json = String::from_utf8(Event::batch_to_json(events.iter())).unwrap();
    assert_eq!(read_batch(&json), Ok(events.map(Ok).to_vec()));
    assert_eq!(Event::batch_to_json([].into_iter()), b"[]");
}
