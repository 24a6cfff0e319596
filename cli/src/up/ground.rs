//! Where workloads live: namespaces of their own, or addresses of loopback.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};

use super::addresses::{BRIDGE, PREFIX};
use super::links::Links;
use super::place::{self, Furniture, Namespaces, SIDECAR_MARK};

/// The place of the first workload; before it are the network's own address and the bridge's.
const FIRST: u32 = 2;

/// The ground that all workloads of a mesh stand on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ground {
    /// A network namespace for each, joined by a bridge with this index.
    Namespaces {
        /// The bridge's interface index.
        bridge: u32,
    },
    /// Two loopback addresses for each, 127.77.`mesh`.x for the sidecar and 127.78.`mesh`.x for the
    /// application: where user namespaces are blocked.
    Loopback {
        /// Tells meshes beside each other apart.
        mesh: u8,
    },
}

/// Where one workload lives.
#[derive(Debug)]
pub(super) struct Place {
    /// The workload's address, at which others reach it.
    pub(super) address: Ipv4Addr,
    /// Where its application listens, if not there.
    pub(super) application: Option<Ipv4Addr>,
    /// Its namespaces, if it has its own.
    pub(super) namespaces: Option<Namespaces>,
    /// The name of its interface on the bridge.
    link: String,
}

// === impl Ground ===

impl Ground {
    /// Prepares the current network namespace, which nothing else uses.
    pub(super) fn namespaces() -> anyhow::Result<Self> {
        let mut links = Links::here();
        links.loopback_up().context("bringing up loopback")?;
        let bridge = links
            .bridge("mesh0", BRIDGE, PREFIX)
            .context("creating a bridge (kernel module: bridge) for the workloads' network")?;
        let ground = Self::Namespaces { bridge };
        // One for trial, so that what the kernel lacks shows before anything is started.
        drop(ground.make(FIRST, Vec::new())?);
        Ok(ground)
    }

    /// The first mesh that nobody runs on this machine's loopback addresses.
    pub(super) fn loopback() -> anyhow::Result<(Self, Vec<std::net::TcpListener>)> {
        for mesh in 0..=u8::MAX {
            // Held open for the life of the mesh: its claim to all the addresses.
            let claim = SocketAddr::from((Ipv4Addr::new(127, 78, mesh, 1), 15000));
            match std::net::TcpListener::bind(claim) {
                Ok(listener) => return Ok((Self::Loopback { mesh }, vec![listener])),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(error).context(
                        "this system has no further loopback addresses (on macOS: `sudo ifconfig lo0 alias 127.77.0.1`)",
                    );
                }
            }
        }
        anyhow::bail!("256 meshes run on this machine's loopback addresses already")
    }

    /// The operator's address.
    pub(super) fn operator(self) -> Ipv4Addr {
        match self {
            Self::Namespaces { .. } => BRIDGE,
            Self::Loopback { mesh } => Ipv4Addr::new(127, 77, mesh, 1),
        }
    }

    /// Makes the place of the `nth` workload (from [`FIRST`]). Blocks for some milliseconds.
    pub(super) fn make(self, nth: u32, files: Vec<(PathBuf, PathBuf)>) -> anyhow::Result<Place> {
        match self {
            Self::Namespaces { bridge } => {
                let address = Ipv4Addr::from_bits(BRIDGE.to_bits() - 1 + nth);
                let link = format!("w{nth}");
                let furniture = Furniture {
                    address,
                    prefix: PREFIX,
                    gateway: BRIDGE,
                    files,
                };
                let namespaces = place::make(&link, bridge, &furniture)?;
                Ok(Place {
                    address,
                    application: None,
                    namespaces: Some(namespaces),
                    link,
                })
            }
            Self::Loopback { mesh } => {
                let nth =
                    u8::try_from(nth).context("more than 254 workloads need network namespaces")?;
                Ok(Place {
                    address: Ipv4Addr::new(127, 77, mesh, nth),
                    application: Some(Ipv4Addr::new(127, 78, mesh, nth)),
                    namespaces: None,
                    link: String::new(),
                })
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// Connects to the application as its sidecar does.
    pub(super) async fn connect_to_application(&self, port: u16) -> io::Result<TcpStream> {
        match (&self.namespaces, self.application) {
            (Some(namespaces), _) => {
                let socket = socket_in(&namespaces.network)?;
                socket2::SockRef::from(&socket).set_mark(SIDECAR_MARK)?;
                socket.bind(SocketAddr::from((sidecar::capture::APPLICATION_SOURCE, 0)))?;
                socket.connect((self.address, port).into()).await
            }
            (None, Some(application)) => TcpStream::connect((application, port)).await,
            (None, None) => TcpStream::connect((self.address, port)).await,
        }
    }

    /// Connects to where the sidecar answers people, which is never reachable from elsewhere.
    pub(super) async fn connect_to_admin(&self) -> io::Result<TcpStream> {
        match &self.namespaces {
            Some(namespaces) => {
                socket_in(&namespaces.network)?
                    .connect(([127, 0, 0, 1], 15000).into())
                    .await
            }
            None => TcpStream::connect((self.address, 15000)).await,
        }
    }

    /// Connects to an address as a program of this workload would, through its sidecar.
    pub(super) async fn connect_as_application(&self, to: SocketAddr) -> io::Result<TcpStream> {
        match &self.namespaces {
            Some(namespaces) => socket_in(&namespaces.network)?.connect(to).await,
            None => Err(io::Error::other("there is no namespace to connect from")),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.namespaces.is_some() {
            // The kernel would remove it with the namespace, but only some time later: its name may be
            // needed at once.
            let _ = Links::here().remove(&self.link);
        }
    }
}

/// A socket in another network namespace: it stays there, wherever it is used.
fn socket_in(network: &OwnedFd) -> io::Result<TcpSocket> {
    let network = File::from(network.as_fd().try_clone_to_owned()?);
    // A namespace is entered by a thread, and this one is needed where it is.
    std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        TcpSocket::new_v4()
    })
    .join()
    .map_err(|_| io::Error::other("the thread that opens sockets panicked"))?
}
