//! Requests after which both sides speak another protocol: `Upgrade` (RFC 9110 section 7.8; what
//! WebSocket begins with, RFC 6455 section 4) and `CONNECT` (RFC 9110 section 9.3.6).
//!
//! Between sidecars such a request travels over an HTTP/1.1 connection of its own. From the answer
//! that agrees to it on, its bytes are copied and nobody reads them; its account stays open until
//! they end, or none has passed for as long as the rule of the request lets pass
//! (`ApiRoute.rules[].timeouts.idle`). What the mesh answers itself ([`Answering`]) goes no further.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::Proxy;
use super::context::Account;
use super::destination::Destination;
use super::error::{Error, Reason};
use super::idle;
use super::opaque::Tunnel;
use super::upstream::Lease;
use crate::drain::{Drain, Work};
use crate::net::opaque;

/// What a request asks to become.
#[derive(Debug)]
pub struct Upgrade {
    near: OnUpgrade,
    to: Protocol,
    credentials: bool,
    work: Work,
}

/// A request that has become something else.
#[derive(Debug)]
pub struct Switched {
    near: OnUpgrade,
    far: Far,
    _work: Work,
}

#[derive(Debug)]
enum Protocol {
    /// As its `Upgrade` header says.
    Named(HeaderValue),
    /// `CONNECT`.
    Tunnel,
}

#[derive(Debug)]
enum Far {
    /// Another hop that has switched too.
    Upgraded(OnUpgrade, Lease),
    /// The opaque bytes of a Service.
    Opaque(Box<Tunnel>),
    /// The same, once the name is known that the caller asks for.
    Named(Rc<Proxy>, Rc<Destination>),
    /// Nobody: it is answered here.
    Here(Answering),
}

/// What answers a request that has become something else, without sending it anywhere.
pub struct Answering(Box<dyn FnOnce(TokioIo<Upgraded>) -> LocalBoxFuture<'static, Answered>>);

/// How that ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    /// Bytes from the caller.
    pub there: u64,
    /// Bytes towards it.
    pub back: u64,
    /// Whether both sides were told the end; otherwise the caller went away.
    pub whole: bool,
}

// === impl Upgrade ===

impl Upgrade {
    /// What a request asks to become, if anything that can be carried: HTTP/2 is not, which a
    /// client that wants it opens with prior knowledge (RFC 9113 section 3.1 took its upgrade
    /// away).
    pub fn wanted(head: &mut Parts, drain: &Drain) -> Option<Self> {
        if head.version != Version::HTTP_11 {
            return None;
        }
        let to = match head.method {
            Method::CONNECT => Protocol::Tunnel,
            _ => Protocol::Named(named(&head.headers)?.clone()),
        };
        let near = head.extensions.remove::<OnUpgrade>()?;
        // The connection itself is done with once it has switched.
        let work = drain.work();
        // Before whoever authenticates takes them away.
        let mut credentials = [COOKIE, AUTHORIZATION].into_iter();
        let credentials = credentials.any(|name| head.headers.contains_key(name));
        Some(Self {
            near,
            to,
            credentials,
            work,
        })
    }

    /// Says so to the next hop: what asks for it concerns one hop only and was taken away.
    pub fn ask<B>(&self, request: &mut Request<B>) {
        if let Protocol::Named(name) = &self.to {
            say(request.headers_mut(), name.clone());
        }
    }

    /// Whether an answer agrees.
    pub fn agreed(&self, status: StatusCode) -> bool {
        match self.to {
            Protocol::Named(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Protocol::Tunnel => status.is_success(),
        }
    }

    /// Whether this is a `CONNECT`.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.to, Protocol::Tunnel)
    }

    /// Whether it is to become a protocol of this name, which is written in lower case.
    pub fn is_to(&self, protocol: &str) -> bool {
        let Protocol::Named(names) = &self.to else {
            return false;
        };
        let mut names = names.to_str().unwrap_or_default().split(',');
        names.any(|name| name.trim().eq_ignore_ascii_case(protocol))
    }

    /// Whether it came with what browsers add to a request of themselves, whichever page it is of.
    pub fn has_credentials(&self) -> bool {
        self.credentials
    }

    /// Agrees to a protocol by the headers of an answer, and answers in it.
    pub fn answer(
        self,
        headers: &mut HeaderMap,
        protocol: &'static str,
        answering: Answering,
    ) -> Switched {
        say(headers, HeaderValue::from_static(protocol));
        Switched {
            near: self.near,
            far: Far::Here(answering),
            _work: self.work,
        }
    }

