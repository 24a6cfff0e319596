//! A request's body that comes as fast as limits let it.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{Cut, RequestBody};
use crate::policy::rate_limit::Pace;

/// A streamed body, and what it counts in.
#[derive(Debug)]
pub struct Paced {
    body: RequestBody,
    /// With what has been taken of each and not been used.
    paces: Vec<(Pace, u64)>,
    /// What has come and may not pass yet.
    held: Bytes,
    wait: Option<Pin<Box<Sleep>>>,
}

// === impl Paced ===

impl Paced {
    pub(super) fn new(body: RequestBody, paces: Vec<Pace>) -> Self {
        Self {
            body,
            paces: paces.into_iter().map(|pace| (pace, 0)).collect(),
            held: Bytes::new(),
            wait: None,
        }
    }

    pub(super) fn broke_off(&self) {
        self.body.broke_off();
    }

    /// How much of what is held may pass now: at least a byte.
    fn poll_some(&mut self, task: &mut Task<'_>) -> Poll<usize> {
        let wanted = self.held.len() as u64;
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(task));
                self.wait = None;
            }
            let mut some = wanted;
            for (pace, taken) in &mut self.paces {
                if *taken == 0 {
                    match pace.take(wanted) {
                        Ok(more) => *taken = more,
                        Err(wait) => {
                            self.wait = Some(Box::pin(tokio::time::sleep(wait)));
                            break;
                        }
                    }
                }
                some = some.min(*taken);
            }
            if self.wait.is_some() {
                continue;
            }
            for (_, taken) in &mut self.paces {
                *taken -= some;
            }
            return Poll::Ready(usize::try_from(some).unwrap_or(usize::MAX));
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        while self.held.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
            let Some(Ok(frame)) = frame else {
                return Poll::Ready(frame);
            };
            match frame.into_data() {
                Ok(data) => self.held = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let some = ready!(self.poll_some(task)).min(self.held.len());
        let passes = self.held.split_to(some);
        Poll::Ready(Some(Ok(Frame::data(passes))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Nobody said how long it is, or it would not be here.
        SizeHint::default()
    }
}
