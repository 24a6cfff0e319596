//! A response's body of which some has been read already, or all of it but its trailers.

use std::pin::Pin;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::ResponseBody;
use crate::proxy::error::Error;

/// What has been read, and what follows.
pub(super) struct Begun {
    read: Option<Bytes>,
    then: Then,
}

enum Then {
    Trailers(Option<Box<HeaderMap>>),
    Rest(Box<ResponseBody>),
}

// === impl Begun ===

impl Begun {
    pub(super) fn of(read: Bytes, rest: ResponseBody) -> Self {
        Self {
            read: Some(read).filter(|read| !read.is_empty()),
            then: Then::Rest(Box::new(rest)),
        }
    }

    pub(super) fn trailed(read: Bytes, trailers: HeaderMap) -> Self {
        Self {
            read: Some(read).filter(|read| !read.is_empty()),
            then: Then::Trailers(Some(Box::new(trailers))),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        let ended = match &self.then {
            Then::Trailers(trailers) => trailers.is_none(),
            Then::Rest(rest) => rest.is_end_stream(),
        };
        self.read.is_none() && ended
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        let Then::Rest(rest) = &self.then else {
            return SizeHint::default();
        };
        let mut hint = rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }

    pub(super) fn poll(
        &mut self,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        match &mut self.then {
            Then::Trailers(trailers) => {
                let trailers = trailers.take();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Then::Rest(rest) => Pin::new(&mut **rest).poll_frame(task),
        }
    }
}
