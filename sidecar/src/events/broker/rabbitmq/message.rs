//! Messages, and the properties that they are written to and read from.
//!
//! Headers are entries of the table of headers, as long texts, and the media type is the property for
//! that. CloudEvents has no binding for AMQP 0-9-1; what programs that know the one for AMQP 1.0 write
//! (`cloudEvents:id`, `cloudEvents_id`) is read as `ce-id`. What others write in other types is read as
//! text where it has one, and left out otherwise.
//!
//! Some entries are ours: how often a message was delivered before it came to where it is now, where it
//! stands, and when it was published. They are shown to nobody. Whoever publishes could write them,
//! too, and changes with that what is known of that one message.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::link::text;
use crate::events::broker::Message;
use crate::events::cloud_event::headers;

/// What headers begin with that tell a broker something, and ours.
const ITS_OWN: &str = "x-";
/// How often a message was delivered before it came here.
const ATTEMPTS: &str = "x-meshwright-attempts";
/// Where it stands in its topic.
const PLACE: &str = "x-meshwright-place";
/// When it was published, in milliseconds since 1970.
const PUBLISHED: &str = "x-meshwright-published";
/// How often a quorum queue has delivered it in vain.
const DELIVERIES: &str = "x-delivery-count";
/// Entries that are left out of what is published again: they say where else it goes, or are the broker's.
const LEFT_OUT: [&str; 3] = ["CC", "BCC", DELIVERIES];
/// What the names of attributes begin with, in AMQP 1.0 and here.
const FOREIGN: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
const PREFIX: &str = headers::PREFIX;
/// The header that is a property.
const CONTENT_TYPE: &str = "content-type";
/// The most headers of a message that are read.
const HEADERS: usize = 128;
/// The longest name and the longest value of one that is read, and the most bytes of all of them.
const NAME: usize = 128;
const VALUE: usize = 32 * 1024;
const ALL: usize = 128 * 1024;

/// What is read of properties.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) headers: Vec<(String, String)>,
    /// Which delivery this is, from 1.
    pub(super) attempt: u32,
    /// Where it stands, if it says.
    pub(super) place: Option<String>,
    pub(super) published: Option<SystemTime>,
}

/// The properties of a message that is published, and how many bytes they are at most. `place`: a number that no other
/// one has, and the same one when it is published once more.
///
/// # Errors
/// That they can't be written.
pub(super) fn written(
    message: &Message,
    id: Option<&str>,
    place: u128,
) -> Result<(BasicProperties, usize), &'static str> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_timestamp(now.as_secs());
    let mut table = FieldTable::default();
    for (name, value) in &message.headers {
        let is_name = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && c != ':';
        if name.is_empty() || name.len() > NAME || !name.chars().all(is_name) {
            return Err("the name of a header can't be one");
        }
        if name.starts_with(ITS_OWN) {
            return Err("a header is the broker's own");
        }
        let value = &*as_it_is(name, value)?;
        if value.chars().any(char::is_control) {
            return Err("a header has a control character");
        }
        if table.contains_key(name) {
            return Err("two headers have one name");
        }
        // A property is a short text.
        if name == CONTENT_TYPE && value.len() <= 255 && properties.content_type().is_none() {
            properties = properties.with_content_type(text(value));
            continue;
        }
        table.insert(text(name), long(value));
    }
    if table.contains_key(CONTENT_TYPE) && properties.content_type().is_some() {
        return Err("two headers have one name");
    }
    if let Some(id) = id {
        if id.len() > 255 || id.chars().any(char::is_control) {
            return Err("its id can't be one");
        }
        properties = properties.with_message_id(text(id));
    }
    let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    table.insert(text(PUBLISHED), AMQPValue::LongLongInt(millis));
    table.insert(text(PLACE), long(&format!("{place:032x}")));
    let properties = properties.with_headers(table);
    let length = length(&properties);
    Ok((properties, length))
}

