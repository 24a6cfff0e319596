//! The mesh's name server: Services as a cluster's DNS would answer them, and everything else by
//! asking the host's.
//!
//! Most programs never ask it, for their hosts file knows the Services. But what looks up names
//! elsewhere, or addresses, would otherwise wait for a resolver that can't be reached.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::UdpSocket;

use super::addresses::{BRIDGE, HOST, HOST_NAME};

/// The longest message over UDP, with the usual extension.
const LONGEST: usize = 4096;
/// Questions to the host's resolver that wait for an answer; those after it take their places.
const MOST_WAITING: usize = 1024;
/// How long an answer may be kept, in seconds: Services come and go while somebody edits.
const TIME_TO_LIVE: u32 = 5;
const HEADER: usize = 12;

const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// What the server knows, kept up to date by the mesh: full names, in lower case.
pub(super) type Names = Arc<RwLock<BTreeMap<String, Vec<Ipv4Addr>>>>;

/// A question.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    kind: u16,
    /// Where the question ends in its message.
    end: usize,
}

/// Answers from now on, on the bridge's address. `host` is connected to the host's resolver.
pub(super) async fn serve(
    names: Names,
    cluster_domain: String,
    host: Option<StdUdpSocket>,
) -> io::Result<()> {
    let inside = UdpSocket::bind((BRIDGE, 53)).await?;
    let host = match host {
        Some(host) => {
            host.set_nonblocking(true)?;
            Some(UdpSocket::from_std(host)?)
        }
        None => None,
    };
    tokio::spawn(async move {
        let mut waiting = HashMap::new();
        let (mut query, mut reply) = ([0; LONGEST], [0; LONGEST]);
        let mut next = rand::random::<u16>();
        loop {
            tokio::select! {
                received = inside.recv_from(&mut query) => {
                    let Ok((length, from)) = received else { continue };
                    let message = &mut query[..length];
                    let Some(question) = question(message) else { continue };
                    let known = lookup(&names, &cluster_domain, &question);
                    let reply = match (known, &host) {
                        (Some((code, addresses)), _) => answer(message, &question, code, &addresses),
                        (None, Some(host)) => {
                            next = next.wrapping_add(1);
                            if waiting.len() >= MOST_WAITING {
                                waiting.clear();
                            }
                            waiting.insert(next.to_be_bytes(), (from, [message[0], message[1]]));
                            message[..2].copy_from_slice(&next.to_be_bytes());
                            if host.send(message).await.is_ok() {
                                continue;
                            }
                            answer(message, &question, SERVER_FAILURE, &[])
                        }
                        (None, None) => answer(message, &question, SERVER_FAILURE, &[]),
                    };
                    // Who asks again will be answered again.
                    let _ = inside.send_to(&reply, from).await;
                }
                received = receive(host.as_ref(), &mut reply) => {
                    let Ok(length) = received else { continue };
                    if length < HEADER {
                        continue;
                    }
                    if let Some((to, id)) = waiting.remove(&[reply[0], reply[1]]) {
                        reply[..2].copy_from_slice(&id);
                        let _ = inside.send_to(&reply[..length], to).await;
                    }
                }
            }
        }
    });
    Ok(())
}

/// What a workload's /etc/resolv.conf says, as in a cluster.
pub(super) fn resolv_conf(namespace: &str, cluster_domain: &str) -> String {
    format!(
        "nameserver {BRIDGE}\nsearch {namespace}.svc.{cluster_domain} svc.{cluster_domain} {cluster_domain}\noptions ndots:5\n"
    )
}

/// The resolver that a host's /etc/resolv.conf names first.
pub(super) fn first_nameserver(resolv_conf: &str) -> Option<SocketAddr> {
    let servers = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|server| server.trim().parse().ok())
        .map(|address| SocketAddr::new(address, 53))
        .next()
}

async fn receive(host: Option<&UdpSocket>, reply: &mut [u8]) -> io::Result<usize> {
    match host {
        Some(host) => host.recv(reply).await,
        None => std::future::pending().await,
    }
}

/// What the mesh itself knows. `None`: that is the host's resolver's to say.
fn lookup(names: &Names, cluster_domain: &str, question: &Question) -> Option<(u8, Vec<Ipv4Addr>)> {
    let name = question.name.as_str();
    if name == HOST_NAME {
        return Some((NO_ERROR, vec![HOST]));
    }
    if question.kind == TYPE_PTR && is_of_no_one(name) {
        return Some((NO_SUCH_NAME, Vec::new()));
    }
    let ours = name
        .strip_suffix(cluster_domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !ours {
        return None;
    }
    let names = names.read().unwrap_or_else(PoisonError::into_inner);
    Some(match names.get(name) {
        Some(addresses) => (NO_ERROR, addresses.clone()),
        None => (NO_SUCH_NAME, Vec::new()),
    })
}

/// Whether a name asks back for an address that means something in the mesh only, or nothing.
fn is_of_no_one(name: &str) -> bool {
    let Some(reversed) = name.strip_suffix(".in-addr.arpa") else {
        return name.ends_with(".ip6.arpa");
    };
    let first = reversed.rsplit('.').next().unwrap_or_default();
    matches!(first, "0" | "10" | "127")
}

fn question(message: &[u8]) -> Option<Question> {
    let is_query = message.len() > HEADER && message[2] & 0x80 == 0 && message[4..6] == [0, 1];
    if !is_query {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            // A question has nothing before it to point to.
            64.. => return None,
            _ => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(
                    &String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase(),
                );
                at += length;
            }
        }
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    message.get(at + 2..at + 4)?;
    Some(Question {
        name,
        kind,
        end: at + 4,
    })
}

