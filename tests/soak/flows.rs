//! Each way of calling, once: opens what it needs, and looks at everything that comes back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tests::client::Client;
use tests::raw::{H2, connect, h2, head, tunnel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use crate::applications::GREETING;
use crate::channel::{Body, channel};
use crate::pattern::{Pattern, Reader};

/// Requests on a kept connection before another is opened.
const KEPT: usize = 200;
/// Messages of a stream, and the time between two.
const MESSAGES: (usize, Duration) = (10, Duration::from_millis(100));
/// What is read at once by who reads slowly, and the time between two.
const SIP: (usize, Duration) = (64 << 10, Duration::from_millis(20));

/// A way of calling.
pub(crate) enum Way {
    KeepAlive(KeepAlive),
    Stream(Streams),
    Fresh,
    Upgraded,
    Opaque,
    LargeBody,
    SlowReader,
    GivenUp,
}

/// HTTP/1.1 on a connection that is kept.
#[derive(Default)]
pub(crate) struct KeepAlive {
    sender: Option<http1::SendRequest<Full<Bytes>>>,
    sent: usize,
}

/// Streams of gRPC on a connection of HTTP/2 that is never closed.
#[derive(Default)]
pub(crate) struct Streams {
    sender: Option<H2<Body>>,
}

// === impl Way ===

impl Way {
    /// How many there are.
    pub(crate) const COUNT: usize = 8;

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::KeepAlive(_) => "keep-alive",
            Self::Stream(_) => "gRPC stream",
            Self::Fresh => "fresh",
            Self::Upgraded => "upgraded",
            Self::Opaque => "opaque",
            Self::LargeBody => "large body",
            Self::SlowReader => "slow reader",
            Self::GivenUp => "given up",
        }
    }

    /// The time from one call to the next: what one takes, or longer.
    pub(crate) fn pace(&self) -> Duration {
        Duration::from_millis(match self {
            Self::KeepAlive(_) => 50,
            Self::Fresh => 100,
            Self::Opaque => 500,
            Self::GivenUp => 700,
            Self::LargeBody => 1000,
            Self::Stream(_) | Self::Upgraded => 1200,
            Self::SlowReader => 2000,
        })
    }

    /// Calls once.
    pub(crate) async fn call(&mut self, client: &Client) -> Result<()> {
        match self {
            Self::KeepAlive(kept) => kept.call(client).await,
            Self::Stream(streams) => streams.call(client).await,
            Self::Fresh => fresh(client).await,
            Self::Upgraded => upgraded(client).await,
            Self::Opaque => opaque(client).await,
            Self::LargeBody => large_body(client).await,
            Self::SlowReader => slow_reader(client).await,
            Self::GivenUp => given_up(client).await,
        }
    }
}

// === impl KeepAlive ===

impl KeepAlive {
    /// A small request, with a body every other time.
    async fn call(&mut self, client: &Client) -> Result<()> {
        let mut sender = match self.sender.take() {
            Some(sender) if !self.sent.is_multiple_of(KEPT) => sender,
            _ => {
                let io = TokioIo::new(connect(client).await?);
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                sender
            }
        };
        self.sent += 1;
        let said = format!("request {}", self.sent);
        let (request, expected) = match self.sent % 2 {
            0 => (asks(Method::GET, "/small", Full::default())?, "small"),
            _ => {
                let body = Full::from(said.clone());
                (asks(Method::POST, "/echo", body)?, said.as_str())
            }
        };
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let answer = answered(answer)?.into_body().collect().await?.to_bytes();
        ensure!(answer == expected, "{answer:?}");
        self.sender = Some(sender);
        Ok(())
    }
}

// === impl Streams ===

impl Streams {
    /// A stream whose messages are answered one by one.
    async fn call(&mut self, client: &Client) -> Result<()> {
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => h2(client).await?,
        };
        sender.ready().await?;
        let (mut ask, body) = channel();
        let request = Request::post("http://stock/shop.Stock/Watch")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)?;
        let answer = answered(sender.send_request(request).await?)?;
        let mut answer = answer.into_body();
        let (messages, between) = MESSAGES;
        for n in 0..messages {
            let message = Bytes::from(format!("message {n}"));
            ask.data(message.clone()).await?;
            let came = answer.frame().await.context("no more messages")??;
            let came = came.into_data().ok().context("no message")?;
            ensure!(came == message, "{came:?}");
            sleep(between).await;
        }
        drop(ask);
        let last = answer.frame().await.context("no trailers")??;
        let trailers = last.into_trailers().ok().context("no trailers")?;
        ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
        self.sender = Some(sender);
        Ok(())
    }
}

