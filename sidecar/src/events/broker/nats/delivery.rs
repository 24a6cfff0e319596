//! What JetStream says of a message in the address at which it is acknowledged.

use std::time::{Duration, SystemTime};

/// Which delivery it is, where it stands and when it was published, from where it is acknowledged:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<sequence>.<nanoseconds>.<pending>`, with the
/// domain and the account before the stream if there are more parts, and perhaps more at its end.
pub(super) fn delivery(reply: &str) -> Option<(u32, u64, Option<SystemTime>)> {
    let parts = Vec::from_iter(reply.strip_prefix("$JS.ACK.")?.split('.'));
    let parts = match parts.len() {
        7 => parts.get(2..)?,
        9.. => parts.get(4..)?,
        _ => return None,
    };
    let attempt = parts.first()?.parse::<u64>().ok()?;
    let place = parts.get(1)?.parse().ok()?;
    let published = parts.get(3)?.parse().ok().map(Duration::from_nanos);
    let published = published.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    Some((u32::try_from(attempt).unwrap_or(u32::MAX), place, published))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_says_which_it_is() {
        let at = |nanos| Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        for (reply, found) in [
            ("$JS.ACK.S.C.2.10.11.1500.0", Some((2, 10, at(1_500)))),
            (
                "$JS.ACK._.hash.S.C.3.10.11.1500.0",
                Some((3, 10, at(1_500))),
            ),
            (
                "$JS.ACK.d.hash.S.C.3.10.11.1500.0.token",
                Some((3, 10, at(1_500))),
            ),
            ("$JS.ACK.S.C.2.10", None),
            ("$JS.ACK.S.C.x.10.11.1500.0", None),
            ("_INBOX.a.b", None),
        ] {
            assert_eq!(delivery(reply), found, "{reply}");
        }
    }
}
