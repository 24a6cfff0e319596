//! What sidecars tell each other of the attempts of a request.
//!
//! | header | who says it | what follows |
//! |---|---|---|
//! | `meshwright-attempt` | a caller's sidecar, from the second attempt on | the destination's access log says which attempt of its caller a request was |
//! | `meshwright-timeout-ms` | a caller's sidecar, where the request has an end | the destination's sidecar waits no longer for its application |
//! | `meshwright-keeps` | a caller's sidecar that keeps answers, with what it was told of who may enter | a destination's sidecar that was told the same says it back, and the caller's keeps only such an answer |
//! | `meshwright-no-retry` | a sidecar that has given up on an answer, or an application | a caller's sidecar does not send the request again because of that answer |
//!
//! Nobody but a peer is told or believed the first three, which the application never sees.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

const ATTEMPT: HeaderName = HeaderName::from_static("meshwright-attempt");
const TIMEOUT: HeaderName = HeaderName::from_static("meshwright-timeout-ms");
const KEEPS: HeaderName = HeaderName::from_static("meshwright-keeps");
const NO_RETRY: HeaderName = HeaderName::from_static("meshwright-no-retry");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a caller's sidecar says of a request, if it is one who says it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// How long its caller waits.
    pub timeout: Option<Duration>,
    /// Which of its caller's attempts it is, from the second on.
    pub attempt: Option<u32>,
    /// By which revision of what it was told its sidecar keeps answers.
    pub keeps: Option<u128>,
}

impl Told {
    /// Reads what a peer says. Whether it is one is looked at where it is used.
    pub fn by_peer(headers: &HeaderMap) -> Self {
        let number = |name: &HeaderName| headers.get(name)?.to_str().ok()?.parse::<u32>().ok();
        Self {
            timeout: number(&TIMEOUT).map(|millis| Duration::from_millis(millis.into())),
            attempt: number(&ATTEMPT),
            keeps: revision(headers),
        }
    }
}

/// Tells a peer's sidecar which attempt it is, and how long its answer is waited for.
pub fn tell_peer(headers: &mut HeaderMap, number: u32, left: Option<Duration>) {
    if number > 1 {
        headers.insert(ATTEMPT, HeaderValue::from(number));
    }
    if let Some(left) = left {
        let millis = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        headers.insert(TIMEOUT, HeaderValue::from(millis));
    }
}

/// Says by which revision of what a sidecar was told answers are kept.
pub fn say_keeps(headers: &mut HeaderMap, revision: u128) {
    if let Ok(value) = HeaderValue::from_str(&format!("{revision:032x}")) {
        headers.insert(KEEPS, value);
    }
}

/// Takes out what was said of it; whether it was this revision.
pub fn take_keeps(headers: &mut HeaderMap, expected: u128) -> bool {
    let said = revision(headers);
    headers.remove(KEEPS);
    said == Some(expected)
}

/// Says nothing of it to who is no peer.
pub fn hide_keeps(headers: &mut HeaderMap) {
    headers.remove(KEEPS);
}

fn revision(headers: &HeaderMap) -> Option<u128> {
    let mut said = headers.get_all(KEEPS).iter();
    let one = said.next().filter(|_| said.next().is_none())?;
    u128::from_str_radix(one.to_str().ok()?, 16).ok()
}

/// Tells a gRPC server how long its answer is waited for: no longer than before.
pub fn set_grpc_timeout(headers: &mut HeaderMap, left: Duration) {
    let shorter = |asked: Duration| asked <= left;
    if super::grpc_timeout(headers).is_some_and(shorter) {
        return;
    }
    // At most eight digits.
    let text = match left.as_millis() {
        millis @ 0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// The gRPC status that an answer has in place of messages, or behind them.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether an answer asks not to be followed by another attempt.
pub fn says_no_retry(headers: &HeaderMap) -> bool {
    headers.contains_key(NO_RETRY)
}

/// Asks not to be.
pub fn say_no_retry(headers: &mut HeaderMap) {
    headers.insert(NO_RETRY, HeaderValue::from_static("1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_shortened_and_never_lengthened() {
        let after = |asked: Option<&'static str>, left: Duration| {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(asked));
            }
            set_grpc_timeout(&mut headers, left);
            headers[GRPC_TIMEOUT].to_str().unwrap().to_owned()
        };
        assert_eq!(after(Some("5S"), Duration::from_millis(4200)), "4200m");
        assert_eq!(after(Some("10m"), Duration::from_secs(1)), "10m");
        assert_eq!(after(None, Duration::from_millis(250)), "250m");
        assert_eq!(after(None, Duration::from_secs(200_000)), "200000S");
        assert_eq!(after(Some("nonsense"), Duration::from_secs(1)), "1000m");
    }

    #[test]
    fn what_both_sides_were_told_is_compared_as_a_whole_and_taken_out() {
        let mut headers = HeaderMap::new();
        assert!(!take_keeps(&mut headers, 0));
        for (said, told, same) in [
            (0, 0, true),
            (7, 7, true),
            (7, 8, false),
            (u128::MAX, 0, false),
        ] {
            say_keeps(&mut headers, said);
            assert_eq!(headers[KEEPS].len(), 32);
            assert_eq!(Told::by_peer(&headers).keeps, Some(said));
            assert_eq!(take_keeps(&mut headers, told), same);
            assert!(headers.is_empty());
        }
        // Two who answer are none.
        headers.append(KEEPS, HeaderValue::from_static("7"));
        headers.append(KEEPS, HeaderValue::from_static("7"));
        assert!(!take_keeps(&mut headers, 7));
        assert!(headers.is_empty());
    }

    #[test]
    fn what_a_peer_says_is_read_and_what_makes_no_sense_is_not() {
        let told = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            Told::by_peer(&headers).timeout
        };
        assert_eq!(told("250"), Some(Duration::from_millis(250)));
        for text in ["", "-1", "1.5", "99999999999"] {
            assert_eq!(told(text), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        tell_peer(&mut headers, 1, None);
        assert!(headers.is_empty());
        tell_peer(&mut headers, 2, Some(Duration::from_millis(99)));
        assert_eq!(
            (&headers[ATTEMPT], &headers[TIMEOUT]),
            (&"2".parse().unwrap(), &"99".parse().unwrap())
        );
    }
}
