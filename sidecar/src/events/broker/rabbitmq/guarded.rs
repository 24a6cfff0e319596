//! A connection to a RabbitMQ as its crate has it, on a thread of its own: what it reads has passed a [`Guard`].

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::guard::{Guard, Shared};
use super::link::lock;
use crate::events::broker::dial::Dialled;

/// How many bytes of what comes from a broker are read at once.
const READ: usize = 16 * 1024;

/// The crate's end.
pub(super) struct Guarded {
    socket: Dialled,
    seen: Arc<Seen>,
    read: Vec<u8>,
    /// What has passed the guard, and how much of it the crate has.
    passed: Vec<u8>,
    at: usize,
}

/// What is seen of a connection by whoever opened it.
pub(super) struct Seen {
    guard: Mutex<Guard>,
    /// When something came from the broker.
    heard: Mutex<Instant>,
    /// Why it is over.
    over: Mutex<Option<String>>,
    ended: Notify,
    /// Told when the broker has ended a channel.
    channel_ended: Notify,
    /// Nobody wants it any more, which whoever reads is told.
    closed: AtomicBool,
    reads: AtomicWaker,
}

/// Closes a connection when it is dropped.
pub(super) struct Closing(Arc<Seen>);

/// A message that is to be written on a channel that many publish on, until this is dropped.
pub(super) struct Unwritten {
    seen: Arc<Seen>,
    channel: u16,
}

// === impl Guarded ===

impl Guarded {
    pub(super) fn new(socket: Dialled, seen: Arc<Seen>) -> Self {
        Self {
            socket,
            seen,
            read: vec![0; READ],
            passed: Vec::new(),
            at: 0,
        }
    }

