//! How much callers use: every limit that is about a request, before the application gets it.

use http::Response;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;

use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Reads, Reason};
use super::headers;
use super::inbound::FromPeer;
use crate::config::state::Served;
use crate::policy::authentication::Caller;
use crate::policy::rate_limit::key::Asking;
use crate::policy::rate_limit::told::{Standing, seconds};
use crate::policy::rate_limit::{Refused, Taken};

/// How long a gRPC client is to wait before it tries again, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What the response is to say of limits.
#[derive(Debug, Default)]
pub(super) struct Told(HeaderMap);

/// Lets a request go on that is within every limit; one that is not counts in none of them.
///
/// # Errors
/// `rate_limited`; `request_too_large` for a body that could never pass.
pub(super) async fn request(
    cx: &mut Context,
    served: &Served,
    peer: &FromPeer,
    callers: &[Caller],
    head: &Parts,
    body: RequestBody,
) -> Result<(RequestBody, Told), Error> {
    let length = match &body {
        RequestBody::Empty => Some(0),
        _ => length(&head.headers),
    };
    let patience = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&head.headers),
        Reads::Http => None,
    };
    let asking = |target| Asking {
        head,
        peer: peer.identity.as_ref(),
        from: peer.from,
        callers,
        target,
        length,
    };
    let mut told = Told::default();
    let mut paces = Vec::new();
    let mut all = Vec::with_capacity(served.limits().len());
    for limited in served.limits() {
        let rate_limit = &limited.rate_limit;
        let mut taken = Vec::with_capacity(rate_limit.limits.len());
        for limit in &rate_limit.limits {
            if limit.is_about(head) {
                let took = limit.take(asking(&limited.target), patience).await;
                taken.push(took.map_err(|refused| {
                    refused.limit.counts.limited();
                    cx.limited(&rate_limit.object, &refused.limit.name, "limited");
                    let mut said = HeaderMap::new();
                    rate_limit.says.write(one(&refused), &mut said);
                    refusal(cx.reads, &rate_limit.object, &refused, said)
                })?);
            }
        }
        all.push((limited, taken));
    }
    for (limited, taken) in all {
        let rate_limit = &limited.rate_limit;
        let shown = taken.iter().filter(|taken| !taken.limit().is_shadow());
        rate_limit.says.write(shown.map(standing), &mut told.0);
        for taken in taken {
            let name = &taken.limit().name;
            match (taken.exceeds, taken.waited) {
                (true, _) => cx.limited(&rate_limit.object, name, "would_limit"),
                (false, true) => cx.limited(&rate_limit.object, name, "delayed"),
                (false, false) => {}
            }
            paces.extend(taken.kept(asking(&limited.target)));
        }
    }
    Ok((body.paced(paces), told))
}

fn standing<'a>(taken: &Taken<'a>) -> Standing<'a> {
    let limit = taken.limit();
    Standing {
        name: &limit.name,
        unit: limit.unit(),
        rate: taken.rate(),
        level: taken.level,
    }
}

fn one<'a>(refused: &Refused<'a>) -> impl Iterator<Item = Standing<'a>> + Clone {
    std::iter::once(Standing {
        name: &refused.limit.name,
        unit: refused.limit.unit(),
        rate: refused.rate,
        level: refused.too_much.level,
    })
}

fn refusal(reads: Reads, object: &str, refused: &Refused<'_>, mut said: HeaderMap) -> Error {
    let name = &refused.limit.name;
    let Some(wait) = refused.too_much.wait else {
        let why = format!("it is longer than limit {name} of RateLimit {object} could ever pass");
        return Error::new(Reason::RequestTooLarge, why).with_headers(said);
    };
    // A client that comes back too early would only be sent away again.
    said.insert(RETRY_AFTER, HeaderValue::from(seconds(wait).max(1)));
    if reads == Reads::Grpc {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000));
        said.insert(PUSHBACK, HeaderValue::from(millis.unwrap_or(u64::MAX)));
    }
    let why = format!("limit {name} of RateLimit {object}");
    Error::new(Reason::RateLimited, why).with_headers(said)
}

/// How long the body is, where that is said; hyper holds it to that.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Told {
    /// Says it in a response.
    pub(super) fn say(self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let mut name = None;
        for (next, value) in self.0 {
            name = next.or(name);
            if let Some(name) = &name {
                response.headers_mut().append(name.clone(), value);
            }
        }
        response
    }
}
