//! Whose requests are counted together.

use anyhow::Result;
use serde_json::json;
use tests::issuer::{Issuer, in_seconds};

use super::{consumer, pass, world};

#[tokio::test]
async fn each_consumer_has_its_own_and_a_plan_and_an_override_have_more() -> Result<()> {
    let limit = "    - name: each\n      requests: 1\n      per: 1h\n      \
                 key: { type: Consumer }\n      \
                 plans: [{ name: gold, requests: 3 }]\n      \
                 overrides: [{ values: [acme], requests: 5 }]\n";
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: { name: orders, namespace: shop }\n\
                 spec:\n  hosts: [orders]\n  auth: { apiKey: {} }\n";
    let keys = [
        consumer("acme", "gold", "mk_acme1_a", "")?,
        consumer("bolt", "gold", "mk_bolt1_a", "")?,
        consumer("cork", "free", "mk_cork1_a", "")?,
    ];
    let (_mesh, _orders, client) = world(limit, &(route.to_owned() + &keys.concat())).await?;
    for (key, passed) in [("mk_acme1_a", 5), ("mk_bolt1_a", 3), ("mk_cork1_a", 1)] {
        let headers = [("x-api-key", key)];
        assert_eq!(pass(&client, 8, &headers).await?, passed, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn each_workload_that_calls_has_its_own() -> Result<()> {
    let limit = "    - { name: each, requests: 2, per: 1h, key: { type: Identity } }\n";
    let (mesh, _orders, client) = world(limit, "").await?;
    assert_eq!(pass(&client, 4, &[]).await?, 2);
    let same = mesh.client("web").await?;
    assert_eq!(pass(&same, 4, &[]).await?, 0, "two pods of one workload");
    let other = mesh.client("cart").await?;
    assert_eq!(pass(&other, 4, &[]).await?, 2);
    Ok(())
}

#[tokio::test]
async fn addresses_headers_and_both_together_are_keys() -> Result<()> {
    let limits = "    - { name: address, requests: 4, per: 1h, key: { type: ClientIP, trustedHops: 1 } }\n    \
                  - name: both\n      requests: 2\n      per: 1h\n      \
                  key: { type: Compound, parts: [{ type: ClientIP, trustedHops: 1 }, { type: Header, name: X-User }] }\n";
    let (_mesh, _orders, client) = world(limits, "").await?;
    let from = async |address: &str, user: &str| {
        let headers = [("x-forwarded-for", address), ("x-user", user)];
        pass(&client, 3, &headers).await
    };
    assert_eq!(from("6.6.6.6, 1.1.1.1", "ada").await?, 2);
    // What the caller wrote before makes no difference.
    assert_eq!(from("7.7.7.7, 1.1.1.1", "ada").await?, 0);
    assert_eq!(from("1.1.1.1", "bob").await?, 2);
    assert_eq!(
        from("1.1.1.1", "cyd").await?,
        0,
        "the address has used its own"
    );
    assert_eq!(from("2.2.2.2", "ada").await?, 2);
    Ok(())
}

#[tokio::test]
async fn claims_of_tokens_are_keys() -> Result<()> {
    let limit =
        "    - { name: each, requests: 1, per: 1h, key: { type: JWTClaim, name: tenant } }\n";
    let issuer = Issuer::new("a");
    let route = format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: orders, namespace: shop }}\n\
         spec:\n  hosts: [orders]\n  auth:\n    jwt:\n      - issuer: https://id.example\n        \
         audiences: [orders]\n        jwks: {{ inline: '{}' }}\n",
        Issuer::key_set(&[&issuer])
    );
    let (_mesh, _orders, client) = world(limit, &route).await?;
    for (tenant, passed) in [("red", 1), ("blue", 1), ("red", 0)] {
        let claims = json!({
            "iss": "https://id.example", "aud": "orders", "exp": in_seconds(600), "tenant": tenant,
        });
        let bearer = format!("Bearer {}", issuer.token(&claims));
        let headers = [("authorization", &*bearer)];
        assert_eq!(pass(&client, 3, &headers).await?, passed, "{tenant}");
    }
    Ok(())
}
