//! Events in JSON, one or a batch.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>. Data that are JSON are
//! kept byte by byte, only not the whitespace around them. Attributes are texts, whatever JSON they were: an
//! integer that is read is written as a string.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::malformed::{Malformed, shown};
use super::{
    Draft, Event, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_BATCH, MAX_DEPTH, TYPE_OF_DATA,
    media_type,
};

/// The most members of an event: attributes, data, and as many that are null as anybody would send.
const MAX_MEMBERS: usize = 2 * MAX_ATTRIBUTES;

/// The media type of data when none is said.
const IMPLIED: &str = "application/json";

/// Where a text is inside of JSON that is known to be valid.
#[derive(Default)]
struct Position {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Reads one event.
pub(super) fn event(text: &[u8]) -> Result<Event, Malformed> {
    if first(text) != Some(b'{') {
        return Err(Malformed::NotAnObject);
    }
    let members: Vec<_> = parts(valid(text)?).take(MAX_MEMBERS + 1).collect();
    if members.len() > MAX_MEMBERS {
        return Err(Malformed::TooMany);
    }
    let (mut draft, mut data, mut base64) = (Draft::new(), None, None);
    let mut names = BTreeSet::new();
    for member in members {
        let mut sides = cut(member, ':');
        let (name, value) = (sides.next(), sides.next());
        let name = unquoted(name.unwrap_or_default())?;
        let value = value.unwrap_or_default().trim();
        match name.as_str() {
            _ if names.contains(&name) => return Err(Malformed::Repeated(shown(&name))),
            // Null is a value of data, and the lack of one anywhere else.
            "data" => data = Some(value),
            _ if value == "null" => {}
            "data_base64" => base64 = Some(value),
            _ => draft.add(&name, attribute(&name, value)?)?,
        }
        names.insert(name);
    }
    let data = match (data, base64) {
        (None, None) => Bytes::new(),
        (Some(_), Some(_)) => return Err(Malformed::TwoData),
        (None, Some(base64)) => decoded(base64)?,
        (Some(data), None) => {
            let media_type = draft.0.media_type();
            let bytes = written(data, media_type.unwrap_or(IMPLIED))?;
            if media_type.is_none() {
                // Once it is not in JSON any more, nothing else would say it.
                draft.add(TYPE_OF_DATA, IMPLIED)?;
            }
            bytes
        }
    };
    draft.finish(data)
}

/// Reads a batch.
pub(super) fn batch(text: &[u8]) -> Result<Vec<Result<Event, Malformed>>, Malformed> {
    if first(text) != Some(b'[') {
        return Err(Malformed::NotAnArray);
    }
    let elements: Vec<_> = parts(valid(text)?).take(MAX_BATCH + 1).collect();
    if elements.len() > MAX_BATCH {
        return Err(Malformed::TooManyEvents);
    }
    let events = elements.into_iter().map(|one| event(one.as_bytes()));
    Ok(events.collect())
}

/// The text of a value in JSON, without whitespace around it. Why not serde_json's `RawValue`: its feature makes
/// every `Value` of the program read an object with a certain name in it as another one than applications do.
fn valid(text: &[u8]) -> Result<&str, Malformed> {
    let IgnoredAny = serde_json::from_slice(text).map_err(|error| place(&error))?;
    // Strings that are skipped are not looked into.
    match str::from_utf8(text) {
        Ok(text) => Ok(text.trim()),
        Err(error) => {
            let before = &text[..error.valid_up_to()];
            let lines = before.split(|byte| *byte == b'\n');
            let (line, last) = lines.enumerate().last().unwrap_or_default();
            Err(Malformed::Json {
                line: line + 1,
                column: last.len() + 1,
            })
        }
    }
}

/// Whether something is JSON that most of those can read that are sent it.
///
/// # Errors
/// That it is none, or nests too deep.
pub fn check_json(text: &[u8]) -> Result<(), Malformed> {
    match is_flat(valid(text)?) {
        true => Ok(()),
        false => Err(Malformed::Deep),
    }
}

/// Where JSON is wrong. What serde_json says beside that may repeat what was sent.
fn place(error: &serde_json::Error) -> Malformed {
    Malformed::Json {
        line: error.line(),
        column: error.column(),
    }
}

fn first(text: &[u8]) -> Option<u8> {
    text.trim_ascii_start().first().copied()
}

/// The members of an object or the elements of an array, which is valid.
fn parts(container: &str) -> impl Iterator<Item = &str> {
    let inside = container.get(1..container.len() - 1).unwrap_or_default();
    // One of nothing is cut into one piece of nothing.
    cut(inside, ',').filter(|part| !part.trim().is_empty())
}

/// Cut where a character stands in no string, object or array. The text is part of valid JSON.
fn cut(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut position = Position::default();
    text.split(move |c| {
        position.pass(c);
        c == at && position.depth == 0 && !position.in_string
    })
}

/// The text that a string in JSON is.
fn unquoted(string: &str) -> Result<String, Malformed> {
    serde_json::from_str(string).map_err(|error| place(&error))
}

/// The value of an attribute as the text that it is of its type.
fn attribute(name: &str, text: &str) -> Result<String, Malformed> {
    // A byte of a value is written in six at most: \u0000.
    if text.len() > 6 * MAX_ATTRIBUTE_BYTES + 2 {
        return Err(Malformed::Long(shown(name)));
    }
    match text.as_bytes() {
        [b'"', ..] => serde_json::from_str(text).map_err(|_| Malformed::Character(shown(name))),
        b"true" | b"false" => Ok(text.to_owned()),
        _ => {
            let number = text.parse::<i32>();
            let number = number.map_err(|_| Malformed::Type(shown(name)))?;
            Ok(number.to_string())
        }
    }
}

/// The bytes of data that are written as JSON. Copied, as the event may outlive the batch that it came with.
fn written(data: &str, media_type: &str) -> Result<Bytes, Malformed> {
    match data.as_bytes() {
        _ if media_type::is_json(media_type) => {}
        b"null" => return Ok(Bytes::new()),
        [b'"', ..] if media_type::is_utf8(media_type) => {
            return Ok(unquoted(data)?.into());
        }
        [b'"', ..] => return Err(Malformed::DataCharset),
        _ => {}
    }
    match is_flat(data) {
        true => Ok(Bytes::copy_from_slice(data.as_bytes())),
        false => Err(Malformed::Deep),
    }
}

fn decoded(base64: &str) -> Result<Bytes, Malformed> {
    let text = unquoted(base64).map_err(|_| Malformed::Base64)?;
    let bytes = STANDARD.decode(text).map_err(|_| Malformed::Base64)?;
    Ok(bytes.into())
}

/// Whether valid JSON nests no deeper than the bound. serde_json's own bound is one of values that are built, and
/// none are here.
fn is_flat(json: &str) -> bool {
    let mut position = Position::default();
    json.chars().all(|c| {
        position.pass(c);
        position.depth <= MAX_DEPTH
    })
}

// === impl Position ===

impl Position {
    /// Goes on, behind this character.
    fn pass(&mut self, c: char) {
        let escaped = std::mem::take(&mut self.escaped);
        match c {
            '"' if !escaped => self.in_string = !self.in_string,
            '\\' if self.in_string && !escaped => self.escaped = true,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

// === impl Event ===

impl Event {
    /// The event in JSON, which has the media type `application/cloudevents+json`.
    ///
    /// Its data are JSON when they are JSON and their media type says so or is missing, a string when their media
    /// type is one of text in UTF-8, and in Base64 otherwise. Data without a media type that are JSON are
    /// `application/json` to who reads them.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.data.len() + 256);
        self.write_json(&mut json);
        json
    }

    /// Events as a batch in JSON, which has the media type `application/cloudevents-batch+json`. A reader takes
    /// [`MAX_BATCH`] of them, and others may take less.
    pub fn batch_to_json<'a>(events: impl Iterator<Item = &'a Self>) -> Vec<u8> {
        let mut json = vec![b'['];
        for (at, event) in events.enumerate() {
            if at > 0 {
                json.push(b',');
            }
            event.write_json(&mut json);
        }
        json.push(b']');
        json
    }

    fn write_json(&self, to: &mut Vec<u8>) {
        for (at, (name, value)) in self.attributes().enumerate() {
            to.push(if at == 0 { b'{' } else { b',' });
            write_string(to, name);
            to.push(b':');
            write_string(to, value);
        }
        if !self.data.is_empty() {
            self.write_data(to);
        }
        to.push(b'}');
    }

    fn write_data(&self, to: &mut Vec<u8>) {
        let media_type = self.media_type();
        let is = |asked: fn(&str) -> bool| media_type.is_some_and(asked);
        if media_type.is_none_or(media_type::is_json) {
            let json = valid(&self.data).ok();
            if let Some(json) = json.filter(|json| is_flat(json)) {
                to.extend_from_slice(b",\"data\":");
                to.extend_from_slice(json.as_bytes());
                return;
            }
        } else if is(media_type::is_text)
            && is(media_type::is_utf8)
            && let Ok(text) = str::from_utf8(&self.data)
        {
            to.extend_from_slice(b",\"data\":");
            write_string(to, text);
            return;
        }
        to.extend_from_slice(b",\"data_base64\":\"");
        to.extend_from_slice(STANDARD.encode(&self.data).as_bytes());
        to.push(b'"');
    }
}

fn write_string(to: &mut Vec<u8>, text: &str) {
    // Neither a text nor a vector makes that fail.
    let _ = serde_json::to_writer(to, text);
}
