//! CloudEvents 1.0.2: what an event is, and how it is read from and written to HTTP, JSON and messages of a
//! broker.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>. An event is its attributes, which are
//! texts here whatever type a sender gave them, and its data, which are bytes that nothing here looks into. What
//! is read is bounded before it is parsed, and what breaks the specification is refused with a sentence that names
//! the attribute and the remedy, and repeats nothing of what was sent.
//!
//! [`receive`] reads HTTP and [`Event::from_message`] reads a message; [`Event::to_http`], [`Event::to_message`],
//! [`Event::to_json`] and [`Event::batch_to_json`] write. Data of length zero are no data.

mod attribute;
pub(super) mod headers;
mod http;
mod json;
mod malformed;
mod media_type;
mod message;

use std::borrow::Cow;

use bytes::Bytes;
use wire::cesql::{Attributes, Value};
use wire::data::Json;

pub use self::http::{Received, receive};
pub use self::json::check_json;
pub use self::malformed::Malformed;

/// The most attributes of an event, those of the specification among them.
pub const MAX_ATTRIBUTES: usize = 64;

/// The longest value of an attribute, in bytes of UTF-8.
pub const MAX_ATTRIBUTE_BYTES: usize = 8 * 1024;

/// The most bytes of all names and values of an event.
pub const MAX_ATTRIBUTES_BYTES: usize = 32 * 1024;

/// The longest name of an attribute, in bytes. The specification advises 20.
pub const MAX_NAME: usize = 64;

/// The most events of a batch.
pub const MAX_BATCH: usize = 1000;

/// The most objects and arrays within one another in data that are JSON: what serde_json reads, and so what most
/// of those that are sent the data can.
pub const MAX_DEPTH: usize = 127;

/// The one version that is read and written.
const VERSION: &str = "1.0";

/// What every event has.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// What the specification defines beside that.
const OPTIONAL: [&str; 4] = ["datacontenttype", "dataschema", "subject", "time"];

/// How many attributes an event has at most that has no extensions of its own.
const USUAL: usize = REQUIRED.len() + OPTIONAL.len() + OF_REQUESTS.len();

/// The attribute that says of which media type the data are.
const TYPE_OF_DATA: &str = "datacontenttype";

/// The extension by which events are correlated that belong to one thing that somebody asked for:
/// <https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/correlation.md>.
pub(super) const CORRELATION: &str = "correlationid";

/// The extensions that nearly every event has of the request that brought it.
const OF_REQUESTS: [&str; 3] = ["traceparent", "tracestate", CORRELATION];

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// In the order of their names. Those that are required are always there.
    attributes: Vec<(Cow<'static, str>, String)>,
    /// What happened, in the media type that `datacontenttype` says. Empty when the event has no data.
    pub data: Bytes,
}

/// An event of which not every attribute has been read yet.
struct Draft(Event);

// === impl Event ===

impl Event {
    /// An event without data, of three attributes that are known to be in order.
    pub(crate) fn trusted(id: &str, source: &str, event_type: &str) -> Self {
        let Draft(mut event) = Draft::new();
        event.put("id", id.to_owned());
        event.put("source", source.to_owned());
        event.put("specversion", VERSION.to_owned());
        event.put("type", event_type.to_owned());
        event
    }

