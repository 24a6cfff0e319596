//! A request's body that is looked at while it passes. Nothing waits for the look.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Cut, RequestBody};
use crate::policy::body_limit::Left;
use crate::proxy::copy::Copy;

/// A streamed body, and who looks at it.
#[derive(Debug)]
pub struct Watched {
    body: RequestBody,
    limit: Option<Left>,
    copy: Option<Copy>,
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(body: RequestBody) -> Self {
        Self {
            body,
            limit: None,
            copy: None,
        }
    }

    pub(super) fn at_most(mut self, left: Left) -> Self {
        self.limit = Some(left);
        self
    }

    pub(super) fn copied(mut self, copy: Copy) -> Self {
        self.copy = Some(copy);
        self
    }

    pub(super) fn broke_off(&self) {
        self.body.broke_off();
    }

    fn passes(&mut self, frame: &Frame<Bytes>) -> Result<(), Cut> {
        if let Some(data) = frame.data_ref() {
            if let Some(left) = &mut self.limit
                && !left.take(data.len())
            {
                self.body.broke_off();
                return Err(Cut::TooLarge);
            }
            self.copy = self.copy.take().and_then(|copy| copy.with(data));
        }
        // What comes after the last data, such as trailers, is not waited for: hyper may not.
        if self.body.is_end_stream() || frame.is_trailers() {
            self.passed();
        }
        Ok(())
    }

    fn passed(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.send();
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(task)) {
            Some(Ok(frame)) => Some(self.passes(&frame).map(|()| frame)),
            Some(Err(cut)) => Some(Err(cut)),
            None => {
                self.passed();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
