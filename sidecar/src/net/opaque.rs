//! Bytes that nobody reads: copied both ways until both sides are done.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::telemetry::metrics::Connection;

/// What is read at a time, in each direction: one whole record of TLS (RFC 8446 section 5.1).
const BUFFER: usize = 16 * 1024;

/// Copies until both directions have ended; an end in one direction is passed on (half-close)
/// while the other goes on. Returns the bytes that went from `a` to `b` and from `b` to `a`.
///
/// # Errors
/// The first error of either side; both are closed then.
pub async fn copy<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(a, b, BUFFER, BUFFER).await
}

/// As [`copy`], from who connected to its destination, counting bytes while they flow: such a
/// connection may live for days.
///
/// # Errors
/// As [`copy`].
pub async fn copy_counted<A, B, C>(
    source: &mut A,
    destination: &mut B,
    counts: &C,
) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    C: Counts,
{
    let mut source = Counted::new(source, counts);
    copy_bidirectional_with_sizes(&mut source, destination, BUFFER, BUFFER).await
}

/// What counts bytes while they flow.
pub trait Counts {
    /// More of them have come from who connected.
    fn to_destination(&self, bytes: usize);
    /// More of them have gone back.
    fn to_source(&self, bytes: usize);
}

/// Bytes of who connected, counted while they flow.
#[derive(Debug)]
pub struct Counted<'a, A, C> {
    source: &'a mut A,
    counts: &'a C,
}

// === impl Counts ===

impl Counts for Connection {
    fn to_destination(&self, bytes: usize) {
        Connection::to_destination(self, bytes);
    }

    fn to_source(&self, bytes: usize) {
        Connection::to_source(self, bytes);
    }
}

impl Counts for (&Connection, &Cell<u64>) {
    fn to_destination(&self, bytes: usize) {
        Counts::to_destination(self.0, bytes);
        Counts::to_destination(self.1, bytes);
    }

    fn to_source(&self, bytes: usize) {
        Counts::to_source(self.0, bytes);
        Counts::to_source(self.1, bytes);
    }
}

impl Counts for Cell<u64> {
    fn to_destination(&self, bytes: usize) {
        self.set(self.get() + bytes as u64);
    }

    fn to_source(&self, bytes: usize) {
        self.to_destination(bytes);
    }
}

impl Counts for (Cell<u64>, Cell<u64>) {
    fn to_destination(&self, bytes: usize) {
        self.0.to_destination(bytes);
    }

    fn to_source(&self, bytes: usize) {
        self.1.to_source(bytes);
    }
}

// === impl Counted ===

impl<'a, A, C> Counted<'a, A, C> {
    /// Counts there what flows here.
    pub fn new(source: &'a mut A, counts: &'a C) -> Self {
        Self { source, counts }
    }
}

impl<A: AsyncRead + Unpin, C: Counts> AsyncRead for Counted<'_, A, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut *self.source).poll_read(task, to))?;
        self.counts.to_destination(to.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<A: AsyncWrite + Unpin, C: Counts> AsyncWrite for Counted<'_, A, C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.source).poll_write(task, bytes))?;
        self.counts.to_source(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.source).poll_write_vectored(task, bytes))?;
        self.counts.to_source(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.source.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.source).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.source).poll_shutdown(task)
    }
}
