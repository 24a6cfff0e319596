//! `rewrite`.

use anyhow::Result;

use super::world;

#[tokio::test]
async fn a_rewritten_request_arrives_with_another_host_and_path_and_its_own_query() -> Result<()> {
    let (_mesh, orders, client) = world(
        "    - matches: [{ path: { type: Prefix, value: /v1/ } }]\n      \
         rewrite: { path: { type: ReplacePrefix, value: /api } }\n    \
         - matches: [{ path: { type: Prefix, value: /away } }]\n      \
         rewrite: { path: { type: ReplacePrefix, value: / } }\n    \
         - matches: [{ path: { type: Prefix, value: /whole } }]\n      \
         rewrite: { path: { type: ReplaceFull, value: /all }, host: legacy.example }\n    \
         - matches: [{ path: { type: Prefix, value: /host } }]\n      \
         rewrite: { host: other }\n    \
         - name: rest\n",
    )
    .await?;
    for (sent, host, target) in [
        ("/v1", "orders", "/api"),
        ("/v1/", "orders", "/api/"),
        ("/v1/a/b?c=/v1/d", "orders", "/api/a/b?c=/v1/d"),
        ("/away", "orders", "/"),
        ("/away/a%2Fb?x", "orders", "/a%2Fb?x"),
        ("/whole/a?b=c", "legacy.example", "/all?b=c"),
        ("/host/a?b", "other", "/host/a?b"),
        ("/v1x?y", "orders", "/v1x?y"),
    ] {
        let answer = client.get(&format!("http://orders{sent}")).await?;
        assert_eq!(answer.status, 200, "{sent}: {answer:?}");
        let seen = orders.upstream.seen().pop().expect("a request");
        let arrived = (
            seen.headers["host"].to_str()?.to_owned(),
            seen.target.clone(),
        );
        assert_eq!(arrived, (host.to_owned(), target.to_owned()), "{sent}");
    }
    Ok(())
}
