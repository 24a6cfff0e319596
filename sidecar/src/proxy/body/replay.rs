//! A request's body that is kept while it passes, so that it can be sent again.
//!
//! Nothing waits for it: the first try reads the body as it comes. Once more of it has passed than may be
//! kept, nothing is, and it cannot be sent again. The next try reads what was kept first, and then goes on
//! where the one before it has been; that one reads no further.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{Cut, RequestBody};
use crate::proxy::limits;

/// A body, as one try reads it.
#[derive(Debug)]
pub struct Replayed {
    source: Rc<RefCell<Source>>,
    /// Which try reads it.
    reader: u32,
    /// How many of the pieces kept it has read.
    place: usize,
    trailed: bool,
}

/// What makes the body of another try, as long as that is possible.
#[derive(Debug)]
pub struct Replay(Rc<RefCell<Source>>);

/// How much a worker keeps of all bodies.
pub type Kept = Rc<Cell<usize>>;

#[derive(Debug)]
struct Source {
    body: RequestBody,
    pieces: Vec<Bytes>,
    /// How much is kept.
    bytes: usize,
    /// What that takes of what a worker may keep.
    charged: usize,
    trailers: Option<HeaderMap>,
    /// How much may be kept.
    limit: usize,
    state: State,
    reader: u32,
    kept: Kept,
}

/// What a piece takes in memory beside its bytes, in bytes: a caller may send one at a time.
const PIECE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that has passed is kept.
    Whole,
    /// The same, and nothing more follows.
    Ended,
    /// It can't be sent again.
    Gone,
}

// === impl Replay ===

impl Replay {
    /// Keeps up to `limit` bytes of a body. Returns it as the first try reads it, and what makes others,
    /// unless it says at once that it is larger.
    pub fn of(body: RequestBody, limit: u64, kept: &Kept) -> (RequestBody, Option<Self>) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let least = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if limit == 0 || least > limit {
            return (body, None);
        }
        let source = Rc::new(RefCell::new(Source {
            body,
            pieces: Vec::new(),
            bytes: 0,
            charged: 0,
            trailers: None,
            limit,
            state: State::Whole,
            reader: 0,
            kept: kept.clone(),
        }));
        let replay = Self(source);
        (replay.reader(0), Some(replay))
    }

    fn reader(&self, reader: u32) -> RequestBody {
        RequestBody::Replayed(Replayed {
            source: self.0.clone(),
            reader,
            place: 0,
            trailed: false,
        })
    }

    /// Whether all that has passed was kept.
    pub fn is_whole(&self) -> bool {
        self.0.borrow().state != State::Gone
    }

    /// The body for another try, if all that has passed was kept.
    pub fn again(&self) -> Option<RequestBody> {
        let mut source = self.0.borrow_mut();
        if source.state == State::Gone {
            return None;
        }
        source.reader += 1;
        Some(self.reader(source.reader))
    }
}

impl Drop for Replay {
    /// There will be no other try. Who reads it now may not have read all that was kept.
    fn drop(&mut self) {
        let mut source = self.0.borrow_mut();
        if source.state == State::Whole {
            source.state = State::Gone;
        }
    }
}

// === impl Source ===

impl Source {
    /// Keeps another piece, if there is room. Returns whether it has.
    fn keep(&mut self, data: &Bytes) -> bool {
        let bytes = self.bytes + data.len();
        let charged = data.len() + PIECE;
        let all = self.kept.get() + charged;
        if self.state == State::Gone || bytes > self.limit || all > limits::REPLAY {
            self.forget();
            return false;
        }
        if data.is_empty() {
            return true;
        }
        // Copied: what hyper has read stays in memory as long as a part of it is held.
        self.pieces.push(Bytes::copy_from_slice(data));
        self.bytes = bytes;
        self.charged += charged;
        self.kept.set(all);
        true
    }

    fn forget(&mut self) {
        self.state = State::Gone;
        self.pieces.clear();
        self.kept.set(self.kept.get().saturating_sub(self.charged));
        (self.bytes, self.charged) = (0, 0);
    }

    fn left_from(&self, place: usize) -> u64 {
        let pieces = self.pieces.get(place..).unwrap_or_default();
        pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.kept.set(self.kept.get().saturating_sub(self.charged));
    }
}

// === impl Replayed ===

impl Replayed {
    pub(super) fn broke_off(&self) {
        self.source.borrow().body.broke_off();
    }

