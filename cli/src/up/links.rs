//! Interfaces, addresses and routes of the current network namespace, over netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_bindings::traits::Pusher as _;
use netlink_bindings::{rt_addr, rt_link, rt_route, utils};
use netlink_socket2::NetlinkSocket;

/// `AF_INET`
const IPV4: u8 = 2;
/// `IFF_UP`
const UP: u32 = 1;
/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;
/// `RT_TABLE_MAIN`, `RTPROT_STATIC`, `RTN_UNICAST`
const MAIN_TABLE: u8 = 254;
const STATIC: u8 = 4;
const UNICAST: u8 = 1;

/// The network namespace this was made in.
pub(super) struct Links {
    socket: NetlinkSocket,
}

// === impl Links ===

impl Links {
    pub(super) fn here() -> Self {
        Self {
            socket: NetlinkSocket::new(),
        }
    }

    pub(super) fn loopback_up(&mut self) -> io::Result<()> {
        self.up(LOOPBACK)
    }

    /// Creates a bridge that is up and has an address; returns its index.
    pub(super) fn bridge(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<u32> {
        let mut request = rt_link::Request::new()
            .set_create()
            .set_excl()
            .op_newlink_do(&up(0));
        request
            .encode()
            .push_ifname_bytes(name.as_bytes())
            .nested_linkinfo()
            .push_kind_bytes(b"bridge")
            .end_nested();
        self.socket.request(&request)?.recv_ack()?;
        let index = index_of(name)?;
        self.address(index, address, prefix)?;
        Ok(index)
    }

    /// Creates a pair of interfaces: `name` here, up and in the bridge; `eth0` in `namespace`, which
    /// will have `address`.
    pub(super) fn pair(
        &mut self,
        name: &str,
        bridge: u32,
        namespace: BorrowedFd<'_>,
        address: Ipv4Addr,
    ) -> io::Result<()> {
        /// `IFLA_INFO_DATA`, `VETH_INFO_PEER`, `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_NET_NS_FD`: the kernel's
        /// specification of links, and so the generated bindings, lack what is special to pairs.
        const INFO_DATA: u16 = 2;
        const PEER: u16 = 1;
        const HARDWARE_ADDRESS: u16 = 1;
        const NAME: u16 = 3;
        const NAMESPACE: u16 = 28;
        /// An `ifinfomsg` that asks for nothing.
        const BLANK_HEADER: [u8; 16] = [0; 16];

        let mut request = rt_link::Request::new()
            .set_create()
            .set_excl()
            .op_newlink_do(&up(0));
        let mut info = request
            .encode()
            .push_ifname_bytes(name.as_bytes())
            .push_master(bridge)
            .nested_linkinfo()
            .push_kind_bytes(b"veth");
        let buffer = info.as_vec_mut();
        let data = utils::push_nested_header(buffer, INFO_DATA);
        let peer = utils::push_nested_header(buffer, PEER);
        buffer.extend(BLANK_HEADER);
        utils::push_header(buffer, HARDWARE_ADDRESS, 6);
        buffer.extend(hardware_address(address));
        utils::align(buffer);
        utils::push_header(buffer, NAME, 5);
        buffer.extend(b"eth0\0");
        // Attributes begin at multiples of 4.
        utils::align(buffer);
        utils::push_header(buffer, NAMESPACE, 4);
        buffer.extend(namespace.as_raw_fd().to_ne_bytes());
        utils::finalize_nested_header(buffer, peer);
        utils::finalize_nested_header(buffer, data);
        info.end_nested();
        self.socket.request(&request)?.recv_ack()?;
        Ok(())
    }

    /// Removes an interface, and the other half of a pair with it.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut header = rt_link::Ifinfomsg::new();
        header.ifi_index = index_of(name)?.cast_signed();
        let request = rt_link::Request::new().op_dellink_do(&header);
        self.socket.request(&request)?.recv_ack()?;
        Ok(())
    }

    /// Gives `eth0` an address and makes it the way to everywhere.
    pub(super) fn uplink(
        &mut self,
        address: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
    ) -> io::Result<()> {
        let index = index_of("eth0")?;
        self.address(index, address, prefix)?;
        self.up(index)?;
        let mut header = rt_route::Rtmsg::new();
        header.rtm_family = IPV4;
        header.rtm_table = MAIN_TABLE;
        header.rtm_protocol = STATIC;
        header.rtm_type = UNICAST;
        let mut request = rt_route::Request::new()
            .set_create()
            .op_newroute_do(&header);
        request
            .encode()
            .push_oif(index)
            .push_gateway(IpAddr::V4(gateway));
        self.socket.request(&request)?.recv_ack()?;
        Ok(())
    }

    fn up(&mut self, index: u32) -> io::Result<()> {
        let request = rt_link::Request::new().op_newlink_do(&up(index));
        self.socket.request(&request)?.recv_ack()?;
        Ok(())
    }

    fn address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut header = rt_addr::Ifaddrmsg::new();
        header.ifa_family = IPV4;
        header.ifa_prefixlen = prefix;
        header.ifa_index = index;
        let mut request = rt_addr::Request::new().set_create().op_newaddr_do(&header);
        request
            .encode()
            .push_local(IpAddr::V4(address))
            .push_address(IpAddr::V4(address));
        self.socket.request(&request)?.recv_ack()?;
        Ok(())
    }
}

/// The same for each life of a workload: its neighbours remember who had the address last, and for
/// up to a minute send there what is meant for the next one.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // Of those that everybody may give away.
    [0x02, 0x4d, a, b, c, d]
}

fn up(index: u32) -> rt_link::Ifinfomsg {
    let mut header = rt_link::Ifinfomsg::new();
    header.ifi_index = index.cast_signed();
    header.ifi_flags = UP;
    header.ifi_change = UP;
    header
}

fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}
