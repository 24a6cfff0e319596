//! One nftables transaction, as netlink messages.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_bindings::nftables::{
    self, Chained, CmpOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, PushRuleAttrs,
    Registers, VerdictCode,
};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils;
use netlink_socket2::{NetlinkSocket, ReplyError};
use nix::errno::Errno;

use super::Error;

/// The family of tables that see IPv4 and IPv6 (`NFPROTO_INET`).
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;
const PROTOCOL_TCP: u8 = 6;
/// Names the nftables subsystem in the messages around a batch (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;
/// An interface's name is compared as a whole field of this many bytes (`IFNAMSIZ`).
const INTERFACE_NAME_BYTES: usize = 16;
/// Where destination NAT belongs among a hook's chains (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;
/// More than the messages of any batch written here: their sequence numbers are reserved at once.
const MOST_MESSAGES: u32 = 256;

/// Messages that take effect together or not at all.
pub(super) struct Batch {
    socket: NetlinkSocket,
    messages: Chained<'static>,
    table: &'static str,
}

/// A chain of NAT rules at a hook.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
}

/// Where in a packet's way a chain is asked.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    /// On arrival (`NF_INET_PRE_ROUTING`).
    Prerouting = 0,
    /// On being sent by a local process (`NF_INET_LOCAL_OUT`).
    Output = 3,
}

/// One condition of a rule; a rule applies when all of its conditions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    SocketUid(u32),
    Mark(u32),
    Source(Ipv4Addr),
    Source6(Ipv6Addr),
    LeavesByLoopback,
    /// To 127.0.0.0/8, or to any other IPv4 address.
    ToLoopback(bool),
    /// To `::1`, or to any other IPv6 address.
    ToLoopback6(bool),
    /// To an address of this network.
    ToNetwork(IpNet),
    Tcp,
    ToPort(u16),
}

/// What becomes of a connection whose packet matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Goes where it was going.
    Return,
    /// Goes to this port of this machine.
    Redirect(u16),
}

type Expressions<'a> = PushExprListAttrs<PushRuleAttrs<utils::RequestBuf<'a>>>;

// === impl Batch ===

impl Batch {
    /// A batch that leaves nothing of `table`.
    pub(super) fn remove(table: &'static str) -> Self {
        let mut socket = NetlinkSocket::new();
        let messages = Chained::new(socket.reserve_seq(MOST_MESSAGES));
        let mut batch = Self {
            socket,
            messages,
            table,
        };
        batch.messages.request().op_batch_begin_do(&subsystem());
        // Deleting what doesn't exist would fail the batch, creating what exists doesn't.
        batch.create();
        batch
            .messages
            .request()
            .op_deltable_do(&inet())
            .encode()
            .push_name_bytes(table.as_bytes());
        batch
    }

    /// A batch that leaves `table` with what is added to the batch and nothing else.
    pub(super) fn replace(table: &'static str) -> Self {
        let mut batch = Self::remove(table);
        batch.create();
        batch
    }

    fn create(&mut self) {
        self.messages
            .request()
            .set_create()
            .op_newtable_do(&inet())
            .encode()
            .push_name_bytes(self.table.as_bytes());
    }

    pub(super) fn chain(&mut self, chain: Chain) {
        self.messages
            .request()
            .set_create()
            .op_newchain_do(&inet())
            .encode()
            .push_table_bytes(self.table.as_bytes())
            .push_name_bytes(chain.name.as_bytes())
            .push_type(c"nat")
            .nested_hook()
            .push_num(chain.hook as u32)
            .push_priority(PRIORITY)
            .end_nested();
    }

    pub(super) fn rule(&mut self, chain: &'static str, matches: &[Match], verdict: Verdict) {
        let mut expressions = self
            .messages
            .request()
            .set_create()
            .set_append()
            .op_newrule_do(&inet())
            .into_encoder()
            .push_table_bytes(self.table.as_bytes())
            .push_chain_bytes(chain.as_bytes())
            .nested_expressions();
        for condition in matches {
            expressions = condition.push(expressions);
        }
        verdict.push(expressions).end_nested();
    }

    /// Sends the batch and waits for the kernel's answer to each message.
    pub(super) fn commit(mut self) -> Result<(), Error> {
        self.messages.request().op_batch_end_do(&subsystem());
        let messages = self.messages.finalize();
        self.socket
            .request_chained(&messages)
            .map_err(ReplyError::from)
            .and_then(|mut replies| replies.recv_all())
            .map_err(explain)
    }
}

/// Whether the current network namespace has a table of this name.
pub(super) fn exists(table: &str) -> Result<bool, Error> {
    let mut request = nftables::Request::new().op_gettable_do(&inet());
    request.encode().push_name_bytes(table.as_bytes());
    let mut socket = NetlinkSocket::new();
    let asked = socket.request(&request).map_err(ReplyError::from);
    match asked.and_then(|mut reply| reply.recv_one().map(|_| ())) {
        Ok(()) => Ok(true),
        Err(error) => match std::io::Error::from(error) {
            gone if gone.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            other => Err(explain(other.into())),
        },
    }
}

fn inet() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = FAMILY_INET;
    header
}

fn subsystem() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}

fn explain(error: ReplyError) -> Error {
    let source: std::io::Error = error.into();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => Error::Permission,
        Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => Error::Kernel("nftables"),
        Some(Errno::EOPNOTSUPP) => Error::Kernel("nftables for the family inet"),
        Some(Errno::ENOENT) => Error::Kernel("NAT or redirect in nftables"),
        _ => Error::Refused {
            step: "installing the table `meshwright`",
            source,
        },
    }
}

// === impl Match ===

