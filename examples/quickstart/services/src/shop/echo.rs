//! What arrives: answers every request with itself, to see what became of it on its way.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::server::{self, Reply};

/// Answers one request.
pub async fn answer(request: Request<Incoming>) -> Reply {
    let (head, _) = request.into_parts();
    let mut headers: Map<String, Value> = Map::new();
    for name in head.headers.keys() {
        let lines = head.headers.get_all(name).iter();
        let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
        headers.insert(name.to_string(), json!(Vec::from_iter(lines).join(", ")));
    }
    let value = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
    });
    server::json(StatusCode::OK, &value)
}
