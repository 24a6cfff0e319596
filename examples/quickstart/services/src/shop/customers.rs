//! Who buys here: `GET /customers/{id}`.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::server::{self, Reply};

/// Name and number of every customer.
const CUSTOMERS: [(u32, &str); 2] = [(1, "Ada"), (2, "Grace")];

/// Answers one request.
pub async fn answer(request: Request<Incoming>) -> Reply {
    let id = request
        .uri()
        .path()
        .strip_prefix("/customers/")
        .and_then(|id| id.parse().ok());
    let customer = CUSTOMERS.iter().find(|(known, _)| Some(*known) == id);
    match (request.method(), customer) {
        (&Method::GET, Some((id, name))) => {
            server::json(StatusCode::OK, &json!({"id": id, "name": name}))
        }
        (&Method::GET, None) => {
            server::json(StatusCode::NOT_FOUND, &json!({"error": "no such customer"}))
        }
        _ => server::json(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "customers are only read"}),
        ),
    }
}
