//! HTTP/2: many requests at a time over few connections; to a peer over mutual TLS, to an
//! application or outside the mesh with prior knowledge (RFC 9113 section 3.3).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{FutureExt, LocalBoxFuture, Shared};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::sync::oneshot;

use super::Upstream;
use crate::identity::certs::Credentials;
use crate::net::tls::HANDSHAKE_TIMEOUT;
use crate::proxy::body::RequestBody;
use crate::proxy::error::{Error, Reason};
use crate::proxy::gate::Gate;
use crate::proxy::limits;
use crate::worker::LocalExecutor;

/// Connections that may end before they carried anything until a request gives up: one may have met
/// the other side's end, two are a side that does not want us.
const MAX_CLOSED_AT_ONCE: u32 = 2;

/// Open connections, and the one that is being opened.
#[derive(Default)]
pub(super) struct Pool {
    open: RefCell<Vec<Open>>,
    connecting: RefCell<Option<Connecting>>,
}

struct Open {
    sender: SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// To a peer: proved with these; once they are replaced, the connection takes no new request.
    credentials: Option<Arc<Credentials>>,
}

/// A sender of a connection, and the count of its streams, this one included.
type Stream = (SendRequest<RequestBody>, Rc<Cell<usize>>);

/// One attempt to connect, awaited by every request that needs it.
type Connecting = Shared<LocalBoxFuture<'static, Result<(), Failed>>>;

/// An [`Error`] that several requests can have.
#[derive(Clone, Debug)]
struct Failed(Reason, Rc<str>);

impl From<Failed> for Error {
    fn from(Failed(reason, detail): Failed) -> Self {
        Self::new(reason, &*detail)
    }
}

// === impl Upstream ===

impl Upstream {
    pub(super) async fn h2_sender(self: &Rc<Self>) -> Result<Stream, Error> {
        let mut closed_at_once = 0;
        loop {
            if let Some((sender, streams)) = self.open_h2() {
                streams.set(streams.get() + 1);
                return Ok((sender, streams));
            }
            if closed_at_once == MAX_CLOSED_AT_ONCE {
                let why = "it closes every connection";
                return Err(Error::connect(self.address(), &why));
            }
            let waiting = self.wait()?;
            self.connecting().await?;
            drop(waiting);
            let open = self.h2.open.borrow();
            if open.iter().all(|one| one.sender.is_closed()) {
                closed_at_once += 1;
            }
        }
    }

    /// A connection with room for another stream.
    fn open_h2(&self) -> Option<Stream> {
        let current = self.dial.credentials.borrow();
        let usable = |one: &Open| {
            let proved = one.credentials.as_ref();
            proved.is_none_or(|proved| current.as_ref().is_some_and(|now| Arc::ptr_eq(now, proved)))
        };
        let mut open = self.h2.open.borrow_mut();
        // What a burst left over goes when it has nothing to do; not the one that has just been
        // opened because all others are full.
        let mut room = false;
        open.retain(|one| {
            let streams = one.streams.get();
            let kept = !one.sender.is_closed() && usable(one) && (streams > 0 || !room);
            room |= kept && streams < limits::STREAMS_PER_CONNECTION;
            kept
        });
        open.iter()
            .find(|one| one.streams.get() < limits::STREAMS_PER_CONNECTION)
            .map(|one| (one.sender.clone(), one.streams.clone()))
    }

    /// The connecting that is under way, or a new one. It goes on when the request that began it
    /// is gone: others wait for it.
    fn connecting(self: &Rc<Self>) -> Connecting {
        if let Some(under_way) = &*self.h2.connecting.borrow() {
            return under_way.clone();
        }
        let (done, outcome) = oneshot::channel();
        let connecting = outcome
            .map(|outcome: Result<Result<(), Failed>, _>| {
                let ended = |_| Err(Failed(Reason::ConnectFailed, "the worker is ending".into()));
                outcome.unwrap_or_else(ended)
            })
            .boxed_local()
            .shared();
        *self.h2.connecting.borrow_mut() = Some(connecting.clone());
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let outcome = match this.is_peer() {
                true => this.new_h2_to_peer().await,
                false => this.new_h2_in_plaintext().await,
            };
            *this.h2.connecting.borrow_mut() = None;
            let _ = done.send(outcome.map_err(|e| Failed(e.reason, e.detail.into())));
        });
        connecting
    }

    async fn new_h2_to_peer(&self) -> Result<(), Error> {
        let credentials = self.current_credentials()?;
        let tls = credentials.tls.client_h2.clone();
        let mut stream = self.open_mutual_tls(tls, &credentials).await?;
        accepted(self.address(), &mut stream).await?;
        let (sender, connection) = limits::h2_client(LocalExecutor)
            .handshake(TokioIo::new(Gate::http2_server(stream)))
            .await
            .map_err(|error| Error::exchange(&error))?;
        let open = self.dial.metrics.all().upstream(self.is_peer(), "http2");
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(open);
        });
        self.opened_h2(sender, Some(credentials));
        Ok(())
    }

    async fn new_h2_in_plaintext(&self) -> Result<(), Error> {
        let stream = self.open_plain().await?;
        let (sender, connection) = limits::h2_client_in_plaintext(LocalExecutor)
            .handshake(TokioIo::new(Gate::http2_server(stream)))
            .await
            .map_err(|error| Error::exchange(&error))?;
        let open = self.dial.metrics.all().upstream(self.is_peer(), "http2");
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(open);
        });
        self.opened_h2(sender, None);
        Ok(())
    }

    fn opened_h2(&self, sender: SendRequest<RequestBody>, credentials: Option<Arc<Credentials>>) {
        self.h2.open.borrow_mut().push(Open {
            sender,
            streams: Rc::default(),
            credentials,
        });
    }
}

/// Waits until the peer has accepted our certificate. One that does not says so when the handshake
/// has ended for us (RFC 8446 section 4.4.2.4); one that does sends its SETTINGS unasked. Only then
/// is it known that requests will be read, and nothing of one has been sent before.
async fn accepted(
    address: SocketAddr,
    stream: &mut (impl AsyncBufRead + Unpin),
) -> Result<(), Error> {
    let first = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.fill_buf()).await;
    match first {
        Ok(Ok([])) => Err(Error::connect(address, &"the peer closed at once")),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(super::not_verified_or_failed(address, &error)),
        Err(_) => Err(Error::connect(address, &"the peer said nothing")),
    }
}