/// The properties of a message that is published again, so that it comes back to a group: as they were, without what
/// would lead it elsewhere or end it, and with what is known of it.
pub(super) fn again(
    properties: &BasicProperties,
    attempts: u32,
    place: &str,
    published: Option<SystemTime>,
) -> (BasicProperties, usize) {
    let mut table = FieldTable::default();
    for (name, value) in properties.headers().iter().flatten() {
        let is_kept = !LEFT_OUT.contains(&name.as_str()) && !is_of_dead_letters(name.as_str());
        if is_kept {
            table.insert(name.clone(), value.clone());
        }
    }
    table.insert(text(ATTEMPTS), AMQPValue::LongLongInt(attempts.into()));
    table.insert(text(PLACE), long(place));
    let published = published.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(millis) = published.and_then(|since| i64::try_from(since.as_millis()).ok()) {
        table.insert(text(PUBLISHED), AMQPValue::LongLongInt(millis));
    }
    let mut again = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(table);
    // Not who published it, which the broker compares with who we are, nor when it is thrown away.
    for (from, with) in [
        (
            properties.content_type(),
            BasicProperties::with_content_type as fn(BasicProperties, _) -> _,
        ),
        (
            properties.content_encoding(),
            BasicProperties::with_content_encoding,
        ),
        (
            properties.correlation_id(),
            BasicProperties::with_correlation_id,
        ),
        (properties.reply_to(), BasicProperties::with_reply_to),
        (properties.message_id(), BasicProperties::with_message_id),
        (properties.kind(), BasicProperties::with_type),
        (properties.app_id(), BasicProperties::with_app_id),
    ] {
        if let Some(value) = from {
            again = with(again, value.clone());
        }
    }
    if let Some(timestamp) = properties.timestamp() {
        again = again.with_timestamp(*timestamp);
    }
    let length = length(&again);
    (again, length)
}

/// What properties say.
pub(super) fn read(properties: &BasicProperties) -> Read {
    let mut read = Read {
        headers: Vec::new(),
        attempt: 1,
        place: properties.message_id().as_ref().map(|id| id.to_string()),
        published: None,
    };
    let (mut names, mut left) = (BTreeSet::new(), ALL);
    let mut add = |name: String, value: String| {
        let length = name.len() + value.len();
        let fits = read.headers.len() < HEADERS && length <= left && value.len() <= VALUE;
        if fits && is_shown(&value) && names.insert(name.clone()) {
            left -= length;
            read.headers.push((name, value));
        }
    };
    if let Some(media_type) = properties.content_type() {
        add(CONTENT_TYPE.to_owned(), media_type.to_string());
    }
    let (mut earlier, mut deliveries) = (0, 0);
    for (name, value) in properties.headers().iter().flatten() {
        let name = name.as_str();
        match name {
            ATTEMPTS => earlier = number(value).unwrap_or(0).max(0),
            DELIVERIES => deliveries = number(value).unwrap_or(0).max(0),
            PLACE => read.place = words(value).or(read.place.take()),
            PUBLISHED => {
                let millis = number(value).and_then(|it| u64::try_from(it).ok());
                let since = millis.map(Duration::from_millis);
                read.published = since.and_then(|it| SystemTime::UNIX_EPOCH.checked_add(it));
            }
            "CC" | "BCC" => {}
            _ if is_of_dead_letters(name) => {}
            _ => {
                if let Some((name, value)) = header(name, value) {
                    add(name, value);
                }
            }
        }
    }
    if read.published.is_none() {
        let since = properties.timestamp().map(Duration::from_secs);
        read.published = since.and_then(|it| SystemTime::UNIX_EPOCH.checked_add(it));
    }
    read.place = read
        .place
        .filter(|place| !place.is_empty() && place.len() <= 255);
    let attempt = earlier.saturating_add(deliveries).saturating_add(1);
    read.attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
    read
}

/// An entry of the table as a header, if it can be one.
fn header(name: &str, value: &AMQPValue) -> Option<(String, String)> {
    let foreign = FOREIGN.iter().find_map(|begin| name.strip_prefix(begin));
    let shown = match foreign {
        Some(name) => format!("{PREFIX}{}", name.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    };
    let is_name = |c: char| c.is_ascii_graphic() && c != ':';
    if shown.is_empty() || shown.len() > NAME || !shown.chars().all(is_name) {
        return None;
    }
    let value = written_out(value)?;
    let value = match shown.starts_with(PREFIX) {
        true => headers::encode(&value),
        false => value,
    };
    Some((shown, value))
}

/// The value of a header as it stands in a table: that of an attribute is what it is there, and in a [`Message`] it stands
/// as it does in HTTP.
fn as_it_is<'v>(name: &str, value: &'v str) -> Result<Cow<'v, str>, &'static str> {
    match name.strip_prefix(PREFIX) {
        Some(attribute) => headers::decode(attribute, value.as_bytes())
            .map(Cow::Owned)
            .map_err(|_| "a header of an attribute is not written as one"),
        None => Ok(Cow::Borrowed(value)),
    }
}

/// A value as text, if it has one.
fn written_out(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(_) | AMQPValue::ByteArray(_) | AMQPValue::ShortString(_) => {
            words(value)
        }
        AMQPValue::Boolean(it) => Some(it.to_string()),
        AMQPValue::Float(it) if it.is_finite() => Some(it.to_string()),
        AMQPValue::Double(it) if it.is_finite() => Some(it.to_string()),
        AMQPValue::Timestamp(it) => {
            let seconds = i64::try_from(*it).ok()?;
            let time = jiff::Timestamp::from_second(seconds).ok()?;
            Some(time.to_string())
        }
        _ => number(value).map(|it| it.to_string()),
    }
}

