//! The paths of requests in one form.
//!
//! `/admin`, `//admin`, `/%61dmin` and `/public/../admin` are one path to most applications and four
//! to a comparison of bytes. So there is one normal form (RFC 3986 section 6.2.2, and what proxies
//! add to it), and it is what is matched, authorized, logged and forwarded; an application never
//! sees a path that was judged in another form.
//!
//! | written | becomes |
//! |---|---|
//! | the percent-encoding of a letter, a digit, `-`, `.`, `_` or `~` | the character |
//! | any other percent-encoding | itself, in upper case: `%2F` and `%5C` are data and separate nothing |
//! | a character that a URL's path cannot have, such as `[` or `"` | its percent-encoding |
//! | segments `.` and `..`, also as `%2e` | what they lead to |
//! | `//` | `/` |
//!
//! Everything else stays, `;` too: a parameter is part of its segment. What could mean another path
//! to an application than it does here is refused ([`Malformed`]): no decoding of a normal path, not
//! that of an application that takes `%2F` or `\` for a separator, cuts parameters off or reads
//! overlong UTF-8, leads out of the segments it begins with.

use std::borrow::Cow;

mod pattern;

pub use pattern::{MAX_NAME, MAX_PATTERN, Pattern, Segment};

/// Why a path has no normal form. The sentences name nothing of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not `/...`.
    #[error("it does not begin with /")]
    Relative,
    /// Some servers take it for a separator.
    #[error("it has a backslash: write %5C if it is data")]
    Backslash,
    /// As a byte or percent-encoded; NUL above all, which ends a text in C.
    #[error("it has a control character")]
    Control,
    /// What follows is no path.
    #[error("it has a ? or a #: write %3F and %23 if they are data")]
    Delimiter,
    /// RFC 3986 has no such bytes.
    #[error("it has a byte above 127: percent-encode it")]
    NotAscii,
    /// `%` without two hexadecimal digits.
    #[error("it has a % that no two hexadecimal digits follow: write %25 if it is data")]
    Percent,
    /// A second spelling of a character, which lenient decoders accept (RFC 3629 section 10).
    #[error("it has a percent-encoding of overlong UTF-8")]
    Overlong,
    /// Clamped to the root it would be the path of something else than was meant, or an attack.
    #[error("its dot segments lead above the root")]
    AboveRoot,
    /// RFC 3986 goes back over the empty segment, file systems over the one before it.
    #[error("it has a .. after //")]
    Ambiguous,
    /// `..;x`, `..%2Fx`: a dot segment to some servers.
    #[error("it has a dot segment beside an encoded slash or backslash, or with parameters")]
    HiddenDots,
}

/// What a byte means in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays, and its percent-encoding becomes it.
    Unreserved,
    /// Stays, and so does its percent-encoding (RFC 3986 section 2.2).
    Reserved,
    Slash,
    Percent,
    /// Must be percent-encoded.
    Encoded,
    Refused(Malformed),
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Encoded; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                Class::Unreserved
            }
            b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@' => Class::Reserved,
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'\\' => Class::Refused(Malformed::Backslash),
            b'?' | b'#' => Class::Refused(Malformed::Delimiter),
            0..=0x1f | 0x7f => Class::Refused(Malformed::Control),
            0x80.. => Class::Refused(Malformed::NotAscii),
            _ => Class::Encoded,
        };
        byte += 1;
    }
    classes
};

/// The normal form of a path (without its query), borrowed when that is the path itself.
///
/// # Errors
/// What makes it a path that no two readers need agree on.
pub fn normalise(path: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    if path.first() != Some(&b'/') {
        return Err(Malformed::Relative);
    }
    // What is normal is ASCII.
    match std::str::from_utf8(path) {
        Ok(text) if is_normal(path) => Ok(Cow::Borrowed(text)),
        _ => rewrite(&path[1..]).map(Cow::Owned),
    }
}

/// Whether [`rewrite`] would change nothing. Nearly every path is, so this looks at each byte once.
fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += match CLASSES[usize::from(byte)] {
            Class::Unreserved | Class::Reserved => 1,
            Class::Slash if path.get(at + 1) == Some(&b'/') || is_dots(&path[at + 1..]) => {
                return false;
            }
            Class::Slash => 1,
            Class::Percent if is_normal_encoding(&path[at..]) => 3,
            Class::Percent | Class::Encoded | Class::Refused(_) => return false,
        };
    }
    true
}

/// Whether the percent-encoding that `rest` begins with stays as it is.
fn is_normal_encoding(rest: &[u8]) -> bool {
    let Some(byte) = encoded(rest) else {
        return false;
    };
    let is_upper = !rest[1..3].iter().any(u8::is_ascii_lowercase);
    let stays = match CLASSES[usize::from(byte)] {
        Class::Unreserved | Class::Refused(Malformed::Control) => false,
        Class::Slash | Class::Refused(Malformed::Backslash) => !is_dots(&rest[3..]),
        _ => !is_overlong(byte, &rest[3..]),
    };
    is_upper && stays
}

