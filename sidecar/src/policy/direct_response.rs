//! Direct response: one answer, made by the mesh, for every request.
//!
//! Phase: instead of any attempt, in the caller's sidecar. From `ApiRoute.rules[].directResponse`.
//! The client sees the status, body and content type of the rule; it is no refusal, so it carries
//! no reason.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use wire::mesh;

use crate::proxy::body::ResponseBody;

/// The answer.
#[derive(Debug)]
pub struct DirectResponse {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

// === build ===

impl DirectResponse {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::DirectResponse) -> Result<Self, String> {
        let status = u16::try_from(sent.status).ok();
        let status = status
            .filter(|status| (200..600).contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok())
            .ok_or_else(|| format!("{} is no status of an answer", sent.status))?;
        let content_type = match sent.content_type.as_str() {
            "" => None,
            text => {
                let value = HeaderValue::from_str(text);
                Some(value.map_err(|_| "the content type cannot be sent".to_owned())?)
            }
        };
        if [204, 205, 304].contains(&status.as_u16()) && !sent.body.is_empty() {
            return Err(format!("an answer of status {status} has no body"));
        }
        Ok(Self {
            status,
            content_type,
            body: sent.body.into(),
        })
    }

    // === request ===

    /// The answer; `head` when its body was not asked for.
    pub fn answer(&self, head: bool) -> Response<ResponseBody> {
        let body = if head {
            Bytes::new()
        } else {
            self.body.clone()
        };
        let mut response = Response::new(ResponseBody::mesh(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = &self.content_type {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        if head && !self.body.is_empty() {
            // As long as it would be, and not there (RFC 9110 section 9.3.2).
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;

    fn sent(status: u32, body: &str, content_type: &str) -> mesh::DirectResponse {
        mesh::DirectResponse {
            status,
            body: body.into(),
            content_type: content_type.into(),
        }
    }

    #[test]
    fn the_answer_to_head_is_as_long_and_not_there() {
        let direct = DirectResponse::build(sent(200, "hello", "text/plain")).unwrap();
        let (whole, head) = (direct.answer(false), direct.answer(true));
        assert_eq!(whole.body().size_hint().exact(), Some(5));
        assert_eq!(head.headers()[CONTENT_LENGTH], "5");
        assert_eq!(head.headers()[CONTENT_TYPE], "text/plain");
        assert_eq!(head.body().size_hint().exact(), Some(0));
    }

    #[test]
    fn what_is_no_answer_is_rejected() {
        for bad in [
            sent(199, "", ""),
            sent(600, "", ""),
            sent(200, "", "a\r\nb"),
            sent(204, "a", ""),
            sent(304, "a", ""),
        ] {
            assert!(DirectResponse::build(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
