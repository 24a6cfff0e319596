//! Calls that are carried out once, in a cluster: what the API server refuses.

use anyhow::Result;

use crate::installation::installed;
use crate::shop::Shop;

#[tokio::test]
async fn the_api_server_refuses_what_an_api_route_can_not_say_of_idempotency() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    for (spec, says) in [
        ("protocol: TCP, idempotency: {}", "nobody reads requests"),
        ("idempotency: {window: 169h}", "for 1s to 168h"),
        ("idempotency: {timeout: 11m}", "may take 1s to 10m"),
        ("idempotency: {methods: [GET]}", "Unsupported value"),
        (
            "idempotency: {releaseOn: [200]}",
            "should be greater than or equal to 400",
        ),
        ("idempotency: {onStoreFailure: Allow}", "written with store"),
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
