//! What came of a job, for whoever asked for it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::stored::{self, Outcome};
use super::{AGAIN, Token, Unavailable, get, named, unavailable};
use crate::config::async_reply::Kept;
use crate::policy::idempotency::key::Principal;
use crate::proxy::Proxy;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::{Error, Reason};

/// How many bytes of results a worker holds at once, until those who fetch them have read them.
const ROOM: usize = 32 * 1024 * 1024;

/// The results that a worker gives.
#[derive(Debug)]
pub struct Results(Arc<Semaphore>);

/// A part of a result, and the room that it takes until it is read.
struct Held {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

/// What is known of a job.
enum Found {
    Done(Outcome),
    Waits,
    Nothing,
}

// === impl Results ===

impl Results {
    /// The same bytes, which take room until they are dropped.
    ///
    /// # Errors
    /// `overloaded`.
    fn hold(&self, data: Bytes) -> Result<Bytes, Error> {
        let room = u32::try_from(data.len()).ok();
        let room = room.and_then(|room| self.0.clone().try_acquire_many_owned(room).ok());
        let none = || Error::new(Reason::Overloaded, "too many bytes of results are fetched");
        let _room = room.ok_or_else(none)?;
        Ok(Bytes::from_owner(Held { data, _room }))
    }
}

impl Default for Results {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Whether a request asks for what came of a job.
pub(in crate::events) fn is_asked(kept: &Kept, head: &Parts) -> bool {
    head.method == Method::GET && token(kept, head).is_some()
}

/// The token that a request names, whatever it is.
fn token<'h>(kept: &Kept, head: &'h Parts) -> Option<&'h str> {
    let rest = head.uri.path().strip_prefix(&*kept.path)?;
    rest.strip_prefix('/')
}

/// Answers with what came of a job.
///
/// # Errors
/// `job_unknown`, `job_failed`, `jobs_unavailable`, `overloaded`.
pub(in crate::events) async fn fetch(
    px: &Rc<Proxy>,
    kept: &Kept,
    who: Principal,
    head: &Parts,
) -> Result<Response<ResponseBody>, Error> {
    let unknown = || Error::new(Reason::JobUnknown, format!("a job of {}", kept.name));
    let token = token(kept, head)
        .and_then(Token::read)
        .ok_or_else(unknown)?;
    let found = find(px, kept, who, token).await;
    let mut response = match found.map_err(|Unavailable| unavailable(kept))? {
        Found::Done(Outcome::Reply(reply)) => {
            let mut response = Response::new(ResponseBody::mesh(Bytes::new()));
            let data = reply.to_http(response.headers_mut());
            *response.body_mut() = ResponseBody::mesh(px.results.hold(data)?);
            response
        }
        Found::Done(Outcome::TooLong) => {
            let said = "what was replied is longer than the 1 MiB that is kept of a result";
            return Err(Error::new(Reason::JobFailed, said).saying(said));
        }
        Found::Waits => {
            let told = Bytes::from_static(b"{\"status\":\"waiting\"}");
            let mut response = Response::new(ResponseBody::mesh(told));
            *response.status_mut() = StatusCode::ACCEPTED;
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(RETRY_AFTER, AGAIN);
            response
        }
        Found::Nothing => return Err(unknown()),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn find(
    px: &Rc<Proxy>,
    kept: &Kept,
    who: Principal,
    token: Token,
) -> Result<Found, Unavailable> {
    let job = token.job();
    // First what came: it may come between, and then it is there the next time.
    if let Some(result) = get(px, kept, &named(kept, "result", &job)).await? {
        let outcome = stored::read(result, who);
        return Ok(outcome.map_or(Found::Nothing, Found::Done));
    }
    let waits = get(px, kept, &named(kept, "waits", &job)).await?;
    match waits.is_some_and(|whose| whose == who.as_bytes()) {
        true => Ok(Found::Waits),
        false => Ok(Found::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_results_is_held_than_there_is_room_for_until_they_are_read() {
        let results = Results::default();
        let one = || results.hold(Bytes::from(vec![b'a'; 1024 * 1024]));
        let mut all = Vec::from_iter((0..ROOM / 1024 / 1024).map(|_| one().unwrap()));
        assert_eq!(all[0].len(), 1024 * 1024);
        assert_eq!(one().unwrap_err().reason, Reason::Overloaded);
        assert!(results.hold(Bytes::new()).unwrap().is_empty());
        // A part that is still to be read keeps its place.
        let rest = all.pop().unwrap().split_off(1);
        assert!(one().is_err());
        drop(rest);
        assert!(one().is_ok());
    }
}
