//! What a request is sent again from: its head, and its body if that is kept.

use http::Request;
use http::request::Parts;

use crate::proxy::body::RequestBody;
use crate::proxy::body::replay::Replay;

/// Makes the requests of further attempts.
pub(super) struct Again {
    /// Nothing where none will be asked for.
    pub(super) head: Option<Request<()>>,
    pub(super) body: Body,
}

/// What is sent with them.
pub(super) enum Body {
    None,
    /// What was kept of it.
    Kept(Replay),
    /// There is one, and it is not kept.
    Gone,
}

// === impl Again ===

impl Again {
    pub(super) fn is_possible(&self) -> bool {
        let there = match &self.body {
            Body::None => true,
            Body::Kept(replay) => replay.is_whole(),
            Body::Gone => false,
        };
        there && self.head.is_some()
    }

    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        let head = self.head.clone()?;
        let body = match &self.body {
            Body::None => RequestBody::Empty,
            Body::Kept(replay) => replay.again()?,
            Body::Gone => return None,
        };
        Some(head.map(|()| body))
    }
}

/// A request's head, without what belongs to its connection.
pub(super) fn copy(head: &Parts) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = head.method.clone();
    *copy.uri_mut() = head.uri.clone();
    *copy.version_mut() = head.version;
    *copy.headers_mut() = head.headers.clone();
    copy
}
