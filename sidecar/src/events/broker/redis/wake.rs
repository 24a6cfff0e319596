//! What tells a member that something came to its topic.
//!
//! A script can't wait, and a command that waits keeps all that come after it on its connection. So
//! each member has a connection on which it waits with a plain `XREAD`, which delivers nothing: what
//! comes of it is thrown away, and not even read if it is long. Whoever hears it asks for what there is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::link::{Address, CONNECT, Open};
use super::reply::Refusal;

/// How long one waits at the broker. What another member has given back is found after the first; while nobody has
/// anything, nobody can give it back, and whatever comes next wakes all.
const WAITS: Duration = Duration::from_secs(1);
const WAITS_LONGER: Duration = Duration::from_secs(5);
/// How many bytes of what came are read; a connection on which more came is not used again.
const READ: usize = 1024 * 1024;

/// A connection to wait on.
pub(super) struct Wake {
    address: Arc<Address>,
    free: Option<Waiting>,
    asked: Option<Asked>,
}

/// Whether something came, and the connection if it can be used again.
type Heard = Result<(bool, Option<Waiting>), String>;

/// What is waited for, whether anybody waits or not; dropped, it closes the connection.
struct Asked(JoinHandle<Heard>);

/// An open connection, and whether more came on it than is read.
struct Waiting(Open, Arc<AtomicBool>);

/// A stream that ends when more was read than may be since it was written to last.
struct Bounded<T> {
    io: T,
    left: usize,
    ended: Arc<AtomicBool>,
}

// === impl Wake ===

impl Wake {
    /// Nothing is connected before it is needed.
    pub(super) fn new(address: Arc<Address>) -> Self {
        Self {
            address,
            free: None,
            asked: None,
        }
    }

    /// Waits until something came to a topic after the one that stands at `last`, and not for longer
    /// than `patience`; whether it did. `rests`: nothing can have come otherwise meanwhile.
    pub(super) async fn wait(
        &mut self,
        topic: &str,
        (last, rests): (&str, bool),
        patience: Duration,
    ) -> Result<bool, String> {
        let (address, free) = (&self.address, &mut self.free);
        let asked = self.asked.get_or_insert_with(|| {
            let waits = if rests { WAITS_LONGER } else { WAITS };
            let command = command(topic, last, waits);
            Asked(tokio::spawn(ask(address.clone(), free.take(), command)))
        });
        let answered = tokio::select! {
            biased;
            answered = &mut asked.0 => answered,
            () = sleep(patience) => return Ok(false),
        };
        self.asked = None;
        let heard = answered.unwrap_or_else(|error| Err(error.to_string()));
        let (came, free) = heard?;
        self.free = free;
        Ok(came)
    }
}

fn command(topic: &str, last: &str, waits: Duration) -> Cmd {
    let millis = u64::try_from(waits.as_millis()).unwrap_or(u64::MAX);
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(1).arg("BLOCK").arg(millis);
    command.arg("STREAMS").arg(topic).arg(last);
    command
}

async fn ask(address: Arc<Address>, free: Option<Waiting>, command: Cmd) -> Heard {
    let (waiting, is_new) = match free {
        Some(waiting) => (waiting, false),
        None => {
            let ended = Arc::new(AtomicBool::new(false));
            let through = |io| Bounded {
                io,
                left: READ,
                ended: ended.clone(),
            };
            (Waiting(Open::dial(&address, through).await?, ended), true)
        }
    };
    let mut connection = waiting.0.connection.clone();
    let asked = timeout(
        WAITS_LONGER + CONNECT,
        command.query_async::<Value>(&mut connection),
    )
    .await;
    match asked {
        Ok(Ok(came)) => Ok((came != Value::Nil, Some(waiting))),
        // It was something.
        Ok(Err(_)) if waiting.1.load(Ordering::Relaxed) => Ok((true, None)),
        Ok(Err(error)) => match Refusal::of(&error) {
            Some(refusal) => Err(refusal.to_string()),
            None if is_new => Err("the connection broke".to_owned()),
            // It was closed while nobody waited, as a broker may do. The next is a new one.
            None => Ok((true, None)),
        },
        Err(_) => Err("the broker is silent".to_owned()),
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Bounded ===

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.ended.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        }
        // As much as is there may be more than that, and is not by much.
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bounded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.left = READ;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