/// The normal form of `/` and `path`.
fn rewrite(path: &[u8]) -> Result<String, Malformed> {
    let mut out = Vec::with_capacity(path.len() + 1);
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push(b'/');
        rewrite_segment(segment, &mut out)?;
        match &out[start + 1..] {
            b"." => out.truncate(start),
            b".." => {
                let before = out[..start].iter().rposition(|byte| *byte == b'/');
                let before = before.ok_or(Malformed::AboveRoot)?;
                if before + 1 == start {
                    return Err(Malformed::Ambiguous);
                }
                out.truncate(before);
            }
            segment if hides_dots(segment) => return Err(Malformed::HiddenDots),
            _ => continue,
        }
        // What a dot segment at the end leads to is a folder (RFC 3986 section 5.2.4).
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    out.dedup_by(|byte, before| (*byte, *before) == (b'/', b'/'));
    // Nothing else than ASCII was written.
    String::from_utf8(out).map_err(|_| Malformed::NotAscii)
}

fn rewrite_segment(segment: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut at = 0;
    while let Some(&byte) = segment.get(at) {
        at += 1;
        match CLASSES[usize::from(byte)] {
            Class::Unreserved | Class::Reserved | Class::Slash => out.push(byte),
            Class::Encoded => encode(byte, out),
            Class::Refused(why) => return Err(why),
            Class::Percent => {
                let byte = encoded(&segment[at - 1..]).ok_or(Malformed::Percent)?;
                at += 2;
                match CLASSES[usize::from(byte)] {
                    Class::Unreserved => out.push(byte),
                    Class::Refused(Malformed::Control) => return Err(Malformed::Control),
                    _ if is_overlong(byte, &segment[at..]) => return Err(Malformed::Overlong),
                    _ => encode(byte, out),
                }
            }
        }
    }
    Ok(())
}

fn encode(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// The byte whose percent-encoding `text` begins with.
pub fn encoded(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
        }
        _ => None,
    }
}

/// Whether `rest` begins with `.` or `..` and what some reader takes for the end of a segment.
fn is_dots(rest: &[u8]) -> bool {
    let after = match rest {
        [b'.', b'.', after @ ..] | [b'.', after @ ..] => after,
        _ => return false,
    };
    match after {
        [] | [b'/' | b';', ..] => true,
        after => matches!(encoded(after), Some(b'/' | b'\\' | b';')),
    }
}

/// Whether a rewritten segment is one of dots to those who decode it further.
fn hides_dots(segment: &[u8]) -> bool {
    let separated = |place: usize| matches!(encoded(&segment[place..]), Some(b'/' | b'\\'));
    is_dots(segment)
        || (0..segment.len()).any(|place| separated(place) && is_dots(&segment[place + 3..]))
}

