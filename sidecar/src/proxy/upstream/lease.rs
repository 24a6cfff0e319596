//! What is held while a request is in flight: a place at its endpoint, the connection that it takes, and
//! whom to tell how its response ends.

use std::cell::Cell;
use std::rc::Rc;

use http::HeaderMap;

use super::{Upstream, h1};
use crate::policy::circuit_breaker::{self, Trial};
use crate::proxy::attempts::is_servers_fault;
use crate::proxy::error::{Reads, Reason};
use crate::proxy::headers;

/// Held while a request is in flight; given back by [`Lease::complete`] when its response has
/// ended, and otherwise (dropped) taken for broken off: such a connection is not reused.
pub struct Lease {
    pub(super) upstream: Rc<Upstream>,
    pub(super) kind: LeaseKind,
    /// Whom to tell how the response ends.
    trial: Option<Box<(Trial, Reads)>>,
}

pub(super) enum LeaseKind {
    H1(Option<h1::Exchange>),
    H2(Rc<Cell<usize>>),
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(upstream: &Rc<Upstream>) -> Self {
        upstream.in_flight.set(upstream.in_flight.get() + 1);
        Self {
            upstream: upstream.clone(),
            kind: LeaseKind::H1(None),
            trial: None,
        }
    }

    /// The endpoint's circuit is told how the response ends.
    pub fn watch(&mut self, trial: Trial, reads: Reads) {
        self.trial = Some(Box::new((trial, reads)));
    }

    /// The response has trailers.
    pub fn says(&mut self, trailers: &HeaderMap) {
        let failed = headers::grpc_status(trailers).is_some_and(is_servers_fault);
        let failed = |trial: &mut Box<(Trial, Reads)>| trial.1 == Reads::Grpc && failed;
        if let Some(trial) = self.trial.take_if(failed) {
            trial.0.failed(circuit_breaker::Fault::ServerError);
        }
    }

    /// The response ends before its end.
    pub fn broke_off(&mut self, why: Reason) {
        if let Some(trial) = self.trial.take() {
            trial.0.failed(match why {
                Reason::RequestTimeout | Reason::IdleTimeout => circuit_breaker::Fault::Timeout,
                _ => circuit_breaker::Fault::Reset,
            });
        }
    }

    /// The response ends before its end, and not by the endpoint's doing.
    pub fn forgive(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.0.forgive();
        }
    }

    /// Whether a peer's sidecar is at the other end.
    pub fn from_peer(&self) -> bool {
        self.upstream.is_peer()
    }

    /// The response has ended: the connection can carry the next request.
    pub fn complete(mut self) {
        let LeaseKind::H1(exchange) = &mut self.kind else {
            return;
        };
        let Some(exchange) = exchange.take().filter(|one| !one.is_closed()) else {
            return;
        };
        self.upstream.h1.keep(exchange);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.upstream).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let in_flight = &self.upstream.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        if let LeaseKind::H2(streams) = &self.kind {
            streams.set(streams.get().saturating_sub(1));
        }
    }
}
