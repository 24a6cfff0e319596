//! Trace context: what joins the hops of a call, in headers and in the access log.
//!
//! `traceparent` and `tracestate` are W3C Trace Context (level 2, which is level 1 with wider keys).
//! The sidecar reports no spans, so it is nobody's parent: a valid context passes unchanged, one of a
//! later version included. Where there is none, or none that is valid, the first sidecar begins one.
//! It begins unsampled (flags `00`): nothing has been recorded, and whether applications record is
//! not for a sidecar to switch on. B3 is taken for a context when there is no other, and stays.
//!
//! `x-request-id` is kept when it is short and printable, and made otherwise.
//!
//! Callers write all of these. What is read of them has a fixed length or a bound, and a context
//! that is kept costs no allocation.

use std::num::{NonZeroU64, NonZeroU128};

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Bytes of a `traceparent` of version 00; a later one begins with as many (section 3.2.4).
const PARENT_LENGTH: usize = 55;

/// Members of a `tracestate`; a list of more is malformed (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// Bytes of a `tracestate` that are passed on, at least and here at most (section 3.3.1.5).
const MAX_STATE: usize = 512;

/// Members longer than this go first when a `tracestate` is too long (section 3.3.1.5).
const LONG_MEMBER: usize = 128;

/// Bytes of an `x-request-id` that is kept: a UUID has 36.
const MAX_REQUEST_ID: usize = 128;

/// What a request's lines in the access logs of all hops have in common.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Lowercase hexadecimal digits.
    trace_id: [u8; 32],
    /// Visible ASCII.
    request_id: HeaderValue,
}

/// What is read of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace_id: [u8; 32],
    parent_id: [u8; 16],
    sampled: bool,
}

/// What B3 headers say.
enum FromB3 {
    Parent(Parent),
    /// Only whether to sample.
    Sampled(bool),
}

// === impl Trace ===

impl Trace {
    /// Keeps the context that a request's headers carry, or begins one in them. A second time
    /// changes nothing: every hop reads what the first one left.
    pub fn of(headers: &mut HeaderMap) -> Self {
        let kept = only(headers, TRACEPARENT).and_then(|value| trace_id(value.as_bytes()));
        let trace_id = match kept {
            Some(trace_id) => {
                keep_state(headers);
                trace_id
            }
            None => {
                // A list belongs to the context that it came with.
                headers.remove(TRACESTATE);
                let parent = match b3(headers) {
                    Some(FromB3::Parent(parent)) => parent,
                    Some(FromB3::Sampled(sampled)) => Parent::begin(sampled),
                    None => Parent::begin(false),
                };
                headers.insert(TRACEPARENT, parent.to_value());
                parent.trace_id
            }
        };
        let kept = only(headers, REQUEST_ID).filter(|value| is_request_id(value.as_bytes()));
        let request_id = match kept {
            Some(kept) => kept.clone(),
            None => {
                let made = new_request_id();
                headers.insert(REQUEST_ID, made.clone());
                made
            }
        };
        Self {
            trace_id,
            request_id,
        }
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.trace_id).unwrap_or_default()
    }

    /// At most 128 visible characters of ASCII.
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// A number that all hops of a trace share and that is even over traces: its last digits, which
    /// are the random ones (section 3.2.2.3).
    pub fn lot(&self) -> u32 {
        let last = self.trace_id().get(24..).unwrap_or_default();
        u32::from_str_radix(last, 16).unwrap_or_default()
    }
}

/// The value of a header that is there once: of two, nobody can say which one is meant.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

// === traceparent ===

/// The trace id of a valid `traceparent`: `version-traceid-parentid-flags`. A version later than 00
/// may say more behind it (section 3.2.4); ff is none.
fn trace_id(value: &[u8]) -> Option<[u8; 32]> {
    let (known, more) = value.split_first_chunk::<PARENT_LENGTH>()?;
    let (version, rest) = known.split_first_chunk::<2>()?;
    let (trace_id, rest) = after_dash::<32>(rest)?;
    let (parent_id, rest) = after_dash::<16>(rest)?;
    let (flags, _) = after_dash::<2>(rest)?;
    let ends = match version {
        b"ff" => false,
        b"00" => more.is_empty(),
        later => is_hex(later) && matches!(more.first(), None | Some(b'-')),
    };
    (ends && is_id(trace_id) && is_id(parent_id) && is_hex(flags)).then_some(*trace_id)
}

fn after_dash<const N: usize>(text: &[u8]) -> Option<(&[u8; N], &[u8])> {
    text.strip_prefix(b"-")?.split_first_chunk::<N>()
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Of zeros alone is none.
fn is_id(text: &[u8]) -> bool {
    is_hex(text) && text.iter().any(|b| *b != b'0')
}

impl Parent {
    fn begin(sampled: bool) -> Self {
        Self {
            trace_id: hex(rand::random::<NonZeroU128>().get().to_be_bytes()),
            parent_id: hex(rand::random::<NonZeroU64>().get().to_be_bytes()),
            sampled,
        }
    }

    fn to_value(self) -> HeaderValue {
        let mut text = [b'-'; PARENT_LENGTH];
        text[..2].copy_from_slice(b"00");
        text[3..35].copy_from_slice(&self.trace_id);
        text[36..52].copy_from_slice(&self.parent_id);
        text[53..].copy_from_slice(if self.sampled { b"01" } else { b"00" });
        value(&text)
    }
}

/// Digits of bytes; `TO` is twice `FROM`.
fn hex<const FROM: usize, const TO: usize>(bytes: [u8; FROM]) -> [u8; TO] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; TO];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// Of text that we have made ourselves.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

