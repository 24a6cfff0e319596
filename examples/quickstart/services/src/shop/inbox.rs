//! What has come: keeps what is posted to it, and `GET /inbox` tells it, one message a line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::server::{self, Reply};

/// How many messages are kept; the oldest go first.
const KEPT: usize = 100;
/// The longest message, in bytes.
const LONGEST: usize = 1 << 20;

/// What a process has been sent. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<Mutex<VecDeque<Value>>>);

/// Answers one request.
pub async fn answer(inbox: Inbox, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::POST, _) => match Limited::new(body, LONGEST).collect().await {
            Ok(body) => {
                inbox.keep(message(&head.headers, &body.to_bytes()));
                let mut taken = Reply::default();
                *taken.status_mut() = StatusCode::NO_CONTENT;
                taken
            }
            Err(_) => server::json(
                StatusCode::BAD_REQUEST,
                &json!({"error": "it is too long, or broke off"}),
            ),
        },
        (&Method::GET, "/inbox") => {
            let mut told = Response::new(Full::new(Bytes::from(inbox.lines())));
            let kind = HeaderValue::from_static("application/x-ndjson");
            told.headers_mut().insert(CONTENT_TYPE, kind);
            told
        }
        _ => server::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "there is only /inbox"}),
        ),
    }
}

/// A message as it is told: the attributes of an event, which stand in headers, and what is in it.
fn message(headers: &HeaderMap, body: &[u8]) -> Value {
    let mut message = Map::new();
    for (name, value) in headers {
        if let Some(attribute) = name.as_str().strip_prefix("ce-") {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            message.insert(attribute.to_owned(), value.into());
        }
    }
    let data = serde_json::from_slice(body)
        .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned().into());
    message.insert("data".to_owned(), data);
    message.into()
}

// === impl Inbox ===

impl Inbox {
    fn keep(&self, message: Value) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(message);
    }

    fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|message| format!("{message}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_with_its_attributes_and_what_is_in_it() {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", HeaderValue::from_static("1"));
        headers.insert("host", HeaderValue::from_static("billing"));
        let json = message(&headers, br#"{"item":"lamp"}"#);
        assert_eq!(json, json!({"id": "1", "data": {"item": "lamp"}}));
        assert_eq!(message(&headers, b"lamp")["data"], "lamp");
    }

    #[test]
    fn the_oldest_messages_make_way() {
        let inbox = Inbox::default();
        for number in 0..=KEPT {
            inbox.keep(json!(number));
        }
        let told = inbox.lines();
        assert!(
            told.starts_with("1\n") && told.ends_with("\n100\n"),
            "{told}"
        );
    }
}
