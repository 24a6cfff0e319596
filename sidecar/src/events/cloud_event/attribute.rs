//! What attributes are called, and which values they take.

use super::malformed::{Malformed, shown};
use super::{MAX_ATTRIBUTE_BYTES, MAX_NAME, VERSION, media_type};

/// What formats have beside attributes.
const RESERVED: [&str; 2] = ["data", "data_base64"];

/// Whether an attribute may have this name and this value.
pub(super) fn check(name: &str, value: &str) -> Result<(), Malformed> {
    if !is_name(name) {
        return Err(Malformed::Name(shown(name)));
    }
    if value.len() > MAX_ATTRIBUTE_BYTES {
        return Err(Malformed::Long(shown(name)));
    }
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if !value.bytes().all(is_plain) && !value.chars().all(is_allowed) {
        return Err(Malformed::Character(shown(name)));
    }
    match name {
        "specversion" if value != VERSION => Err(Malformed::Version),
        "time" if !is_time(value) => Err(Malformed::Time),
        "datacontenttype" if !media_type::is_one(value) => Err(Malformed::MediaType),
        "id" | "source" | "type" | "subject" | "dataschema" if value.is_empty() => {
            Err(Malformed::Empty(shown(name)))
        }
        // No more than that: applications name sources as they like, and compare them byte by byte.
        "source" | "dataschema" if value.contains(char::is_whitespace) => {
            Err(Malformed::Reference(shown(name)))
        }
        _ => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && !RESERVED.contains(&name)
}

/// The type String of the specification: no control character, and nothing that Unicode calls a noncharacter.
fn is_allowed(c: char) -> bool {
    let is_noncharacter =
        matches!(c, '\u{fdd0}'..='\u{fdef}') || matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff);
    !c.is_control() && !is_noncharacter
}

/// `date-time` of RFC 3339 section 5.6.
fn is_time(text: &str) -> bool {
    fn is_seconds(rest: &[u8]) -> bool {
        let [fraction, zone @ ..] = rest else {
            return false;
        };
        if *fraction != b'.' {
            return is_zone(rest);
        }
        let digits = zone.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && is_zone(&zone[digits..])
    }

    fn is_zone(zone: &[u8]) -> bool {
        match zone {
            b"Z" | b"z" => true,
            [b'+' | b'-', h1, h2, b':', m1, m2] => {
                number(&[*h1, *h2]).is_some_and(|hours| hours < 24)
                    && number(&[*m1, *m2]).is_some_and(|minutes| minutes < 60)
            }
            _ => false,
        }
    }

    let Some((front, rest)) = text
        .as_bytes()
        .split_at_checked("2026-01-31T08:00:00".len())
    else {
        return false;
    };
    let separators = [(4, "-"), (7, "-"), (10, "Tt"), (13, ":"), (16, ":")];
    let separated = |(at, which): &(usize, &str)| which.as_bytes().contains(&front[*at]);
    if !separators.iter().all(separated) {
        return false;
    }
    let parts = [0..4, 5..7, 8..10, 11..13, 14..16, 17..19].map(|part| number(&front[part]));
    let [
        Some(year),
        Some(month),
        Some(day),
        Some(hour),
        Some(minute),
        Some(second),
    ] = parts
    else {
        return false;
    };
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    };
    // A minute with a leap second has a sixtieth one.
    (1..=12).contains(&month)
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && is_seconds(rest)
}

/// The number that at most four digits are.
fn number(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number * 10 + u16::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_of_rfc_3339() {
        for time in [
            "2018-04-05T17:31:00Z",
            "2018-04-05t17:31:00z",
            "2018-04-05T17:31:00.1Z",
            "2018-04-05T17:31:00.123456789+02:00",
            "2016-12-31T23:59:60Z",
            "2024-02-29T00:00:00-23:59",
            "2000-02-29T00:00:00Z",
        ] {
            assert!(is_time(time), "{time}");
        }
        for none in [
            "",
            "2018-04-05",
            "2018-04-05T17:31:00",
            "2018-04-05 17:31:00Z",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00.1",
            "2018-04-05T17:31:00Z ",
            "2018-04-05T17:31:00+0200",
            "2018-04-05T17:31:00+24:00",
            "2018-04-05T17:31:00+02:60",
            "2018-04-05T24:00:00Z",
            "2018-04-05T17:60:00Z",
            "2018-04-05T17:31:61Z",
            "2018-00-05T17:31:00Z",
            "2018-13-05T17:31:00Z",
            "2018-04-31T17:31:00Z",
            "2018-04-00T17:31:00Z",
            "2018-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "+018-04-05T17:31:00Z",
            "20é8-04-05T17:31:00Z",
            "2018-04-05T17:31:0éZ",
        ] {
            assert!(!is_time(none), "{none}");
        }
    }

    #[test]
    fn a_name_is_made_of_lower_case_letters_and_digits() {
        let long = "a".repeat(MAX_NAME);
        for name in ["a", "7", "comexampleextension1", long.as_str()] {
            assert_eq!(check(name, ""), Ok(()), "{name}");
        }
        let longer = "a".repeat(MAX_NAME + 1);
        for name in [
            "",
            "A",
            "a-b",
            "a_b",
            "é",
            "a b",
            "data",
            "data_base64",
            longer.as_str(),
        ] {
            assert_eq!(check(name, ""), Err(Malformed::Name(shown(name))), "{name}");
        }
    }

    #[test]
    fn a_value_has_no_control_characters_and_no_noncharacters() {
        for c in [
            '\0',
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{fdd0}',
            '\u{ffff}',
            '\u{10fffe}',
        ] {
            let refused = Err(Malformed::Character("a".into()));
            assert_eq!(check("a", &format!("x{c}")), refused, "{c:?}");
        }
        assert_eq!(check("a", " \u{e000}\u{fffd}\u{1f600}\""), Ok(()));
    }

    #[test]
    fn attributes_of_the_specification_are_what_it_says() {
        for name in ["id", "source", "type", "subject", "dataschema"] {
            assert_eq!(check(name, ""), Err(Malformed::Empty(name.into())));
        }
        for name in ["source", "dataschema"] {
            assert_eq!(check(name, "a b"), Err(Malformed::Reference(name.into())));
            assert_eq!(check(name, "/sensors/tn-1234567/ålerts?a#b"), Ok(()));
        }
        assert_eq!(check("subject", "a b"), Ok(()));
        assert_eq!(check("specversion", "1.0.2"), Err(Malformed::Version));
        assert_eq!(check("time", "today"), Err(Malformed::Time));
        assert_eq!(check("datacontenttype", "json"), Err(Malformed::MediaType));
    }

    #[test]
    fn a_value_may_be_so_long_and_no_longer() {
        assert_eq!(check("a", &"x".repeat(MAX_ATTRIBUTE_BYTES)), Ok(()));
        let refused = check("a", &"x".repeat(MAX_ATTRIBUTE_BYTES + 1));
        assert_eq!(refused, Err(Malformed::Long("a".into())));
    }
}
