//! Two steps of an order's way, each a service that is posted events and replies with one: `payment` captures, `stock`
//! reserves. Neither knows who comes before or after it.
//!
//! A step replies the same whenever the same event comes, and its event is told by the order's: so it may be repeated.
//! What it replies carries on which order it is about (`subject`), and says what it follows (`causationid`), as the
//! [correlation extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/correlation.md) says. What all of them
//! are correlated by, it need not: replies inherit that.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::server::{self, Reply};

/// The longest order, in bytes.
const LONGEST: usize = 64 << 10;
/// How many items the catalogue may have.
const MOST_ITEMS: usize = 1000;
/// What the catalogue has at first.
const ITEMS: [&str; 3] = ["teapot", "lamp", "kettle"];

/// One of the two services.
#[derive(Clone, Debug)]
pub enum Step {
    /// Captures what an order costs.
    Payment,
    /// Reserves what was ordered, if it is in the catalogue; `PUT /items/{item}` puts it there.
    Stock(Catalogue),
}

/// What can be ordered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalogue(Arc<Mutex<BTreeSet<String>>>);

/// Answers one request.
pub async fn answer(step: Step, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let item = head.uri.path().strip_prefix("/items/");
    match (&head.method, &step, item) {
        (&Method::PUT, Step::Stock(catalogue), Some(item)) => catalogue.add(item),
        (&Method::POST, _, None) => match Limited::new(body, LONGEST).collect().await {
            Ok(order) => step.take(&head.headers, &order.to_bytes()),
            Err(_) => refused(StatusCode::BAD_REQUEST, "it is too long, or broke off"),
        },
        _ => refused(StatusCode::NOT_FOUND, "events are posted here"),
    }
}

fn refused(status: StatusCode, why: &str) -> Reply {
    server::json(status, &json!({"error": why}))
}

// === impl Step ===

impl Step {
    /// The event that follows an event.
    fn take(&self, headers: &HeaderMap, data: &[u8]) -> Reply {
        let attribute = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let order: Result<Map<String, Value>, _> = serde_json::from_slice(data);
        let (Some(id), Ok(mut order)) = (attribute("ce-id"), order) else {
            return refused(StatusCode::BAD_REQUEST, "this is no event with an order");
        };
        let item = order.get("item").and_then(Value::as_str);
        let Some(item) = item.map(str::to_owned) else {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, "it names no item");
        };
        if let Self::Stock(catalogue) = self
            && !catalogue.has(&item)
        {
            let why = format!("the catalogue has no {item}");
            return refused(StatusCode::UNPROCESSABLE_ENTITY, &why);
        }
        let (did, kind, source) = match self {
            Self::Payment => ("payment", "com.shop.payment.captured", "/payment"),
            Self::Stock(_) => ("reservation", "com.shop.stock.reserved", "/stock"),
        };
        // Whoever places an order says by its id which one it is.
        let subject = attribute("ce-subject").unwrap_or(id);
        let own = format!("{did}-{subject}");
        order.insert(did.to_owned(), own.clone().into());
        let mut reply = Response::new(Full::new(Bytes::from(Value::from(order).to_string())));
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &own),
            ("ce-source", source),
            ("ce-type", kind),
            ("ce-subject", subject),
            ("ce-causationid", id),
            ("ce-partitionkey", &item),
        ] {
            let Ok(value) = HeaderValue::from_str(value) else {
                return refused(StatusCode::UNPROCESSABLE_ENTITY, "it has strange names");
            };
            let name = HeaderName::from_static(name);
            reply.headers_mut().insert(name, value);
        }
        let json = HeaderValue::from_static("application/json");
        reply.headers_mut().insert(CONTENT_TYPE, json);
        reply
    }
}

// === impl Catalogue ===

impl Catalogue {
    fn has(&self, item: &str) -> bool {
        let items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        items.contains(item)
    }

    fn add(&self, item: &str) -> Reply {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if items.len() >= MOST_ITEMS {
            return refused(StatusCode::INSUFFICIENT_STORAGE, "the catalogue is full");
        }
        items.insert(item.to_owned());
        server::json(StatusCode::CREATED, &json!({"item": item}))
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        let items = ITEMS.into_iter().map(str::to_owned).collect();
        Self(Arc::new(Mutex::new(items)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(item: &str) -> (HeaderMap, Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", HeaderValue::from_static("1001"));
        (headers, json!({"item": item}).to_string().into_bytes())
    }

    fn attributes(reply: &Reply) -> [&str; 3] {
        ["ce-id", "ce-subject", "ce-causationid"]
            .map(|name| reply.headers()[name].to_str().unwrap_or_default())
    }

    #[test]
    fn a_step_replies_the_same_whenever_the_same_event_comes_and_says_what_it_follows() {
        let (headers, order) = placed("teapot");
        for _ in 0..2 {
            let captured = Step::Payment.take(&headers, &order);
            assert_eq!(captured.status(), StatusCode::OK);
            assert_eq!(attributes(&captured), ["payment-1001", "1001", "1001"]);
            let stock = Step::Stock(Catalogue::default());
            let reserved = stock.take(captured.headers(), &order);
            let expected = ["reservation-1001", "1001", "payment-1001"];
            assert_eq!(attributes(&reserved), expected);
        }
    }

    #[test]
    fn what_the_catalogue_does_not_have_is_refused_until_it_has_it() {
        let catalogue = Catalogue::default();
        let stock = Step::Stock(catalogue.clone());
        let (headers, order) = placed("samovar");
        let before = stock.take(&headers, &order).status();
        assert_eq!(before, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(catalogue.add("samovar").status(), StatusCode::CREATED);
        assert_eq!(stock.take(&headers, &order).status(), StatusCode::OK);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let (headers, order) = placed("teapot");
        let refusals = [
            Step::Payment.take(&HeaderMap::new(), &order),
            Step::Payment.take(&headers, b"teapot"),
            Step::Payment.take(&headers, b"{}"),
        ];
        assert_eq!(refusals.map(|one| one.status().as_u16()), [400, 400, 422]);
    }
}
