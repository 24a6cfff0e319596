//! Sends an application's connections to the sidecar: the redirect of one network namespace.
//!
//! One table of nftables NAT rules, installed before the application starts: in a pod by an init
//! container or, where no container may do that, by a CNI plugin on the node; in the local mesh by
//! `meshwright up`. What differs between pods and the local mesh is only how the sidecar's own
//! packets are told apart ([`Escape`]). [`in_force`] is how a sidecar sees that it was done.
//!
//! ```text
//! application ── connect ──▶ output ──▶ sidecar's outbound port
//! network ─────────────────▶ prerouting ──▶ sidecar's inbound port ── from 127.0.0.6 ──▶ application
//! ```
//!
//! The sidecar learns where a redirected connection was going from `SO_ORIGINAL_DST`.
//!
//! The rules are spoken to the kernel over netlink from here: a sidecar's image holds nothing but
//! the sidecar, so there is no `nft` to call. The messages are encoded by `netlink-bindings`
//! (MIT or Apache-2.0; generated from the specifications in the kernel's own tree, so that little
//! depends on its one maintainer; two small dependencies; blocking, as one step before everything
//! else should be). Looked at and not taken: `nlink` (MIT or Apache-2.0; one maintainer too,
//! asynchronous only, ten times as long to compile, its 33rd breaking release within a year),
//! `nftnl` (needs C libraries), `nftables` (calls the `nft` program), `rustables` (GPL).

mod args;
pub mod in_force;
mod loopback;
mod nftables;
#[cfg(test)]
mod tests;
pub mod way_out;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use args::RedirectArgs;
use ipnet::IpNet;
use nftables::{Batch, Chain, Hook, Match, Verdict};
use wire::probe::SIDECAR_PORTS;

/// The source address of the sidecar's connections to its own application.
///
/// It is how such a connection is told from an application's call to itself, which passes the
/// sidecar like any other call.
pub const APPLICATION_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// The same over IPv6, where the loopback interface has this address only if it is given it.
pub const APPLICATION_SOURCE_6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The name of the one table this module owns. Whatever else is in it is replaced.
pub const TABLE: &str = "meshwright";

/// How the sidecar's own packets are told from the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// By the user id the sidecar runs as: in a pod, where it has no capability to mark packets.
    Uid(u32),
    /// By the mark it sets on its sockets (`SO_MARK`): in the local mesh, where every process has
    /// the same user id and the sidecar has `NET_ADMIN` in its namespace.
    Mark(u32),
}

/// What to redirect, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How the sidecar's own packets are told apart.
    pub escape: Escape,
    /// Where the application's connections go.
    pub outbound: u16,
    /// Where connections to the application go.
    pub inbound: u16,
    /// Ports that a peer reaches as they are: the sidecar's own.
    pub untouched: Vec<u16>,
    /// What goes around the sidecar.
    pub excluded: Excluded,
}

/// Connections of the application's that the sidecar has nothing to do with: it neither protects nor
/// sees them. At most [`MAX_EXCLUDED`] of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Ports of the application that are reached as they are.
    pub inbound_ports: Vec<u16>,
    /// Ports that it calls, wherever they are.
    pub outbound_ports: Vec<u16>,
    /// Networks that it calls.
    pub outbound_cidrs: Vec<IpNet>,
}

/// The most ports, and networks, that can be excluded: each is a rule that every new connection is
/// compared with.
pub const MAX_EXCLUDED: usize = 32;

