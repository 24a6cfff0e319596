//! `cors`.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tests::client::{Answer, Client};

use super::world;

const RULES: &str = "    - name: get\n      \
    matches: [{ path: { type: Prefix, value: /api }, method: GET }]\n      \
    cors: &cors\n        \
    allowOrigins: [\"https://shop.example\", \"https://*.shop.example\"]\n        \
    allowMethods: [PUT]\n        allowHeaders: [X-Tenant]\n        exposeHeaders: [X-Total]\n        \
    allowCredentials: true\n        maxAge: 10m\n    \
    - name: put\n      matches: [{ path: { type: Prefix, value: /api }, method: PUT }]\n      \
    cors: *cors\n    \
    - name: broken\n      matches: [{ path: { type: Prefix, value: /api/broken } }]\n      \
    cors: *cors\n      backendRefs: [{ name: nobody, port: 80 }]\n    \
    - name: public\n      matches: [{ path: { type: Prefix, value: /public } }]\n      \
    cors: { allowOrigins: [\"*\"] }\n    \
    - name: closed\n      matches: [{ path: { type: Prefix, value: /closed } }]\n      \
    cors: { allowOrigins: [\"https://shop.example\"] }\n      directResponse: { status: 503 }\n    \
    - name: own\n      matches: [{ path: { type: Prefix, value: /own } }]\n";

async fn preflight(client: &Client, path: &str, origin: &str, method: &str) -> Result<Answer> {
    let url = format!("http://orders{path}");
    let headers = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "x-tenant"),
    ];
    client
        .send(Method::OPTIONS, &url, &headers, Bytes::new())
        .await
}

/// The headers of CORS that an answer has, and `Vary`.
fn said(answer: &Answer) -> Vec<String> {
    let mut said: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-") || *name == "vary")
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    said.sort();
    said
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_sidecar_with_what_the_rule_allows() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    // Also where the rule of the request has another method than OPTIONS, and where none has this.
    for method in ["GET", "PUT", "DELETE"] {
        let origin = "https://eu.shop.example";
        let answer = preflight(&client, "/api/cart", origin, method).await?;
        assert_eq!((answer.status, answer.reason()), (204, ""), "{method}");
        assert_eq!(
            said(&answer),
            [
                "access-control-allow-credentials: true",
                "access-control-allow-headers: X-Tenant",
                "access-control-allow-methods: PUT",
                "access-control-allow-origin: https://eu.shop.example",
                "access-control-max-age: 600",
                "vary: Origin",
            ],
            "{method}"
        );
    }
    for origin in ["https://evil.example", "https://a.b.shop.example", "null"] {
        let answer = preflight(&client, "/api/cart", origin, "GET").await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (403, "origin_not_allowed")
        );
        assert_eq!(said(&answer), [""; 0], "{origin}");
    }
    // A rule whose backend is missing can answer a preflight all the same.
    let answer = preflight(&client, "/api/broken", "https://shop.example", "POST").await?;
    assert_eq!(answer.status, 204);
    assert_eq!(orders.upstream.requests(), 0);

    // One that says nothing of CORS leaves it to the application.
    orders
        .upstream
        .adds("access-control-allow-origin", "of the application");
    let answer = preflight(&client, "/own", "https://evil.example", "GET").await?;
    assert_eq!(answer.status, 200);
    assert_eq!(
        said(&answer),
        ["access-control-allow-origin: of the application"]
    );
    assert_eq!(orders.upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn answers_say_who_may_read_them_in_place_of_what_the_backend_says() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    orders.upstream.adds("access-control-allow-origin", "*");
    orders.upstream.adds("access-control-allow-headers", "*");
    orders.upstream.adds("vary", "accept");
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let url = format!("http://orders{path}");
        client.get_with(&url, headers).await
    };
    let allowed = [("origin", "https://shop.example")];
    let answer = get("/api", &allowed).await?;
    assert_eq!(
        said(&answer),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://shop.example",
            "access-control-expose-headers: X-Total",
            "vary: Origin",
            "vary: accept",
        ]
    );
    // Others are answered too: it is the browser that keeps the answer from the page.
    for headers in [&[("origin", "https://evil.example")][..], &[]] {
        let answer = get("/api", headers).await?;
        assert_eq!(answer.status, 200);
        assert_eq!(said(&answer), ["vary: Origin", "vary: accept"]);
    }
    let answer = get("/public", &[("origin", "https://evil.example")]).await?;
    let everybody = ["access-control-allow-origin: *", "vary: accept"];
    assert_eq!(said(&answer), everybody);
    Ok(())
}

#[tokio::test]
async fn a_page_can_read_why_the_mesh_did_not_answer_its_request() -> Result<()> {
    let (_mesh, _orders, client) = world(RULES).await?;
    let allowed = [("origin", "https://shop.example")];
    let missing = client
        .send(
            Method::POST,
            "http://orders/api/broken",
            &allowed,
            Bytes::new(),
        )
        .await?;
    assert_eq!((missing.status, missing.reason()), (503, "backend_missing"));
    let direct = client.get_with("http://orders/closed", &allowed).await?;
    assert_eq!((direct.status, direct.reason()), (503, ""));
    for answer in [missing, direct] {
        let origin = &answer.headers["access-control-allow-origin"];
        assert_eq!(origin, "https://shop.example");
        assert_eq!(answer.headers["vary"], "Origin");
    }
    Ok(())
}
