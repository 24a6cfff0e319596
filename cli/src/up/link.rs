//! The line between the mesh and the process that stayed in the host's network.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::fds;

/// What the mesh says to the host's side.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    /// New namespaces were refused, for this reason; nothing was started.
    Blocked(String),
    /// Asks for a listener in the host's network.
    Bind(SocketAddr),
}

/// What the host's side says to the mesh.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromHost {
    /// The answer to [`ToHost::Bind`]: where it listens, with the listener, or why it doesn't.
    Bound(Result<SocketAddr, BindError>),
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
    bound: mpsc::UnboundedReceiver<Result<TcpListener, BindError>>,
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
                        let listener = descriptors.into_iter().next().map(TcpListener::from);
                        let missing = || BindError::Other("no listener came along".to_owned());
                        let _ = answers.send(listener.ok_or_else(missing));
                    }
                }
            }
            stopping.send_replace(true);
        });
        Self { remote: Some(Remote { socket, bound }), stop }
    }

    /// To the host's network itself.
    pub(super) fn local(stop: watch::Receiver<bool>) -> Self {
        Self { remote: None, stop }
    }

    /// A listener in the host's network: what it accepts is there as well, wherever it is used.
    pub(super) async fn bind(&mut self, address: SocketAddr) -> Result<TcpListener, BindError> {
        let gone = || BindError::Other("the host's side is gone".to_owned());
        let Some(remote) = &mut self.remote else { return bind(address) };
        fds::send(&remote.socket, &ToHost::Bind(address), &[]).map_err(|_| gone())?;
        remote.bound.recv().await.ok_or_else(gone)?
    }
}

/// Answers what the mesh asks, in the host's network, until it ends. Blocks. Returns why the mesh
/// could not be, if it couldn't.
pub(super) fn serve(socket: &UnixStream) -> Option<String> {
    while let Ok((message, _)) = fds::receive(socket) {
        match message {
            ToHost::Blocked(reason) => return Some(reason),
            ToHost::Bind(address) => {
                let bound = bind(address);
                let told = bound.as_ref().map(|listener| listener.local_addr().unwrap_or(address)).map_err(Clone::clone);
                let listener = bound.as_ref().ok().map(|listener| listener.as_fd());
                // The mesh that asked may be gone by now.
                let _ = fds::send(socket, &FromHost::Bound(told), &Vec::from_iter(listener));
            }
        }
    }
    None
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