/// Why the redirect could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not change the rules of its network namespace.
    #[error(
        "no permission to change nftables rules: this needs the capability NET_ADMIN in the current network namespace \
         (in a pod: `securityContext.capabilities.add: [NET_ADMIN]` on the init container, running as user 0)"
    )]
    Permission,
    /// The kernel lacks a part of nftables.
    #[error(
        "this kernel can't redirect connections: it lacks {0} (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, \
         CONFIG_NFT_NAT and CONFIG_NFT_REDIR; as modules: nf_tables, nft_chain_nat, nft_redir)"
    )]
    Kernel(&'static str),
    /// Too much is to be left alone.
    #[error("{0} {1} are excluded, and {MAX_EXCLUDED} may be: exclude a network instead, or less")]
    TooMany(usize, &'static str),
    /// Strangers would call as this pod.
    #[error(
        "port {0} is the sidecar's own and can't be excluded for who calls this pod: whoever reached it as it is would \
         call others through this sidecar, with its identity; exclude ports of the application"
    )]
    OwnPort(u16),
    /// Anything else the kernel answered.
    #[error("the kernel refused the redirect while {step}: {source}")]
    Refused {
        /// What was being asked for, as a phrase.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Installs the redirect in the current network namespace.
///
/// The table is replaced as a whole and in one transaction: running it twice leaves one set of
/// rules, and no connection sees half of them.
///
/// Connections over IPv6 are redirected as well, also where nothing has an address of it yet.
pub fn redirect(rules: &Rules) -> Result<(), Error> {
    rules.check()?;
    loopback::add(APPLICATION_SOURCE_6)?;
    let mut batch = Batch::replace(TABLE);
    batch.chain(Chain {
        name: "outbound",
        hook: Hook::Output,
    });
    for (matches, verdict) in outbound(rules) {
        batch.rule("outbound", &matches, verdict);
    }
    batch.chain(Chain {
        name: "inbound",
        hook: Hook::Prerouting,
    });
    for (matches, verdict) in inbound(rules) {
        batch.rule("inbound", &matches, verdict);
    }
    batch.commit()
}

/// Removes the redirect from the current network namespace; removing what isn't there is no error.
pub fn remove() -> Result<(), Error> {
    Batch::remove(TABLE).commit()?;
    loopback::remove(APPLICATION_SOURCE_6)
}

/// Whether the redirect is there, for who may read the rules of the current network namespace.
/// A sidecar may not: see [`in_force`].
pub fn is_installed() -> Result<bool, Error> {
    nftables::exists(TABLE)
}

/// What happens to a connection opened inside the namespace: the first line that matches.
fn outbound(rules: &Rules) -> Vec<(Vec<Match>, Verdict)> {
    let sidecar = match rules.escape {
        Escape::Uid(uid) => Match::SocketUid(uid),
        Escape::Mark(mark) => Match::Mark(mark),
    };
    let mut lines = vec![
        // The sidecar hands a request to its application.
        (
            vec![sidecar, Match::Source(APPLICATION_SOURCE)],
            Verdict::Return,
        ),
        (
            vec![sidecar, Match::Source6(APPLICATION_SOURCE_6)],
            Verdict::Return,
        ),
    ];
    // The sidecar calls its own workload at a port that nobody reaches through it.
    let of_own = |port: &u16| {
        let own = vec![
            sidecar,
            Match::LeavesByLoopback,
            Match::Tcp,
            Match::ToPort(*port),
        ];
        (own, Verdict::Return)
    };
    lines.extend(rules.excluded.inbound_ports.iter().map(of_own));
    lines.extend([
        // The sidecar calls its own workload (a Service chose this very pod): through its own
        // inbound side, so that a workload's calls to itself obey the same rules as others'.
        (
            vec![
                sidecar,
                Match::LeavesByLoopback,
                Match::ToLoopback(false),
                Match::Tcp,
            ],
            Verdict::Redirect(rules.inbound),
        ),
        (
            vec![
                sidecar,
                Match::LeavesByLoopback,
                Match::ToLoopback6(false),
                Match::Tcp,
            ],
            Verdict::Redirect(rules.inbound),
        ),
        // The sidecar calls another.
        (vec![sidecar], Verdict::Return),
        // What an application says to itself over loopback is its own business.
        (vec![Match::ToLoopback(true)], Verdict::Return),
        (vec![Match::ToLoopback6(true)], Verdict::Return),
    ]);
    let ports = rules.excluded.outbound_ports.iter();
    lines.extend(ports.map(|port| (vec![Match::Tcp, Match::ToPort(*port)], Verdict::Return)));
    let networks = rules.excluded.outbound_cidrs.iter();
    lines.extend(networks.map(|network| (vec![Match::ToNetwork(*network)], Verdict::Return)));
    lines.push((vec![Match::Tcp], Verdict::Redirect(rules.outbound)));
    lines
}

/// What happens to a connection that arrives from outside the namespace.
fn inbound(rules: &Rules) -> Vec<(Vec<Match>, Verdict)> {
    let as_they_are = rules.untouched.iter().chain(&rules.excluded.inbound_ports);
    let mut lines: Vec<_> = as_they_are
        .map(|port| (vec![Match::Tcp, Match::ToPort(*port)], Verdict::Return))
        .collect();
    lines.push((vec![Match::Tcp], Verdict::Redirect(rules.inbound)));
    lines
}

// === impl Rules ===

impl Rules {
    /// The mesh's usual ports: outbound 15001, inbound 15006, metrics 15020 and probes 15021.
    pub fn new(escape: Escape) -> Self {
        Self {
            escape,
            outbound: 15001,
            inbound: 15006,
            untouched: vec![15006, 15020, 15021],
            excluded: Excluded::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.excluded.check()?;
        let own = |port: &&u16| {
            **port == self.outbound || **port == self.inbound || SIDECAR_PORTS.contains(port)
        };
        let excluded = self.excluded.inbound_ports.iter().find(own);
        let untouched = self.untouched.iter().find(|port| **port == self.outbound);
        match excluded.or(untouched) {
            Some(port) => Err(Error::OwnPort(*port)),
            None => Ok(()),
        }
    }
}

// === impl Excluded ===

impl Excluded {
    fn check(&self) -> Result<(), Error> {
        for (number, what) in [
            (self.inbound_ports.len(), "inbound ports"),
            (self.outbound_ports.len(), "outbound ports"),
            (self.outbound_cidrs.len(), "networks"),
        ] {
            if number > MAX_EXCLUDED {
                return Err(Error::TooMany(number, what));
            }
        }
        Ok(())
    }
}
