//! Opening connections: to a peer, to the own application, and out of the local mesh.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::accept::prepare;
use crate::capture::{APPLICATION_SOURCE, APPLICATION_SOURCE_6, way_out};

/// How long a TCP handshake may take. Inside one network a second is already two lost packets.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many addresses of a name are tried: whoever answers for it may name any number.
const MOST_ADDRESSES: usize = 4;

/// How this process opens connections; fixed for its life.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    /// `SO_MARK` on every socket, where the redirect rules know us by mark (the local mesh).
    pub mark: Option<u32>,
    /// Where the application listens instead of the original destination (explicit proxying).
    pub application: Option<IpAddr>,
    /// The socket of the process that opens connections to the host's network (the local mesh).
    pub way_out: Option<PathBuf>,
}

// === impl Connector ===

impl Connector {
    /// Connects to another workload's address.
    ///
    /// # Errors
    /// As `connect(2)`; `TimedOut` after [`CONNECT_TIMEOUT`].
    pub async fn to_peer(&self, address: SocketAddr) -> io::Result<TcpStream> {
        connect(self.socket(address)?, address).await
    }

    /// Connects to the application beside this sidecar, at the address that the peer called.
    ///
    /// # Errors
    /// As [`Connector::to_peer`].
    pub async fn to_application(&self, called: SocketAddr) -> io::Result<TcpStream> {
        let (socket, address) = self.application_socket(called)?;
        connect(socket, address).await
    }

    /// The same for as long as it takes: for whoever bounds the whole of what is asked.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn to_application_unbounded(&self, called: SocketAddr) -> io::Result<TcpStream> {
        let (socket, address) = self.application_socket(called)?;
        let stream = socket.connect(address).await?;
        prepare(&stream);
        Ok(stream)
    }

    fn application_socket(&self, called: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
        if let Some(application) = self.application {
            let address = SocketAddr::new(application, called.port());
            return Ok((self.socket(address)?, address));
        }
        let socket = self.socket(called)?;
        socket.bind(match called {
            SocketAddr::V4(_) => SocketAddr::new(APPLICATION_SOURCE.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(APPLICATION_SOURCE_6.into(), 0),
        })?;
        Ok((socket, called))
    }

    /// Connects to an address that the mesh knows nothing of.
    ///
    /// # Errors
    /// As [`Connector::to_peer`]; in the local mesh also when the host refuses.
    pub async fn to_outside(&self, address: SocketAddr) -> io::Result<TcpStream> {
        match &self.way_out {
            Some(path) => {
                tokio::time::timeout(CONNECT_TIMEOUT, way_out::connect(path, address)).await?
            }
            None => self.to_peer(address).await,
        }
    }

    /// Connects to a host that the mesh knows nothing of: a name, or an address without brackets. The first of its addresses
    /// that takes the connection is taken.
    ///
    /// # Errors
    /// As [`Connector::to_outside`] of the last one; when the name can't be resolved, or has no address.
    pub async fn to_host(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
        let found = tokio::net::lookup_host((host, port)).await?;
        for address in found.take(MOST_ADDRESSES) {
            stream = self.to_outside(address).await;
            if stream.is_ok() {
                break;
            }
        }
        stream
    }

    fn socket(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        Ok(socket)
    }
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await??;
    prepare(&stream);
    Ok(stream)
}
