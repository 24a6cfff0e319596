//! A response's body that is being kept while it passes.
//!
//! It is read from the application as fast as that sends it, so that who waits for the answer to be
//! kept waits for nobody who reads slowly, and goes on when its own reader has gone. What has not been
//! read is at most what may be kept; beyond that, or after a while, the rest passes as any body does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::ResponseBody;
use crate::policy::cache::fill::Fill;
use crate::policy::cache::store::Room;
use crate::proxy::error::Error;
use crate::proxy::load::Admitted;

/// How long a body may come that is to be kept; one that never ends is none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that a frame takes beside what is in it.
const FRAME: u64 = 128;

/// The reader's end.
pub(super) struct Filling {
    passing: Rc<Passing>,
}

/// What is between the two ends.
struct Passing {
    frames: RefCell<VecDeque<Result<Frame<Bytes>, Error>>>,
    ended: Cell<bool>,
    /// What is left of a body that is not kept after all.
    rest: RefCell<Option<ResponseBody>>,
    reader: RefCell<Option<Waker>>,
    /// How much there is to come, as far as that is known.
    left: Cell<Option<u64>>,
    /// What the frames take, and have taken.
    room: RefCell<Room>,
}

// === impl Filling ===

impl Filling {
    /// Begins to keep a body. Until all of it has come the request has its place among what is in
    /// flight, also when its caller has gone.
    pub(super) fn begin(body: ResponseBody, fill: Fill, place: Option<Rc<Admitted>>) -> Self {
        let passing = Rc::new(Passing {
            frames: RefCell::default(),
            ended: Cell::new(false),
            rest: RefCell::default(),
            reader: RefCell::default(),
            left: Cell::new(body.size_hint().exact()),
            room: RefCell::new(fill.queue()),
        });
        let keeping = keep(body, fill, passing.clone());
        tokio::task::spawn_local(async move {
            let _place = place;
            keeping.await;
        });
        Self { passing }
    }

    /// Whether nothing follows.
    pub(super) fn is_end(&self) -> bool {
        let passing = &self.passing;
        let read = passing.ended.get() && passing.frames.borrow().is_empty();
        let rest = passing.rest.borrow();
        read && rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let left = self.passing.left.get();
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(super) fn poll(
        &mut self,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let passing = &self.passing;
        let next = passing.frames.borrow_mut().pop_front();
        let polled = match next {
            Some(frame) => Poll::Ready(Some(frame)),
            None if passing.ended.get() => match &mut *passing.rest.borrow_mut() {
                Some(rest) => Pin::new(rest).poll_frame(task),
                None => Poll::Ready(None),
            },
            None => {
                *passing.reader.borrow_mut() = Some(task.waker().clone());
                Poll::Pending
            }
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(data), Some(left)) = (frame.data_ref(), passing.left.get())
        {
            passing
                .left
                .set(Some(left.saturating_sub(data.len() as u64)));
        }
        polled
    }
}

// === impl Passing ===

impl Passing {
    fn put(&self, frame: Result<Frame<Bytes>, Error>) {
        self.frames.borrow_mut().push_back(frame);
        self.wake();
    }

    /// No more comes of it by this way.
    fn end(&self, rest: Option<ResponseBody>) {
        *self.rest.borrow_mut() = rest;
        self.ended.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }
}

async fn keep(mut body: ResponseBody, mut fill: Fill, passing: Rc<Passing>) {
    let until = Instant::now() + PATIENCE;
    loop {
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
            fill.give_up();
            return passing.end(Some(body));
        };
        match frame {
            None => {
                fill.complete(body.is_end_stream());
                return passing.end(None);
            }
            Some(Err(error)) => {
                // Not kept, and who waits for it asks for itself.
                drop(fill);
                passing.put(Err(error));
                return passing.end(None);
            }
            Some(Ok(frame)) => {
                let kept = frame.data_ref().is_some_and(|data| {
                    let room = passing.room.borrow_mut().more(data.len() as u64 + FRAME);
                    room && fill.more(data)
                });
                passing.put(Ok(frame));
                if !kept {
                    fill.give_up();
                    return passing.end(Some(body));
                }
            }
        }
    }
}
