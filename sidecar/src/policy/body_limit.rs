//! Body limit: how many bytes the body of a request may have.
//!
//! Phase: before all attempts, and while the body streams, in the caller's sidecar. From
//! `ApiRoute.rules[].maxRequestBytes`. A request that says it is larger is answered 413 with reason
//! `request_too_large` before anything of it is sent; one that does not say is counted as it
//! passes, and the same is answered when it turns out to be, unless the response has begun: then
//! the response is cut off.

use std::cell::Cell;
use std::rc::Rc;

use http_body::Body as _;

use crate::proxy::body::RequestBody;
use crate::proxy::error::{Error, Reason};

/// The most bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit(u64);

/// What may still pass of one body.
#[derive(Debug)]
pub struct Left {
    bytes: u64,
    overrun: Rc<Cell<bool>>,
}

/// Whether a body turned out to be too large; nothing for one whose size was known.
#[derive(Debug, Default)]
pub struct Overrun(Option<Rc<Cell<bool>>>);

// === build ===

impl BodyLimit {
    /// At most `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    // === request ===

    /// Lets a body pass as far as it may.
    ///
    /// # Errors
    /// `request_too_large`, when its size is known.
    pub fn guard(self, body: RequestBody) -> Result<(RequestBody, Overrun), Error> {
        let size = body.size_hint();
        if size.lower() > self.0 {
            return Err(Reason::RequestTooLarge.into());
        }
        // Whoever says a length is held to it by its protocol.
        if size.exact().is_some() {
            return Ok((body, Overrun::default()));
        }
        let (left, overrun) = self.start();
        Ok((body.at_most(left), overrun))
    }

    fn start(self) -> (Left, Overrun) {
        let overrun = Rc::new(Cell::new(false));
        let left = Left {
            bytes: self.0,
            overrun: overrun.clone(),
        };
        (left, Overrun(Some(overrun)))
    }
}

impl Left {
    /// Whether `bytes` more may pass; remembers when not.
    pub fn take(&mut self, bytes: usize) -> bool {
        match self.bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.bytes = left;
                true
            }
            None => {
                self.overrun.set(true);
                false
            }
        }
    }
}

impl Overrun {
    /// The cause of an exchange's end: the body's, or `error`, which may be only what followed.
    pub fn blame(&self, error: Error) -> Error {
        match &self.0 {
            Some(overrun) if overrun.get() => Reason::RequestTooLarge.into(),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_after_the_last_that_may_pass_is_to_blame_for_what_follows() {
        let (mut left, overrun) = BodyLimit::new(10).start();
        let blamed = || overrun.blame(Reason::UpstreamReset.into()).reason;
        assert!(left.take(4) && left.take(6) && left.take(0));
        assert_eq!(blamed(), Reason::UpstreamReset);
        assert!(!left.take(1));
        assert_eq!(blamed(), Reason::RequestTooLarge);
    }

    #[test]
    fn a_body_that_is_not_there_is_never_too_large() {
        let (body, overrun) = BodyLimit::new(0).guard(RequestBody::Empty).unwrap();
        assert!(matches!(body, RequestBody::Empty));
        let error = overrun.blame(Reason::UpstreamReset.into());
        assert_eq!(error.reason, Reason::UpstreamReset);
    }
}