impl Match {
    fn push(self, to: Expressions<'_>) -> Expressions<'_> {
        match self {
            // The kernel keeps both of these in its own byte order.
            Self::SocketUid(uid) => meta(to, MetaKeys::Skuid, CmpOps::Eq, &uid.to_ne_bytes()),
            Self::Mark(mark) => meta(to, MetaKeys::Mark, CmpOps::Eq, &mark.to_ne_bytes()),
            Self::Source(address) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV4]);
                payload(
                    to,
                    PayloadBase::NetworkHeader,
                    12,
                    CmpOps::Eq,
                    &address.octets(),
                )
            }
            Self::Source6(address) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV6]);
                payload(
                    to,
                    PayloadBase::NetworkHeader,
                    8,
                    CmpOps::Eq,
                    &address.octets(),
                )
            }
            Self::LeavesByLoopback => {
                let mut name = [0; INTERFACE_NAME_BYTES];
                name[..2].copy_from_slice(b"lo");
                meta(to, MetaKeys::Oifname, CmpOps::Eq, &name)
            }
            Self::ToLoopback(wanted) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV4]);
                let compare = if wanted { CmpOps::Eq } else { CmpOps::Neq };
                // A /8 is the address's first byte.
                payload(to, PayloadBase::NetworkHeader, 16, compare, &[127])
            }
            Self::ToLoopback6(wanted) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV6]);
                let compare = if wanted { CmpOps::Eq } else { CmpOps::Neq };
                payload(
                    to,
                    PayloadBase::NetworkHeader,
                    24,
                    compare,
                    &Ipv6Addr::LOCALHOST.octets(),
                )
            }
            // Addresses are compared as numbers whose first byte counts most.
            Self::ToNetwork(IpNet::V4(network)) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV4]);
                let ends = [network.network(), network.broadcast()].map(|end| end.octets());
                between(to, 16, &ends)
            }
            Self::ToNetwork(IpNet::V6(network)) => {
                let to = meta(to, MetaKeys::Nfproto, CmpOps::Eq, &[FAMILY_IPV6]);
                let ends = [network.network(), network.broadcast()].map(|end| end.octets());
                between(to, 24, &ends)
            }
            Self::Tcp => meta(to, MetaKeys::L4Proto, CmpOps::Eq, &[PROTOCOL_TCP]),
            Self::ToPort(port) => payload(
                to,
                PayloadBase::TransportHeader,
                2,
                CmpOps::Eq,
                &port.to_be_bytes(),
            ),
        }
    }
}

fn meta<'a>(to: Expressions<'a>, key: MetaKeys, compare: CmpOps, value: &[u8]) -> Expressions<'a> {
    let loaded = to
        .nested_elem()
        .nested_data_meta()
        .push_key(key as u32)
        .push_dreg(Registers::Reg1 as u32)
        .end_nested()
        .end_nested();
    cmp(loaded, compare, value)
}

fn payload<'a>(
    to: Expressions<'a>,
    base: PayloadBase,
    offset: u32,
    compare: CmpOps,
    value: &[u8],
) -> Expressions<'a> {
    let loaded = to
        .nested_elem()
        .nested_data_payload()
        .push_dreg(Registers::Reg1 as u32)
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(value.len() as u32)
        .end_nested()
        .end_nested();
    cmp(loaded, compare, value)
}

/// Whether what stands in the network header is neither less than the first nor more than the last.
fn between<'a, const N: usize>(
    to: Expressions<'a>,
    offset: u32,
    [first, last]: &[[u8; N]; 2],
) -> Expressions<'a> {
    let header = PayloadBase::NetworkHeader;
    let at_least = payload(to, header, offset, CmpOps::Gte, first);
    payload(
        at_least,
        PayloadBase::NetworkHeader,
        offset,
        CmpOps::Lte,
        last,
    )
}

fn cmp<'a>(to: Expressions<'a>, compare: CmpOps, value: &[u8]) -> Expressions<'a> {
    to.nested_elem()
        .nested_data_cmp()
        .push_sreg(Registers::Reg1 as u32)
        .push_op(compare as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

// === impl Verdict ===

impl Verdict {
    fn push(self, to: Expressions<'_>) -> Expressions<'_> {
        match self {
            Self::Return => to
                .nested_elem()
                .nested_data_immediate()
                .push_dreg(Registers::RegVerdict as u32)
                .nested_data()
                .nested_verdict()
                .push_code(VerdictCode::Return as u32)
                .end_nested()
                .end_nested()
                .end_nested()
                .end_nested(),
            Self::Redirect(port) => {
                let port_loaded = to
                    .nested_elem()
                    .nested_data_immediate()
                    .push_dreg(Registers::Reg1 as u32)
                    .nested_data()
                    .push_value(&port.to_be_bytes())
                    .end_nested()
                    .end_nested()
                    .end_nested();
                redir(port_loaded)
            }
        }
    }
}

/// Redirects to the port in the first register.
///
/// The kernel's specification of nftables, and so the generated bindings, lack this expression.
fn redir(to: Expressions<'_>) -> Expressions<'_> {
    /// `NFTA_EXPR_DATA`
    const EXPRESSION_DATA: u16 = 2;
    /// `NFTA_REDIR_REG_PROTO_MIN`
    const FIRST_PORT_REGISTER: u16 = 1;

    let mut element = to.nested_elem().push_name(c"redir");
    let buffer = element.as_vec_mut();
    let data = utils::push_nested_header(buffer, EXPRESSION_DATA);
    utils::push_header(buffer, FIRST_PORT_REGISTER, 4);
    buffer.extend(nftables_register(Registers::Reg1));
    utils::finalize_nested_header(buffer, data);
    element.end_nested()
}

fn nftables_register(register: nftables::Registers) -> [u8; 4] {
    (register as u32).to_be_bytes()
}
