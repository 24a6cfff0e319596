//! What events are known by.

use std::time::SystemTime;

use uuid::{Builder, Uuid};

use super::super::cloud_event::Event;
use super::super::jobs::JOB;

/// A UUID of version 7 (RFC 9562, section 5.7): in the order of time, and nobody else's.
pub(in crate::events) fn new_id(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    let millis = u64::try_from(millis).unwrap_or_default();
    let id = Builder::from_unix_timestamp_millis(millis, &rand::random());
    let id = id.into_uuid().hyphenated();
    id.encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// What a broker tells duplicates by: topic, source and id, which name an event there (CloudEvents 1.0.2, section
/// 3.1), and what else tells it apart. One of another job is another event, whatever it is called: who replies to two with
/// the same id has replied to both.
pub(in crate::events) fn known_by(topic: &str, event: &Event, more: &[&[u8]]) -> String {
    let of = |name| event.attribute(name).unwrap_or_default().as_bytes();
    let named = [topic.as_bytes(), of("source"), of("id")];
    let job = event.attribute(JOB).map(str::as_bytes);
    hex(&digest(&[&named, more, job.as_slice()].concat())[..16])
}

/// Bytes in base 16.
pub(in crate::events) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |four: u8| char::from(DIGITS[usize::from(four & 15)]);
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        digits.extend([digit(byte >> 4), digit(*byte)]);
    }
    digits
}

/// SHA-256 of parts, of which no other split makes the same.
pub(in crate::events) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let (mut digest, whole) = ([0; 32], context.finish());
    for (to, from) in digest.iter_mut().zip(whole.as_ref()) {
        *to = *from;
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_id_is_a_uuid_in_the_order_of_time() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_millis(0x0123_4567_89ab);
        let id = new_id(then);
        assert!(id.starts_with("01234567-89ab-7"), "{id}");
        assert_eq!(id.len(), 36);
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, new_id(then));
        assert!(id < new_id(then + Duration::from_millis(1)));
    }

    #[test]
    fn events_are_known_by_topic_source_and_id_together() {
        let known = |topic, id: &str, source: &str, more: &[&[u8]]| {
            known_by(topic, &Event::new(id, source, "t").unwrap(), more)
        };
        let one = known("a", "1", "/a", &[]);
        assert_eq!(one, known("a", "1", "/a", &[]));
        assert_eq!(one.len(), 32);
        for other in [
            known("b", "1", "/a", &[]),
            known("a", "2", "/a", &[]),
            known("a", "1", "/b", &[]),
            known("a", "11", "/", &[]),
            known("a", "1", "/a", &[b"web", b"body"]),
        ] {
            assert_ne!(one, other);
        }
        let of = |more: &[&[u8]]| known("a", "1", "/a", more);
        assert_ne!(of(&[b"web", b"body"]), of(&[b"web", b"other"]));
        assert_ne!(of(&[b"web", b"body"]), of(&[b"webb", b"ody"]));
        let mut of_a_job = Event::new("1", "/a", "t").unwrap();
        of_a_job.set(JOB, "0123").unwrap();
        let known = known_by("a", &of_a_job, &[]);
        of_a_job.set(JOB, "4567").unwrap();
        assert!(known != one && known != known_by("a", &of_a_job, &[]));
    }
}