    /// Reads what comes from the broker; nothing passes when it has closed.
    fn poll_passed(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.passed.clear();
        self.at = 0;
        lock(&self.seen.guard).pass_ends(&mut self.passed);
        // A part of a frame passes as nothing.
        while self.passed.is_empty() {
            let mut read = ReadBuf::new(&mut self.read);
            match Pin::new(&mut self.socket).poll_read(task, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.seen.ends("the connection broke");
                    return Poll::Ready(Err(error));
                }
            }
            let read = read.filled();
            if read.is_empty() {
                self.seen.ends("the connection broke");
                return Poll::Ready(Ok(()));
            }
            *lock(&self.seen.heard) = Instant::now();
            let passed = {
                let mut guard = lock(&self.seen.guard);
                let ends = guard.ends;
                let passed = guard.pass(read, &mut self.passed);
                if guard.ends != ends {
                    self.seen.channel_ended.notify_one();
                    guard.pass_ends(&mut self.passed);
                }
                passed
            };
            if let Err(malformed) = passed {
                self.seen.ends(&malformed.to_string());
                return Poll::Ready(Err(io::Error::other(malformed)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.seen.reads.register(task.waker());
        this.seen.is_wanted()?;
        if this.at == this.passed.len() {
            ready!(this.poll_passed(task))?;
        }
        let left = &this.passed[this.at..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        this.at += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.seen.is_wanted()?;
        Pin::new(&mut self.socket).poll_write(task, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seen.is_wanted()?;
        Pin::new(&mut self.socket).poll_flush(task)
    }

    /// As long as somebody wants that: one that takes nothing more would keep the crate's thread.
    fn poll_close(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seen.reads.register(task.waker());
        self.seen.is_wanted()?;
        Pin::new(&mut self.socket).poll_shutdown(task)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.seen.ends("the connection broke");
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            guard: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            over: Mutex::default(),
            ended: Notify::new(),
            channel_ended: Notify::new(),
            closed: AtomicBool::new(false),
            reads: AtomicWaker::new(),
        })
    }

    /// Waits until the connection is over, or the broker was silent for so long, and says why.
    pub(super) async fn ended(&self, silence: Duration) -> String {
        loop {
            if let Some(why) = lock(&self.over).clone() {
                return self.reason().unwrap_or(why);
            }
            let until = *lock(&self.heard) + silence;
            if until <= Instant::now() {
                return "it is silent".to_owned();
            }
            // Either way it is looked again.
            let _ = timeout_at(until, self.ended.notified()).await;
        }
    }

    /// What the broker said when it ended the connection.
    pub(super) fn reason(&self) -> Option<String> {
        lock(&self.guard).reason.clone()
    }

    /// Waits until the broker has ended so many channels.
    pub(super) async fn has_ended(&self, channels: u32) {
        while lock(&self.guard).ends < channels {
            self.channel_ended.notified().await;
        }
    }

    /// The version that it says it is of.
    pub(super) fn version(&self) -> Option<String> {
        lock(&self.guard).version.clone()
    }

    /// Many publish on this channel from now on. Nothing is under way on it.
    pub(super) fn share(&self, channel: u16) {
        lock(&self.guard).shared.insert(channel, Shared::default());
    }

    /// Nobody begins to publish on it any more.
    pub(super) fn leave(&self, channel: u16) {
        if let Some(shared) = lock(&self.guard).shared.get_mut(&channel) {
            shared.is_left = true;
        }
    }

    /// Nothing is under way on it any more.
    pub(super) fn unshare(&self, channel: u16) {
        let mut guard = lock(&self.guard);
        // Else its end is still to be told.
        if guard
            .shared
            .get(&channel)
            .is_some_and(|shared| shared.ended.is_none())
        {
            guard.shared.remove(&channel);
        }
    }

    /// Whether a [shared](Self::share) channel tells of each what becomes of it: nothing was returned on it, and it has
    /// not ended. It is known before the crate knows of what follows.
    pub(super) fn is_certain(&self, channel: u16) -> bool {
        let guard = lock(&self.guard);
        guard.shared.get(&channel).is_some_and(Shared::is_certain)
    }

    /// One more is published on it; nothing if that is in vain.
    pub(super) fn writes(self: &Arc<Self>, channel: u16) -> Option<Unwritten> {
        let mut guard = lock(&self.guard);
        let shared = guard.shared.get_mut(&channel);
        let shared = shared.filter(|shared| shared.is_certain() && !shared.is_left)?;
        shared.unwritten += 1;
        Some(Unwritten {
            seen: self.clone(),
            channel,
        })
    }

    /// What closes it as soon as nobody holds it.
    pub(super) fn closing(seen: Arc<Self>) -> Closing {
        Closing(seen)
    }

    /// The first reason is the one.
    fn ends(&self, why: &str) {
        lock(&self.over).get_or_insert_with(|| why.to_owned());
        self.ended.notify_one();
    }

    fn is_wanted(&self) -> io::Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        let mut guard = lock(&self.seen.guard);
        let Some(shared) = guard.shared.get_mut(&self.channel) else {
            return;
        };
        shared.unwritten = shared.unwritten.saturating_sub(1);
        if shared.unwritten > 0 {
            return;
        }
        if shared.ended.is_some() {
            drop(guard);
            self.seen.reads.wake();
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.reads.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::either::Either;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(25);

    fn opened() -> (Guarded, Arc<Seen>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        let seen = Seen::new();
        let io = Guarded::new(Either::Right(Box::new(near)), seen.clone());
        (io, seen, far)
    }

    #[tokio::test]
    async fn frames_come_whole_however_they_are_cut_and_the_end_is_told() -> io::Result<()> {
        let (mut io, seen, mut broker) = opened();
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
        for byte in heartbeat.repeat(2) {
            tokio::io::AsyncWriteExt::write_all(&mut broker, &[byte]).await?;
        }
        let mut read = [0; 16];
        io.read_exact(&mut read).await?;
        assert_eq!(read[8..], heartbeat);
        drop(broker);
        assert_eq!(io.read(&mut read).await?, 0);
        drop(io);
        assert_eq!(seen.ended(SILENCE).await, "the connection broke");
        Ok(())
    }

    #[tokio::test]
    async fn that_a_channel_has_ended_is_told_when_all_is_written_and_nothing_more_is()
    -> io::Result<()> {
        let (mut io, seen, mut broker) = opened();
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
        let payload = [0, 20, 0, 40, 1, 148, 0, 0, 60, 0, 40];
        let end = [&[1, 0, 1, 0, 0, 0, 11][..], &payload, &[0xCE]].concat();
        seen.share(1);
        let unwritten = seen.writes(1);
        assert!(unwritten.is_some() && seen.is_certain(1));
        tokio::io::AsyncWriteExt::write_all(&mut broker, &end).await?;
        tokio::io::AsyncWriteExt::write_all(&mut broker, &heartbeat).await?;
        let mut read = [0; 8];
        io.read_exact(&mut read).await?;
        assert_eq!(read, heartbeat);
        assert!(seen.writes(1).is_none() && !seen.is_certain(1));
        let mut read = vec![0; end.len()];
        let reading = tokio::spawn(async move {
            io.read_exact(&mut read).await?;
            Ok::<_, io::Error>(read)
        });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        // Also when nobody publishes on it any more.
        seen.leave(1);
        seen.unshare(1);
        drop(unwritten);
        assert_eq!(reading.await??, end);
        Ok(())
    }

    #[tokio::test]
    async fn one_that_takes_nothing_is_not_waited_for_once_nobody_wants_it() -> io::Result<()> {
        let seen = Seen::new();
        let stuck = tokio::io::join(tokio::io::empty(), Stuck);
        let mut io = Guarded::new(Either::Right(Box::new(stuck)), seen.clone());
        let closing = tokio::spawn(async move { io.close().await });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished());
        drop(Seen::closing(seen.clone()));
        closing.await?.unwrap_err();
        Ok(())
    }

    /// Takes nothing, for ever.
    struct Stuck;

    impl tokio::io::AsyncWrite for Stuck {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_no_rabbitmq_says_ends_the_connection_and_is_told() -> io::Result<()> {
        let (mut io, seen, mut broker) = opened();
        tokio::io::AsyncWriteExt::write_all(&mut broker, b"HTTP/1.1 400 Bad Request\r\n").await?;
        io.read(&mut [0; 16]).await.unwrap_err();
        let why = seen.ended(SILENCE).await;
        assert_eq!(why, "it does not speak as a RabbitMQ does");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_for_long_is_given_up_and_one_that_nobody_wants_is_closed()
    -> io::Result<()> {
        let (mut io, seen, mut broker) = opened();
        let mut read = [0; 16];
        let reading = tokio::spawn(async move {
            let first = io.read(&mut read).await;
            (first.map(drop), io.read(&mut read).await.map(drop))
        });
        tokio::time::sleep(SILENCE / 2).await;
        tokio::io::AsyncWriteExt::write_all(&mut broker, &[8, 0, 0, 0, 0, 0, 0, 0xCE]).await?;
        let since = Instant::now();
        let closing = Seen::closing(seen.clone());
        assert_eq!(seen.ended(SILENCE).await, "it is silent");
        assert!(since.elapsed() >= SILENCE, "{:?}", since.elapsed());
        drop(closing);
        let (first, then) = reading.await?;
        first?;
        assert_eq!(then.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        Ok(())
    }
}
