//! The line between the mesh and the process that stayed in the host's network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::dns::first_nameserver;
use crate::fds;

/// What the mesh says to the host's side.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    /// New namespaces were refused, for this reason; nothing was started.
    Blocked(String),
    /// Asks for a listener in the host's network.
    Bind(SocketAddr),
    /// Asks for a socket that is connected to the host's name server.
    Resolver,
}

/// What the host's side says to the mesh.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromHost {
    /// The answer to [`ToHost::Bind`] and [`ToHost::Resolver`]: accompanied by the socket, or why
    /// there is none.
    Bound(Result<(), BindError>),
    /// End in good order.
    Stop,
}

/// Why a port could not be published.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub(super) enum BindError {
    /// Somebody else has it.
    #[error("it is taken")]
    Taken,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The mesh's end.
pub(super) struct HostLink {
    /// `None`: the mesh runs in the host's network itself.
    remote: Option<Remote>,
    /// Becomes true when the mesh is to end, because somebody said so or is gone.
    pub(super) stop: watch::Receiver<bool>,
}

struct Remote {
    socket: Arc<UnixStream>,
    bound: mpsc::UnboundedReceiver<Result<OwnedFd, BindError>>,
}

// === impl HostLink ===

impl HostLink {
    /// To a process at the other end of `socket`.
    pub(super) fn remote(socket: UnixStream) -> Self {
        let socket = Arc::new(socket);
        let (stopping, stop) = watch::channel(false);
        let (answers, bound) = mpsc::unbounded_channel();
        let reading = socket.clone();
        std::thread::spawn(move || {
            // The end of the stream says that the host's side is gone: then the mesh ends as well.
            while let Ok((message, descriptors)) = fds::receive(&reading) {
                match message {
                    FromHost::Stop => {
                        stopping.send_replace(true);
                    }
                    FromHost::Bound(Err(error)) => {
                        let _ = answers.send(Err(error));
                    }
                    FromHost::Bound(Ok(_)) => {
                        let missing = || BindError::Other("no socket came along".to_owned());
                        let _ = answers.send(descriptors.into_iter().next().ok_or_else(missing));
                    }
                }
            }
            stopping.send_replace(true);
        });
        Self {
            remote: Some(Remote { socket, bound }),
            stop,
        }
    }

    /// To the host's network itself.
    pub(super) fn local(stop: watch::Receiver<bool>) -> Self {
        Self { remote: None, stop }
    }

    /// A listener in the host's network: what it accepts is there as well, wherever it is used.
    pub(super) async fn bind(&mut self, address: SocketAddr) -> Result<TcpListener, BindError> {
        match &mut self.remote {
            Some(remote) => remote
                .ask(&ToHost::Bind(address))
                .await
                .map(TcpListener::from),
            None => bind(address),
        }
    }

    /// A socket in the host's network, connected to the host's name server.
    pub(super) async fn resolver(&mut self) -> Result<UdpSocket, BindError> {
        match &mut self.remote {
            Some(remote) => remote.ask(&ToHost::Resolver).await.map(UdpSocket::from),
            None => resolver(),
        }
    }
}

// === impl Remote ===

impl Remote {
    async fn ask(&mut self, question: &ToHost) -> Result<OwnedFd, BindError> {
        let gone = || BindError::Other("the host's side is gone".to_owned());
        fds::send(&self.socket, question, &[]).map_err(|_| gone())?;
        self.bound.recv().await.ok_or_else(gone)?
    }
}

/// Answers what the mesh asks, in the host's network, until it ends. Blocks. Returns why the mesh
/// could not be, if it couldn't.
pub(super) fn serve(socket: &UnixStream) -> Option<String> {
    while let Ok((message, _)) = fds::receive(socket) {
        let made = match message {
            ToHost::Blocked(reason) => return Some(reason),
            ToHost::Bind(address) => bind(address).map(OwnedFd::from),
            ToHost::Resolver => resolver().map(OwnedFd::from),
        };
        let told = made.as_ref().map(|_| ()).map_err(Clone::clone);
        let descriptor = made.as_ref().ok().map(|socket| socket.as_fd());
        // The mesh that asked may be gone by now.
        let _ = fds::send(socket, &FromHost::Bound(told), &Vec::from_iter(descriptor));
    }
    None
}

fn resolver() -> Result<UdpSocket, BindError> {
    let configuration = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let missing = || BindError::Other("this machine has no name server".to_owned());
    let server = first_nameserver(&configuration).ok_or_else(missing)?;
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let connected = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(server)?;
        Ok(socket)
    });
    connected.map_err(|error| BindError::Other(error.to_string()))
}

fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken,
        _ => BindError::Other(error.to_string()),
    })
}
