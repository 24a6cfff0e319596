//! How the client of a broker gets a connection to it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::either::Either;

use crate::proxy::opaque::way::Io;

/// How many characters of what was said are shown.
const SHOWN: usize = 200;

/// Where a client gets its connections from.
#[derive(Clone, Debug)]
pub enum Dial {
    /// They are opened to there.
    To(SocketAddr),
    /// Whoever knows the way to the broker in this process is asked for each: the client has the socket, or the TLS over it,
    /// and nobody else finds a port that leads to the broker.
    Within(mpsc::UnboundedSender<Ask>),
}

/// Where a connection is put that was asked for, or why there is none.
pub type Ask = oneshot::Sender<io::Result<Box<dyn Io>>>;

/// A connection.
pub type Dialled = Either<TcpStream, Box<dyn Io>>;

// === impl Dial ===

impl Dial {
    /// Opens a connection.
    ///
    /// # Errors
    /// That nobody is there, or has not proved who it is.
    pub async fn open(&self) -> io::Result<Dialled> {
        match self {
            Self::To(address) => {
                let stream = TcpStream::connect(address).await?;
                // Small frames follow one another, and each is waited for.
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Within(asks) => {
                let gone = || io::Error::from(io::ErrorKind::NotConnected);
                let (ask, given) = oneshot::channel();
                asks.send(ask).map_err(|_| gone())?;
                let given = given.await.map_err(|_| gone())?;
                let told =
                    |error: io::Error| io::Error::new(error.kind(), shown(&error.to_string()));
                given.map(Either::Right).map_err(told)
            }
        }
    }
}

/// What a broker, or whoever answers in its place, says, as it may stand in a log and a status.
pub(super) fn shown(text: &str) -> String {
    let shown = text.chars().filter(|of| !of.is_control());
    shown.take(SHOWN).collect()
}

/// Why there is no connection, where a broker says so of who we are.
pub(super) fn refuses(said: impl fmt::Display) -> String {
    format!("it refuses what its Secret has as username and password: {said}")
}

impl From<SocketAddr> for Dial {
    fn from(address: SocketAddr) -> Self {
        Self::To(address)
    }
}