fn words(value: &AMQPValue) -> Option<String> {
    let bytes = match value {
        AMQPValue::LongString(it) => it.as_bytes(),
        AMQPValue::ByteArray(it) => it.as_slice(),
        AMQPValue::ShortString(it) => it.as_str().as_bytes(),
        _ => return None,
    };
    let words = str::from_utf8(bytes).ok()?;
    is_shown(words).then(|| words.to_owned())
}

fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(it) => Some((*it).into()),
        AMQPValue::ShortShortUInt(it) => Some((*it).into()),
        AMQPValue::ShortInt(it) => Some((*it).into()),
        AMQPValue::ShortUInt(it) => Some((*it).into()),
        AMQPValue::LongInt(it) => Some((*it).into()),
        AMQPValue::LongUInt(it) => Some((*it).into()),
        AMQPValue::LongLongInt(it) => Some(*it),
        _ => None,
    }
}

/// Whether it is made of visible characters and spaces.
fn is_shown(words: &str) -> bool {
    !words.chars().any(char::is_control)
}

/// Whether an entry says where a message was before it was a dead letter of the broker's.
fn is_of_dead_letters(name: &str) -> bool {
    name == "x-death" || name.starts_with("x-first-death-") || name.starts_with("x-last-death-")
}

/// How many bytes properties are, as they are sent.
fn length(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.message_id(),
        properties.kind(),
        properties.app_id(),
    ];
    let texts = texts.into_iter().flatten().map(|it| it.as_str().len() + 1);
    let table = properties.headers().iter().flatten();
    let table = table.map(|(name, value)| 1 + name.as_str().len() + length_of(value));
    // Flags, the length of the table, how it is kept and when it was published.
    2 + 4 + 1 + 8 + texts.sum::<usize>() + table.sum::<usize>()
}

fn length_of(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(it) => 5 + it.len(),
        AMQPValue::ByteArray(it) => 5 + it.as_slice().len(),
        AMQPValue::ShortString(it) => 5 + it.as_str().len(),
        AMQPValue::FieldArray(it) => 5 + it.as_slice().iter().map(length_of).sum::<usize>(),
        AMQPValue::FieldTable(it) => {
            let entries = it.into_iter();
            let lengths = entries.map(|(name, value)| 1 + name.as_str().len() + length_of(value));
            5 + lengths.sum::<usize>()
        }
        _ => 9,
    }
}

