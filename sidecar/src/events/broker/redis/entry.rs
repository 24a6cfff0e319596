//! Messages as entries of a stream, as anybody can write and read them.
//!
//! Each header is a field of its name, and the data are the field `data`, which no header may be
//! called: an event is `ce-id`, `ce-source` and so on, `content-type` and `data`. Of others, an entry
//! that says nothing of this is read as a JSON object of its fields.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::events::broker::Message;

/// The field with the data.
pub(super) const DATA: &str = "data";
/// The longest message that is published, in bytes, headers included.
pub(super) const LONGEST: usize = 8 * 1024 * 1024;
/// How many headers a message has at most, and how many bytes they are, whoever has written it.
const HEADERS: usize = 256;
const HEADERS_BYTES: usize = 64 * 1024;

/// Why a message can't be an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// It is longer than is published.
    TooLong,
    /// What is wrong with it.
    Refused(&'static str),
}

/// The fields and values of a message.
pub(super) fn written(message: &Message) -> Result<Vec<&[u8]>, Unwritten> {
    let mut fields: Vec<&[u8]> = Vec::with_capacity(message.headers.len() * 2 + 2);
    let mut headers = 0;
    for (name, value) in &message.headers {
        if !is_name(name.as_bytes()) {
            return Err(Unwritten::Refused("the name of a header can't be one"));
        }
        if name.eq_ignore_ascii_case(DATA) {
            return Err(Unwritten::Refused("a header has the name of the data"));
        }
        if value.chars().any(char::is_control) {
            return Err(Unwritten::Refused("a header has a control character"));
        }
        headers += name.len() + value.len();
        fields.extend([name.as_bytes(), value.as_bytes()]);
    }
    if headers + DATA.len() + message.data.len() > LONGEST {
        return Err(Unwritten::TooLong);
    }
    // What nobody would read as it was.
    if message.headers.len() > HEADERS || headers > HEADERS_BYTES {
        return Err(Unwritten::Refused("its headers are too many or too long"));
    }
    fields.extend([DATA.as_bytes(), &message.data]);
    Ok(fields)
}

/// The message of an entry. One with fields that can't be headers has none.
pub(super) fn read(fields: Vec<Vec<u8>>) -> Message {
    let mut fields = fields.into_iter();
    let (mut data, mut others) = (None, Vec::new());
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match name == DATA.as_bytes() && data.is_none() {
            true => data = Some(Bytes::from(value)),
            false => others.push((name, value)),
        }
    }
    let of_an_event = |(name, _): &(Vec<u8>, Vec<u8>)| {
        let name = name.to_ascii_lowercase();
        name.starts_with(b"ce-") || name == b"content-type"
    };
    match data {
        None if !others.iter().any(of_an_event) => of_fields(others),
        data => Message {
            headers: headers(others).unwrap_or_default(),
            data: data.unwrap_or_default(),
        },
    }
}

/// An event that nobody can read, in place of an entry that is too long to be: what exhausts such is
/// done with it, and it is still in the stream.
pub(super) fn too_long() -> Message {
    Message {
        headers: vec![("ce-id".to_owned(), String::new())],
        data: Bytes::new(),
    }
}

/// Fields that somebody has written who knows nothing of headers.
fn of_fields(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Message {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = fields.iter();
    let object =
        Map::from_iter(fields.map(|(name, value)| (text(name), Value::String(text(value)))));
    Message {
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        data: Value::Object(object).to_string().into(),
    }
}

fn headers(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Vec<(String, String)>> {
    let bytes = fields.iter().map(|(name, value)| name.len() + value.len());
    if fields.len() > HEADERS || bytes.sum::<usize>() > HEADERS_BYTES {
        return None;
    }
    let header = |(name, value): (Vec<u8>, Vec<u8>)| {
        let name = is_name(&name).then(|| name.to_ascii_lowercase())?;
        let value = String::from_utf8(value).ok()?;
        let fine = !value.chars().any(char::is_control);
        fine.then_some((String::from_utf8(name).ok()?, value))
    };
    fields.into_iter().map(header).collect()
}

/// Whether something is a token (RFC 9110, section 5.6.2).
fn is_name(name: &[u8]) -> bool {
    let may_be = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(may_be)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)], data: &[u8]) -> Message {
        let headers = headers.iter();
        Message {
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            data: data.to_vec().into(),
        }
    }

    fn entry(fields: &[&[u8]]) -> Message {
        read(fields.iter().map(|part| part.to_vec()).collect())
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for message in [
            of(&[("ce-id", "1"), ("content-type", "text/plain")], b"\0\xff"),
            of(&[("ce-id", "1"), ("ce-id", "2"), ("a", "")], b""),
            of(&[], b"a"),
        ] {
            let fields = written(&message).unwrap();
            assert_eq!(entry(&fields), message);
        }
    }

    #[test]
    fn a_header_that_could_not_be_read_again_is_refused() {
        for (name, value) in [
            ("data", "b"),
            ("Data", "b"),
            ("", "b"),
            ("a b", "c"),
            ("a", "b\nc"),
            ("ä", "b"),
        ] {
            let refused = written(&of(&[(name, value)], b"")).map(drop);
            assert!(
                matches!(refused, Err(Unwritten::Refused(_))),
                "{name:?}: {value:?}"
            );
        }
        let many = vec![("a", "b"); HEADERS + 1];
        assert!(written(&of(&many, b"")).is_err());
        let longest = vec![0; LONGEST - 4];
        assert!(written(&of(&[], &longest)).is_ok());
        assert_eq!(
            written(&of(&[("a", "")], &longest)).map(drop),
            Err(Unwritten::TooLong)
        );
    }

    #[test]
    fn fields_that_can_not_be_headers_take_all_of_them_along_and_leave_the_data() {
        for bad in [
            [b"ce-type".as_slice(), b"a\r\nb"],
            [b"ce-type", b"\xff"],
            [b"a b", b"c"],
            [b"\0", b"c"],
            [b"", b""],
        ] {
            let found = entry(&[b"ce-id", b"1", b"data", b"x", bad[0], bad[1]]);
            assert_eq!(found, of(&[], b"x"), "{bad:?}");
        }
        let many = vec![b"a".as_slice(); 2 * HEADERS + 2];
        let found = entry(&[&[b"data".as_slice(), b"x"], &many[..]].concat());
        assert_eq!(found, of(&[], b"x"));
        let long = vec![b'a'; HEADERS_BYTES + 1];
        assert_eq!(entry(&[b"data", b"x", b"a", &long]), of(&[], b"x"));
    }

    #[test]
    fn plain_fields_are_read_as_json_and_an_event_may_have_no_data() {
        let found = entry(&[b"order", b"17", b"note\n", b"\xffa"]);
        assert_eq!(found.data, r#"{"note\n":"�a","order":"17"}"#.as_bytes());
        assert_eq!(found.headers[0].1, "application/json");
        assert_eq!(entry(&[b"Ce-Id", b"1"]), of(&[("ce-id", "1")], b""));
        // A name of which there are two, and no value for the last.
        assert_eq!(
            entry(&[b"data", b"x", b"data", b"y", b"z"]),
            of(&[("data", "y")], b"x")
        );
        assert_eq!(entry(&[]).data, "{}");
    }

    #[test]
    fn what_is_too_long_is_an_event_that_nobody_can_read() {
        let message = too_long();
        let headers = message.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
        assert!(crate::events::cloud_event::Event::from_message(headers, message.data).is_err());
    }
}
