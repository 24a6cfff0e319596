//! A way to a Service for who reads and writes it itself, on whichever thread: no byte is copied between two buffers of
//! this process on its way there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{To, Tunnel, outbound};
use crate::proxy::destination::Destination;
use crate::proxy::error::Error;
use crate::proxy::{Proxy, idle};
use crate::telemetry::metrics::Connection;

/// How many bytes lie between two that speak to one another within this process.
const BETWEEN: usize = 64 * 1024;

/// What is read and written as if it were the Service.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What says that it ends when it is dropped: whoever is at the other end then knows that nobody else
/// has cut it off.
struct Parting<T: Io>(T);

/// An open way. What belongs to the thread that opened it stays there until this is dropped.
struct Way {
    to: To,
    carried: Connection,
    /// How many bytes have moved, in both directions.
    moved: Arc<AtomicU64>,
    /// Over when no byte may have moved for so long. Dropped, it tells the other thread.
    ends: oneshot::Receiver<()>,
    /// Whether it may end for that.
    watched: bool,
    over: bool,
}

/// Opens a way to a Service.
///
/// # Errors
/// No endpoint could be reached.
pub async fn open(px: &Rc<Proxy>, destination: &Rc<Destination>) -> Result<Box<dyn Io>, Error> {
    if destination.asks_for_a_name() {
        // Whoever is to be reached is known once its client has said the name.
        let (near, far) = tokio::io::duplex(BETWEEN);
        let (px, destination) = (px.clone(), destination.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = outbound(&px, far, &destination).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        return Ok(Box::new(near));
    }
    let Tunnel {
        to,
        carried,
        idle,
        _in_flight,
        ..
    } = Tunnel::open(px, destination, None).await?;
    let moved = Arc::new(AtomicU64::new(0));
    let (mut holds, ends) = oneshot::channel();
    let way = Way {
        to,
        carried,
        moved: moved.clone(),
        ends,
        watched: idle.is_some(),
        over: false,
    };
    tokio::task::spawn_local(async move {
        let gone = holds.closed();
        match idle {
            None => gone.await,
            // Whether it has gone or was still for too long: it is over.
            Some(limit) => {
                let _ = idle::bound(limit, || moved.load(Ordering::Relaxed), gone).await;
            }
        }
        drop((_in_flight, holds));
    });
    Ok(parting(way))
}

/// A stream that is ended in order when it is dropped, as far as that is possible at once.
pub fn parting(stream: impl Io + 'static) -> Box<dyn Io> {
    Box::new(Parting(stream))
}

// === impl Way ===

impl Way {
    fn stream(&mut self) -> Pin<&mut dyn Io> {
        match &mut self.to {
            To::Peer(peer) => Pin::new(&mut **peer),
            To::Outside(outside) => Pin::new(outside),
        }
    }

    fn has_moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The same for who writes: whoever reads is the one that is told when it is over.
    fn goes_on(&mut self) -> io::Result<()> {
        if self.watched && !self.over {
            self.over = self.ends.try_recv() == Err(TryRecvError::Closed);
        }
        match self.over {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// Whether it was still for too long.
    fn is_over(&mut self, task: &mut Context<'_>) -> bool {
        if self.watched && !self.over {
            self.over = Pin::new(&mut self.ends).poll(task).is_ready();
        }
        self.over
    }
}

impl AsyncRead for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(task) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = into.filled().len();
        ready!(self.stream().poll_read(task, into))?;
        let read = into.filled().len() - before;
        self.carried.to_source(read);
        self.has_moved(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Way {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.goes_on()?;
        let written = ready!(self.stream().poll_write(task, bytes))?;
        self.carried.to_destination(written);
        self.has_moved(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.goes_on()?;
        let written = ready!(self.stream().poll_write_vectored(task, bytes))?;
        self.carried.to_destination(written);
        self.has_moved(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.to {
            To::Peer(peer) => peer.is_write_vectored(),
            To::Outside(outside) => outside.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(task)
    }
}

// === impl Parting ===

impl<T: Io> Drop for Parting<T> {
    fn drop(&mut self) {
        let mut task = Context::from_waker(Waker::noop());
        // What can't be said now is not said: nobody waits for it any more.
        let _ = Pin::new(&mut self.0).poll_shutdown(&mut task);
    }
}

impl<T: Io> AsyncRead for Parting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(task, into)
    }
}

impl<T: Io> AsyncWrite for Parting<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(task, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_is_at_the_other_end_is_told_that_a_stream_ends() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        // What keeps a half of it keeps no end from being told.
        let (mut kept, near) = tokio::io::split(near);
        let mut stream = parting(tokio::io::join(tokio::io::empty(), near));
        stream.write_all(b"all of it").await?;
        drop(stream);
        let mut heard = Vec::new();
        let hearing = far.read_to_end(&mut heard);
        tokio::time::timeout(std::time::Duration::from_secs(5), hearing).await??;
        assert_eq!(heard, b"all of it");
        drop(far);
        assert_eq!(kept.read(&mut [0; 1]).await?, 0);
        Ok(())
    }
}
