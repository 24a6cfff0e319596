//! What was bought: `GET /orders?customer={id}`. There are two versions of this service: the second
//! one says what an order costs as well.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::server::{self, Reply};

/// How long `GET /orders/slow` takes.
pub const SLOW: Duration = Duration::from_secs(2);

/// Which of its versions a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that everybody uses.
    V1,
    /// The one that is being tried out.
    V2,
}

/// One order.
struct Order {
    id: u32,
    customer: u32,
    item: &'static str,
    quantity: u32,
    cents: u32,
}

const ORDERS: [Order; 3] = [
    Order {
        id: 1001,
        customer: 1,
        item: "teapot",
        quantity: 1,
        cents: 2900,
    },
    Order {
        id: 1002,
        customer: 1,
        item: "lamp",
        quantity: 2,
        cents: 9000,
    },
    Order {
        id: 1003,
        customer: 2,
        item: "kettle",
        quantity: 1,
        cents: 4500,
    },
];

/// Answers one request.
pub async fn answer(version: Version, request: Request<Incoming>) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/orders") => {
            server::json(StatusCode::OK, &list(version, customer(&request)))
        }
        (&Method::GET, "/orders/slow") => {
            tokio::time::sleep(SLOW).await;
            server::json(StatusCode::OK, &list(version, None))
        }
        (&Method::GET, _) => server::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "there are only /orders"}),
        ),
        _ => server::json(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "orders are only read"}),
        ),
    }
}

/// The customer that the query asks about.
fn customer(request: &Request<Incoming>) -> Option<u32> {
    let mut parameters = request.uri().query()?.split('&');
    parameters
        .find_map(|one| one.strip_prefix("customer="))?
        .parse()
        .ok()
}

/// Orders of one customer, or all.
fn list(version: Version, customer: Option<u32>) -> Value {
    let orders = ORDERS
        .iter()
        .filter(|order| customer.is_none_or(|id| id == order.customer));
    let orders = orders.map(|order| {
        let mut value = json!({"id": order.id, "item": order.item, "quantity": order.quantity});
        if version == Version::V2 {
            value["cents"] = order.cents.into();
        }
        value
    });
    json!({"version": version.name(), "orders": orders.collect::<Vec<_>>()})
}

// === impl Version ===

impl Version {
    /// As in `ORDERS_VERSION` and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }

    /// The version of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Version::V1, Version::V2]
            .into_iter()
            .find(|version| version.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_says_what_an_order_costs_and_the_first_does_not() {
        let (first, second) = (list(Version::V1, Some(1)), list(Version::V2, Some(1)));
        assert_eq!(first["orders"].as_array().unwrap().len(), 2);
        assert_eq!(first["orders"][0].get("cents"), None);
        assert_eq!(second["orders"][0]["cents"], 2900);
    }

    #[test]
    fn a_customer_sees_only_the_own_orders() {
        assert_eq!(list(Version::V1, Some(2))["orders"][0]["id"], 1003);
        assert_eq!(list(Version::V1, Some(3))["orders"], json!([]));
    }
}
