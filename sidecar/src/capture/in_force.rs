//! Whether the redirect is in force, as the sidecar itself can see.
//!
//! To read the rules takes NET_ADMIN, which a sidecar does not have. It can see what they do: where
//! it calls its own pod, the same chain that sends the application's connections to the sidecar
//! sends this one to the sidecar's inbound port. The rules take effect together or not at all, so
//! where this one holds, all do. Nothing of it leaves the pod, and nobody else's connection counts:
//! the one that arrives must be the one that was opened.
//!
//! Without this, a pod that nobody captured (a node whose CNI plugin came later than the pod, a
//! program that clears all rules) would run, and talk in plaintext around a sidecar that is well.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use nix::ifaddrs::getifaddrs;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::net::accept::listen;
use crate::net::connect::Connector;
use crate::net::original_dst::original_dst;

/// How long a connection from the pod to itself may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The most addresses of a pod that are tried.
const MOST_ADDRESSES: usize = 8;

/// Who was to install the redirect before the sidecar started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CapturedBy {
    /// The init container `meshwright-redirect`.
    Init,
    /// The CNI plugin `meshwright-cni`.
    Cni,
}

/// Why a sidecar must not say that it is ready, for the person whose pod it is.
#[derive(Debug, thiserror::Error)]
pub enum NotCaptured {
    /// There is no redirect.
    #[error(
        "this pod's connections are not redirected to the sidecar ({address}: {seen}), so it must not become ready: {}",
        remedy(*by)
    )]
    Not {
        /// Who should have installed it.
        by: CapturedBy,
        /// Of the pod.
        address: IpAddr,
        /// What became of the connection.
        seen: String,
    },
    /// It couldn't be found out.
    #[error(
        "whether this pod's connections are redirected to the sidecar can't be seen: {0}; the pod must not become ready"
    )]
    Unknown(#[from] io::Error),
}

fn remedy(by: CapturedBy) -> &'static str {
    match by {
        CapturedBy::Init => {
            "what the init container meshwright-redirect installed is gone; find what else changes \
             nftables rules in pods, then delete this pod, and its controller makes another"
        }
        CapturedBy::Cni => {
            "the CNI plugin meshwright-cni was not at work on this node when the pod was made; see that \
             the DaemonSet meshwright-cni is ready there (chart value cni.enabled), then delete this \
             pod, and its controller makes another (docs/pod-security.md)"
        }
    }
}

/// Sees whether connections of this network namespace are redirected to `inbound`, a port that this
/// process may listen on for the moment. `by` says who was to do it, for the error.
///
/// # Errors
/// When they are not, or when it can't be found out: either way nothing may be served.
pub async fn verify(
    by: CapturedBy,
    inbound: u16,
    connector: &Connector,
) -> Result<(), NotCaptured> {
    let listener = listen((Ipv6Addr::UNSPECIFIED, inbound).into())?;
    let mut captured = false;
    let mut unreached = None;
    for address in own_addresses()? {
        match arrives(&listener, connector, address).await {
            Ok(()) => captured = true,
            Err(error) if is_unreached(&error) => unreached = Some((address, error)),
            Err(error) => {
                let seen = error.to_string();
                return Err(NotCaptured::Not { by, address, seen });
            }
        }
    }
    match (captured, unreached) {
        (true, _) => Ok(()),
        (false, Some((address, error))) => {
            let seen = error.to_string();
            Err(NotCaptured::Not { by, address, seen })
        }
        (false, None) => Err(io::Error::other("the pod has no address").into()),
    }
}

/// Nobody can be called by this address, redirected or not. So it is of an IPv6 address for a moment:
/// the kernel first asks whether somebody else has it.
fn is_unreached(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}

/// Opens a connection to an own address, and waits until it arrives at `listener`.
async fn arrives(listener: &TcpListener, connector: &Connector, own: IpAddr) -> io::Result<()> {
    // A port on which nobody listens, nor can for the moment, whatever the application does.
    let reserved = match own {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    reserved.bind(SocketAddr::new(own, 0))?;
    let called = reserved.local_addr()?;
    let opened = connector.to_peer(called).await?;
    let from = opened.local_addr()?;
    let arrived = timeout(LIMIT, async {
        loop {
            let (stream, _) = listener.accept().await?;
            if is_from(&stream, from) {
                return original_dst(&stream);
            }
        }
    });
    let late = |_| io::Error::other("it was answered, but not by the sidecar");
    match arrived.await.map_err(late)?? {
        destination if destination == called => Ok(()),
        other => Err(io::Error::other(format!("it arrived as one to {other}"))),
    }
}

fn is_from(stream: &TcpStream, from: SocketAddr) -> bool {
    let peer = stream.peer_addr();
    peer.is_ok_and(|peer| (peer.ip().to_canonical(), peer.port()) == (from.ip(), from.port()))
}

/// The addresses that others call this pod by.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        if let Some(ip) = address.as_sockaddr_in() {
            return Some(IpAddr::V4(ip.ip()));
        }
        address.as_sockaddr_in6().map(|ip| IpAddr::V6(ip.ip()))
    });
    let called = addresses.filter(|address| match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        // ::6, by which the application sees the sidecar, is on the loopback interface too.
        IpAddr::V6(ip) => {
            !ip.is_loopback() && !ip.is_unicast_link_local() && *ip != super::APPLICATION_SOURCE_6
        }
    });
    Ok(called.take(MOST_ADDRESSES).collect())
}
