//! What an answer to a batch says of each event: with a body such as
//! `{"events":[{"id":"1","status":204},{"id":"2","source":"/shop","status":503}]}`, as publishing a batch is answered.

use std::collections::HashMap;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;

use super::cloud_event::Event;
use super::post::Answer;

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcomes {
    /// The same of all; nothing when there was no answer that can be read.
    Same(Option<StatusCode>),
    /// Of each, by its source, where that is said, and its id. One that is not there was not seen to.
    Each(HashMap<(Option<String>, String), StatusCode>),
}

/// What was answered to one event that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done,
    Again,
    Dropped,
}

#[derive(Deserialize)]
struct OfOne {
    status: Option<Value>,
}

#[derive(Deserialize)]
struct OfMany {
    events: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    source: Option<String>,
    status: u16,
}

/// What an answer says.
pub(super) fn of(answer: Option<&Answer>) -> Outcomes {
    let Some(answer) = answer else {
        return Outcomes::Same(None);
    };
    if !answer.status.is_success() {
        return Outcomes::Same(Some(answer.status));
    }
    let is_json = is_json(answer);
    let said = match &answer.body {
        Err(_) if is_json => return Outcomes::Same(None),
        said => said.as_ref().ok().filter(|_| is_json),
    };
    let said = said.and_then(|body| serde_json::from_slice::<OfMany>(body).ok());
    let each = said.and_then(|said| {
        let entries = said.events.into_iter().map(|entry| {
            let status = StatusCode::from_u16(entry.status).ok()?;
            Some(((entry.source, entry.id), status))
        });
        entries.collect::<Option<HashMap<_, _>>>()
    });
    match each {
        Some(each) => Outcomes::Each(each),
        // It says that some have failed, and not which.
        None if answer.status == StatusCode::MULTI_STATUS => Outcomes::Same(None),
        None => Outcomes::Same(Some(answer.status)),
    }
}

/// What the body of an answer to one event says of it: JSON with a `status`, as applications of Dapr answer
/// (<https://docs.dapr.io/reference/api/pubsub_api/#expected-http-response>).
pub(super) fn said(answer: &Answer) -> Said {
    if !is_json(answer) {
        return Said::Done;
    }
    let Ok(body) = &answer.body else {
        // What broke off, or is too long, may have said that it is to come again.
        return Said::Again;
    };
    // What is no object says nothing.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Said::Done;
    }
    match serde_json::from_slice::<OfOne>(body).map(|body| body.status) {
        Err(_) | Ok(None) => Said::Done,
        Ok(Some(Value::String(status))) => match &*status {
            "" | "SUCCESS" => Said::Done,
            "DROP" => Said::Dropped,
            _ => Said::Again,
        },
        Ok(Some(_)) => Said::Again,
    }
}

fn is_json(answer: &Answer) -> bool {
    let media_type = answer.headers.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| {
        let essence = media_type.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    })
}

// === impl Outcomes ===

impl Outcomes {
    /// What was answered of an event; nothing when it must come again.
    pub(super) fn of(&self, event: &Event) -> Option<StatusCode> {
        let each = match self {
            Self::Same(status) => return *status,
            Self::Each(each) => each,
        };
        let value = |name| event.attribute(name).unwrap_or_default().to_owned();
        let exact = (Some(value("source")), value("id"));
        let found = each
            .get(&exact)
            .or_else(|| each.get(&(None, exact.1.clone())));
        found.copied()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::{HeaderMap, HeaderValue};

    use super::super::post::Unread;
    use super::*;

    fn answer(status: u16, media_type: &'static str, body: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            wait: None,
            headers,
            body: Ok(Bytes::from_static(body.as_bytes())),
        }
    }

    #[test]
    fn an_answer_may_say_what_became_of_each_event() {
        let body = r#"{"events":[{"id":"1","status":204},{"id":"2","source":"/b","status":503}]}"#;
        let outcomes = of(Some(&answer(207, "application/json; charset=utf-8", body)));
        let said = |id, source| {
            let status = outcomes.of(&Event::trusted(id, source, "t"));
            status.map(|status| status.as_u16())
        };
        assert_eq!(said("1", "/a"), Some(204));
        assert_eq!(said("2", "/b"), Some(503));
        // Neither is another source's event, nor one that is not there.
        assert_eq!(said("2", "/a"), None);
        assert_eq!(said("3", "/a"), None);
    }

    #[test]
    fn the_body_of_an_answer_may_say_what_became_of_the_event() {
        let of = |media_type, body| said(&answer(200, media_type, body));
        let json = "application/json; charset=utf-8";
        for (body, means) in [
            (r#"{"status":"SUCCESS"}"#, Said::Done),
            (r#"{"status":"RETRY","more":1}"#, Said::Again),
            (r#"{"status":"DROP"}"#, Said::Dropped),
            // What nobody knows is not taken for done.
            (r#"{"status":"LATER"}"#, Said::Again),
            (r#"{"status":""}"#, Said::Done),
            (r#"{"sku":"a"}"#, Said::Done),
            (r#"{"status":7}"#, Said::Again),
            (r#"{"status":null}"#, Said::Done),
            (r#"["RETRY"]"#, Said::Done),
            // Whatever else stands there.
            (r#" {"n":1e999,"s":"\ud800","status":"RETRY"}"#, Said::Again),
            ("", Said::Done),
        ] {
            assert_eq!(of(json, body), means, "{body}");
        }
        assert_eq!(of("text/plain", r#"{"status":"RETRY"}"#), Said::Done);
        let mut broken = answer(200, json, "");
        broken.body = Err(Unread::Broken);
        assert_eq!(said(&broken), Said::Again);
    }

    #[test]
    fn an_answer_that_says_nothing_of_each_says_the_same_of_all() {
        let same = |status, media_type, body| match of(Some(&answer(status, media_type, body))) {
            Outcomes::Same(status) => status.map(|status| status.as_u16()),
            each => panic!("{each:?}"),
        };
        assert_eq!(same(200, "text/plain", "{\"events\":[]}"), Some(200));
        assert_eq!(same(202, "application/json", "{\"ok\":true}"), Some(202));
        assert_eq!(same(500, "application/json", "{\"events\":[]}"), Some(500));
        // Some have failed, and nobody knows which.
        assert_eq!(same(207, "application/json", "{"), None);
        assert_eq!(
            same(
                207,
                "application/json",
                "{\"events\":[{\"id\":\"1\",\"status\":9}]}"
            ),
            None
        );
        assert_eq!(of(None), Outcomes::Same(None));
        // What broke off may have said that some have failed.
        let mut broken = answer(200, "application/json", "");
        broken.body = Err(Unread::Broken);
        assert_eq!(of(Some(&broken)), Outcomes::Same(None));
    }
}
