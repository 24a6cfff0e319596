//! Events in messages of a broker that has headers.
//!
//! <https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md>: the binding of
//! version 1.0.2 knows no headers of NATS, the one after it does. There the media type of the data stands in
//! `ce-datacontenttype`, and over HTTP and in Kafka in `content-type`: here it is written to both, and read from
//! either.

use std::borrow::Cow;

use bytes::Bytes;

use super::headers::{PREFIX, decode, encode, marks_event};
use super::media_type::{self, EVENT, Format};
use super::{Draft, Event, Malformed, TYPE_OF_DATA, json};

/// The header with the media type of a message.
const CONTENT_TYPE: &str = "content-type";

// === impl Event ===

impl Event {
    /// The event as a message in binary mode: its headers, and its data. An event whose data are an event is
    /// written in JSON, since binary mode cannot tell both apart.
    pub fn to_message(&self) -> (Vec<(String, String)>, Bytes) {
        if self.holds_event() {
            let headers = vec![(CONTENT_TYPE.to_owned(), EVENT.to_owned())];
            return (headers, self.to_json().into());
        }
        let attributes = self.attributes();
        let headers = attributes.map(|(name, value)| ([PREFIX, name].concat(), encode(value)));
        let media_type = self.media_type();
        let media_type = media_type.map(|of| (CONTENT_TYPE.to_owned(), of.to_owned()));
        (headers.chain(media_type).collect(), self.data.clone())
    }

    /// Reads a message, in binary mode or in JSON; `None` when its headers speak of no event. Names of headers are
    /// compared without case.
    ///
    /// # Errors
    /// When it says that it is an event and is none. A batch is none: messages hold one event.
    pub fn from_message<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)>,
        data: Bytes,
    ) -> Result<Option<Self>, Malformed> {
        let (mut media_type, mut attributes) = (None, Vec::new());
        for (name, value) in headers {
            if name.eq_ignore_ascii_case(CONTENT_TYPE) {
                if media_type.replace(value.trim()).is_some() {
                    return Err(Malformed::Repeated(CONTENT_TYPE.to_owned()));
                }
            } else if let Some((prefix, name)) = name.split_at_checked(PREFIX.len())
                && prefix.eq_ignore_ascii_case(PREFIX)
            {
                let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
                let name = match is_lower {
                    true => Cow::Borrowed(name),
                    false => Cow::Owned(name.to_ascii_lowercase()),
                };
                attributes.push((name, value));
            }
        }
        match media_type.and_then(media_type::format) {
            Some(Format::Other | Format::Batch) => return Err(Malformed::Format),
            Some(Format::Event) if !media_type.is_some_and(media_type::is_utf8) => {
                return Err(Malformed::Charset);
            }
            Some(Format::Event) => return json::event(&data).map(Some),
            None => {}
        }
        if !attributes.iter().any(|(name, _)| marks_event(name)) {
            return Ok(None);
        }
        let mut draft = Draft::new();
        for (name, value) in attributes {
            let value = decode(&name, value.as_bytes())?;
            draft.add(&name, value)?;
        }
        match (draft.0.media_type(), media_type) {
            (Some(one), Some(other)) if one != other => {
                return Err(Malformed::Repeated(TYPE_OF_DATA.to_owned()));
            }
            (None, Some(media_type)) => draft.add(TYPE_OF_DATA, media_type)?,
            _ => {}
        }
        draft.finish(data).map(Some)
    }
}
