//! Media types: which are events, which are JSON, which are text.
//!
//! RFC 2046, and RFC 9110 section 8.3.1 for how parameters are written.

/// A format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One event in JSON.
    Event,
    /// Several.
    Batch,
    /// Another one than JSON.
    Other,
}

/// What the media type of every format of events begins with.
const EVENTS: &str = "application/cloudevents";

/// The media type of one event in JSON.
pub(super) const EVENT: &str = "application/cloudevents+json";

const BATCH: &str = "application/cloudevents-batch+json";

/// The format of events that has this media type; `None` for what is something else.
pub(super) fn format(media_type: &str) -> Option<Format> {
    let essence = essence(media_type);
    let is = |wanted: &str| essence.eq_ignore_ascii_case(wanted);
    match is_of_events(media_type) {
        false => None,
        true if is(EVENT) => Some(Format::Event),
        true if is(BATCH) => Some(Format::Batch),
        true => Some(Format::Other),
    }
}

/// Whether it is the media type of some format of events. By its beginning, as the specification has it.
pub(super) fn is_of_events(media_type: &str) -> bool {
    let beginning = essence(media_type).get(..EVENTS.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(EVENTS))
}

/// Whether what has this media type is JSON.
pub(super) fn is_json(media_type: &str) -> bool {
    is_subtype(media_type, "json")
}

/// Whether what has this media type is text.
pub(super) fn is_text(media_type: &str) -> bool {
    let kind = essence(media_type).split_once('/');
    let is_text = kind.is_some_and(|(kind, _)| kind.eq_ignore_ascii_case("text"));
    is_text || is_subtype(media_type, "xml")
}

/// Whether text of this media type may be in UTF-8: it says so, says that it is in ASCII, or says nothing.
pub(super) fn is_utf8(media_type: &str) -> bool {
    let mut parameters = parameters(media_type).filter_map(|one| one.split_once('='));
    let is_charset = |(name, _): &(&str, &str)| name.trim().eq_ignore_ascii_case("charset");
    let charset = parameters.find(is_charset);
    let charset = charset.map(|(_, charset)| charset.trim().trim_matches('"'));
    charset.is_none_or(|charset| {
        let is = |wanted: &str| charset.eq_ignore_ascii_case(wanted);
        is("utf-8") || is("us-ascii")
    })
}

/// Whether it is a media type that a header can hold: type, subtype and parameters, in printable ASCII.
pub(super) fn is_one(media_type: &str) -> bool {
    fn is_token(text: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !text.is_empty() && text.chars().all(allowed)
    }

    let kinds = essence(media_type).split_once('/');
    let printable = media_type.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    // Spaces around a header are not part of it.
    let is_trimmed = media_type.trim() == media_type;
    printable && is_trimmed && kinds.is_some_and(|(kind, of)| is_token(kind) && is_token(of))
}

/// Whether the subtype is this one, or a format that is made of it.
fn is_subtype(media_type: &str, wanted: &str) -> bool {
    let Some((_, subtype)) = essence(media_type).split_once('/') else {
        return false;
    };
    let suffix = subtype.rsplit_once('+').map(|(_, suffix)| suffix);
    suffix.unwrap_or(subtype).eq_ignore_ascii_case(wanted)
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    let end = media_type.find(';').unwrap_or(media_type.len());
    media_type[..end].trim()
}

/// Cut at the semicolons that stand in no quotes.
fn parameters(media_type: &str) -> impl Iterator<Item = &str> {
    let (mut in_quotes, mut escaped) = (false, false);
    let parts = media_type.split(move |c| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '"' if !was_escaped => in_quotes = !in_quotes,
            '\\' if in_quotes && !was_escaped => escaped = true,
            _ => {}
        }
        c == ';' && !in_quotes
    });
    parts.skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_of_events_is_known_by_its_media_type() {
        assert_eq!(format("application/json"), None);
        assert_eq!(format("text/plain; a=application/cloudevents+json"), None);
        assert_eq!(format("application/cloudeven"), None);
        assert_eq!(format("application/cloudevénts+json"), None);
        assert_eq!(format(EVENT), Some(Format::Event));
        let upper = "Application/CloudEvents+JSON ;charset=UTF-8";
        assert_eq!(format(upper), Some(Format::Event));
        assert_eq!(format(BATCH), Some(Format::Batch));
        assert_eq!(format("application/cloudevents"), Some(Format::Other));
        assert_eq!(format("application/cloudevents+avro"), Some(Format::Other));
    }

    #[test]
    fn json_and_text_are_told_by_the_subtype() {
        for json in [
            "application/json",
            "text/JSON; a=b",
            "application/vnd.a.b+json",
        ] {
            assert!(is_json(json), "{json}");
        }
        for none in [
            "application/jsonp",
            "application/json+xml",
            "json",
            "text/plain;/json",
        ] {
            assert!(!is_json(none), "{none}");
        }
        for text in ["text/plain", "TEXT/csv", "application/xml", "image/svg+xml"] {
            assert!(is_text(text), "{text}");
        }
        for none in ["application/octet-stream", "application/texts", "xml"] {
            assert!(!is_text(none), "{none}");
        }
    }

    #[test]
    fn a_charset_is_read_from_its_parameter_and_nothing_else() {
        for utf8 in [
            "text/plain",
            "text/plain; charset=utf-8",
            "text/plain;CHARSET=\"UTF-8\"",
            "text/plain; charset = us-ascii",
            "text/plain; a=\"; charset=utf-16\"",
            "text/plain; a=\"\\\"; charset=utf-16\"",
            "text/plain; mycharset=utf-16",
        ] {
            assert!(is_utf8(utf8), "{utf8}");
        }
        for other in [
            "text/plain; charset=iso-8859-1",
            "text/plain; a=\"b\"; charset=utf-16",
            "text/plain; charset=",
        ] {
            assert!(!is_utf8(other), "{other}");
        }
    }

    #[test]
    fn a_media_type_is_one_that_a_header_can_hold() {
        for media_type in [
            "a/b",
            "application/vnd.a+json",
            "text/plain; a=\"b c\"",
            EVENT,
        ] {
            assert!(is_one(media_type), "{media_type}");
        }
        for none in [
            "",
            "json",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "text/plain; a=é",
            "a/b ",
            " a/b",
            "a/b;\tc",
        ] {
            assert!(!is_one(none), "{none}");
        }
    }
}
