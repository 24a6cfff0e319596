//! What a request is sent again from: its head, and its body if that is kept.

use http::Request;

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
