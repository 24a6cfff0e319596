//! Who may enter, in a cluster: Secrets of consumers, service accounts, and what the API server refuses.

use anyhow::{Result, ensure};
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::shop::Shop;

fn route(shop: &Shop, spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{name: orders, namespace: {}}}\nspec: {{hosts: [orders], {spec}}}\n",
        shop.namespace
    )
}

/// The consumer `acme` with the key `mk_acme1_secret`.
fn consumer(shop: &Shop) -> String {
    let hash = "90fe579becfdbb65dc465eb170291c0f215bea042be669bad8f1c906cbdb10ef";
    format!(
        "apiVersion: v1\nkind: Secret\ntype: meshwright.dev/api-key\nmetadata: {{name: acme, namespace: \
         {}, labels: {{meshwright.dev/consumer: acme}}}}\nstringData: {{keyID: acme1, keyHash: \
         \"sha256:{hash}\"}}\n",
        shop.namespace,
    )
}

#[tokio::test]
async fn a_service_account_and_a_consumer_enter_where_an_api_route_lets_them_in() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 2)]).await?;
    let status =
        async |query: &str| anyhow::Ok(shop.get(&format!("http://orders/{query}")).await?.0);
    let until = async |what: &str, query: &str, wanted: u16| {
        wait_until(what, PODS, async || {
            let status = status(query).await?;
            ensure!(status == wanted, "{status}");
            Ok(())
        })
        .await
    };
    let apply = async |spec: &str| {
        shop.cluster.apply(&route(&shop, spec)).await?;
        shop.enforced("apiroute", "orders").await
    };
    apply("authorization: {rules: [{principals: {serviceAccounts: [cron]}}]}").await?;
    until("web is refused", "", 403).await?;
    apply("authorization: {rules: [{principals: {serviceAccounts: [web]}}]}").await?;
    until("web is let in", "", 200).await?;

    apply("auth: {apiKey: {in: Query, name: key}}").await?;
    until("a key is asked for", "", 401).await?;
    assert_eq!(status("?key=mk_acme1_secret").await?, 401);
    shop.cluster.apply(&consumer(&shop)).await?;
    until("the key is taken", "?key=mk_acme1_secret", 200).await?;
    assert_eq!(status("?key=mk_acme1_other").await?, 401);
    let namespace = ["-n", &shop.namespace];
    let delete = [&["delete", "secret", "acme"][..], &namespace].concat();
    shop.cluster.kubectl(&delete).await?;
    until("the key has ended", "?key=mk_acme1_secret", 401).await?;

    // A mistake opens nothing, and is told at once.
    let wrong = "authorization: {rules: [{principals: {roles: [nobody]}}]}";
    let refused = shop.cluster.apply(&route(&shop, wrong)).await;
    let refused = refused.expect_err("a role that is not there").to_string();
    assert!(refused.contains("there is no role \"nobody\""), "{refused}");
    assert_eq!(status("").await?, 401);
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_what_an_api_route_can_not_say_of_access() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let issuer = |more: &str| format!("auth: {{jwt: [{{issuer: a, audiences: [b], {more}}}]}}");
    for (spec, says) in [
        (
            "auth: {}".to_owned(),
            "without any there is nothing to check",
        ),
        (issuer("jwks: {}"), "write uri or inline"),
        (issuer("jwks: {uri: 'ftp://a'}"), "jwks.uri"),
        (
            issuer("jwks: {uri: 'https://a/b'}, clockSkew: 6m"),
            "clocks that are more than 5m apart",
        ),
        (
            issuer("jwks: {uri: 'https://a/b'}, from: [{in: Query, name: a, prefix: b}]"),
            "only in a header a token stands behind a prefix",
        ),
        (
            issuer("jwks: {uri: 'https://a/b'}, claimsToHeaders: [{claim: a, header: Host}]"),
            "it is not for claims",
        ),
        (
            "auth: {require: Optional, apiKey: {}}".to_owned(),
            "write authorization, which says who may",
        ),
        (
            "protocol: TCP, auth: {apiKey: {}}".to_owned(),
            "nobody reads requests, so no credentials",
        ),
        (
            "authorization: {rules: [{action: Deny}]}".to_owned(),
            "rules that only deny let nobody in",
        ),
        (
            "authorization: {rules: [{principals: {}}]}".to_owned(),
            "principals names nobody",
        ),
        (
            "authorization: {rules: [{principals: {namespaces: []}}]}".to_owned(),
            "namespaces",
        ),
    ] {
        let wrong = route(&shop, &spec);
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    Ok(())
}
