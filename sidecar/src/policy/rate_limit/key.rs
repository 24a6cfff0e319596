//! Whose a request is, for a limit.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use serde_json::Value;
use wire::mesh::{self, limit_key::Of};

use crate::identity::SpiffeId;
use crate::policy::authentication::Caller;
use crate::policy::authentication::api_key::Consumer;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// One thing of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The consumer whose key it was sent with.
    Consumer,
    /// The workload that calls.
    Identity,
    /// An address; so many proxies are trusted.
    ClientIp(u32),
    /// A header's value.
    Header(HeaderName),
    /// A claim of the token.
    Claim(Box<str>),
    /// What the limit was written for.
    Target,
}

/// What is known of a request when limits look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// Who the peer proved to be.
    pub peer: Option<&'a SpiffeId>,
    /// The peer's address.
    pub from: IpAddr,
    /// Who was found to call, for each ApiRoute that says who may enter.
    pub callers: &'a [Caller],
    /// The entry of `targetRefs` by which the limit is about it.
    pub target: &'a str,
    /// How long its body is, where it says so.
    pub length: Option<u64>,
}

// === build ===

impl Part {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::LimitKey) -> Result<Self, String> {
        Ok(match sent.of {
            Some(Of::Consumer(_)) => Self::Consumer,
            Some(Of::Identity(_)) => Self::Identity,
            Some(Of::ClientIp(trusted)) => Self::ClientIp(trusted),
            Some(Of::Header(name)) => Self::Header(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{name}` is no header name"))?,
            ),
            Some(Of::JwtClaim(name)) => Self::Claim(name.into()),
            Some(Of::Target(_)) => Self::Target,
            None => return Err("a key is of a kind that this sidecar does not know".to_owned()),
        })
    }

    /// A value as it is written, in the form in which it is compared.
    pub fn written(&self, value: String) -> Box<[u8]> {
        let address = match self {
            Self::ClientIp(_) => value.parse().ok(),
            _ => None,
        };
        match address {
            Some(address) => network(address).to_string().into_bytes().into(),
            None => value.into_bytes().into(),
        }
    }

    // === request ===

    /// Whether it is the address of whoever connects, and no proxy's word.
    pub fn is_the_peers_address(&self, asking: Asking<'_>) -> bool {
        match self {
            Self::ClientIp(trusted) => forwarded_for(&asking.head.headers, *trusted).is_none(),
            _ => false,
        }
    }

    /// What a request has of it, if anything.
    pub fn of<'a>(&self, asking: Asking<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Consumer => {
                let name = &asking.consumer()?.name;
                Some(Cow::Borrowed(name.as_bytes()))
            }
            Self::Identity => Some(Cow::Borrowed(asking.peer?.as_str().as_bytes())),
            Self::ClientIp(trusted) => {
                let forwarded = forwarded_for(&asking.head.headers, *trusted);
                let address = network(forwarded.unwrap_or(asking.from));
                Some(Cow::Owned(address.to_string().into_bytes()))
            }
            Self::Header(name) => header(&asking.head.headers, name),
            Self::Claim(name) => {
                let tokens = asking.callers.iter().filter_map(|one| one.token.as_ref());
                let claim = tokens.filter_map(|token| token.claim(name)).next()?;
                Some(match claim {
                    Value::String(text) => Cow::Borrowed(text.as_bytes()),
                    other => Cow::Owned(other.to_string().into_bytes()),
                })
            }
            Self::Target => Some(Cow::Borrowed(asking.target.as_bytes())),
        }
    }
}

/// A text that is the same for two requests only if all parts are, and lacking one is a value too.
pub fn text(parts: &[Part], asking: Asking<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for part in parts {
        match part.of(asking) {
            None => text.push(0),
            Some(value) => {
                text.push(1);
                text.extend((value.len() as u64).to_be_bytes());
                text.extend_from_slice(&value);
            }
        }
    }
    text
}

impl<'a> Asking<'a> {
    fn consumer(self) -> Option<&'a Consumer> {
        let mut consumers = self.callers.iter().filter_map(|one| one.consumer.as_ref());
        consumers.next().map(|consumer| &**consumer)
    }

    /// The plan of the consumer that it was sent by; empty when it is on none.
    pub fn plan(self) -> &'a str {
        self.consumer().map_or("", |consumer| &consumer.plan)
    }
}

/// Who is behind so many proxies, each of which has appended whom it heard from. What stands before
/// that anybody may have written.
fn forwarded_for(headers: &HeaderMap, trusted: u32) -> Option<IpAddr> {
    let place = usize::try_from(trusted).ok()?.checked_sub(1)?;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let entry = entries.into_iter().nth(place)?;
    address(str::from_utf8(entry).ok()?.trim())
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || {
        text.parse()
            .map(|address: std::net::SocketAddr| address.ip())
    };
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| with_port().ok())
}

/// Who has one IPv6 address has as many as there are in 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Several lines of a header count as one, joined with "," (RFC 9110 section 5.3).
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for line in [second].into_iter().chain(lines) {
        all.push(b',');
        all.extend_from_slice(line);
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn of(part: &Part, head: &Parts) -> Option<String> {
        let asking = Asking {
            head,
            peer: None,
            from: "10.0.0.7".parse().unwrap(),
            callers: &[],
            target: "Service/orders",
            length: None,
        };
        let found = part.of(asking)?;
        Some(String::from_utf8(found.into_owned()).unwrap())
    }

    #[test]
    fn an_address_is_the_peers_or_as_many_entries_from_the_end_as_proxies_are_trusted() {
        let sent = head(&[
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
            ("x-forwarded-for", "10.1.1.1,10.2.2.2:443"),
        ]);
        for (trusted, address) in [
            (0, "10.0.0.7"),
            (1, "10.2.2.2"),
            (2, "10.1.1.1"),
            (3, "1.2.3.4"),
            (4, "6.6.6.6"),
            // Who writes fewer is not behind so many.
            (5, "10.0.0.7"),
        ] {
            let found = of(&Part::ClientIp(trusted), &sent);
            assert_eq!(found.as_deref(), Some(address), "{trusted}");
        }
        let nonsense = head(&[("x-forwarded-for", "unknown")]);
        assert_eq!(
            of(&Part::ClientIp(1), &nonsense).as_deref(),
            Some("10.0.0.7")
        );
        let six = head(&[("x-forwarded-for", "[2001:db8:1:2:3::4]:443")]);
        assert_eq!(
            of(&Part::ClientIp(1), &six).as_deref(),
            Some("2001:db8:1:2::")
        );
    }

    #[test]
    fn what_is_missing_is_not_what_is_empty_and_parts_do_not_run_into_each_other() {
        let [a, b] = ["x-a", "x-b"].map(|name| Part::Header(HeaderName::from_static(name)));
        let parts = [a, b];
        let text = |headers: &[(&'static str, &'static str)]| {
            let head = head(headers);
            let asking = Asking {
                head: &head,
                peer: None,
                from: "10.0.0.7".parse().unwrap(),
                callers: &[],
                target: "",
                length: None,
            };
            super::text(&parts, asking)
        };
        let all = [
            text(&[]),
            text(&[("x-a", "")]),
            text(&[("x-b", "")]),
            text(&[("x-a", ""), ("x-b", "")]),
            text(&[("x-a", "1"), ("x-b", "23")]),
            text(&[("x-a", "12"), ("x-b", "3")]),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
