//! Between a socket and hyper: what strangers, peers, applications and upstreams send is looked at
//! as bytes, where hyper and h2 are lenient or have no bound of their own.
//!
//! - HTTP/1.1 requests ([`requests`]): lengths that can be read in two ways, bare line ends and odd
//!   chunks are refused before hyper reads them. hyper skips a `Content-Length` beside a
//!   `Transfer-Encoding` and takes a bare LF for a line end; whoever stands before or behind us may
//!   not.
//! - HTTP/1.1 answers ([`answers`]): lengths that disagree, and interim answers without end.
//! - HTTP/2 ([`frames`]): frames that cost their sender nothing and bring nothing forward.
//! - Both: the time from the first byte of a head to its last (slowloris), apart from the time that
//!   a connection may rest between requests.
//!
//! Nothing is changed on its way, but that frames of DATA without any are taken out ([`frames`]);
//! bodies are only counted. A head that is refused is given to
//! hyper spoilt ([`SPOILT`]), so that hyper answers 400 when it is that request's turn.

pub mod answers;
pub mod frames;
mod lines;
pub mod requests;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::limits;
use answers::{Answers, Asked};
use frames::{FRAME_HEAD, Frames};
use requests::{Answered, Requests};

/// No head of HTTP/1 has a NUL, wherever in it this stands, and none goes on after it.
const SPOILT: &[u8] = b"\0\r\n\r\n";

/// A socket that is looked through.
#[derive(Debug)]
pub struct Gate<I> {
    io: I,
    watch: Watch,
    /// Of [`SPOILT`], what hyper has not read yet.
    spoilt: Option<&'static [u8]>,
    /// A frame's head that came in pieces, and how much of it hyper has read.
    pieced: Option<([u8; FRAME_HEAD], usize)>,
    /// When the head that has begun must have ended, and which one that is.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
}

#[derive(Debug)]
enum Watch {
    Requests(Requests),
    Answers(Answers),
    Frames(Frames),
}

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In a head of HTTP/1, the first byte that must not be read.
    pub head_at: Option<usize>,
    /// For the log.
    pub why: &'static str,
}

/// What ends a connection that hyper cannot answer on; inside an [`io::Error`].
#[derive(Clone, Copy, Debug)]
pub struct Ended(pub &'static str);

// === impl Refused ===

impl Refused {
    /// Where hyper cannot answer any more.
    pub fn here(why: &'static str) -> Self {
        Self { head_at: None, why }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Ended {}

impl Ended {
    /// Whether an error of hyper's came from here, and why.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ended) = error.downcast_ref::<Self>() {
                return Some(ended.0);
            }
            // An io::Error hides what it wraps from `source`.
            let wrapped = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            if let Some(ended) = wrapped.and_then(|inner| inner.downcast_ref::<Self>()) {
                return Some(ended.0);
            }
            next = error.source();
        }
        None
    }
}

// === impl Gate ===

impl<I> Gate<I> {
    /// HTTP/1.1 requests; `answered` is told when another protocol follows.
    pub fn requests(io: I, answered: Arc<Answered>) -> Self {
        Self::new(io, Watch::Requests(Requests::new(answered)))
    }

    /// HTTP/1.1 answers to what `asked` counts.
    pub fn answers(io: I, asked: Arc<Asked>) -> Self {
        Self::new(io, Watch::Answers(Answers::new(asked)))
    }

    /// HTTP/2, from a client whose preface is still to come.
    pub fn http2_client(io: I) -> Self {
        Self::new(io, Watch::Frames(Frames::of_client()))
    }

    /// HTTP/2, from a server.
    pub fn http2_server(io: I) -> Self {
        Self::new(io, Watch::Frames(Frames::of_server()))
    }

    fn new(io: I, watch: Watch) -> Self {
        Self {
            io,
            watch,
            spoilt: None,
            pieced: None,
            deadline: None,
        }
    }

    /// Ready when a head that has begun takes too long.
    fn poll_late(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Some(head) = self.watch.open_head() else {
            self.deadline = None;
            return Poll::Pending;
        };
        let current = self.deadline.take().filter(|(number, _)| *number == head);
        let begun = || {
            let at = Instant::now() + limits::HEAD_TIME;
            (head, Box::pin(tokio::time::sleep_until(at)))
        };
        let (_, sleep) = self.deadline.insert(current.unwrap_or_else(begun));
        sleep.as_mut().poll(task)
    }
}

impl Watch {
    /// Answers how many of the bytes are passed on, from their beginning.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Refused> {
        match self {
            Self::Requests(requests) => requests.read(bytes).map(|()| bytes.len()),
            Self::Answers(answers) => answers.read(bytes).map(|()| bytes.len()),
            Self::Frames(frames) => frames.sift(bytes),
        }
    }

    /// Where the rest of a frame's head is to be read that has begun; empty when none has.
    fn withheld(&mut self) -> &mut [u8] {
        match self {
            Self::Requests(_) | Self::Answers(_) => &mut [],
            Self::Frames(frames) => frames.withheld(),
        }
    }

    fn came(&mut self, bytes: usize) -> Result<Option<[u8; FRAME_HEAD]>, Refused> {
        match self {
            Self::Requests(_) | Self::Answers(_) => Ok(None),
            Self::Frames(frames) => frames.came(bytes),
        }
    }

    fn written(&mut self, bytes: &[u8]) {
        if let Self::Frames(frames) = self {
            frames.written(bytes);
        }
    }

    /// The number of the head that has begun and not ended.
    fn open_head(&self) -> Option<u64> {
        match self {
            Self::Requests(requests) => requests.open_head(),
            Self::Answers(answers) => answers.open_head(),
            Self::Frames(frames) => frames.open_head(),
        }
    }
}

