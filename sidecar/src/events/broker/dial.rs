//! How the client of a broker gets a connection to it.

use std::io;
use std::net::SocketAddr;

use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::either::Either;

/// Where a client gets its connections from.
#[derive(Clone, Debug)]
pub enum Dial {
    /// They are opened to there.
    To(SocketAddr),
    /// Whoever leads to the broker in this process is asked for each: no byte passes the kernel on its way there, and
    /// nobody else finds a port that leads to the broker.
    Within(mpsc::UnboundedSender<Ask>),
}

/// Where a connection is put that was asked for.
pub type Ask = oneshot::Sender<DuplexStream>;

/// A connection.
pub type Dialled = Either<TcpStream, DuplexStream>;

// === impl Dial ===

impl Dial {
    /// Opens a connection; one within this process is there before it is known that it leads to a broker.
    ///
    /// # Errors
    /// That nobody is there.
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
                given.await.map(Either::Right).map_err(|_| gone())
            }
        }
    }
}

impl From<SocketAddr> for Dial {
    fn from(address: SocketAddr) -> Self {
        Self::To(address)
    }
}
