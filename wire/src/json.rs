//! JSON that has one meaning.
//!
//! Of two members of one name most readers take the last, and some the first (RFC 8259 section 4):
//! what one program checked is then not what the next one acts on. Here a second member of a name is
//! refused, in whichever object and however it is spelt (`"iss"`, `"\u0069ss"`); so is what nests
//! deeper than serde_json goes (128), and a number beyond what an `f64` holds.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads an object. What can be said of the bytes says nothing of what is in them: they may be
/// somebody's token.
///
/// # Errors
/// A clause with the line and column.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Once.deserialize(&mut reader);
    let read = read.and_then(|read| reader.end().map(|()| read));
    match read.map_err(|error| error.to_string())? {
        Value::Object(members) => Ok(members),
        _ => Err("there is something else than an object".to_owned()),
    }
}

/// A value in which no member stands twice.
struct Once;

// === impl Once ===

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, read: bool) -> Result<Value, E> {
        Ok(Value::Bool(read))
    }

    fn visit_u64<E>(self, read: u64) -> Result<Value, E> {
        Ok(Value::Number(read.into()))
    }

    fn visit_i64<E>(self, read: i64) -> Result<Value, E> {
        Ok(Value::Number(read.into()))
    }

    fn visit_f64<E: Error>(self, read: f64) -> Result<Value, E> {
        let read = Number::from_f64(read).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(read))
    }

    fn visit_str<E>(self, read: &str) -> Result<Value, E> {
        Ok(Value::String(read.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = from.next_element_seed(Once)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom("a member stands twice in an object"));
            }
            members.insert(name, from.next_value_seed(Once)?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let text = r#" {"a": [1, -2, 2.5, 1e3, null, true, "\u00e9\n"], "b": {"a": {}}} "#;
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(object(text.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_wherever_and_however_it_is_spelt() {
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"{"a": [{"b": {"c": 1, "d": 1, "c": 1}}]}"#,
        ] {
            let refused = object(text.as_bytes()).unwrap_err();
            assert!(refused.contains("stands twice"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_object_of_one_meaning_is_refused_without_saying_what_it_holds() {
        let deep = "[".repeat(100_000);
        let bomb = format!(r#"{{"a": {deep}"#);
        for text in [
            "",
            "\"private\"",
            "[\"private\"]",
            "null",
            "{} {}",
            "{\"private\": 1,}",
            "{\"private\": 01}",
            "{\"private\": NaN}",
            "{\"private\": 1e999}",
            "{\"private\": \"\\ud800\"}",
            "{\"private\": \"\n\"}",
            "{private: 1}",
            "\u{feff}{}",
            &bomb,
        ] {
            let refused = object(text.as_bytes()).unwrap_err();
            assert!(!refused.contains("private"), "{refused}");
        }
        assert!(object(b"{\"a\": \"\xff\"}").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(object(&bytes));
        }
    }
}
