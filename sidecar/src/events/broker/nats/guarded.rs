//! The crate's end of a connection to a NATS: what is written to it passes a [`Guard`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Guard;

/// Bytes of the crate, and to it those that it can read.
#[derive(Debug)]
pub struct Guarded<T> {
    io: T,
    guard: Guard,
    /// What has passed the guard and was not written.
    passed: BytesMut,
}

// === impl Guarded ===

impl<T> Guarded<T> {
    /// Of the crate's end. `said`: what the broker has said already.
    ///
    /// # Errors
    /// That it is not from a NATS.
    pub fn new(io: T, said: &[u8]) -> io::Result<Self> {
        let (mut guard, mut passed) = (Guard::default(), BytesMut::new());
        guard.pass(said, &mut passed).map_err(io::Error::other)?;
        Ok(Self { io, guard, passed })
    }
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
    /// Writes what has passed.
    fn poll_passed(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.passed.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(task, &self.passed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.passed.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    /// Nothing more is taken before what has passed is written: no more is held than was taken at once, and a line.
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_passed(task))?;
        let passed = this.guard.pass(from, &mut this.passed);
        passed.map_err(io::Error::other)?;
        // What can't be written now is when more comes, or when it is flushed.
        if let Poll::Ready(Err(error)) = this.poll_passed(task) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_passed(task))?;
        Pin::new(&mut this.io).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_passed(task))?;
        Pin::new(&mut this.io).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn all_that_a_broker_says_comes_however_slowly_it_is_read() -> io::Result<()> {
        let (near, mut crates) = duplex(7);
        let mut near = Guarded::new(near, b"INFO {}\r\n")?;
        let said = "MSG a 1 3\r\nabc\r\n+OK\r\n".repeat(1_000);
        let mut heard = Vec::new();
        let (told, read) = tokio::join!(
            async {
                near.write_all(said.as_bytes()).await?;
                near.shutdown().await
            },
            crates.read_to_end(&mut heard)
        );
        told?;
        read?;
        assert_eq!(heard, [b"INFO {}\r\n", said.as_bytes()].concat());
        Ok(())
    }

    #[tokio::test]
    async fn what_no_nats_says_ends_the_connection() -> io::Result<()> {
        let (near, _crates) = duplex(1024);
        let mut near = Guarded::new(near, b"")?;
        near.write_all(b"MSG a\r\n").await.unwrap_err();
        assert!(Guarded::new(duplex(1).0, b"MSG a\r\n").is_err());
        Ok(())
    }
}