    fn is_done(&self, source: &Source) -> bool {
        let trailers = source.trailers.is_some() && !self.trailed;
        self.place >= source.pieces.len() && !trailers
    }
}

impl Body for Replayed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let mut source = this.source.borrow_mut();
        let source = &mut *source;
        if source.reader != this.reader {
            return Poll::Ready(Some(Err(Cut::SentAnew)));
        }
        if let Some(piece) = source.pieces.get(this.place) {
            this.place += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if source.state == State::Ended {
            let trailers = source.trailers.clone().filter(|_| !this.trailed);
            this.trailed = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut source.body).poll_frame(task));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let kept = source.keep(data);
                    this.place = if kept { source.pieces.len() } else { 0 };
                }
                if let Some(trailers) = frame.trailers_ref() {
                    source.trailers = Some(trailers.clone());
                    this.trailed = true;
                }
                if source.state == State::Whole
                    && (frame.is_trailers() || source.body.is_end_stream())
                {
                    source.state = State::Ended;
                }
            }
            Some(Err(_)) => source.forget(),
            None if source.state == State::Whole => source.state = State::Ended,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        match source.state {
            _ if source.reader != self.reader => false,
            State::Ended => self.is_done(&source),
            State::Whole | State::Gone => {
                self.place >= source.pieces.len() && source.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let left = source.left_from(self.place);
        let mut hint = source.body.size_hint();
        if source.state == State::Ended {
            hint = SizeHint::with_exact(0);
        }
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint.set_lower(hint.lower().saturating_add(left));
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn whole(text: &'static str) -> RequestBody {
        RequestBody::whole(Bytes::from_static(text.as_bytes()))
    }

    async fn read(mut body: RequestBody) -> Result<String, Cut> {
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(String::from_utf8(text).unwrap())
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_as_often_as_it_is_sent() {
        let kept = Kept::default();
        let (first, replay) = Replay::of(whole("hello"), 5, &kept);
        let replay = replay.unwrap();
        assert_eq!(first.size_hint().exact(), Some(5));
        assert_eq!(read(first).await.unwrap(), "hello");
        assert_eq!(kept.get(), 5 + PIECE);
        for _ in 0..2 {
            let again = replay.again().unwrap();
            assert_eq!(again.size_hint().exact(), Some(5));
            assert!(!again.is_end_stream());
            assert_eq!(read(again).await.unwrap(), "hello");
        }
        drop(replay);
        assert_eq!(kept.get(), 0);
    }

    #[tokio::test]
    async fn who_is_superseded_reads_no_further_and_the_next_goes_on_where_it_was() {
        let (mut first, replay) = Replay::of(whole("hello"), 5, &Kept::default());
        let replay = replay.unwrap();
        let second = replay.again().unwrap();
        assert!(matches!(first.frame().await, Some(Err(Cut::SentAnew))));
        assert_eq!(read(second).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_larger_body_passes_and_is_not_kept() {
        let kept = Kept::default();
        let (body, replay) = Replay::of(whole("hello"), 4, &kept);
        assert!(replay.is_none());
        assert_eq!(read(body).await.unwrap(), "hello");
        // One whose size is not known before it has passed.
        let inner = Replay::of(whole("hello"), 5, &kept).0;
        let source = match inner {
            RequestBody::Replayed(replayed) => replayed,
            other => panic!("{other:?}"),
        };
        source.source.borrow_mut().limit = 4;
        let replay = Replay(source.source.clone());
        assert_eq!(read(RequestBody::Replayed(source)).await.unwrap(), "hello");
        assert!(replay.again().is_none());
        assert_eq!(kept.get(), 0);
    }

    #[tokio::test]
    async fn a_worker_keeps_no_more_than_its_bound_of_all_bodies() {
        let kept = Kept::default();
        kept.set(limits::REPLAY - 4 - PIECE);
        let (body, replay) = Replay::of(whole("hello"), 5, &kept);
        assert_eq!(read(body).await.unwrap(), "hello");
        assert!(replay.unwrap().again().is_none());
        assert_eq!(kept.get(), limits::REPLAY - 4 - PIECE);
    }

    #[tokio::test]
    async fn what_is_not_sent_again_is_still_read_to_its_end() {
        let kept = Kept::default();
        let (first, replay) = Replay::of(whole("hello"), 5, &kept);
        drop(replay);
        assert_eq!(read(first).await.unwrap(), "hello");
        assert_eq!(kept.get(), 0);
    }
}
