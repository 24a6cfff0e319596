//! Which Service a captured call means.

use std::net::SocketAddr;
use std::rc::Rc;

use http::request::Parts;
use wire::lookup::Question;

use super::destination::Destination;
use super::error::{Error, Reason};
use super::{Proxy, headers};
use crate::config::State;

/// A captured connection, as far as its requests care.
#[derive(Clone, Copy, Debug)]
pub enum Captured {
    /// It was going to this address.
    To(SocketAddr),
    /// It came to our own port: an explicit proxy request, whose host selects.
    Explicitly,
}

// === impl Captured ===

impl Captured {
    /// The port that was called.
    pub fn port(self, head: &Parts) -> u16 {
        match self {
            Self::To(address) => address.port(),
            Self::Explicitly => headers::port(head),
        }
    }

    /// The address called selects the Service; the host does only when there is no such address.
    ///
    /// What means nothing yet is asked about, and waited for.
    ///
    /// # Errors
    /// `unknown_host`, `address_not_known`, `address_not_resolved`.
    pub async fn find(self, px: &Proxy, head: &Parts) -> Result<Rc<Destination>, Error> {
        let found = self.destination(px, &px.destinations.state(), head);
        match &found {
            Err(error) if error.reason == Reason::AddressNotResolved => {
                let question = self.question(&px.destinations.state(), head);
                if let Some(question) = question {
                    px.ask(question).await;
                }
                self.destination(px, &px.destinations.state(), head)
            }
            _ => found,
        }
    }

    fn question(self, state: &State, head: &Parts) -> Option<Question> {
        match self {
            Self::To(address) => state.question(address),
            Self::Explicitly => {
                let host = headers::host(head)?;
                let of_name = state.question_of(host);
                of_name.or_else(|| state.question(literal(host, headers::port(head))?))
            }
        }
    }

    /// # Errors
    /// As [`find`](Self::find).
    fn destination(
        self,
        px: &Proxy,
        state: &State,
        head: &Parts,
    ) -> Result<Rc<Destination>, Error> {
        let address = match self {
            // It was there when the connection was accepted, and may be gone since.
            Self::To(address) => address,
            Self::Explicitly => {
                let (host, port) = (headers::host(head), headers::port(head));
                let host = host.ok_or(Reason::UnknownHost)?;
                if state.question_of(host).is_some() {
                    return Err(Reason::AddressNotResolved.into());
                }
                if let Some(service) = state.named(host) {
                    let port = service.port(port).ok_or(Reason::UnknownHost)?;
                    return Ok(px.destinations.find(service, port));
                }
                literal(host, port).ok_or(Reason::UnknownHost)?
            }
        };
        match state.called(address) {
            None if state.question(address).is_some() => Err(Reason::AddressNotResolved.into()),
            Some(called) => Ok(px.destinations.at(address, called)),
            None if state.refuses_unknown() => Err(Reason::AddressNotKnown.into()),
            None => Err(Reason::UnknownHost.into()),
        }
    }
}

/// An address that stands where a name does.
fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    // One of IPv6 stands in brackets (RFC 3986 section 3.2.2).
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = bare.unwrap_or(host).parse().ok()?;
    Some(SocketAddr::new(address, port))
}
