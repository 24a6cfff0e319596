//! `directResponse`.

use anyhow::Result;
use bytes::Bytes;
use http::Method;

use super::world;

#[tokio::test]
async fn a_direct_response_is_what_the_rule_says_and_the_service_hears_nothing() -> Result<()> {
    let (_mesh, orders, client) = world(
        "    - name: closed\n      directResponse: { status: 503, body: closed }\n    \
         - matches: [{ path: { type: Exact, value: /json } }]\n      \
         directResponse: { status: 200, body: \"{}\", contentType: application/json }\n    \
         - matches: [{ path: { type: Exact, value: /nothing } }]\n      \
         directResponse: { status: 204 }\n",
    )
    .await?;
    let closed = client.get("http://orders/").await?;
    assert_eq!((closed.status, closed.body.as_str()), (503, "closed"));
    assert_eq!(closed.headers["content-type"], "text/plain; charset=utf-8");
    // It is an answer, no failure of the mesh.
    assert_eq!(closed.reason(), "");
    let json = client.get("http://orders/json").await?;
    assert_eq!((json.status, json.body.as_str()), (200, "{}"));
    assert_eq!(json.headers["content-type"], "application/json");
    let nothing = client.get("http://orders/nothing").await?;
    assert_eq!((nothing.status, nothing.body.as_str()), (204, ""));
    let head = client
        .send(Method::HEAD, "http://orders/", &[], Bytes::new())
        .await?;
    assert_eq!((head.status, head.body.as_str()), (503, ""));
    assert_eq!(head.headers["content-length"], "6");
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}
