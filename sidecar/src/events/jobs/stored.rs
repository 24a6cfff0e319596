//! What came of a job, in the form in which it stands in a store.

use bytes::Bytes;
use prost::Message as _;

use super::super::cloud_event::Event;
use super::JOB;
use crate::policy::idempotency::key::Principal;

/// The longest result, in bytes, with its attributes: a little less than what is read of a store at once.
pub(super) const MAX_RESULT: usize = 1024 * 1024;

/// The form: fields are added, and never change their meaning.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    /// Who may fetch it.
    #[prost(bytes = "vec", tag = "1")]
    who: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Field>,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
    /// It was longer than may be kept, and nothing of it is.
    #[prost(bool, tag = "4")]
    too_long: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// This was replied.
    Reply(Box<Event>),
    /// What was replied is longer than may be kept.
    TooLong,
}

/// What came of a job of that principal, as it is stored.
pub(super) fn write(who: &[u8], reply: &Event) -> Vec<u8> {
    let mut reply = reply.clone();
    // Whoever fetches it has the token.
    reply.remove_extension(JOB);
    let (headers, data) = reply.to_message();
    let fields = headers.into_iter();
    let stored = Stored {
        who: who.to_vec(),
        headers: fields.map(|(name, value)| Field { name, value }).collect(),
        data,
        too_long: false,
    };
    if stored.encoded_len() <= MAX_RESULT {
        return stored.encode_to_vec();
    }
    let none = Stored {
        who: who.to_vec(),
        too_long: true,
        ..Stored::default()
    };
    none.encode_to_vec()
}

/// Reads it, for that principal; nothing where it is another's, or none.
pub(super) fn read(bytes: Vec<u8>, who: Principal) -> Option<Outcome> {
    let stored = Stored::decode(Bytes::from(bytes)).ok()?;
    if stored.who != who.as_bytes() {
        return None;
    }
    if stored.too_long {
        return Some(Outcome::TooLong);
    }
    let fields = stored.headers.iter();
    let fields = fields.map(|field| (field.name.as_str(), field.value.as_str()));
    let reply = Event::from_message(fields, stored.data).ok()??;
    Some(Outcome::Reply(Box::new(reply)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_by_whom_it_is_for_and_by_nobody_else() {
        let (own, other) = (Principal::of(None, &[]), {
            let id = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
            Principal::of(Some(&id), &[])
        });
        let mut reply = Event::trusted("1", "/a", "t");
        reply.set("subject", "ä b").unwrap();
        reply.data = Bytes::from_static(b"\x00paid");
        let kept = reply.clone();
        reply.set(JOB, "0123").unwrap();
        let stored = write(own.as_bytes(), &reply);
        assert_eq!(
            read(stored.clone(), own),
            Some(Outcome::Reply(Box::new(kept)))
        );
        assert_eq!(read(stored.clone(), other), None);
        assert_eq!(read(stored[..20].to_vec(), own), None);
        assert_eq!(read(Vec::new(), own), None);
    }

    #[test]
    fn of_a_result_that_is_too_long_it_is_known_that_it_was() {
        let who = Principal::of(None, &[]);
        let mut reply = Event::trusted("1", "/a", "t");
        for (bytes, is_kept) in [(MAX_RESULT - 1024, true), (MAX_RESULT, false)] {
            reply.data = Bytes::from(vec![b'a'; bytes]);
            let stored = write(who.as_bytes(), &reply);
            assert!(stored.len() <= MAX_RESULT);
            match read(stored, who).unwrap() {
                Outcome::Reply(read) => assert!(is_kept && *read == reply),
                Outcome::TooLong => assert!(!is_kept),
            }
        }
    }
}
