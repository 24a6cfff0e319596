//! Events over HTTP: in headers and a body, or in a body alone.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::headers::{PREFIX, decode, encode, marks_event};
use super::media_type::{self, EVENT, Format};
use super::{Draft, Event, Malformed, TYPE_OF_DATA, json};

/// What a request or an answer holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// An event.
    Event(Event),
    /// Several, each judged for itself: one that is none spoils no other. In the order in which they were sent.
    Batch(Vec<Result<Event, Malformed>>),
    /// No event, but a body of its own meaning.
    Plain,
}

/// Reads what was received: an event in binary mode or in JSON, or a batch in JSON. The body is whole, and the
/// caller has bounded it.
///
/// # Errors
/// When it says that it is an event or a batch and is none.
pub fn receive(headers: &HeaderMap, body: &Bytes) -> Result<Received, Malformed> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let media_type = types.next();
    if types.next().is_some() {
        return Err(Malformed::Repeated(CONTENT_TYPE.to_string()));
    }
    let media_type = media_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let media_type = media_type.as_deref().map(str::trim);
    match media_type.and_then(media_type::format) {
        Some(Format::Other) => return Err(Malformed::Format),
        Some(_) if !media_type.is_some_and(media_type::is_utf8) => return Err(Malformed::Charset),
        Some(Format::Event) => return json::event(body).map(Received::Event),
        Some(Format::Batch) => return json::batch(body).map(Received::Batch),
        None => {}
    }
    let is_mark = |name: &HeaderName| {
        let name = name.as_str().strip_prefix(PREFIX);
        name.is_some_and(marks_event)
    };
    if !headers.keys().any(is_mark) {
        return Ok(Received::Plain);
    }
    let mut draft = Draft::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        if name == TYPE_OF_DATA {
            return Err(Malformed::TypeInHeader);
        }
        draft.add(name, decode(name, value.as_bytes())?)?;
    }
    if let Some(media_type) = media_type {
        draft.add(TYPE_OF_DATA, media_type)?;
    }
    draft.finish(body.clone()).map(Received::Event)
}

/// The header of an attribute.
fn header(name: &str) -> Option<HeaderName> {
    Some(match name {
        "id" => HeaderName::from_static("ce-id"),
        "source" => HeaderName::from_static("ce-source"),
        "specversion" => HeaderName::from_static("ce-specversion"),
        "time" => HeaderName::from_static("ce-time"),
        "type" => HeaderName::from_static("ce-type"),
        name => HeaderName::try_from([PREFIX, name].concat()).ok()?,
    })
}

// === impl Event ===

impl Event {
    /// Writes the event in binary mode: its attributes into the headers, instead of the event that they may hold,
    /// and its data as the body that is returned. An event whose data are an event is written in JSON, since
    /// binary mode cannot tell both apart.
    ///
    /// A value is up to three times as long in a header: all of them may be 96 KiB.
    pub fn to_http(&self, headers: &mut HeaderMap) -> Bytes {
        let names = headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX));
        for name in names.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
        headers.remove(CONTENT_TYPE);
        // Neither names nor values are any that a header cannot be; it is only when there are more headers than a
        // map holds, 32 768, that one is not put in.
        let mut put = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                drop(headers.try_insert(name, value));
            }
        };
        if self.holds_event() {
            put(CONTENT_TYPE, EVENT.to_owned());
            return self.to_json().into();
        }
        for (name, value) in self.attributes() {
            if name == TYPE_OF_DATA {
                put(CONTENT_TYPE, value.to_owned());
            } else if let Some(name) = header(name) {
                put(name, encode(value));
            }
        }
        self.data.clone()
    }
}
