//! What is asked of an event.

use std::borrow::Cow;

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
