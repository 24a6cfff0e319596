//! The way out of a local mesh: connections to the host's network.
//!
//! A workload of `meshwright up` lives in a network namespace that leads nowhere. A process that
//! stayed in the host's network opens connections on its behalf and passes them in as open
//! sockets, for a socket keeps the network it was made in.
//!
//! The exchange, over a Unix socket, one connection each: the asker sends `tcp <address>:<port>`
//! and a line end; the answer is either the byte `+` accompanied by the connected socket, or `-`,
//! a sentence saying why not, and the end of the stream.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UnixStream};

/// The longest refusal that is read; the rest says no more.
const LONGEST_REFUSAL: u64 = 1024;

/// Opens a TCP connection from the host's network.
///
/// `path` is the Unix socket of the process that answers; `to` is where the connection goes, as
/// seen by the host. An error of kind [`io::ErrorKind::ConnectionRefused`] says what the host said.
pub async fn connect(path: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the way out {} does not answer: {error}", path.display()),
        )
    })?;
    stream.write_all(format!("tcp {to}\n").as_bytes()).await?;
    match stream
        .async_io(Interest::READABLE, || receive(&stream))
        .await?
    {
        (Some(b'+'), Some(socket)) => {
            let socket = std::net::TcpStream::from(socket);
            socket.set_nonblocking(true)?;
            TcpStream::from_std(socket)
        }
        (Some(b'-'), _) => {
            let mut why = String::new();
            stream
                .take(LONGEST_REFUSAL)
                .read_to_string(&mut why)
                .await?;
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
        }
        (Some(_), _) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the way out answered in another language",
        )),
        (None, _) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the way out closed without an answer",
        )),
    }
}

/// The first byte of the answer, and the socket that came with it. `None`: the stream has ended.
fn receive(stream: &UnixStream) -> io::Result<(Option<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::net::recvmsg(
        stream,
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut passed,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let socket = passed.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok(((received.bytes == 1).then_some(byte[0]), socket))
}
