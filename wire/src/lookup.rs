//! What a sidecar asks about: an address or a name that means nothing to it yet.
//!
//! A sidecar receives its own namespace's Services unasked, and those that these lead to. Others come
//! when they are first called: it asks for a resource of kind [`Kind::Lookup`], named after the address,
//! and has the Service with all that governs calls to it for as long as it wants that. The answers are
//! resources like others: kept for a restart, said at Hello, never older than what was there before.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Kind, ResourceId};

/// The most answers that a sidecar keeps, and that an operator gives it.
pub const MAX_LOOKUPS: usize = 1024;

/// The most ids in one message.
pub const MAX_ASKED: usize = 256;

/// The first part of a name of an address.
const ADDRESS: &str = "address";
/// The first part of a name of a Service.
const SERVICE: &str = "service";

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// Which Services have this address, as their own or as a pod's.
    Address(IpAddr),
    /// Whether there is the Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

// === impl Question ===

impl Question {
    /// The Service that a host name means to everybody: `name.namespace`, and the same before `.svc` or
    /// `.svc.<cluster domain>`, whatever that is. `None` for every other name.
    pub fn of_host(host: &str) -> Option<Question> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let mut labels = host.splitn(4, '.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        let in_cluster = labels.next().is_none_or(|label| label == "svc");
        let label = |text: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            (1..=63).contains(&text.len()) && text.chars().all(plain)
        };
        // An address is no name.
        let named = name.parse::<u8>().is_err();
        (in_cluster && named && label(name) && label(namespace)).then(|| Question::Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// What an id of kind Lookup asks about; `None` for one that no sidecar of this build would ask for.
    pub fn of(id: &ResourceId) -> Option<Question> {
        if id.kind != Kind::Lookup {
            return None;
        }
        let question = match &*id.namespace {
            ADDRESS => Question::Address(address(&id.name)?),
            SERVICE => {
                let (name, namespace) = id.name.split_once('.')?;
                Question::Service {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }
            }
            _ => return None,
        };
        // One question has one id.
        (question.id() == *id).then_some(question)
    }

    /// What the answer is called.
    pub fn id(&self) -> ResourceId {
        match self {
            Question::Address(address) => {
                let name = match address.to_canonical() {
                    IpAddr::V4(address) => address.to_string(),
                    // A colon stands in no id.
                    IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
                };
                ResourceId::new(Kind::Lookup, ADDRESS, name)
            }
            Question::Service { namespace, name } => {
                ResourceId::new(Kind::Lookup, SERVICE, format!("{name}.{namespace}"))
            }
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Address(address) => write!(f, "{address}"),
            Question::Service { namespace, name } => write!(f, "{name}.{namespace}"),
        }
    }
}

fn address(text: &str) -> Option<IpAddr> {
    match text.len() {
        32 => {
            let bits = u128::from_str_radix(text, 16).ok()?;
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_its_id_and_an_id_its_question() {
        for (question, id) in [
            (
                Question::Address("10.96.0.7".parse().unwrap()),
                "lookup/address/10.96.0.7",
            ),
            (
                Question::Address("fd00::7".parse().unwrap()),
                "lookup/address/fd000000000000000000000000000007",
            ),
            (
                Question::of_host("orders.shop").unwrap(),
                "lookup/service/orders.shop",
            ),
        ] {
            assert_eq!(question.id().to_string(), id);
            assert_eq!(Question::of(&id.parse().unwrap()), Some(question));
        }
        // The same address in IPv4 and as IPv6 writes it is one question.
        let mapped = Question::Address("::ffff:10.96.0.7".parse().unwrap());
        assert_eq!(mapped.id().to_string(), "lookup/address/10.96.0.7");
    }

    #[test]
    fn an_id_that_nobody_asks_for_is_no_question() {
        for id in [
            "lookup/address/10.96.0",
            "lookup/address/10.96.0.07",
            "lookup/address/0000000000000000000000000a6000",
            "lookup/address/00000000000000000000ffff0a600007",
            "lookup/address/+d000000000000000000000000000007",
            "lookup/service/orders",
            "lookup/other/orders.shop",
            "endpoints/shop/orders",
        ] {
            if let Ok(id) = id.parse() {
                assert_eq!(Question::of(&id), None, "{id}");
            }
        }
    }

    #[test]
    fn names_that_mean_a_service_to_everybody_are_asked_about_and_no_others() {
        let asked = |host: &str| Question::of_host(host).map(|asked| asked.to_string());
        for host in [
            "orders.shop",
            "Orders.Shop",
            "orders.shop.svc",
            "orders.shop.svc.cluster.local",
            "orders.shop.svc.cluster.local.",
        ] {
            assert_eq!(asked(host).as_deref(), Some("orders.shop"), "{host}");
        }
        for host in [
            "orders",
            "10.0.0.1",
            "api.example.com",
            "a.b.c",
            "",
            ".",
            "a..svc",
            "ä.b",
        ] {
            assert_eq!(asked(host), None, "{host}");
        }
    }
}
