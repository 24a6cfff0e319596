//! What customers see: one page composed of answers of the other three services, each called by the
//! name of its Service and nothing else.
//!
//! - `GET /?customer={id}`: the customer, the orders, and what is in stock of what was ordered
//! - `POST /buy/{item}`: takes one out of stock
//! - `GET /slow`: orders, the slow way

use bytes::Bytes;
use futures::future::{join_all, try_join};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::client::{self, Answer};
use crate::server::{self, Reply};

/// Passed on to `orders`, as services pass on the headers of tracing.
const CANARY: HeaderName = HeaderName::from_static("x-canary");

/// A service that didn't answer as it should: the page can't be composed.
struct Broken {
    service: &'static str,
    what: String,
}

/// Answers one request.
pub async fn answer(request: Request<Incoming>) -> Reply {
    let (head, _) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/") => {
            let customer = head
                .uri
                .query()
                .and_then(|query| query.strip_prefix("customer="));
            match page(customer.unwrap_or("1"), &head.headers).await {
                Ok(page) => server::json(StatusCode::OK, &page),
                Err(broken) => broken.reply(),
            }
        }
        (&Method::GET, "/slow") => {
            passed_on("orders", Method::GET, "http://orders/orders/slow").await
        }
        (&Method::POST, path) if path.starts_with("/buy/") => {
            let item = &path["/buy/".len()..];
            let url = format!("http://inventory/items/{item}/reserve");
            passed_on("inventory", Method::POST, &url).await
        }
        _ => server::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "try /, /?customer=2 or /slow"}),
        ),
    }
}

/// The page of one customer.
async fn page(customer: &str, headers: &HeaderMap) -> Result<Value, Broken> {
    let customer_url = format!("http://customers/customers/{customer}");
    let orders_url = format!("http://orders/orders?customer={customer}");
    let nothing = HeaderMap::new();
    let (customer, mut orders) = try_join(
        part("customers", &customer_url, &nothing),
        part("orders", &orders_url, headers),
    )
    .await?;
    let empty = &mut Vec::new();
    let lines = orders["orders"].as_array_mut().unwrap_or(empty);
    let stock = join_all(lines.iter().map(|line| {
        let item = line["item"].as_str().unwrap_or_default();
        let url = format!("http://inventory/items/{item}");
        async move { part("inventory", &url, &HeaderMap::new()).await }
    }));
    for (line, stock) in lines.iter_mut().zip(stock.await) {
        line["inStock"] = stock?["inStock"].take();
    }
    Ok(json!({
        "customer": customer["name"],
        "orders": orders["orders"],
        "ordersVersion": orders["version"],
    }))
}

/// One part of a page.
async fn part(service: &'static str, url: &str, headers: &HeaderMap) -> Result<Value, Broken> {
    let mut own = HeaderMap::new();
    if let Some(canary) = headers.get(CANARY) {
        own.insert(CANARY, canary.clone());
    }
    let broken = |what: String| Broken { service, what };
    let answer = client::call(Method::GET, url, own)
        .await
        .map_err(|error| broken(format!("{error:#}")))?;
    if answer.status != StatusCode::OK {
        return Err(broken(format!(
            "{}: {}",
            answer.status,
            answer.text().trim()
        )));
    }
    serde_json::from_slice(&answer.body).map_err(|error| broken(error.to_string()))
}

/// Another service's answer, as it is.
async fn passed_on(service: &'static str, method: Method, url: &str) -> Reply {
    match client::call(method, url, HeaderMap::new()).await {
        Ok(Answer {
            status,
            headers,
            body,
        }) => {
            let mut reply = Response::new(Full::<Bytes>::new(body));
            *reply.status_mut() = status;
            if let Some(kind) = headers.get(CONTENT_TYPE) {
                reply.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            reply
        }
        Err(error) => Broken {
            service,
            what: format!("{error:#}"),
        }
        .reply(),
    }
}

// === impl Broken ===

impl Broken {
    fn reply(&self) -> Reply {
        let value = json!({"error": format!("{} did not answer as it should", self.service), "what": self.what});
        server::json(StatusCode::BAD_GATEWAY, &value)
    }
}
