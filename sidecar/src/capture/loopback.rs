//! One more address of the loopback interface, as a netlink message.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_bindings::rt_addr;
use netlink_bindings::traits::NetlinkRequest;
use netlink_socket2::NetlinkSocket;
use nix::errno::Errno;

use super::Error;

/// `AF_INET6`
const IPV6: u8 = 10;
/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;

/// Gives the loopback interface an address. Where there is no IPv6, none is needed.
pub(super) fn add(address: Ipv6Addr) -> Result<(), Error> {
    let mut request = rt_addr::Request::new()
        .set_create()
        .op_newaddr_do(&header());
    request
        .encode()
        .push_local(IpAddr::V6(address))
        .push_address(IpAddr::V6(address));
    explain(
        ask(&request),
        "giving the loopback interface ::6",
        &[Errno::EEXIST],
    )
}

/// Takes it away again.
pub(super) fn remove(address: Ipv6Addr) -> Result<(), Error> {
    let mut request = rt_addr::Request::new().op_deladdr_do(&header());
    request
        .encode()
        .push_local(IpAddr::V6(address))
        .push_address(IpAddr::V6(address));
    let gone = &[Errno::EADDRNOTAVAIL, Errno::ENODEV];
    explain(
        ask(&request),
        "taking ::6 from the loopback interface",
        gone,
    )
}

fn ask(request: &impl NetlinkRequest) -> io::Result<()> {
    let mut socket = NetlinkSocket::new();
    socket.request(request)?.recv_ack()?;
    Ok(())
}

fn header() -> rt_addr::Ifaddrmsg {
    let mut header = rt_addr::Ifaddrmsg::new();
    header.ifa_family = IPV6;
    header.ifa_prefixlen = 128;
    header.ifa_index = LOOPBACK;
    header
}

/// `fine`: answers that mean that nothing was left to do.
fn explain(done: io::Result<()>, step: &'static str, fine: &[Errno]) -> Result<(), Error> {
    let Err(source) = done else { return Ok(()) };
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) if fine.contains(&errno) => Ok(()),
        // A kernel without IPv6, or one where it is switched off for this interface.
        Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EACCES) => Ok(()),
        Some(Errno::EPERM) => Err(Error::Permission),
        _ => Err(Error::Refused { step, source }),
    }
}
