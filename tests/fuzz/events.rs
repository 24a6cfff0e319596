//! What is asked of an event, and what many are split from.

use std::borrow::Cow;

use sidecar::events::split::{Format, Path, Splitter};
use wire::cesql::{Attributes, Expression, Value};

use crate::{fuzz, text};

/// An event whose every second attribute is there.
struct Event;

impl Attributes for Event {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        match name.len() {
            2 => Some(Value::String(Cow::Borrowed("12"))),
            4 => Some(Value::String(Cow::Borrowed("é-ß"))),
            6 => Some(Value::Integer(i32::MIN)),
            8 => Some(Value::Boolean(true)),
            _ => None,
        }
    }
}

#[test]
fn fuzz_expressions_of_cloudevents_sql() {
    let good: &[&[u8]] = &[
        b"type LIKE 'a%\\_' AND NOT EXISTS subject OR id IN (1, '2', TRUE)",
        b"SUBSTRING(type, -2, 1) = LEFT('abc', id) XOR -numbers % 7 <= +3 * (id - 1)",
        b"CONCAT_WS(', ', id, booleans, \"it's\") NOT IN (UPPER(type)) <> ABS(numbers) > 0",
    ];
    for expression in good {
        let expression = std::str::from_utf8(expression).expect("text");
        assert!(Expression::parse(expression).is_ok(), "{expression}");
    }
    let pieces: &[&[u8]] = &[
        b"(",
        b")",
        b"'",
        b"\"",
        b"\\",
        b",",
        b"-",
        b"+",
        b"%",
        b" NOT ",
        b" IN (",
        b" LIKE '",
        b"EXISTS ",
        b"2147483648",
        b"-2147483648",
        b"SUBSTRING(",
        b"\xc3\xa9",
    ];
    fuzz(
        20_000,
        good,
        pieces,
        text(|text| {
            if let Ok(expression) = Expression::parse(text) {
                // What an event comes to, it comes to again.
                assert_eq!(expression.evaluate(&Event), expression.evaluate(&Event));
                assert_eq!(expression.passes(&Event), expression.passes(&Event));
            }
        }),
    );
}

/// What becomes of a body that comes in pieces of so many bytes.
fn split(format: &Format, body: &[u8], piece: usize) -> Vec<String> {
    const MAX: usize = 64;
    let (mut splitter, mut all) = (Splitter::new(format, MAX), Vec::new());
    for mut piece in body.chunks(piece) {
        loop {
            match splitter.next(&mut piece) {
                Ok(Some(record)) => all.push(format!("{record:?}")),
                Ok(None) => break,
                Err(broken) => {
                    all.push(broken.to_string());
                    return all;
                }
            }
        }
        assert!(splitter.held() < 64 * 1024, "{}", splitter.held());
    }
    all.push(format!("{:?}", splitter.end()));
    all
}

#[test]
fn fuzz_bodies_that_are_split_into_records() {
    let xml = Format::Xml(Path::read("a/b").expect("a path"));
    let bodies: [(Format, &[&[u8]]); 4] = [
        (
            Format::Ndjson,
            &[b"{\"a\":[1,\"\\u00e9\"]}\r\n\n[2]\ntrue", b"\xef\xbb\xbf1\n2"],
        ),
        (
            Format::JsonArray,
            &[b"[{\"a\":[1,\"]\\\"\"]}, 2, \"x\"]", b" [ ] "],
        ),
        (
            Format::Csv,
            &[b"a,\"b\"\r\n1,\"2,\"\"3\r\n\"\r\n\r\n,\n", b"a\n1\n2"],
        ),
        (
            xml,
            &[
                b"<?xml version='1.0' encoding='UTF-8'?><a xmlns:p='u'><p:b c='>'>&lt;<![CDATA[<]]></p:b><b/></a>",
                b"<a><!-- <b> --><c><b/></c><b><d>&#65;</d></b></a>",
            ],
        ),
    ];
    let pieces: &[&[u8]] = &[
        b"<![CDATA[",
        b"]]>",
        b"<!--",
        b"-->",
        b"<!DOCTYPE a [",
        b"<b>",
        b"</b>",
        b"/>",
        b"<?",
        b"?>",
        b"&lt;",
        b"&#0;",
        b"xmlns=''",
        b"\\\"",
        b"\"\"",
        b"],[",
        b"}{",
    ];
    for (format, examples) in bodies {
        for example in examples {
            let all = split(&format, example, usize::MAX);
            assert!(
                all.last().is_some_and(|end| end.starts_with("Ok")),
                "{all:?}"
            );
        }
        fuzz(5_000, examples, pieces, |body| {
            // Wherever it is cut, it is the same.
            let whole = split(&format, body, usize::MAX);
            assert_eq!(split(&format, body, 1), whole);
            assert_eq!(split(&format, body, 7), whole);
        });
    }
}
