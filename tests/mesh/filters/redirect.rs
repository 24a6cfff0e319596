//! `redirect`.

use anyhow::Result;
use bytes::Bytes;
use http::Method;

use super::world;

#[tokio::test]
async fn a_redirected_request_is_told_where_to_ask_and_not_sent_on() -> Result<()> {
    let (_mesh, orders, client) = world(
        "    - matches: [{ path: { type: Prefix, value: /tls } }]\n      \
         redirect: { scheme: https }\n    \
         - matches: [{ path: { type: Prefix, value: /host } }]\n      \
         redirect: { host: example.org, statusCode: 301 }\n    \
         - matches: [{ path: { type: Prefix, value: /port } }]\n      \
         redirect: { port: 8083, statusCode: 307 }\n    \
         - matches: [{ path: { type: Prefix, value: /prefix } }]\n      \
         redirect: { path: { type: ReplacePrefix, value: /new }, statusCode: 308 }\n    \
         - matches: [{ path: { type: Prefix, value: /full } }]\n      \
         redirect: { path: { type: ReplaceFull, value: /all }, statusCode: 303 }\n    \
         - matches: [{ path: { type: Prefix, value: /every } }]\n      \
         redirect: { scheme: https, host: example.org, port: 8443, path: { type: ReplacePrefix, value: / } }\n",
    )
    .await?;
    for (path, status, location) in [
        ("/tls/a?b=c", 302, "https://orders/tls/a?b=c"),
        ("/host/a", 301, "http://example.org/host/a"),
        ("/port?x", 307, "http://orders:8083/port?x"),
        ("/prefix/a/b?c", 308, "http://orders/new/a/b?c"),
        ("/full/a?b", 303, "http://orders/all?b"),
        ("/every/a", 302, "https://example.org:8443/a"),
    ] {
        let answer = client.get(&format!("http://orders{path}")).await?;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.headers["location"], location, "{path}");
        assert_eq!((answer.reason(), answer.body.as_str()), ("", ""));
    }
    let body = Bytes::from_static(b"not read");
    let posted = client
        .send(Method::POST, "http://orders/tls", &[], body)
        .await?;
    assert_eq!(posted.status, 302);
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}
