//! Client and upstream: as little work as possible, since theirs delays everybody's.
//!
//! Neither uses an HTTP library. They share a CPU, and a proxy whose peers are slower than itself
//! is never saturated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::measure::Done;

/// Kept-alive connections of a client.
pub(crate) const CONNECTIONS: usize = 32;

/// No measurement takes longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(60);

/// The most that a message may have, bytes.
const BUFFER: usize = 4096;

/// What the upstream says to everything.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: application/json\r\n\
    content-length: 39\r\n\
    date: Sat, 01 Jan 2000 00:00:00 GMT\r\n\
    \r\n\
    {\"id\":42,\"state\":\"shipped\",\"items\":[7]}";

/// A small service call's head, with seven headers.
fn request(host: &str) -> Vec<u8> {
    format!(
        "GET /api/orders/42?expand=items HTTP/1.1\r\n\
         host: {host}\r\n\
         user-agent: shop-web/2.4.1\r\n\
         accept: application/json\r\n\
         accept-encoding: gzip, br\r\n\
         authorization: Bearer b2theSBub3QgYSByZWFsIHRva2Vu\r\n\
         x-request-id: 6b1f7c1e-8f0a-4c39-9a51-0b7e5a0f3d11\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         \r\n"
    )
    .into_bytes()
}

/// Answers until it is dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    accepting: AbortHandle,
}

/// Connections that calls are sent on.
pub(crate) struct Client {
    request: Arc<[u8]>,
    idle: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8; BUFFER]>,
}

// === impl Upstream ===

impl Upstream {
    /// Listens. Requests must have no body.
    pub(crate) async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the upstream cannot be at {address}"))?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            // Connections end with the task that accepted them.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream));
            }
        });
        Ok(Self {
            address,
            accepting: accepting.abort_handle(),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; BUFFER];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            // The other side is done, or sent more than any of the proxies does.
            return Ok(());
        }
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            stream.write_all(ANSWER).await?;
        }
    }
}

// === impl Client ===

impl Client {
    /// Connects.
    pub(crate) async fn open(to: SocketAddr, host: &str, connections: usize) -> Result<Self> {
        let mut idle = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            idle.push(Connection {
                stream,
                buffer: Box::new([0; BUFFER]),
            });
        }
        Ok(Self {
            request: request(host).into(),
            idle,
        })
    }

    /// One call.
    pub(crate) async fn call_once(&mut self) -> Result<()> {
        let connection = self.idle.first_mut().context("no connection")?;
        connection.call(&self.request).await
    }

    /// Makes so many calls, on each connection one after the other without a pause.
    pub(crate) async fn saturate(&mut self, calls: u32) -> Result<Done> {
        let left = Arc::new(AtomicU32::new(calls));
        self.on_all(|mut connection, request| {
            let left = left.clone();
            async move {
                let mut latencies = Vec::new();
                let take = |left: u32| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    let sent = Instant::now();
                    connection.call(&request).await?;
                    latencies.push(nanoseconds(sent.elapsed()));
                }
                Ok((connection, latencies))
            }
        })
        .await
    }

    /// Makes calls at a fixed rate, each on the connection that is free the longest. A latency
    /// counts from when the call was due: a proxy that falls behind does not get fewer calls.
    pub(crate) async fn pace(&mut self, rate: u32, length: Duration) -> Result<Done> {
        let interval = Duration::from_secs(1) / rate;
        let calls = u32::try_from(length.as_nanos() / interval.as_nanos())?;
        let due = Arc::new(Semaphore::new(0));
        let taken = Arc::new(AtomicU32::new(0));
        // Threads of the proxies must have gone to sleep before the first call is due.
        let start = Instant::now() + Duration::from_millis(10);
        let pacer = std::thread::spawn({
            let due = due.clone();
            move || announce(&due, start, interval, calls)
        });
        let done = self
            .on_all(|mut connection, request| {
                let (due, taken) = (due.clone(), taken.clone());
                async move {
                    let mut latencies = Vec::new();
                    // Closed when all have been announced and taken.
                    while let Ok(permit) = due.acquire().await {
                        permit.forget();
                        let number = taken.fetch_add(1, Ordering::Relaxed);
                        let was_due = start + interval * number;
                        connection.call(&request).await?;
                        latencies.push(nanoseconds(was_due.elapsed()));
                        if number + 1 == calls {
                            due.close();
                        }
                    }
                    Ok((connection, latencies))
                }
            })
            .await;
        let paced = pacer
            .join()
            .map_err(|_| anyhow::anyhow!("the pacer panicked"))?;
        paced?;
        done
    }

    /// Runs `work` on every connection at once, and takes the connections back.
    async fn on_all<F>(&mut self, work: impl Fn(Connection, Arc<[u8]>) -> F) -> Result<Done>
    where
        F: Future<Output = Result<(Connection, Vec<u64>)>> + Send + 'static,
    {
        let start = Instant::now();
        let mut working = JoinSet::new();
        for connection in self.idle.drain(..) {
            working.spawn(work(connection, self.request.clone()));
        }
        let mut latencies = Vec::new();
        let all = async {
            while let Some(ended) = working.join_next().await {
                let (connection, mut its) = ended??;
                self.idle.push(connection);
                latencies.append(&mut its);
            }
            Ok(())
        };
        let ended = tokio::time::timeout(LIMIT, all).await;
        ended.unwrap_or_else(|_| bail!("not done within {LIMIT:?}"))?;
        Done::new(start, latencies)
    }
}

/// Says when each call is due, from a thread: the runtime's clock counts milliseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "it is about time, and nothing else runs here"
)]
fn announce(due: &Semaphore, start: Instant, interval: Duration, calls: u32) -> Result<()> {
    // Otherwise every sleep may last 50 us longer.
    nix::sys::prctl::set_timerslack(1)?;
    let mut announced = 0;
    while announced < calls && !due.is_closed() {
        let next = start + interval * announced;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let passed = start.elapsed().as_nanos() / interval.as_nanos() + 1;
        let now = u32::try_from(passed)?.min(calls);
        due.add_permits((now - announced) as usize);
        announced = now;
    }
    Ok(())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

// === impl Connection ===

impl Connection {
    /// Sends a request and reads the answer, which must be a 200.
    async fn call(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            filled += read;
            let seen = &self.buffer[..filled];
            if read == 0 {
                bail!(
                    "the connection ended after {:?}",
                    String::from_utf8_lossy(seen)
                );
            }
            match length(seen)? {
                Some(length) if filled == length => return Ok(()),
                Some(length) if filled > length => bail!("more was sent than one answer"),
                _ => {}
            }
        }
    }
}

/// The length of the message that begins here, once its head is complete.
fn length(seen: &[u8]) -> Result<Option<usize>> {
    let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    if !seen.starts_with(b"HTTP/1.1 200 ") {
        bail!("answered {:?}", String::from_utf8_lossy(seen));
    }
    const NAME: &[u8] = b"content-length:";
    let body = seen[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let value = std::str::from_utf8(value).ok()?;
        name.eq_ignore_ascii_case(NAME)
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let body = body.with_context(|| format!("no length: {:?}", String::from_utf8_lossy(seen)))?;
    Ok(Some(end + 4 + body))
}