// === tracestate ===

/// Leaves one well-formed `tracestate` of at most [`MAX_STATE`] bytes, or none.
fn keep_state(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(TRACESTATE).into_iter();
    let Some(first) = lines.next() else { return };
    let more = lines.next().is_some();
    let well_formed = headers
        .get_all(TRACESTATE)
        .into_iter()
        .flat_map(members)
        .try_fold(0, |count, member| {
            (count < MAX_MEMBERS && is_member(member)).then_some(count + 1)
        });
    match well_formed {
        None | Some(0) => drop(headers.remove(TRACESTATE)),
        Some(_) if !more && first.len() <= MAX_STATE => {}
        Some(_) => {
            let joined = joined(headers.get_all(TRACESTATE).into_iter().flat_map(members));
            match joined.is_empty() {
                true => drop(headers.remove(TRACESTATE)),
                false => drop(headers.insert(TRACESTATE, value(&joined))),
            }
        }
    }
}

/// A list may have empty members, which say nothing (section 3.3.1.1).
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// `key=value` (sections 3.3.1.3.1 and 3.3.1.3.2).
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|b| *b == b'=') else {
        return false;
    };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let begins = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let goes_on = |b: &u8| begins(b) || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@');
    let says = |b: &u8| matches!(b, b' '..=b'~') && *b != b'=';
    (1..=256).contains(&key.len())
        && key.first().is_some_and(begins)
        && key.iter().all(goes_on)
        && (1..=256).contains(&value.len())
        && value.iter().all(says)
}

/// What fits: long members go first, then the last, which are the oldest.
fn joined<'a>(members: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut members: Vec<&[u8]> = members.collect();
    let length = |members: &[&[u8]]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    while length(&members) > MAX_STATE + 1 {
        let long = members
            .iter()
            .rposition(|member| member.len() > LONG_MEMBER);
        match long {
            Some(long) => drop(members.remove(long)),
            None => drop(members.pop()),
        }
    }
    members.join(&b","[..])
}

// === B3 ===

/// The single header comes before the many
/// (<https://github.com/openzipkin/b3-propagation>).
fn b3(headers: &HeaderMap) -> Option<FromB3> {
    only(headers, B3)
        .and_then(|value| b3_single(value.as_bytes()))
        .or_else(|| b3_multiple(headers))
}

/// `traceid-spanid-sampled-parentspanid`, of which the last may be missing, or the last two, or all
/// but whether to sample.
fn b3_single(value: &[u8]) -> Option<FromB3> {
    let mut parts = value.split(|b| *b == b'-');
    let first = parts.next()?;
    let Some(span_id) = parts.next() else {
        return sampled(first).map(FromB3::Sampled);
    };
    let sampled = match parts.next() {
        Some(text) => sampled(text)?,
        None => false,
    };
    let parent_span_id = parts.next().is_none_or(|id| id.len() == 16 && is_hex(id));
    if !parent_span_id || parts.next().is_some() {
        return None;
    }
    b3_parent(first, span_id, sampled).map(FromB3::Parent)
}

fn b3_multiple(headers: &HeaderMap) -> Option<FromB3> {
    let text = |name| only(headers, name).map(HeaderValue::as_bytes);
    let decided = match text(B3_FLAGS) {
        Some(b"1") => Some(true),
        _ => text(B3_SAMPLED).and_then(sampled),
    };
    let parent = match (text(B3_TRACE_ID), text(B3_SPAN_ID)) {
        (Some(trace_id), Some(span_id)) => {
            b3_parent(trace_id, span_id, decided.unwrap_or_default())
        }
        _ => None,
    };
    parent.map(FromB3::Parent).or(decided.map(FromB3::Sampled))
}

/// `d` is debug, which is sampled; some write words.
fn sampled(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// A trace id of 64 bits is one of 128 that begins with zeros.
fn b3_parent(trace_id: &[u8], span_id: &[u8], sampled: bool) -> Option<Parent> {
    let parent_id: [u8; 16] = span_id.try_into().ok()?;
    let mut padded = [b'0'; 32];
    match trace_id.len() {
        32 => padded.copy_from_slice(trace_id),
        16 => padded[16..].copy_from_slice(trace_id),
        _ => return None,
    }
    (is_id(&padded) && is_id(&parent_id)).then_some(Parent {
        trace_id: padded,
        parent_id,
        sampled,
    })
}

// === x-request-id ===

fn is_request_id(text: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// A random UUID (RFC 9562 section 5.4).
fn new_request_id() -> HeaderValue {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: [u8; 32] = hex(bytes);
    let mut text = [b'-'; 36];
    for (to, from) in [
        (0, 0..8),
        (9, 8..12),
        (14, 12..16),
        (19, 16..20),
        (24, 20..32),
    ] {
        text[to..to + from.len()].copy_from_slice(&digits[from]);
    }
    value(&text)
}

#[cfg(test)]
#[path = "trace/tests.rs"]
mod tests;
