//! Attributes in headers: a percent-encoding of their own.
//!
//! Section 3.1.3.2 of
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>, which the
//! binding for NATS repeats.

use std::borrow::Cow;

use super::malformed::{Malformed, shown};
use super::{MAX_ATTRIBUTE_BYTES, REQUIRED};

/// What the names of headers begin with that are attributes. In lower case.
pub(in crate::events) const PREFIX: &str = "ce-";

/// Whether the header of this attribute tells an event from anything else. One of those is enough: who sends some
/// of what every event has wants to be told what is missing.
pub(super) fn marks_event(name: &str) -> bool {
    REQUIRED.contains(&name)
}

/// A value as a header has it, in ASCII without spaces.
pub(in crate::events) fn encode(value: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |four: u8| char::from(DIGITS[usize::from(four & 15)]);
    let stays = |byte: u8| matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'%');
    if value.bytes().all(stays) {
        return value.to_owned();
    }
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => encoded.extend(['%', digit(byte >> 4), digit(byte)]),
            b'!'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.extend(['%', digit(byte >> 4), digit(byte)]),
        }
    }
    encoded
}

/// The value of the header of an attribute. Also as senders write it that know version 1.0.0 of the specification
/// only: in quotes, or in UTF-8 as it is.
pub(in crate::events) fn decode(name: &str, value: &[u8]) -> Result<String, Malformed> {
    // Each byte of a value is three of a header at most, or two in quotes.
    if value.len() > 3 * MAX_ATTRIBUTE_BYTES + 2 {
        return Err(Malformed::Long(shown(name)));
    }
    let value = unquoted(value.trim_ascii());
    let value = value.ok_or_else(|| Malformed::Quotes(shown(name)))?;
    if !value.contains(&b'%') {
        let value = String::from_utf8(value.into_owned());
        return value.map_err(|_| Malformed::Percent(shown(name)));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.iter();
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let digits = (rest.next().and_then(digit), rest.next().and_then(digit));
        let (Some(high), Some(low)) = digits else {
            return Err(Malformed::Percent(shown(name)));
        };
        decoded.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(decoded).map_err(|_| Malformed::Percent(shown(name)))
}

/// What is in the quotes (RFC 9110 section 5.6.4), or the value when it begins with none; `None` when the quote
/// at its beginning is not closed at its end.
fn unquoted(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some((b'"', quoted)) = value.split_first() else {
        return Some(Cow::Borrowed(value));
    };
    let mut inside = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => break,
            b'\\' => inside.push(*rest.next()?),
            byte => inside.push(*byte),
        }
    }
    rest.as_slice().is_empty().then_some(Cow::Owned(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ascii_does_not_print_is_percent_encoded() {
        assert_eq!(encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encode("\"100%\"~!\u{7f}\n"), "%22100%25%22~!%7F%0A");
    }

    #[test]
    fn every_spelling_of_a_character_is_decoded_once() {
        for (header, value) in [
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("%e2%82%ac", "€"),
            ("%61%2525", "a%25"),
            ("a+b c", "a+b c"),
            ("  a\t", "a"),
            ("€", "€"),
            ("", ""),
            ("\"\"", ""),
            ("\"a \\\"b\\\" \\\\ %20\"", "a \"b\" \\  "),
            ("a\"b", "a\"b"),
        ] {
            assert_eq!(decode("a", header.as_bytes()), Ok(value.into()), "{header}");
        }
    }

    #[test]
    fn what_no_sender_can_have_meant_is_refused() {
        for header in ["%", "%4", "a%zz", "%C0%A0", "%ED%A0%80", "%+1", "%E2%82"] {
            let refused = Err(Malformed::Percent("a".into()));
            assert_eq!(decode("a", header.as_bytes()), refused, "{header}");
        }
        assert_eq!(decode("a", b"\xff"), Err(Malformed::Percent("a".into())));
        for header in ["\"", "\"a", "\"a\\\"", "\"a\"b", "\"a\\"] {
            let refused = Err(Malformed::Quotes("a".into()));
            assert_eq!(decode("a", header.as_bytes()), refused, "{header}");
        }
        let long = "a".repeat(3 * MAX_ATTRIBUTE_BYTES + 3);
        assert_eq!(
            decode("a", long.as_bytes()),
            Err(Malformed::Long("a".into()))
        );
    }
}