fn answer(query: &[u8], question: &Question, code: u8, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let addresses = if question.kind == TYPE_A {
        addresses
    } else {
        &[]
    };
    let mut reply = query[..question.end].to_vec();
    // A response, with authority, to a question that wished for recursion or not.
    reply[2] = 0x84 | query[2] & 0x01;
    reply[3] = 0x80 | code;
    let count = u16::try_from(addresses.len().min(64)).unwrap_or(0);
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    // Nothing else: neither authorities nor extensions.
    reply[8..12].fill(0);
    for address in addresses.iter().take(usize::from(count)) {
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(TIME_TO_LIVE.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &[u8] =
        b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x06orders\x04Shop\x03svc\x07cluster\x05local\0\0\x01\0\x01\0\0\x29";

    fn names() -> Names {
        let orders = (
            "orders.shop.svc.cluster.local".to_owned(),
            vec![Ipv4Addr::new(10, 96, 0, 10)],
        );
        Arc::new(RwLock::new(BTreeMap::from([orders])))
    }

    fn ask(name: &str, kind: u16) -> Option<(u8, Vec<Ipv4Addr>)> {
        lookup(
            &names(),
            "cluster.local",
            &Question {
                name: name.to_owned(),
                kind,
                end: 0,
            },
        )
    }

    #[test]
    fn a_service_is_answered_with_its_address() {
        let question = question(ORDERS).unwrap();
        assert_eq!(question.name, "orders.shop.svc.cluster.local");
        let (code, addresses) = lookup(&names(), "cluster.local", &question).unwrap();
        let reply = answer(ORDERS, &question, code, &addresses);
        assert_eq!(reply[..8], *b"\x12\x34\x85\x80\0\x01\0\x01");
        assert!(reply.ends_with(&[0, 4, 10, 96, 0, 10]));
    }

    #[test]
    fn what_no_service_is_called_is_known_not_to_be() {
        assert_eq!(
            ask("other.shop.svc.cluster.local", TYPE_A),
            Some((NO_SUCH_NAME, vec![]))
        );
        assert_eq!(
            ask("example.com.shop.svc.cluster.local", TYPE_A),
            Some((NO_SUCH_NAME, vec![]))
        );
        assert_eq!(
            ask("1.0.244.10.in-addr.arpa", TYPE_PTR),
            Some((NO_SUCH_NAME, vec![]))
        );
    }

    #[test]
    fn everything_else_is_for_the_hosts_resolver() {
        assert_eq!(ask("example.com", TYPE_A), None);
        assert_eq!(ask("notcluster.local", TYPE_A), None);
        assert_eq!(ask("8.8.8.8.in-addr.arpa", TYPE_PTR), None);
    }

    #[test]
    fn a_broken_message_is_no_question() {
        for end in 0..ORDERS.len() - 4 {
            let _ = question(&ORDERS[..end]);
        }
        assert_eq!(question(&ORDERS[..30]), None);
        assert_eq!(question(b""), None);
    }

    #[test]
    fn no_bytes_from_a_workload_confuse_the_name_server() {
        let back =
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x011\x010\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01";
        let host =
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04host\x0ameshwright\x08internal\0\0\x01\0\x01";
        let pieces: &[&[u8]] = &[
            b"\0",
            b"\x01a",
            b"\x3f",
            b"\x40",
            b"\xc0\x0c",
            b"\xff",
            b"\x01\xff",
            b"\x02.a",
            b"\x07cluster\x05local\0",
            b"\0\x01\0\x01",
        ];
        crate::spoil::fuzz(50_000, &[ORDERS, back, host], pieces, |bytes| {
            let Some(question) = question(bytes) else {
                return;
            };
            assert!((HEADER + 5..=bytes.len()).contains(&question.end));
            let known = lookup(&names(), "cluster.local", &question);
            let (code, addresses) = known.unwrap_or((SERVER_FAILURE, vec![]));
            let reply = answer(bytes, &question, code, &addresses);
            assert!(reply.len() <= LONGEST, "{reply:?}");
            // An answer to this question, with nothing in it but what is counted.
            assert_eq!(reply[..2], bytes[..2]);
            assert_eq!(reply[HEADER..question.end], bytes[HEADER..question.end]);
            let count = u16::from_be_bytes([reply[6], reply[7]]);
            assert_eq!(reply.len(), question.end + 16 * usize::from(count));
            assert_eq!(reply[8..HEADER], [0; 4]);
            assert!(reply[2] & 0x80 != 0 && super::question(&reply).is_none());
        });
    }

    #[test]
    fn the_first_name_server_is_asked() {
        let server =
            first_nameserver("# mine\nsearch lan\nnameserver 127.0.0.53\nnameserver 1.1.1.1\n");
        assert_eq!(server, Some(SocketAddr::from(([127, 0, 0, 53], 53))));
        assert_eq!(first_nameserver("nameserver fe80::1%eth0\n"), None);
    }
}
