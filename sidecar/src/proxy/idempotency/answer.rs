//! What comes of a call, and whether it can be kept.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, response};
use http_body_util::BodyExt as _;

use super::request::length;
use crate::policy::idempotency::Idempotency;
use crate::policy::idempotency::answer::Answer;
use crate::policy::idempotency::memory::Room;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::Error;
use crate::proxy::headers;

/// What came of a call.
pub(super) enum Came {
    /// All of an answer, and what it takes beyond what was set aside.
    Whole(Arc<Answer>, Room),
    /// One that is not kept.
    Unkept(Box<Response<ResponseBody>>),
    /// None, or none that came to its end; whether the application surely was not reached.
    Error(Error, bool),
}

/// An answer, while it comes.
pub(super) struct Collecting<'p> {
    pub(super) policy: &'p Idempotency,
    /// What it may take without more room.
    pub(super) set_aside: u64,
    pub(super) room: Room,
}

// === impl Collecting ===

impl Collecting<'_> {
    /// All of an answer, if it is kept.
    pub(super) async fn collect(mut self, response: Response<ResponseBody>) -> Came {
        let (mut head, mut body) = response.into_parts();
        headers::remove_hop_by_hop(&mut head.headers);
        let mut bytes = Answer::bytes_of(&head.headers);
        let most = bytes.saturating_add(length(&head.headers).unwrap_or(0));
        if self.policy.releases(head.status) || !self.fits(most) {
            return Came::Unkept(Box::new(Response::from_parts(head, body)));
        }
        let mut whole = Vec::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            // It has begun to answer: whatever is said now, it was reached.
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Came::Error(error, false),
            };
            let fits = match frame.into_data() {
                Ok(data) => {
                    whole.extend_from_slice(&data);
                    bytes += data.len() as u64;
                    self.fits(bytes)
                }
                Err(frame) => {
                    trailers = frame.into_trailers().ok();
                    bytes += trailers.as_ref().map_or(0, Answer::bytes_of);
                    self.fits(bytes)
                }
            };
            if !fits {
                let rest = match trailers {
                    Some(trailers) => ResponseBody::trailed(whole.into(), Some(trailers)),
                    None => ResponseBody::begun(whole.into(), body),
                };
                return Came::Unkept(Box::new(Response::from_parts(head, rest)));
            }
        }
        let whole = Bytes::from(whole.into_boxed_slice());
        Came::Whole(Arc::new(kept(head, whole, trailers)), self.room)
    }

    fn fits(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.set_aside);
        bytes <= self.policy.max_answer_bytes && self.room.grow_to(more)
    }
}

fn kept(head: response::Parts, body: Bytes, trailers: Option<HeaderMap>) -> Answer {
    Answer {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    }
}
