//! RateLimits in a cluster: applied, refused by the schema, enforced, and said to be.

use anyhow::{Result, ensure};
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::shop::{Shop, condition};

fn limit(shop: &Shop, spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\n\
         metadata: {{name: limits, namespace: {}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: orders}}], {spec}}}\n",
        shop.namespace
    )
}

#[tokio::test]
async fn an_applied_rate_limit_is_enforced_by_every_pod_and_says_so() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 2)]).await?;
    for spec in [
        "limits: [{name: all, requests: 100, per: 1s, key: {type: Identity}}]",
        "limits: [{name: all, requests: 5, per: 1h, key: {type: ClientIP, trustedHops: 1}}]",
    ] {
        shop.cluster.apply(&limit(&shop, spec)).await?;
        shop.enforced("ratelimit", "limits").await?;
        let object = shop.of_kind("rl", "limits").await?;
        for type_ in ["Accepted", "ResolvedRefs", "Programmed"] {
            assert_eq!(condition(&object, type_)["status"], "True", "{object}");
        }
        let target = format!("orders.{}", shop.namespace);
        assert_eq!(object["status"]["target"], target, "{object}");
        // For the pods of its Service alone.
        assert_eq!(object["status"]["programmed"], "2/2", "{object}");
    }
    let lost = limit(&shop, "limits: [{name: all, requests: 1, per: 1s}]")
        .replace("name: orders}", "name: ordres}");
    shop.cluster.apply(&lost).await?;
    let accepted = wait_until("the target is missed", PODS, async || {
        let object = shop.of_kind("ratelimit", "limits").await?;
        let accepted = condition(&object, "Accepted");
        ensure!(accepted["reason"] == "TargetNotFound", "{accepted}");
        Ok(accepted)
    })
    .await?;
    let message = accepted["message"].as_str().unwrap_or_default();
    assert!(message.contains("did you mean \"orders\"?"), "{message}");
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_what_a_rate_limit_can_not_say() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    for (spec, says) in [
        ("headers: None", "without either it says nothing"),
        ("limits: [{name: a, requests: 0, per: 1s}]", "requests"),
        (
            "limits: [{name: a, requests: 1, per: 1ms}]",
            "per is 100ms to 24h",
        ),
        (
            "limits: [{name: a, requests: 1, per: 1s, action: Delay}]",
            "delay is written with action Delay",
        ),
        (
            "limits: [{name: a, requests: 1, per: 1s, key: {type: Header}}]",
            "Header and JWTClaim have a name",
        ),
        (
            "scope: Shared, limits: [{name: a, requests: 1, per: 1s}]",
            "store is written with scope Shared",
        ),
        (
            "quotas: [{name: a, requests: 1, per: Month}]",
            "quotas need scope Shared",
        ),
    ] {
        let wrong = limit(&shop, spec);
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    Ok(())
}