    /// Joins both sides, after an answer that agrees.
    ///
    /// # Errors
    /// `bad_response` when the answer names no protocol to switch to.
    pub fn join(self, response: &mut Response<Incoming>, lease: Lease) -> Result<Switched, Error> {
        let agreed = response.headers_mut().remove(UPGRADE);
        super::headers::remove_hop_by_hop(response.headers_mut());
        if let Protocol::Named(_) = self.to {
            let unnamed = || Error::new(Reason::BadResponse, "it switches to no protocol");
            say(response.headers_mut(), agreed.ok_or_else(unnamed)?);
        }
        Ok(Switched {
            near: self.near,
            far: Far::Upgraded(hyper::upgrade::on(response), lease),
            _work: self.work,
        })
    }

    /// Joins the caller to the opaque bytes of a Service.
    pub fn join_opaque(self, tunnel: Tunnel) -> Switched {
        Switched {
            near: self.near,
            far: Far::Opaque(Box::new(tunnel)),
            _work: self.work,
        }
    }

    /// Joins the caller to the opaque bytes of a Service that has a place for each name.
    pub fn join_named(self, px: Rc<Proxy>, destination: Rc<Destination>) -> Switched {
        Switched {
            near: self.near,
            far: Far::Named(px, destination),
            _work: self.work,
        }
    }
}

/// The protocol that a request names in `Upgrade` and means (`Connection: upgrade`).
fn named(headers: &HeaderMap) -> Option<&HeaderValue> {
    let name = headers.get(UPGRADE)?;
    let meant = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let text = name.to_str().ok()?;
    let h2 = text
        .split(',')
        .map(str::trim)
        .any(|one| one.eq_ignore_ascii_case("h2c") || one.starts_with("HTTP/"));
    (meant && !h2).then_some(name)
}

fn say(headers: &mut HeaderMap, name: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, name);
}

// === impl Switched ===

impl Switched {
    /// Copies both ways until both sides have ended; accounts for the bytes.
    pub async fn carry(self, mut account: Account) {
        let Ok(near) = self.near.await else {
            return; // the caller went away before it had the answer
        };
        let mut near = TokioIo::new(near);
        let copied = match self.far {
            Far::Upgraded(far, lease) => {
                let copied = match far.await {
                    Ok(far) => copy(&mut near, TokioIo::new(far), account.cx.idle).await,
                    Err(error) => Err(Error::exchange(&error)),
                };
                // The connection has become something else: it goes back to no pool.
                drop(lease);
                copied
            }
            Far::Opaque(tunnel) => tunnel.carry(near).await,
            Far::Named(px, destination) => super::opaque::outbound(&px, near, &destination).await,
            Far::Here(answering) => {
                let answered = (answering.0)(near).await;
                account.cx.sends().add(answered.there);
                account
                    .cx
                    .passed_on(usize::try_from(answered.back).unwrap_or(usize::MAX));
                if answered.whole {
                    account.cx.completed();
                }
                return;
            }
        };
        match copied {
            Ok((there, bytes)) => {
                account.cx.sends().add(there);
                account
                    .cx
                    .passed_on(usize::try_from(bytes).unwrap_or(usize::MAX));
                account.cx.completed();
            }
            Err(error) => account.cx.broke_off(error),
        }
    }
}

// === impl Answering ===

impl Answering {
    /// By what this makes of the caller's bytes.
    pub fn new<F>(answers: impl FnOnce(TokioIo<Upgraded>) -> F + 'static) -> Self
    where
        F: Future<Output = Answered> + 'static,
    {
        Self(Box::new(|near| Box::pin(answers(near))))
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

async fn copy(
    near: &mut TokioIo<Upgraded>,
    mut far: TokioIo<Upgraded>,
    idle: Option<Duration>,
) -> Result<(u64, u64), Error> {
    let broke = |error: std::io::Error| Error::new(Reason::UpstreamReset, error.to_string());
    let Some(limit) = idle else {
        return opaque::copy(near, &mut far).await.map_err(broke);
    };
    let moved = Cell::new(0);
    let copied = opaque::copy_counted(near, &mut far, &moved);
    let copied = idle::bound(limit, || moved.get(), copied).await?;
    copied.map_err(broke)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        named(&map).is_some()
    }

    #[test]
    fn an_upgrade_is_named_and_meant_and_not_to_http2() {
        assert!(asks(&[("upgrade", "websocket"), ("connection", "Upgrade")]));
        assert!(asks(&[
            ("upgrade", "websocket"),
            ("connection", "keep-alive, upgrade")
        ]));
        assert!(!asks(&[("upgrade", "websocket")]));
        assert!(!asks(&[
            ("upgrade", "websocket"),
            ("connection", "keep-alive")
        ]));
        assert!(!asks(&[
            ("upgrade", "h2c"),
            ("connection", "Upgrade, HTTP2-Settings")
        ]));
        assert!(!asks(&[("connection", "upgrade")]));
    }
}
