//! A request with a key, which is read to its end before anything is asked.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::policy::idempotency::Idempotency;
use crate::policy::idempotency::key::{BodyHash, Principal};
use crate::policy::idempotency::memory::Room;
use crate::proxy::body::RequestBody;
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::idle;

/// A request's body, while it is read.
pub(super) struct Reading<'p> {
    policy: &'p Idempotency,
    /// What is held for it.
    pub(super) room: Room,
    /// Whether it may have to be sent on.
    keeps: bool,
    /// What is held of it.
    pub(super) whole: Vec<u8>,
    /// All of it.
    pub(super) hash: BodyHash,
    pub(super) trailers: Option<HeaderMap>,
}

// === impl Reading ===

impl<'p> Reading<'p> {
    /// Nothing has been read yet.
    pub(super) fn begin(policy: &'p Idempotency, principal: Principal, keeps: bool) -> Self {
        Self {
            policy,
            room: policy.memory.room(principal),
            keeps,
            whole: Vec::new(),
            hash: BodyHash::new(),
            trailers: None,
        }
    }

    /// All of it; nothing where there is no room for it.
    pub(super) async fn read(
        mut self,
        cx: &mut Context,
        head: &Parts,
        body: RequestBody,
    ) -> Result<Option<Self>, Error> {
        let policy = self.policy;
        if length(&head.headers).is_some_and(|length| length > policy.max_request_bytes) {
            return Err(too_large(policy));
        }
        let (limit, sent) = (cx.idle_limit(), cx.sent());
        let reading = idle::bound(limit, || sent.get(), self.take_in(body));
        let read = match timeout(policy.timeout, reading).await {
            Ok(read) => read.unwrap_or_else(|idle| Err(idle.into())),
            Err(_) => {
                let why = "its body took longer to come than the whole call may";
                let late = Error::new(Reason::BadRequest, why);
                Err(late.with_status(StatusCode::REQUEST_TIMEOUT))
            }
        };
        read.map(|has_room| has_room.then_some(self))
    }

    /// Whether there is room for all of it.
    async fn take_in(&mut self, mut body: RequestBody) -> Result<bool, Error> {
        let policy = self.policy;
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Error::from)?;
            match frame.into_data() {
                Ok(data) => {
                    read += data.len() as u64;
                    if read > policy.max_request_bytes {
                        return Err(too_large(policy));
                    }
                    self.hash.more(&data);
                    if self.keeps {
                        if !self.room.grow_to(read) {
                            return Ok(false);
                        }
                        self.whole.extend_from_slice(&data);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(true)
    }
}

fn too_large(policy: &Idempotency) -> Error {
    let object = &policy.object;
    let why = format!("it is longer than ApiRoute {object} carries out once");
    Error::new(Reason::RequestTooLarge, why)
}

/// How long a body says that it is.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
