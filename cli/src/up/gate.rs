//! The gate at the published ports: how connections of this machine get inside, and how it is
//! closed without losing what is in flight.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use http::header::HOST;
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ground::Place;
use super::pod::stopped;

/// The wait after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// What is copied at a time, in bytes.
const PIECE: usize = 16 << 10;

/// How a published connection reaches a Service from inside the ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    /// For explicit proxying.
    pub(super) host: String,
}

/// All published ports together.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Becomes true when nobody is let in any more. Each connection holds a receiver.
    closing: watch::Sender<bool>,
    /// Each connection on which something was asked and nothing answered holds a receiver.
    unanswered: watch::Sender<()>,
}

/// The part of one connection.
struct Guest {
    gate: Gate,
    closing: watch::Receiver<bool>,
    waits: Mutex<Option<watch::Receiver<()>>>,
}

// === impl Gate ===

impl Gate {
    /// An open one.
    pub(super) fn new() -> Self {
        Self {
            closing: watch::channel(false).0,
            unanswered: watch::channel(()).0,
        }
    }

    /// Lets in whoever connects, until the gate is closed.
    pub(super) async fn let_in(
        self,
        listener: TcpListener,
        ingress: Arc<Place>,
        to: watch::Receiver<Destination>,
    ) {
        let mut closing = self.closing.subscribe();
        loop {
            let accepted = tokio::select! {
                // Who waits at the gate when it is closed has come in time.
                biased;
                accepted = listener.accept() => accepted,
                () = stopped(&mut closing) => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, say: a later one may work.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                if *closing.borrow() {
                    return;
                }
                continue;
            };
            let (ingress, guest, to) = (ingress.clone(), self.guest(), to.borrow().clone());
            tokio::spawn(async move {
                // A caller is told by its connection's end.
                let _ = guest.relay(stream, &ingress, to).await;
            });
        }
    }

    /// Lets nobody in any more, and waits until nobody waits for an answer.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        self.unanswered.closed().await;
    }

    /// Waits until nobody is left, once the gate is closed.
    pub(super) async fn left(&self) {
        self.closing.closed().await;
    }

    fn guest(&self) -> Guest {
        let guest = Guest {
            gate: self.clone(),
            closing: self.closing.subscribe(),
            waits: Mutex::default(),
        };
        // On its way in.
        guest.asks();
        guest
    }
}

// === impl Guest ===

impl Guest {
    fn asks(&self) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.get_or_insert_with(|| self.gate.unanswered.subscribe());
    }

    fn is_answered(&self) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        *waits = None;
    }

    async fn relay(
        self,
        stream: TcpStream,
        ingress: &Place,
        to: Destination,
    ) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        if ingress.namespaces.is_none() {
            return self.through_proxy(stream, ingress, to).await;
        }
        let inside = ingress
            .connect_as_application((to.address, to.port).into())
            .await?;
        inside.set_nodelay(true)?;
        self.is_answered();
        Ok(self.carry(stream, inside).await?)
    }

    /// Carries bytes both ways.
    async fn carry(self, mut stream: TcpStream, mut inside: TcpStream) -> std::io::Result<()> {
        let mut closing = self.closing.clone();
        // Who has said nothing yet is owed nothing.
        tokio::select! {
            biased;
            ready = stream.readable() => ready?,
            ready = inside.readable() => ready?,
            () = stopped(&mut closing) => return Ok(()),
        }
        let (caller, to_caller) = stream.split();
        let (service, to_service) = inside.split();
        let mut asked = pin!(copy(caller, to_service, || self.asks()));
        let mut answered = pin!(copy(service, to_caller, || self.is_answered()));
        tokio::select! {
            all = asked.as_mut() => {
                all?;
                answered.await
            }
            all = answered.as_mut() => {
                all?;
                self.is_answered();
                tokio::select! {
                    all = asked => all,
                    // Who keeps a connection open for another question gets no answer any more.
                    () = stopped(&mut closing) => Ok(()),
                }
            }
        }
    }

    /// Carries a connection's requests to the ingress's sidecar as an explicit proxy, which only
    /// learns from a request which Service is meant.
    async fn through_proxy(
        self,
        stream: TcpStream,
        ingress: &Place,
        to: Destination,
    ) -> anyhow::Result<()> {
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            ready = stream.readable() => ready?,
            () = stopped(&mut closing) => return Ok(()),
        }
        let inside = TcpStream::connect((ingress.address, 15001)).await?;
        inside.set_nodelay(true)?;
        let (sender, connection) = client::handshake(TokioIo::new(inside)).await?;
        let authority = format!("{}:{}", to.host, to.port);
        // One connection, one request at a time: nobody waits for this lock.
        let sender = Arc::new(tokio::sync::Mutex::new(sender));
        let carry = service_fn(move |mut request: Request<Incoming>| {
            let (sender, authority) = (sender.clone(), authority.clone());
            async move {
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                *request.uri_mut() = format!("http://{authority}{path}").parse()?;
                request.headers_mut().insert(HOST, authority.parse()?);
                anyhow::Ok(sender.lock().await.send_request(request).await?)
            }
        });
        // Moved in, and so dropped at its end: that ends the connection inside.
        let serve = async move {
            let serve = server::Builder::new().serve_connection(TokioIo::new(stream), carry);
            let mut serve = pin!(serve);
            tokio::select! {
                biased;
                served = serve.as_mut() => served,
                () = stopped(&mut closing) => {
                    serve.as_mut().graceful_shutdown();
                    serve.await
                }
            }
        };
        let (served, carried) = tokio::join!(serve, connection);
        served?;
        Ok(carried?)
    }
}

/// Copies until the end, and passes the end on.
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    each: impl Fn(),
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return to.shutdown().await,
            read => {
                each();
                to.write_all(&piece[..read]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A connection to the gate's outside, and the end of it inside.
    async fn carried(gate: &Gate) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut ends = Vec::new();
        for _ in 0..2 {
            let outer = TcpStream::connect(address).await.unwrap();
            ends.push((outer, listener.accept().await.unwrap().0));
        }
        let ((inside, service), (caller, stream)) = (ends.remove(0), ends.remove(0));
        let guest = gate.guest();
        guest.is_answered();
        tokio::spawn(guest.carry(stream, inside));
        (caller, service)
    }

    #[tokio::test]
    async fn a_closed_gate_waits_for_what_was_asked_and_for_nobody_who_said_nothing() {
        let gate = Gate::new();
        let (_silent, _) = carried(&gate).await;
        let (mut caller, mut service) = carried(&gate).await;
        caller.write_all(b"?").await.unwrap();
        service.read_u8().await.unwrap();

        let mut closed = pin!(gate.close());
        let early = timeout(Duration::from_millis(50), closed.as_mut()).await;
        assert!(early.is_err());
        service.write_all(b"!").await.unwrap();
        timeout(LONG, closed).await.unwrap();
        assert_eq!(caller.read_u8().await.unwrap(), b'!');

        // The service ends its connection, as a sidecar that drains does.
        drop(service);
        timeout(LONG, gate.left()).await.unwrap();
        assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    }
}
