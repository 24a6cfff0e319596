//! Which Service a captured call means.

use std::net::SocketAddr;
use std::rc::Rc;

use http::request::Parts;

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
    /// # Errors
    /// `unknown_host`, `address_not_known`.
    pub fn destination(
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
                if let Some(service) = state.named(host) {
                    let port = service.port(port).ok_or(Reason::UnknownHost)?;
                    return Ok(px.destinations.find(service, port));
                }
                // An address of IPv6 stands in brackets (RFC 3986 section 3.2.2).
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let address = bare.unwrap_or(host).parse();
                let address = address.map_err(|_| Reason::UnknownHost)?;
                SocketAddr::new(address, port)
            }
        };
        match state.called(address) {
            Some(called) => Ok(px.destinations.at(address, called)),
            None if state.refuses_unknown() => Err(Reason::AddressNotKnown.into()),
            None => Err(Reason::UnknownHost.into()),
        }
    }
}