impl<I: AsyncRead + Unpin> Gate<I> {
    /// Reads into `buffer`, as long as nothing takes too long.
    fn poll_in_time(
        &mut self,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(task, buffer) {
            return Poll::Ready(read);
        }
        ready!(self.poll_late(task));
        let why = Ended("a head took too long");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }

    /// Reads more of a frame's head that has come in pieces; ready when nothing of it is missing, or
    /// nothing more comes.
    fn poll_withheld(&mut self, task: &mut Context<'_>) -> Poll<io::Result<Came>> {
        while !self.watch.withheld().is_empty() {
            let mut piece = [0; FRAME_HEAD];
            let missing = self.watch.withheld().len();
            let mut read = ReadBuf::new(&mut piece[..missing]);
            ready!(self.poll_in_time(task, &mut read))?;
            let read = read.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(Came::ToAnEnd));
            }
            self.watch.withheld()[..read.len()].copy_from_slice(read);
            let whole = self.watch.came(read.len()).map_err(ended)?;
            self.pieced = whole.map(|head| (head, 0));
        }
        Poll::Ready(Ok(Came::Whole))
    }
}

enum Came {
    Whole,
    ToAnEnd,
}

/// Where hyper cannot answer any more.
fn ended(refused: Refused) -> io::Error {
    tracing::debug!(why = refused.why, "bytes were refused");
    io::Error::new(io::ErrorKind::InvalidData, Ended(refused.why))
}

impl<I: AsyncRead + Unpin> AsyncRead for Gate<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(spoilt) = &mut this.spoilt {
            let now = spoilt.len().min(buffer.remaining());
            buffer.put_slice(&spoilt[..now]);
            *spoilt = &spoilt[now..];
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        loop {
            if let Came::ToAnEnd = ready!(this.poll_withheld(task))? {
                return Poll::Ready(Ok(()));
            }
            if let Some((head, given)) = &mut this.pieced {
                let now = (FRAME_HEAD - *given).min(buffer.remaining());
                buffer.put_slice(&head[*given..*given + now]);
                *given += now;
                if *given == FRAME_HEAD {
                    this.pieced = None;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_in_time(task, buffer))?;
            let read = &mut buffer.filled_mut()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let refused = match this.watch.read(read) {
                // Nothing is not the end: there is more to come.
                Ok(0) => {
                    buffer.set_filled(before);
                    continue;
                }
                Ok(passed) => {
                    buffer.set_filled(before + passed);
                    return Poll::Ready(Ok(()));
                }
                Err(refused) => refused,
            };
            let Some(at) = refused.head_at else {
                return Poll::Ready(Err(ended(refused)));
            };
            tracing::debug!(why = refused.why, "bytes were refused");
            buffer.set_filled(before + at);
            let now = SPOILT.len().min(buffer.remaining());
            buffer.put_slice(&SPOILT[..now]);
            this.spoilt = Some(&SPOILT[now..]);
            return Poll::Ready(Ok(()));
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gate<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(task, bytes))?;
        this.watch.written(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(task, slices))?;
        let mut left = written;
        for slice in slices {
            let now = left.min(slice.len());
            this.watch.written(&slice[..now]);
            left -= now;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_must_end_in_time_and_resting_is_something_else() {
        let (mut far, near) = duplex(1024);
        let mut gate = Gate::requests(near, Arc::default());
        let mut buffer = [0; 64];
        let resting = tokio::time::timeout(Duration::from_secs(3600), gate.read(&mut buffer));
        assert!(resting.await.is_err(), "resting is not a head");
        let begun = Instant::now();
        let trickle = async {
            for byte in std::iter::repeat_n(b'a', 1000) {
                far.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            io::Result::Ok(())
        };
        let reading = async {
            loop {
                if let Err(error) = gate.read(&mut buffer).await {
                    return error;
                }
            }
        };
        let error = tokio::select! {
            error = reading => error,
            done = trickle => panic!("read to the end: {done:?}"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() <= limits::HEAD_TIME + Duration::from_secs(1));
        assert_eq!(Ended::of(&error), Some("a head took too long"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_that_does_not_come_is_not_waited_for() {
        let (_far, near) = duplex(1024);
        let mut gate = Gate::http2_client(near);
        let error = gate.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_is_refused_arrives_spoilt_however_small_the_buffer() {
        for size in [1, 2, 7, 1024] {
            let (mut far, near) = duplex(1024);
            let mut gate = Gate::requests(near, Arc::default());
            far.write_all(b"GET / HTTP/1.1\r\nhost: a\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
                .await
                .unwrap();
            let (mut read, mut buffer) = (Vec::new(), vec![0; size]);
            loop {
                match gate.read(&mut buffer).await.unwrap() {
                    0 => break,
                    more => read.extend_from_slice(&buffer[..more]),
                }
            }
            assert!(read.ends_with(SPOILT), "{read:?}");
            assert!(
                !read.windows(8).any(|eight| eight == b"smuggled"),
                "{read:?}"
            );
        }
    }
}
