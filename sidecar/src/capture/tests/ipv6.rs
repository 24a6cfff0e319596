//! The same over IPv6, with the sidecar's own ways of listening, looking and connecting.

use std::net::Ipv6Addr;

use super::*;
use crate::net::accept::{accept, listen};
use crate::net::connect::Connector;
use crate::net::original_dst::{local, original_dst};

/// The pod's own address.
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
/// A Service's address: nothing answers there.
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 10);

#[test]
fn a_call_over_ipv6_arrives_at_the_sidecar_with_its_destination() {
    in_a_namespace("ipv6::service");
}

#[test]
fn a_call_to_oneself_over_ipv6_passes_the_sidecar_on_both_sides() {
    in_a_namespace("ipv6::self_call");
}

#[test]
fn the_sidecar_reaches_its_application_over_ipv6() {
    in_a_namespace("ipv6::application");
}

#[test]
fn one_listener_hears_both_families() {
    in_a_namespace("ipv6::both_families");
}

#[test]
fn loopback_over_ipv6_is_left_alone() {
    in_a_namespace("ipv6::loopback");
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn service() {
    let [outbound, _inbound] = pod6();
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
    let called = SocketAddr::from((SERVICE6, 80));
    let _client = tokio::net::TcpStream::connect(called).await.unwrap();
    assert_eq!(original_dst(&accept(&outbound).await).unwrap(), called);
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn self_call() {
    let [outbound, inbound] = pod6();
    let own = SocketAddr::from((POD6, 8080));
    let application = TcpListener::bind("[::]:8080").unwrap();
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

    let _client = tokio::net::TcpStream::connect(own).await.unwrap();
    assert_eq!(original_dst(&accept(&outbound).await).unwrap(), own);
    let _sidecar = connector().to_peer(own).await.unwrap();
    assert_eq!(original_dst(&accept(&inbound).await).unwrap(), own);
    assert_nobody_called(&application);
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn application() {
    let [_outbound, _inbound] = pod6();
    let own = SocketAddr::from((POD6, 8080));
    let application = TcpListener::bind("[::]:8080").unwrap();
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
    // A second run finds the address that the first one gave.
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

    let _sidecar = connector().to_application(own).await.unwrap();
    let (accepted, from) = application.accept().unwrap();
    assert_eq!(accepted.local_addr().unwrap(), own);
    assert_eq!(from.ip(), APPLICATION_SOURCE_6);

    remove().unwrap();
    remove().unwrap();
    let gone = TcpListener::bind((APPLICATION_SOURCE_6, 0)).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn both_families() {
    let [outbound, _inbound] = pod6();
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
    let _client = tokio::net::TcpStream::connect(SERVICE).await.unwrap();
    let accepted = accept(&outbound).await;
    assert_eq!(original_dst(&accepted).unwrap(), SERVICE);
    // As what it is, not as an IPv6 address that stands for it.
    assert!(local(&accepted).unwrap().is_ipv4());
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn loopback() {
    let [_outbound, _inbound] = pod6();
    let database = TcpListener::bind("[::1]:5432").unwrap();
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
    let _client = tokio::net::TcpStream::connect("[::1]:5432").await.unwrap();
    database.accept().unwrap();
}

fn connector() -> Connector {
    Connector {
        mark: Some(MARK),
        ..Connector::default()
    }
}

/// As [`pod`], with addresses and routes of both families, and listeners that hear both.
pub(super) fn pod6() -> [tokio::net::TcpListener; 2] {
    const IPV6: u8 = 10;
    /// `IFA_F_NODAD`: nobody else is there who could have the address.
    const NODAD: u8 = 2;
    drop(pod());
    let mut socket = NetlinkSocket::new();
    let index = nix::net::if_::if_nametoindex("eth0").unwrap();
    let mut header = rt_addr::Ifaddrmsg::new();
    header.ifa_family = IPV6;
    header.ifa_prefixlen = 64;
    header.ifa_flags = NODAD;
    header.ifa_index = index;
    let mut address = rt_addr::Request::new().set_create().op_newaddr_do(&header);
    address
        .encode()
        .push_local(POD6.into())
        .push_address(POD6.into());
    socket.request(&address).unwrap().recv_ack().unwrap();

    let mut header = rt_route::Rtmsg::new();
    header.rtm_family = IPV6;
    header.rtm_table = 254;
    header.rtm_type = 1;
    let mut route = rt_route::Request::new()
        .set_create()
        .op_newroute_do(&header);
    route.encode().push_oif(index);
    socket.request(&route).unwrap().recv_ack().unwrap();
    [15001, 15006].map(|port| listen((Ipv6Addr::UNSPECIFIED, port).into()).unwrap())
}
