//! Of events in messages of a broker.

use super::*;

#[test]
fn a_message_is_an_event_by_its_headers_in_any_case() {
    let head = [
        ("CE-SpecVersion", "1.0"),
        ("ce-id", " A234-1234 "),
        ("ce-source", "/mycontext"),
        ("Ce-Type", "com.example.some"),
        ("Nats-Msg-Id", "1"),
    ];
    assert_eq!(message(&head, ""), Ok(Some(event())));
    let twice = [&head[..], &[("CE-ID", "other")]].concat();
    assert_eq!(message(&twice, ""), Err(Malformed::Repeated("id".into())));
    let json = structured("");
    let json: &'static str = json.leak();
    assert_eq!(message(&[("Content-Type", JSON)], json), Ok(Some(event())));
    assert_eq!(
        message(&[("Content-Type", BATCH)], "[]"),
        Err(Malformed::Format)
    );
    let latin = format!("{JSON};charset=iso-8859-1");
    assert_eq!(
        message(&[("content-type", &latin)], json),
        Err(Malformed::Charset)
    );
    for none in [&[][..], &[("content-type", "a/b"), ("ce-region", "eu")]] {
        assert_eq!(message(none, json), Ok(None));
    }
}

#[test]
fn the_media_type_of_data_stands_in_either_header_of_a_message() {
    let mut typed = event();
    typed
        .set("datacontenttype", "text/plain; charset=utf-8")
        .unwrap();
    let (written, _) = typed.to_message();
    let pairs: Vec<_> = written
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let (own, general) = ("ce-datacontenttype", "content-type");
    assert!(pairs.contains(&(own, "text/plain;%20charset=utf-8")));
    assert!(pairs.contains(&(general, "text/plain; charset=utf-8")));
    assert_eq!(message(&pairs, ""), Ok(Some(typed.clone())));
    for left_out in [own, general] {
        let one: Vec<_> = pairs
            .iter()
            .copied()
            .filter(|(name, _)| *name != left_out)
            .collect();
        assert_eq!(message(&one, ""), Ok(Some(typed.clone())), "{left_out}");
    }
    let both = pairs.iter().map(|pair| {
        if pair.0 == general {
            (general, "a/b")
        } else {
            *pair
        }
    });
    let refused = message(&both.collect::<Vec<_>>(), "");
    assert_eq!(refused, Err(Malformed::Repeated("datacontenttype".into())));
}
