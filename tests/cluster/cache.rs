//! Answers that are kept, in a cluster: what the API server refuses.

use anyhow::Result;

use crate::installation::installed;
use crate::shop::Shop;

#[tokio::test]
async fn the_api_server_refuses_what_an_api_route_can_not_say_of_a_cache() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    for (spec, says) in [
        ("protocol: GRPC, cache: {}", "gRPC has none"),
        ("protocol: TCP, cache: {}", "nobody reads requests"),
        (
            "cache: {maxBytes: 70000, maxEntryBytes: 20000}",
            "a quarter of maxBytes at most",
        ),
        ("cache: {defaultTTL: 25h}", "is kept for 24h at most"),
        (
            "cache: {keyHeaders: [a, A]}",
            "two of the headers have the same name",
        ),
        ("cache: {keyQuery: [a, a]}", "keyQuery"),
        ("cache: {atCaller: {maxAge: 2m}}", "for 1s to 1m"),
    ] {
        let wrong = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
             metadata: {{name: orders, namespace: {}}}\nspec: {{hosts: [orders], {spec}}}\n",
            shop.namespace
        );
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    Ok(())
}
