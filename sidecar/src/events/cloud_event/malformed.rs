//! Why something that was sent is no event.

use super::{
    MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_ATTRIBUTES_BYTES, MAX_BATCH, MAX_DEPTH, MAX_NAME,
};

/// The most characters of a name that a sentence shows.
const SHOWN: usize = 64;

/// Why something is no event. The sentences name attributes and headers, and show no value of one and nothing of
/// the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A format of events that is not JSON.
    #[error(
        "content-type: this format of CloudEvents is not read; send application/cloudevents+json, or \
         application/cloudevents-batch+json where batches are taken, or use headers that begin with ce-"
    )]
    Format,
    /// JSON that is said to be in another encoding than UTF-8.
    #[error("content-type: JSON is read as UTF-8 only; say charset=utf-8 or leave it out")]
    Charset,
    /// A version of CloudEvents other than 1.0.
    #[error("specversion: only CloudEvents 1.0 are read; say 1.0")]
    Version,
    /// An attribute that every event has is not there.
    #[error("{0}: it is missing; every event has specversion, id, source and type")]
    Missing(&'static str),
    /// What tells an event apart, as the rule says, is not there.
    #[error("id: it is taken from {0}, and is missing there; send it")]
    NoId(String),
    /// An attribute, header or member stands twice.
    #[error("{0}: it stands twice; send it once")]
    Repeated(String),
    /// What no attribute is called.
    #[error(
        "{0}: no attribute has such a name; use 1 to {MAX_NAME} lower-case letters and digits, and not data"
    )]
    Name(String),
    /// A value that is longer than the bound.
    #[error("{0}: its value is longer than {MAX_ATTRIBUTE_BYTES} bytes; send what is long as data")]
    Long(String),
    /// A value that must not be empty.
    #[error("{0}: it is empty; give it a value or leave it out")]
    Empty(String),
    /// A value with a character that the specification keeps out of attributes.
    #[error(
        "{0}: its value has a control character or a code point that is no character; leave it out"
    )]
    Character(String),
    /// A value that is neither a text, nor a boolean, nor a whole number of 32 bits.
    #[error(
        "{0}: its value is of no type that attributes have; use a string, true, false or a whole number of 32 bits"
    )]
    Type(String),
    /// `source` or `dataschema` is no reference.
    #[error("{0}: it is no URI reference; percent-encode its spaces")]
    Reference(String),
    /// `time` is none.
    #[error("time: it is no time of RFC 3339; write it like 2026-01-31T08:00:00Z")]
    Time,
    /// The media type of the data is none.
    #[error("datacontenttype: it is no media type; write it like application/json")]
    MediaType,
    /// A header with the media type of the data, for which HTTP has another.
    #[error(
        "ce-datacontenttype: over HTTP the media type of the data stands in content-type; leave this header out"
    )]
    TypeInHeader,
    /// A header that cannot be decoded.
    #[error(
        "{0}: its header has a % that is not the percent-encoding of UTF-8; write %25 for a percent sign"
    )]
    Percent(String),
    /// A header in quotes that do not end.
    #[error("{0}: its header begins with a quote that does not end with it; write %22 for a quote")]
    Quotes(String),
    /// Too many attributes.
    #[error("the event has more than {MAX_ATTRIBUTES} attributes; send some of them as data")]
    TooMany,
    /// Attributes that are too long together.
    #[error(
        "the attributes are longer than {MAX_ATTRIBUTES_BYTES} bytes together; send some of them as data"
    )]
    TooLarge,
    /// Too many events at once.
    #[error("the batch has more than {MAX_BATCH} events; send several batches")]
    TooManyEvents,
    /// What should be JSON is not, or holds a text that is no Unicode.
    #[error("the event is not written as JSON is: see line {line}, column {column} of it")]
    Json {
        /// The line where it is wrong, from 1.
        line: usize,
        /// The byte of that line, from 1; 0 is the end of the line before.
        column: usize,
    },
    /// An event in JSON is an object.
    #[error("the event is no JSON object; write it in braces")]
    NotAnObject,
    /// A batch in JSON is an array.
    #[error("the batch is no JSON array; write it in brackets, also when it is of one event")]
    NotAnArray,
    /// Data twice.
    #[error("data, data_base64: an event has one of them; leave the other out")]
    TwoData,
    /// Data that nest too deep.
    #[error(
        "data: they nest deeper than {MAX_DEPTH}; make them flatter or send them as data_base64"
    )]
    Deep,
    /// Data as a text, of a media type that says that they are in another encoding.
    #[error(
        "data: datacontenttype says another charset than utf-8; send the bytes as data_base64 or say utf-8"
    )]
    DataCharset,
    /// Data that are not in Base64.
    #[error("data_base64: it is no string in Base64; encode it as RFC 4648 section 4 says")]
    Base64,
}

// === impl Malformed ===

impl Malformed {
    /// Whether it is that the format is one that is not read, and another of the same event could be: 415
    /// Unsupported Media Type.
    pub fn is_unsupported_format(&self) -> bool {
        matches!(self, Self::Format | Self::Charset)
    }
}

/// A name as a sentence shows it: as far as it is not too long, and without characters that would be read as
/// something else than a name in a log.
pub(super) fn shown(name: &str) -> String {
    let beginning = name.chars().take(SHOWN);
    beginning.flat_map(char::escape_debug).collect()
}
