//! Where a redirected connection was going before it was captured.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the application called (outbound) or that the peer called (inbound).
///
/// Reads `SO_ORIGINAL_DST` from the connection tracker. A connection that was never redirected has
/// no entry there: its own local address is the answer, which is how explicit proxying and
/// listeners on an application's own address work.
///
/// # Errors
/// Only when the socket is already gone.
pub fn original_dst(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = local(stream)?;
    let socket = SockRef::from(stream);
    let tracked = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(tracked
        .ok()
        .and_then(|address| address.as_socket())
        .map_or(local, canonical))
}

/// The address that a connection arrived at.
///
/// # Errors
/// Only when the socket is already gone.
pub fn local(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.local_addr().map(canonical)
}

/// An IPv4 address that arrived on a dual-stack socket is that IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
