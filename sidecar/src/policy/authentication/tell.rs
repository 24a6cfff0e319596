//! Claims that the application is told in headers.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use wire::mesh;

use super::jwt::Token;
use crate::proxy::headers;

/// Claims, and the headers that they are told in.
#[derive(Debug, Default)]
pub struct Tell(Vec<(String, HeaderName)>);

// === build ===

impl Tell {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the header that is not for claims.
    pub fn build(sent: Vec<mesh::ClaimToHeader>) -> Result<Self, String> {
        let told = sent.into_iter().map(|told| {
            let header = HeaderName::from_bytes(told.header.as_bytes());
            let header = header.map_err(|_| format!("`{}` is no header", told.header))?;
            match headers::is_of_the_mesh(&header) {
                true => Err(format!("the header `{header}` is not for claims")),
                false => Ok((told.claim, header)),
            }
        });
        told.collect::<Result<_, _>>().map(Self)
    }

    // === request ===

    /// Takes out what only a claim may say, also under a name that some applications take for the same:
    /// where headers become variables, `x_user` is `x-user` (RFC 3875 section 4.1.18).
    pub fn clear(&self, headers: &mut HeaderMap) {
        for (_, header) in &self.0 {
            headers.remove(header);
        }
        if !self.0.is_empty() {
            headers::remove(headers, |name| {
                let told = |(_, header): &(String, HeaderName)| same(header, name);
                self.0.iter().any(told)
            });
        }
    }

    /// Tells what a token says. A claim that is not there, or that no header can hold, is not told.
    pub fn tell(&self, token: &Token, headers: &mut HeaderMap) {
        for (claim, header) in &self.0 {
            if let Some(value) = token.claim(claim).and_then(text) {
                headers.insert(header, value);
            }
        }
    }
}

/// Whether two names are the same but for `_` and `-`.
fn same(one: &HeaderName, other: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (one, other) = (one.as_str().bytes(), other.as_str().bytes());
    one.map(plain).eq(other.map(plain))
}

/// A claim as a header's value.
fn text(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::String(text) => return visible(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Array(list) => {
            // A comma within one would make two of it.
            let texts = list
                .iter()
                .map(|one| one.as_str().filter(|one| !one.contains(',')));
            texts.collect::<Option<Vec<_>>>()?.join(",")
        }
        Value::Null | Value::Object(_) => return None,
    };
    visible(&text)
}

/// Without bytes that servers read in different ways.
fn visible(text: &str) -> Option<HeaderValue> {
    let fits = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    fits.then(|| HeaderValue::from_str(text.trim()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_told_as_one_value_or_not_at_all() {
        for (claim, expected) in [
            (json!("a b"), Some("a b")),
            (json!(17), Some("17")),
            (json!(true), Some("true")),
            (json!(["a", "b"]), Some("a,b")),
            (json!([]), Some("")),
            (json!(["a", 1]), None),
            (json!(["a,b"]), None),
            (json!("a\r\nb: c"), None),
            (json!("ü"), None),
            (json!(null), None),
            (json!({"a": "b"}), None),
        ] {
            let told = text(&claim);
            let told = told.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(told, expected, "{claim}");
        }
    }

    #[test]
    fn nobody_sets_what_a_claim_is_told_in_under_a_name_that_means_the_same() {
        let told = mesh::ClaimToHeader {
            claim: "sub".into(),
            header: "x-user_id".into(),
        };
        let tell = Tell::build(vec![told]).unwrap();
        let mut headers = HeaderMap::new();
        for name in ["x-user_id", "x-user-id", "x_user-id", "x_user_id", "x-user"] {
            headers.append(HeaderName::from_static(name), "1".parse().unwrap());
        }
        tell.clear(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-user"]);
    }

    #[test]
    fn what_frames_a_message_or_says_who_calls_is_not_for_claims() {
        for header in [
            "content-length",
            "x-forwarded-client-cert",
            "meshwright-a",
            "a b",
        ] {
            let told = mesh::ClaimToHeader {
                claim: "sub".into(),
                header: header.into(),
            };
            assert!(Tell::build(vec![told]).is_err(), "{header}");
        }
    }
}
