//! How the client of a broker gets a connection to it.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::either::Either;

use crate::proxy::opaque::way::Bytes;

/// How many characters of a reason are told.
const TOLD: usize = 200;

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
pub type Ask = oneshot::Sender<io::Result<Box<dyn Bytes>>>;

/// A connection.
pub type Dialled = Either<TcpStream, Box<dyn Bytes>>;

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
                given.map(Either::Right).map_err(|error| told(&error))
            }
        }
    }
}

/// Why there is no connection, as it may stand in a log and a status: who answers may have said any of it.
fn told(error: &io::Error) -> io::Error {
    let text = error.to_string();
    let text = text.chars().filter(|of| !of.is_control()).take(TOLD);
    io::Error::new(error.kind(), text.collect::<String>())
}

impl From<SocketAddr> for Dial {
    fn from(address: SocketAddr) -> Self {
        Self::To(address)
    }
}