/// Whether the percent-encoded `lead` and the percent-encoding that `rest` begins with are two of
/// the bytes of a character that fewer bytes encode.
fn is_overlong(lead: u8, rest: &[u8]) -> bool {
    let tails = match lead {
        0xC0 | 0xC1 => 0x80..=0xBF,
        0xE0 => 0x80..=0x9F,
        0xF0 => 0x80..=0x8F,
        _ => return false,
    };
    encoded(rest).is_some_and(|byte| tails.contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn becomes(path: &str, expected: &str) {
        assert_eq!(
            normalise(path.as_bytes()).as_deref(),
            Ok(expected),
            "{path}"
        );
    }

    #[test]
    fn one_path_has_one_form_however_it_is_written() {
        for (written, form) in [
            ("/", "/"),
            ("/admin", "/admin"),
            ("/%61dmi%6E", "/admin"),
            ("/%41%7e%2D%5f%39", "/A~-_9"),
            ("//admin", "/admin"),
            ("/a///b//", "/a/b/"),
            ("/./a/./b/.", "/a/b/"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/public/.%2e/admin/", "/admin/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b//c", "/a/b/c"),
            ("/...", "/..."),
            ("/..a/.b/c.", "/..a/.b/c."),
        ] {
            becomes(written, form);
        }
    }

    #[test]
    fn what_is_data_stays_data() {
        for (written, form) in [
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            // One decoding, not two.
            ("/%252e%252e/%2561", "/%252e%252e/%2561"),
            // Reserved characters and their encodings may differ (RFC 3986 section 2.2).
            ("/a%3ab:c;d=e,f", "/a%3Ab:c;d=e,f"),
            ("/a%3b", "/a%3B"),
            ("/%e9", "/%E9"),
            ("/%e0%a4%85", "/%E0%A4%85"),
            ("/%c0x", "/%C0x"),
            // What clients should encode and some don't.
            ("/a[1]{x}|\"^`<>", "/a%5B1%5D%7Bx%7D%7C%22%5E%60%3C%3E"),
            ("/%5b", "/%5B"),
            ("/a%2F.b", "/a%2F.b"),
            ("/a;..", "/a;.."),
        ] {
            becomes(written, form);
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        use Malformed::*;
        for (written, why) in [
            (&b""[..], Relative),
            (b"a", Relative),
            (b"*", Relative),
            (b"?a", Relative),
            (b"/a\\b", Backslash),
            (b"/a\0", Control),
            (b"/a%00", Control),
            (b"/a%0d%0aset-cookie:x", Control),
            (b"/%1f", Control),
            (b"/\x7f", Control),
            (b"/%7F", Control),
            (b"/a#b", Delimiter),
            (b"/a?b", Delimiter),
            (b"/caf\xc3\xa9", NotAscii),
            (b"/\xc0\xaf", NotAscii),
            (b"/%", Percent),
            (b"/%4", Percent),
            (b"/%4/1", Percent),
            (b"/%zz", Percent),
            (b"/%+1", Percent),
            (b"/%u0041", Percent),
            (b"/%c0%ae%c0%ae/", Overlong),
            (b"/%C1%81", Overlong),
            (b"/%e0%80%ae", Overlong),
            (b"/%f0%80%80%ae", Overlong),
            (b"/..", AboveRoot),
            (b"/a/../../b", AboveRoot),
            (b"/%2e%2e/b", AboveRoot),
            (b"/a//../b", Ambiguous),
            (b"/a//b/../../c", Ambiguous),
            (b"/public/..;x/admin", HiddenDots),
            (b"/public/.;/admin", HiddenDots),
            (b"/public/%2e%2e%3bx/admin", HiddenDots),
            (b"/public/a/../..;", HiddenDots),
            (b"/public/..%2fadmin", HiddenDots),
            (b"/admin%2f..", HiddenDots),
            (b"/public/x%5c..%5cadmin", HiddenDots),
            (b"/public/x%2F.%2e;a", HiddenDots),
        ] {
            let text = String::from_utf8_lossy(written);
            assert_eq!(normalise(written), Err(why), "{text}");
        }
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        for path in [
            "/",
            "/orders/42",
            "/a%2Fb/%C3%A9;x=1/.well-known/",
            "/%E0%A4%85",
        ] {
            let form = normalise(path.as_bytes()).unwrap();
            assert!(matches!(form, Cow::Borrowed(_)), "{path}");
        }
    }

    /// What the most lenient application makes of a path: decoded, with every separator that
    /// anybody knows, without parameters.
    fn leniently(path: &str) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut rest = path.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            match encoded(rest) {
                Some(byte) => (bytes.push(byte), rest = &rest[3..]).1,
                None => (bytes.push(byte), rest = after).1,
            }
        }
        // Overlong forms of `.` and `/`.
        let bytes = bytes
            .into_iter()
            .fold(Vec::new(), |mut out: Vec<u8>, byte| {
                match (out.last(), byte) {
                    (Some(lead @ (0xC0 | 0xC1)), 0x80..=0xBF) => {
                        let byte = (lead & 1) << 6 | byte & 0x3F;
                        out.pop();
                        out.push(byte);
                    }
                    _ => out.push(byte),
                }
                out
            });
        let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
        text.split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default().to_owned())
            .collect()
    }

    /// Bytes that paths are made of, the odd ones more often than in life.
    fn paths() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            8 => prop::sample::select(vec![
                "/", "//", ".", "..", "/..", "/.", "a", "admin", "%2e", "%2E", "%2f", "%5c", ";",
                "%61", "%c0", "%af", "%AE", "%e0", "%80", "%C3%A9", "[", "%25", "%3b", "%",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..3),
        ];
        prop::collection::vec(token, 0..12).prop_map(|tokens| {
            let mut path = vec![b'/'];
            path.extend(tokens.into_iter().flatten());
            path
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn no_bytes_panic_and_what_comes_out_is_a_path_of_rfc_3986(path in paths()) {
            let Ok(form) = normalise(&path) else { return Ok(()) };
            prop_assert!(form.starts_with('/'));
            let mut rest = form.as_bytes();
            while let Some((&byte, after)) = rest.split_first() {
                rest = after;
                match byte {
                    b'%' => {
                        let byte = encoded(&[&b"%"[..], rest].concat());
                        prop_assert!(byte.is_some_and(|byte| !byte.is_ascii_control()), "{form}");
                        prop_assert!(!rest[..2].iter().any(u8::is_ascii_lowercase), "{form}");
                        rest = &rest[2..];
                    }
                    byte => prop_assert!(
                        byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
                        "{form}"
                    ),
                }
            }
            prop_assert!(!form.contains("//"), "{form}");
        }

        #[test]
        fn the_form_of_a_form_is_itself(path in paths()) {
            let Ok(form) = normalise(&path) else { return Ok(()) };
            prop_assert!(matches!(normalise(form.as_bytes()), Ok(Cow::Borrowed(_))), "{form}");
        }

        #[test]
        fn what_is_not_copied_would_not_have_been_changed(path in paths()) {
            let rewritten = rewrite(&path[1..]);
            let copied = rewritten.as_deref().map(str::as_bytes) != Ok(&path[..]);
            prop_assert_eq!(is_normal(&path), !copied);
        }

        #[test]
        fn no_decoding_of_a_form_has_dot_segments(path in paths()) {
            let Ok(form) = normalise(&path) else { return Ok(()) };
            let dots = |segment: &String| segment == "." || segment == "..";
            prop_assert!(!leniently(&form).iter().any(dots), "{form}");
        }
    }
}