/// A small request on a connection of its own.
async fn fresh(client: &Client) -> Result<()> {
    let answer = client.get("http://orders/small").await?;
    let right = (answer.status, answer.reason(), answer.body.as_str()) == (200, "", "small");
    ensure!(right, "{answer:?}");
    Ok(())
}

/// A connection that becomes another protocol.
async fn upgraded(client: &Client) -> Result<()> {
    let mut stream = connect(client).await?;
    let ask = "GET http://orders/live HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\n\
               upgrade: websocket\r\nsec-websocket-version: 13\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let (answer, _) = head(&mut stream).await?;
    ensure!(answer.starts_with("http/1.1 101"), "{answer}");
    let (messages, between) = MESSAGES;
    for n in 0..messages {
        let said = format!("message {n}");
        stream.write_all(said.as_bytes()).await?;
        let mut came = vec![0; said.len()];
        stream.read_exact(&mut came).await?;
        ensure!(came == said.as_bytes(), "{came:?}");
        sleep(between).await;
    }
    stream.shutdown().await?;
    let rest = stream.read(&mut [0]).await?;
    ensure!(rest == 0, "more than was said");
    Ok(())
}

/// Bytes that nobody reads, from a server that speaks first.
async fn opaque(client: &Client) -> Result<()> {
    let mut stream = tunnel(client, "ledger:80").await?;
    let mut greeting = vec![0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    ensure!(greeting == GREETING, "{greeting:?}");
    let (mut read, mut write) = stream.split();
    let said = async {
        for piece in Pattern::new(1 << 20) {
            write.write_all(&piece).await?;
        }
        anyhow::Ok(write.shutdown().await?)
    };
    let heard = async {
        let mut reader = Reader::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match read.read(&mut buffer).await? {
                0 => return anyhow::Ok(reader.taken()),
                n => reader.takes(&buffer[..n])?,
            }
        }
    };
    let ((), heard) = tokio::try_join!(said, heard)?;
    ensure!(heard == 1 << 20, "{heard} bytes came back");
    Ok(())
}

/// A body that comes back while it is sent.
async fn large_body(client: &Client) -> Result<()> {
    const LENGTH: u64 = 4 << 20;
    let io = TokioIo::new(connect(client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    let (mut body, sent) = channel();
    let said = async {
        for piece in Pattern::new(LENGTH) {
            body.data(piece).await?;
        }
        drop(body);
        anyhow::Ok(())
    };
    let heard = async {
        let answer = sender.send_request(asks(Method::POST, "/echo", sent)?);
        read_through(answered(answer.await?)?).await
    };
    let ((), heard) = tokio::try_join!(said, heard)?;
    ensure!(heard == LENGTH, "{heard} bytes came back");
    Ok(())
}

/// A large answer, read slowly.
async fn slow_reader(client: &Client) -> Result<()> {
    const LENGTH: u64 = 4 << 20;
    let io = TokioIo::new(connect(client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    let body = Empty::<Bytes>::new();
    let asked = asks(Method::GET, &format!("/bytes/{LENGTH}"), body)?;
    let mut answer = answered(sender.send_request(asked).await?)?.into_body();
    let mut reader = Reader::default();
    let (sip, between) = SIP;
    let mut next = sip as u64;
    while let Some(frame) = answer.frame().await {
        reader.takes(frame?.data_ref().context("no data")?)?;
        if reader.taken() >= next {
            next = reader.taken() + sip as u64;
            sleep(between).await;
        }
    }
    ensure!(reader.taken() == LENGTH, "{} bytes came", reader.taken());
    Ok(())
}

/// A large answer of which nobody wants the end.
async fn given_up(client: &Client) -> Result<()> {
    let mut stream = connect(client).await?;
    let ask = "GET http://orders/bytes/67108864 HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let (answer, _) = head(&mut stream).await?;
    ensure!(answer.starts_with("http/1.1 200"), "{answer}");
    stream.read_exact(&mut vec![0; 256 << 10]).await?;
    Ok(())
}

/// A request of `orders`, as to a proxy.
pub(crate) fn asks<B>(method: Method, path: &str, body: B) -> Result<Request<B>> {
    let request = Request::builder().method(method);
    let request = request.uri(format!("http://orders{path}"));
    Ok(request.header("host", "orders").body(body)?)
}

/// The answer, when it is one of the application.
pub(crate) fn answered(answer: Response<Incoming>) -> Result<Response<Incoming>> {
    if answer.status() != 200 || answer.headers().contains_key("meshwright-reason") {
        bail!("{} {:?}", answer.status(), answer.headers());
    }
    Ok(answer)
}

/// How many bytes an answer has, each in its place.
pub(crate) async fn read_through(answer: Response<Incoming>) -> Result<u64> {
    let mut body = answer.into_body();
    let mut reader = Reader::default();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            reader.takes(data)?;
        }
    }
    Ok(reader.taken())
}
