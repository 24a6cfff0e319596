//! HTTP/1.1: one request at a time, over connections that are kept and reused.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{To, Upstream};
use crate::proxy::body::RequestBody;
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::answers::Asked;
use crate::proxy::limits;

/// An idle connection to an application is not reused after this: servers close idle connections,
/// the common defaults start at 5 s (Node.js), and a request that meets the close is lost.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept for one place by one worker.
const MAX_IDLE_CONNECTIONS: usize = 100;

/// Connections that wait for their next request.
#[derive(Default)]
pub(super) struct Pool(RefCell<Vec<Idle>>);

struct Idle {
    exchange: Exchange,
    since: Instant,
}

/// One connection, which carries one request at a time.
pub(super) struct Exchange {
    sender: SendRequest<RequestBody>,
    asked: Arc<Asked>,
}

// === impl Exchange ===

impl Exchange {
    /// Sends a request; the answer before it has ended.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.asked.one();
        self.sender.try_send_request(request).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

// === impl Pool ===

impl Pool {
    /// The most recently used one that is still good: the others age and are closed.
    fn take(&self) -> Option<Exchange> {
        let mut idle = self.0.borrow_mut();
        let oldest = Instant::now().checked_sub(MAX_IDLE)?;
        while let Some(one) = idle.pop() {
            if one.since < oldest {
                idle.clear();
                return None;
            }
            if one.exchange.sender.is_ready() {
                return Some(one.exchange);
            }
        }
        None
    }

    /// Keeps one whose response has ended.
    pub(super) fn keep(&self, exchange: Exchange) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(Idle {
                exchange,
                since: Instant::now(),
            });
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// A connection, and whether it was kept.
    pub(super) async fn h1_exchange(&self) -> Result<(Exchange, bool), Error> {
        if let Some(exchange) = self.h1.take() {
            return Ok((exchange, true));
        }
        // Boxed: a handshake is far larger than all else that a request waits for, and most have none.
        let new = Box::pin(self.new_h1()).await?;
        Ok((new, false))
    }

    /// Sees to it that a connection is there for a request: one at a time is opened ahead.
    pub async fn open_ahead(&self) -> Result<(), Error> {
        let _turn = self.ahead.lock().await;
        let (mut exchange, _) = self.h1_exchange().await?;
        let ready = exchange.sender.ready().await;
        ready.map_err(|error| Error::exchange(&error))?;
        self.h1.keep(exchange);
        Ok(())
    }

    async fn new_h1(&self) -> Result<Exchange, Error> {
        let _waiting = self.wait()?;
        if let To::System(outside) = &self.to {
            return self.h1_on(self.open_system(outside).await?).await;
        }
        match self.is_peer() {
            true => {
                let credentials = self.current_credentials()?;
                let tls = credentials.tls.client_h1.clone();
                self.h1_on(self.open_mutual_tls(tls, &credentials).await?)
                    .await
            }
            false => self.h1_on(self.open_plain().await?).await,
        }
    }

    async fn h1_on<I>(&self, io: I) -> Result<Exchange, Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = Arc::default();
        let io = Gate::answers(io, Arc::clone(&asked));
        let (sender, connection) = limits::h1_client()
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Error::exchange(&error))?;
        // What goes wrong on the connection reaches the request that is on it.
        let open = self.dial.metrics.all().upstream(self.is_peer(), "http1");
        tokio::task::spawn_local(async move {
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        Ok(Exchange { sender, asked })
    }
}
