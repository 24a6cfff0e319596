//! Large bodies, and readers that take their time: what flows through is held by nobody, and whoever
//! does not read holds back only who sends to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tests::client::Client;
use tests::mesh::{Mesh, Sidecar};
use tests::raw::{H2, connect, h2};
use tests::wait_until;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::applications::{Application, Speaks};
use crate::body;
use crate::channel::channel;
use crate::flows::{answered, asks, read_through};
use crate::pattern::Pattern;
use crate::watch::PACE;

/// By how much memory may grow while any number of bytes flows through.
const FLAT: u64 = 16 << 20;

/// Who reads slowly reads this much in the end.
const SLOW: u64 = 64 << 20;

/// Who does not read, at a time. They share one connection from sidecar to sidecar, whose window holds
/// all of theirs.
const SLOW_READERS: usize = 12;

/// What the senders of such bodies may have been rid of at the most: what fits into the windows of
/// three hops, and, most of it, into the kernel's buffers of the sockets between them.
const IN_WINDOWS: u64 = SLOW_READERS as u64 * (16 << 20);

/// How long a body of a size may take, on a machine that does other things: 10 MB a second.
fn patience(length: u64) -> Duration {
    Duration::from_secs(20 + length / 10_000_000)
}

/// A mesh with one endpoint of `orders`, and who calls it.
struct Pair {
    client: Client,
    application: Application,
    sidecar: Sidecar,
    _mesh: Mesh,
}

// === impl Pair ===

impl Pair {
    async fn start(declared: &str) -> Result<Self> {
        let mesh = Mesh::start(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: orders, namespace: shop }}\n\
             spec: {{ selector: {{ app: orders }}, ports: [{{ port: 80, targetPort: 8080, \
             appProtocol: {declared} }}] }}\n"
        ))
        .await?;
        let (listener, sidecar) = mesh.listener("orders").await?;
        Ok(Self {
            client: mesh.client("web").await?,
            application: Application::start(listener, Speaks::Http),
            sidecar,
            _mesh: mesh,
        })
    }

    /// Looks at the memory of both sidecars until something is over; what both had at the beginning
    /// and at the most.
    async fn watched<T>(
        &self,
        what: impl Future<Output = Result<T>>,
    ) -> Result<(T, [(u64, u64); 2])> {
        let both = [self.client.sidecar(), &self.sidecar];
        let mut seen = [(0, 0); 2];
        for (sidecar, (first, most)) in both.iter().zip(&mut seen) {
            *first = sidecar.usage()?.resident;
            *most = *first;
        }
        let mut looks = interval(PACE);
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return Ok((done?, seen)),
                _ = looks.tick() => {
                    for (sidecar, (_, most)) in both.iter().zip(&mut seen) {
                        *most = sidecar.usage()?.resident.max(*most);
                    }
                }
            }
        }
    }
}

