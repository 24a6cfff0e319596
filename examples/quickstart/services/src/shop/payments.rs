//! What was paid: `POST /payments?cents={cents}` pays, each time that it comes; `GET /payments` tells how
//! many payments this process has made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::server::{self, Reply};

/// How long `POST /payments/slow` takes.
const SLOW: Duration = Duration::from_secs(2);

/// How many payments a process has made. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Payments(Arc<AtomicU32>);

/// Answers one request.
pub async fn answer(made: Payments, request: Request<Incoming>) -> Reply {
    let cents = cents(&request);
    match (request.method(), request.uri().path(), cents) {
        (&Method::POST, path @ ("/payments" | "/payments/slow"), Some(cents)) => {
            let number = made.0.fetch_add(1, Ordering::Relaxed) + 1;
            if path.ends_with("slow") {
                tokio::time::sleep(SLOW).await;
            }
            let paid = json!({"payment": number, "cents": cents});
            server::json(StatusCode::CREATED, &paid)
        }
        (&Method::POST, "/payments" | "/payments/slow", None) => server::json(
            StatusCode::BAD_REQUEST,
            &json!({"error": "say how much: /payments?cents=100"}),
        ),
        (&Method::GET, "/payments", _) => {
            let made = made.0.load(Ordering::Relaxed);
            server::json(StatusCode::OK, &json!({"made": made}))
        }
        _ => server::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "there are only /payments"}),
        ),
    }
}

/// How much is to be paid.
fn cents(request: &Request<Incoming>) -> Option<u32> {
    let mut parameters = request.uri().query()?.split('&');
    parameters
        .find_map(|one| one.strip_prefix("cents="))?
        .parse()
        .ok()
}
