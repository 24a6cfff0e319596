//! What a sidecar is compared with: the loops that an application would be, with the same client of the broker, each in
//! a process of its own.
//!
//! - *serve*: hyper takes requests, and each is answered once the broker has confirmed its event;
//! - *publish*: the same events, with as many under way, and no HTTP;
//! - *deliver*: what the broker has for the group is posted with hyper, and acknowledged when it was taken, with as many
//!   under way as a subscription has.
//!
//! They tell nothing, limit nothing, try nothing again and end at whatever is wrong.

mod nats;
mod rabbitmq;
mod redis;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::broker::Kind;
use crate::load::{CONNECTIONS, Count, body};
use crate::measure::Watched;
use crate::sample;

/// The first argument of this benchmark when it is to be one of them.
pub(crate) const ROLE: &str = "bare";
/// The topic, and the group that is subscribed to it.
pub(crate) const TOPIC: &str = "stock";
pub(crate) const GROUP: &str = "billing";
/// How many events are delivered at once: what `maxInFlight` is when nobody says it.
pub(crate) const IN_FLIGHT: usize = 10;

/// How a broker is spoken to.
#[derive(Clone)]
pub(crate) enum Client {
    Nats(nats::Nats),
    RabbitMq(rabbitmq::RabbitMq),
    Redis(redis::Redis),
}

/// What is published.
struct Event {
    headers: Vec<(&'static str, String)>,
    data: Bytes,
}

/// Posts events to the application.
struct Poster {
    to: SocketAddr,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
}

/// Is one of them until it is killed.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    // Not left behind when the benchmark is killed.
    set_pdeathsig(Signal::SIGKILL)?;
    let [role, scheme, broker, with] = arguments else {
        bail!("{ROLE} ROLE BROKER ADDRESS WITH");
    };
    let (kind, broker) = (Kind::of(scheme)?, broker.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(kind, broker).await?;
        match role.as_str() {
            "serve" => serve(client, with.parse()?).await,
            "publish" => publish(client, Duration::from_millis(with.parse()?)).await,
            "deliver" => {
                let to = with.parse()?;
                let poster = Poster {
                    to,
                    idle: RefCell::default(),
                };
                client.deliver(Rc::new(poster)).await
            }
            _ => bail!("{role} is nothing that is compared"),
        }
    })
}

/// Answers requests.
async fn serve(client: Client, listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        tokio::task::spawn_local(async move {
            let answering = service_fn(move |request| answer(client.clone(), request));
            let mut server = http1::Builder::new();
            // It reads heads with a timer of 30 s by default, and panics without one.
            server.timer(TokioTimer::new());
            server
                .serve_connection(TokioIo::new(stream), answering)
                .await
        });
    }
}

async fn answer(
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let published = async {
        let event = Event::new(&head.headers, body.collect().await?.to_bytes());
        client.publish(&event).await?;
        anyhow::Ok(event)
    };
    let (status, said) = match published.await {
        Ok(event) => (StatusCode::ACCEPTED, event.named()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    };
    let mut response = Response::new(Full::from(said));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// Publishes without HTTP for so long, and prints what that cost.
async fn publish(client: Client, length: Duration) -> Result<()> {
    let (published, data) = (Count::default(), Bytes::from(body()));
    let mut headers = HeaderMap::new();
    let json = http::HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    for _ in 0..CONNECTIONS {
        let (client, published) = (client.clone(), published.clone());
        let (headers, data) = (headers.clone(), data.clone());
        let publishing = publish_on(client, headers, data, published);
        tokio::task::spawn_local(publishing);
    }
    let sample = sample::taken(&[Watched(std::process::id())], &published, length).await?;
    println!("{}", sample.line());
    Ok(())
}

/// Publishes one event after the other.
async fn publish_on(
    client: Client,
    headers: HeaderMap,
    data: Bytes,
    published: Count,
) -> Result<Infallible> {
    loop {
        client.publish(&Event::new(&headers, data.clone())).await?;
        published.one();
    }
}

// === impl Event ===

impl Event {
    /// A CloudEvent around a body, as a sidecar makes one.
    fn new(headers: &HeaderMap, data: Bytes) -> Self {
        let media_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
        let headers = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", format!("{:032x}", rand::random::<u128>())),
            ("ce-source", "/stock".to_owned()),
            ("ce-type", "com.shop.stock".to_owned()),
            ("ce-time", jiff::Timestamp::now().to_string()),
            ("content-type", media_type),
        ];
        Self { headers, data }
    }

    fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        let found = headers.find(|(found, _)| *found == name);
        found.map_or("", |(_, value)| value)
    }

    /// What whoever published it is answered.
    fn named(&self) -> String {
        let (id, source) = (self.header("ce-id"), self.header("ce-source"));
        format!(r#"{{"id":"{id}","source":"{source}"}}"#)
    }
}

// === impl Client ===

impl Client {
    /// Connects.
    pub(crate) async fn connect(kind: Kind, address: SocketAddr) -> Result<Self> {
        Ok(match kind {
            Kind::Nats => Self::Nats(nats::Nats::connect(address).await?),
            Kind::RabbitMq => Self::RabbitMq(rabbitmq::RabbitMq::connect(address).await?),
            Kind::Redis => Self::Redis(redis::Redis::connect(address).await?),
        })
    }

    /// Publishes; returns once the broker has confirmed it.
    async fn publish(&self, event: &Event) -> Result<()> {
        match self {
            Self::Nats(nats) => nats.publish(event).await,
            Self::RabbitMq(rabbitmq) => rabbitmq.publish(event).await,
            Self::Redis(redis) => redis.publish(event).await,
        }
    }

    /// Delivers what the group has.
    async fn deliver(self, poster: Rc<Poster>) -> Result<()> {
        match self {
            Self::Nats(nats) => nats.deliver(poster).await,
            Self::RabbitMq(rabbitmq) => rabbitmq.deliver(poster).await,
            Self::Redis(redis) => redis.deliver(poster).await,
        }
    }
}

// === impl Poster ===

impl Poster {
    /// Posts an event; returns once it was taken.
    async fn post<'h>(
        &self,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        data: Bytes,
    ) -> Result<()> {
        let mut request = Request::post("/events").header(HOST, "localhost:8080");
        for (name, value) in headers {
            // The broker's own.
            if name.starts_with("ce-") || name == "content-type" {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(data))?;
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        answer.into_body().collect().await?;
        connection.ready().await?;
        self.idle.borrow_mut().push(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.to).await;
        let stream = stream.context("the application is not there")?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(driver);
        Ok(connection)
    }
}