fn long(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, FieldArray};

    use super::*;

    fn message(headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Message {
            headers: headers.collect(),
            data: Vec::new().into(),
        }
    }

    fn of(entries: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert(text(name), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let sent = message(&[
            ("content-type", "text/plain"),
            ("ce-id", "a%20b"),
            ("ce-type", "t"),
        ]);
        let before = SystemTime::now() - Duration::from_millis(1);
        let (properties, length) = written(&sent, Some("id"), rand::random()).unwrap();
        assert!(length > 100 && length < 250, "{length}");
        assert_eq!(properties.message_id(), &Some(text("id")));
        assert_eq!(properties.delivery_mode(), &Some(2));
        let table = properties.headers().as_ref().unwrap().inner();
        assert_eq!(words(&table["ce-id"]).as_deref(), Some("a b"));
        let found = read(&properties);
        assert_eq!(found.headers, sent.headers);
        assert_eq!(found.attempt, 1);
        assert!(
            found.published.unwrap() >= before && found.published.unwrap() <= SystemTime::now()
        );
        // Two of one id stand in two places.
        let (other, _) = written(&sent, Some("id"), rand::random()).unwrap();
        assert_ne!(found.place, read(&other).place);
        assert_eq!(found.place.unwrap().len(), 32);
    }

    #[test]
    fn a_header_that_would_tell_the_broker_something_is_refused() {
        let long = "a".repeat(300);
        for (name, value) in [
            ("a", "b\nc"),
            ("", "c"),
            ("a b", "c"),
            ("CC", "queue"),
            ("x-meshwright-attempts", "1"),
            ("x-delay", "1"),
            (&long, "c"),
        ] {
            assert!(
                written(&message(&[(name, value)]), None, 1).is_err(),
                "{name:?}"
            );
        }
        for name in ["ce-id", "content-type"] {
            assert!(written(&message(&[(name, "1"), (name, "2")]), None, 1).is_err());
        }
        assert!(written(&message(&[]), Some(&long), 1).is_err());
        assert!(written(&message(&[]), Some("a\0b"), 1).is_err());
        // One that is too long for a property is a header all the same.
        let sent = message(&[("content-type", &long)]);
        assert_eq!(
            read(&written(&sent, None, 1).unwrap().0).headers,
            sent.headers
        );
    }

    #[test]
    fn what_others_write_is_read_as_far_as_it_is_text() {
        let text = |it: &str| AMQPValue::LongString(it.as_bytes().to_vec().into());
        let found = read(&of(&[
            ("cloudEvents:id", text("50% ä\"")),
            (
                "cloudEvents_subject",
                AMQPValue::ByteArray(ByteArray::from(b"s".as_slice())),
            ),
            ("cloudEvents:time", AMQPValue::Timestamp(0)),
            ("Number", AMQPValue::LongInt(-7)),
            ("flag", AMQPValue::Boolean(true)),
            ("half", AMQPValue::Double(0.5)),
            ("nan", AMQPValue::Double(f64::NAN)),
            ("late", AMQPValue::Timestamp(u64::MAX)),
            ("table", AMQPValue::FieldTable(FieldTable::default())),
            ("array", AMQPValue::FieldArray(FieldArray::default())),
            ("void", AMQPValue::Void),
            ("latin", AMQPValue::LongString(b"\xe4".to_vec().into())),
            ("line", text("a\r\nb")),
            ("no name", text("a")),
            ("", text("a")),
            ("x-death", AMQPValue::FieldArray(FieldArray::default())),
            ("x-first-death-queue", text("q")),
            ("CC", text("q")),
        ]));
        let wanted = [
            ("number", "-7"),
            ("ce-id", "50%25%20%C3%A4%22"),
            ("ce-time", "1970-01-01T00:00:00Z"),
            ("ce-subject", "s"),
            ("flag", "true"),
            ("half", "0.5"),
        ];
        let wanted = message(&wanted).headers;
        assert_eq!(found.headers, wanted);
        assert_eq!(
            (found.attempt, found.place, found.published),
            (1, None, None)
        );
    }

    #[test]
    fn what_somebody_forges_stays_within_bounds() {
        let most = AMQPValue::LongLongInt(i64::MAX);
        let found = read(&of(&[
            (ATTEMPTS, most.clone()),
            (DELIVERIES, most.clone()),
            (PUBLISHED, most),
        ]));
        assert_eq!(found.attempt, u32::MAX);
        let least = AMQPValue::LongLongInt(i64::MIN);
        let found = read(&of(&[
            (ATTEMPTS, least.clone()),
            (PUBLISHED, least),
            (PLACE, AMQPValue::Void),
        ]));
        assert_eq!(
            (found.attempt, found.published, found.place),
            (1, None, None)
        );
        let far = BasicProperties::default().with_timestamp(u64::MAX);
        assert_eq!(read(&far).published, None);
        let many = Vec::from_iter((0..500).map(|number| format!("h{number}")));
        let many = Vec::from_iter(
            many.iter()
                .map(|name| (name.as_str(), AMQPValue::Boolean(true))),
        );
        assert_eq!(read(&of(&many)).headers.len(), HEADERS);
        let long = AMQPValue::LongString(vec![b'a'; VALUE + 1].into());
        assert_eq!(read(&of(&[("long", long)])).headers, []);
    }

    #[test]
    fn what_is_published_again_goes_nowhere_else_and_is_what_it_was() {
        let queue = || AMQPValue::LongString(b"q".to_vec().into());
        let properties = of(&[
            ("CC", queue()),
            ("BCC", queue()),
            ("x-death", queue()),
            (DELIVERIES, AMQPValue::LongInt(2)),
            (ATTEMPTS, AMQPValue::LongInt(5)),
            ("ce-id", queue()),
            ("table", AMQPValue::FieldTable(FieldTable::default())),
        ]);
        let properties = properties
            .with_user_id(text("somebody"))
            .with_expiration(text("1"))
            .with_message_id(text("m"))
            .with_timestamp(7);
        let attempt = read(&properties).attempt;
        assert_eq!(attempt, 8);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
        let (again, length) = again(&properties, attempt, "p", Some(at));
        assert!(length < 250);
        assert_eq!((again.user_id(), again.expiration()), (&None, &None));
        assert_eq!(again.message_id(), properties.message_id());
        assert_eq!(again.timestamp(), &Some(7));
        let table = again.headers().as_ref().unwrap();
        for name in ["CC", "BCC", "x-death", DELIVERIES] {
            assert!(!table.contains_key(name), "{name}");
        }
        assert!(table.contains_key("table"));
        let found = read(&again);
        assert_eq!(found.attempt, 9);
        assert_eq!(
            (found.place.as_deref(), found.published),
            (Some("p"), Some(at))
        );
        assert_eq!(found.headers, [("ce-id".to_owned(), "q".to_owned())]);
    }
}