/// Sends a body; returns how many bytes arrived in their places, as the application says.
async fn up(client: &Client, length: u64) -> Result<String> {
    let io = TokioIo::new(connect(client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    let (mut body, sent) = channel();
    let said = async {
        for piece in Pattern::new(length) {
            body.data(piece).await?;
        }
        drop(body);
        anyhow::Ok(())
    };
    let heard = async {
        let answer = sender.send_request(asks(Method::POST, "/count", sent)?);
        let answer = answered(answer.await?)?.into_body();
        Ok(answer.collect().await?.to_bytes())
    };
    let ((), heard) = tokio::try_join!(said, heard)?;
    Ok(String::from_utf8(heard.to_vec())?)
}

/// Asks for a body; returns how many bytes came, each in its place.
async fn down(client: &Client, length: u64) -> Result<u64> {
    let io = TokioIo::new(connect(client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    let asked = asks(
        Method::GET,
        &format!("/bytes/{length}"),
        Empty::<Bytes>::new(),
    )?;
    read_through(answered(sender.send_request(asked).await?)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_any_size_leaves_the_memory_of_both_sidecars_flat() -> Result<()> {
    let pair = Pair::start("http").await?;
    // Buffers are made once.
    const WARM: u64 = 64 << 20;
    ensure!(up(&pair.client, WARM).await? == WARM.to_string());
    ensure!(down(&pair.client, WARM).await? == WARM);

    let length = body();
    let begun = Instant::now();
    let sent = timeout(patience(length), up(&pair.client, length));
    let (arrived, up) = pair.watched(async { sent.await? }).await?;
    let took_up = begun.elapsed();
    ensure!(
        arrived == length.to_string(),
        "{arrived} of {length} bytes arrived"
    );

    let begun = Instant::now();
    let came = timeout(patience(length), down(&pair.client, length));
    let (came, down) = pair.watched(async { came.await? }).await?;
    ensure!(came == length, "{came} of {length} bytes came");
    let took_down = begun.elapsed();

    eprintln!("{length} bytes up in {took_up:?}, down in {took_down:?}");
    for (way, seen) in [("up", up), ("down", down)] {
        for (whose, (first, most)) in ["caller's", "called's"].into_iter().zip(seen) {
            eprintln!(
                "  {way}, the {whose} sidecar: {first} bytes of memory at first, {most} at most"
            );
            let grown = most - first;
            ensure!(
                grown <= FLAT,
                "{way}, the {whose} sidecar has grown by {grown} bytes"
            );
        }
    }
    Ok(())
}

/// A small request, and a large body each way that is read at once, over a connection that has
/// others.
async fn quick(h2: &mut H2<Full<Bytes>>) -> Result<Duration> {
    const LARGE: u64 = 8 << 20;
    let begun = Instant::now();
    for (method, path, sent) in [
        (Method::GET, "/small".to_owned(), 0),
        (Method::GET, format!("/bytes/{LARGE}"), 0),
        (Method::POST, "/count".to_owned(), LARGE),
    ] {
        let body: Vec<u8> = Pattern::new(sent).flatten().collect();
        let asked = asks(method, &path, Full::from(body))?;
        let answer = answered(h2.send_request(asked).await?)?;
        match path.as_str() {
            "/small" => ensure!(answer.into_body().collect().await?.to_bytes() == "small"),
            "/count" => {
                let arrived = answer.into_body().collect().await?.to_bytes();
                ensure!(arrived == LARGE.to_string(), "{arrived:?}");
            }
            _ => ensure!(read_through(answer).await? == LARGE),
        }
    }
    Ok(begun.elapsed())
}

async fn median(h2: &mut H2<Full<Bytes>>) -> Result<Duration> {
    let mut all = Vec::new();
    for _ in 0..9 {
        all.push(
            timeout(patience(0), quick(h2))
                .await
                .context("held back")??,
        );
    }
    all.sort_unstable();
    Ok(all[all.len() / 2])
}

/// Waits until nothing more is taken of a sender; returns how many bytes it was rid of.
async fn held_back(taken: impl Fn() -> u64) -> Result<u64> {
    let mut last = 0;
    wait_until("the sender is held back", patience(0), async || {
        let now = taken();
        if now == 0 || now != std::mem::replace(&mut last, now) {
            bail!("{now} bytes so far")
        }
        Ok(now)
    })
    .await
}

/// Whether all else on a connection is as fast as it was.
async fn goes_on(h2: &mut H2<Full<Bytes>>, alone: Duration, held: u64) -> Result<()> {
    let beside = median(h2).await?;
    eprintln!(
        "8 MiB each way and a small request: {alone:?} alone, {beside:?} beside {held} bytes that nobody reads"
    );
    ensure!(beside < alone * 4, "{beside:?}, and {alone:?} without them");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_back_only_who_sends_to_it() -> Result<()> {
    // So that there is one connection of HTTP/2 on each of the three hops.
    let pair = Pair::start("grpc").await?;
    let mut h2 = h2::<Full<Bytes>>(&pair.client).await?;
    let alone = median(&mut h2).await?;
    let before = pair.application.taken();

    // One shares the connection to the sidecar with all else, others have one of their own. From
    // sidecar to sidecar there is one for all of them.
    let path = format!("/bytes/{SLOW}");
    let asked = asks(Method::GET, &path, Full::default())?;
    let unread = answered(h2.send_request(asked).await?)?;
    let mut others = Vec::new();
    for _ in 1..SLOW_READERS {
        let io = TokioIo::new(connect(&pair.client).await?);
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let asked = asks(Method::GET, &path, Empty::<Bytes>::new())?;
        others.push(answered(sender.send_request(asked).await?)?);
    }
    // Their senders get rid of what fits between the two, and of nothing more.
    let held = held_back(|| pair.application.taken() - before).await?;
    ensure!(
        held <= IN_WINDOWS,
        "{held} bytes are held for those who do not read"
    );
    goes_on(&mut h2, alone, held).await?;

    // Nothing of it is lost.
    for answer in others.into_iter().chain([unread]) {
        ensure!(
            read_through(answer).await? == SLOW,
            "less came than was sent"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_read_holds_back_only_who_sends_to_it() -> Result<()> {
    // From sidecar to sidecar there is one connection for all of them. The application has one for
    // each: of one that it shares, it would be the one that holds back all else.
    let pair = Pair::start("http").await?;
    let mut h2 = h2::<Full<Bytes>>(&pair.client).await?;
    let alone = median(&mut h2).await?;

    let sent = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..SLOW_READERS {
        let io = TokioIo::new(connect(&pair.client).await?);
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let (mut body, asked) = channel();
        let asked = sender.send_request(asks(Method::POST, "/unread", asked)?);
        let sent = sent.clone();
        callers.spawn(async move {
            let said = async {
                for piece in Pattern::new(SLOW) {
                    let length = piece.len() as u64;
                    body.data(piece).await?;
                    sent.fetch_add(length, Ordering::Relaxed);
                }
                anyhow::Ok(())
            };
            let answer = async { answered(asked.await?) };
            tokio::try_join!(said, answer)
        });
    }
    let held = held_back(|| sent.load(Ordering::Relaxed)).await?;
    ensure!(
        held <= IN_WINDOWS,
        "{held} bytes are held for who does not read"
    );
    goes_on(&mut h2, alone, held).await?;
    let ended = callers.try_join_next();
    ensure!(ended.is_none(), "{ended:?}");
    Ok(())
}