    /// An event without data, of the three attributes that a sender chooses: `id`, `source` and `type`.
    ///
    /// # Errors
    /// When one of them is not what the specification says; see [`Self::set`].
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        kind: impl Into<String>,
    ) -> Result<Self, Malformed> {
        let Draft(mut event) = Draft::new();
        event.put("specversion", VERSION.to_owned());
        // None is there twice, and together they are no more than an event may have.
        for (name, value) in [
            ("id", id.into()),
            ("source", source.into()),
            ("type", kind.into()),
        ] {
            attribute::check(name, &value)?;
            event.put(name, value);
        }
        Ok(event)
    }

    /// The value of an attribute or extension; `None` when the event has none of that name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let place = self.place(name).ok()?;
        self.attributes.get(place).map(|(_, value)| value.as_str())
    }

    /// All attributes and extensions, `specversion` among them, in the order of their names.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.attributes.iter();
        pairs.map(|(name, value)| (&**name, value.as_str()))
    }

    /// Gives an attribute or extension a value, instead of the one that it has.
    ///
    /// # Errors
    /// When the name is not made of lower-case letters and digits, or the value is too long, has a character that
    /// no attribute has, or is not what the specification says of that attribute: `id`, `source`, `type`,
    /// `subject` and `dataschema` are not empty, `source` and `dataschema` have no spaces, `time` is of RFC 3339,
    /// `datacontenttype` a media type, `specversion` `1.0`. And when the event has too many attributes. The event
    /// is then as it was.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), Malformed> {
        let value = value.into();
        attribute::check(name, &value)?;
        if self.place(name).is_err() && self.attributes.len() >= MAX_ATTRIBUTES {
            return Err(Malformed::TooMany);
        }
        let others = self.attributes.iter().filter(|(other, _)| *other != name);
        let others: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        if others + name.len() + value.len() > MAX_ATTRIBUTES_BYTES {
            return Err(Malformed::TooLarge);
        }
        self.put(name, value);
        Ok(())
    }

    /// Gives an attribute or extension a value that is known to be in order. It takes none of the room that an event has.
    pub(super) fn set_trusted(&mut self, name: &str, value: impl Into<String>) {
        self.put(name, value.into());
    }

    /// Takes an extension away, and returns the value that it had. What the specification defines stays: an event
    /// without some of that would be none.
    pub fn remove_extension(&mut self, name: &str) -> Option<String> {
        match REQUIRED.contains(&name) || OPTIONAL.contains(&name) {
            true => None,
            false => {
                let place = self.place(name).ok()?;
                Some(self.attributes.remove(place).1)
            }
        }
    }

    /// Where an attribute stands, or would.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.attributes
            .binary_search_by(|(other, _)| (**other).cmp(name))
    }

    fn put(&mut self, name: &str, value: String) {
        match self.place(name) {
            Ok(place) => self.attributes[place].1 = value,
            Err(place) => {
                let mut known = REQUIRED.into_iter().chain(OPTIONAL).chain(OF_REQUESTS);
                let known = known.find(|one| *one == name);
                let name = known.map_or_else(|| name.to_owned().into(), Cow::Borrowed);
                self.attributes.insert(place, (name, value));
            }
        }
    }

    /// The data, where they are JSON: their media type says so, or is missing.
    pub(super) fn json(&self) -> Option<Json<'_>> {
        let is_json = |of| media_type::is_json(of) && media_type::is_utf8(of);
        let may_be = self.media_type().is_none_or(is_json);
        may_be.then(|| Json::read(&self.data)).flatten()
    }

    /// The media type of the data.
    fn media_type(&self) -> Option<&str> {
        self.attribute(TYPE_OF_DATA)
    }

    /// Whether the data are an event themselves, by their media type. In binary mode that type would be taken for
    /// the one of the whole message, and the event inside for the one that was sent.
    fn holds_event(&self) -> bool {
        self.media_type().is_some_and(media_type::is_of_events)
    }
}

impl Attributes for Event {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let value = Event::attribute(self, name)?;
        Some(Value::String(Cow::Borrowed(value)))
    }
}

// === impl Draft ===

impl Draft {
    fn new() -> Self {
        Self(Event {
            attributes: Vec::with_capacity(USUAL),
            data: Bytes::new(),
        })
    }

    /// An attribute more. One that stands twice is refused: which of both is meant, no two readers agree on.
    fn add(&mut self, name: &str, value: impl Into<String>) -> Result<(), Malformed> {
        if self.0.place(name).is_ok() {
            return Err(Malformed::Repeated(malformed::shown(name)));
        }
        self.0.set(name, value)
    }

    fn finish(self, data: Bytes) -> Result<Event, Malformed> {
        let Self(mut event) = self;
        let missing = |name: &&&str| event.place(name).is_err();
        if let Some(name) = REQUIRED.iter().find(missing) {
            return Err(Malformed::Missing(name));
        }
        event.data = data;
        Ok(event)
    }
}

#[cfg(test)]
mod tests;
