//! The path of a request: in its one normal form from here on.
//!
//! Both sidecars of a call do this before anything else looks at the path. The caller's makes sure
//! that what is routed is what is sent; the destination's does not believe that it did.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::{BufMut, BytesMut};
use http::Method;
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
pub use wire::path::{Malformed, normalise};

use super::context::Context;
use super::error::{Error, Reason};

/// Puts the normal form of its path into a request and its account. The query is left as it is; a
/// fragment never gets here, the parser of URIs drops it.
///
/// # Errors
/// `bad_request`, for a path that two readers could read differently.
pub fn settle(cx: &mut Context, head: &mut Parts) -> Result<(), Error> {
    let bad = |why: &dyn Display| Error::new(Reason::BadRequest, format!("the path: {why}"));
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        return Ok(());
    }
    // CONNECT has the authority where others have the path (RFC 9112 section 3.2.3).
    if head.method == Method::CONNECT {
        return match (head.uri.authority(), head.uri.path_and_query()) {
            (Some(_), None) => Ok(()),
            _ => Err(bad(&"CONNECT names a host and a port, and nothing else")),
        };
    }
    let Some(target) = head.uri.path_and_query() else {
        return Err(bad(&Malformed::Relative));
    };
    let form = match normalise(target.path().as_bytes()).map_err(|why| bad(&why))? {
        // An absolute URI may have a query and no path, which must not be sent as it is.
        Cow::Borrowed(_) if target.as_str().starts_with('/') => return Ok(()),
        form => form,
    };
    let mut bytes = BytesMut::with_capacity(form.len() + target.as_str().len());
    bytes.put_slice(form.as_bytes());
    if let Some(query) = target.query() {
        bytes.put_u8(b'?');
        bytes.put_slice(query.as_bytes());
    }
    // Percent-encoded, it may be longer than a target can be.
    let target = PathAndQuery::from_maybe_shared(bytes.freeze()).map_err(|error| bad(&error))?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(target);
    head.uri = Uri::from_parts(parts).map_err(|error| bad(&error))?;
    cx.settled(&head.uri);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::telemetry::metrics::Direction;

    fn settled(request: http::request::Builder) -> Result<String, Reason> {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let mut cx = Context::new(Direction::outbound, &mut head);
        settle(&mut cx, &mut head).map_err(|error| error.reason)?;
        Ok(head.uri.to_string())
    }

    #[test]
    fn only_the_path_of_a_target_changes() {
        for (sent, forwarded) in [
            ("/%61/../b?q=%61/../b//%zz", "/b?q=%61/../b//%zz"),
            ("/a?", "/a?"),
            ("//a?x", "/a?x"),
            ("http://orders//a?b#c", "http://orders/a?b"),
            ("http://orders", "http://orders/"),
            ("http://orders?a=//", "http://orders/?a=//"),
        ] {
            assert_eq!(
                settled(Request::get(sent)).as_deref(),
                Ok(forwarded),
                "{sent}"
            );
        }
    }

    #[test]
    fn a_target_without_a_path_is_refused_but_for_options_and_connect() {
        assert_eq!(settled(Request::options("*")).as_deref(), Ok("*"));
        assert_eq!(settled(Request::get("*")), Err(Reason::BadRequest));
        assert_eq!(settled(Request::get("orders:80")), Err(Reason::BadRequest));
        let connect = |target| settled(Request::connect(target));
        assert_eq!(connect("orders:80").as_deref(), Ok("orders:80"));
        assert_eq!(connect("http://orders/a"), Err(Reason::BadRequest));
        assert_eq!(connect("/a"), Err(Reason::BadRequest));
    }

    #[test]
    fn a_path_that_is_too_long_once_encoded_is_refused() {
        let long = format!("/{}", "[".repeat(30_000));
        assert_eq!(settled(Request::get(long)), Err(Reason::BadRequest));
    }
}
