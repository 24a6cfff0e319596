//! RetryPolicies in a cluster: applied, refused by the schema, enforced, and said to be.

use anyhow::{Result, ensure};
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::shop::{Shop, condition};

fn policy(shop: &Shop, spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{name: endpoints, namespace: {}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: orders}}], {spec}}}\n",
        shop.namespace
    )
}

#[tokio::test]
async fn an_applied_retry_policy_is_enforced_by_every_sidecar_and_says_so() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 2)]).await?;
    for spec in [
        "loadBalancing: {type: RoundRobin, slowStart: 30s}",
        "loadBalancing: {type: ConsistentHash, hashOn: {type: Header, name: x-user}}",
        "maxRetries: 1, perTryTimeout: 1s, budget: {percent: 10}, circuitBreaker: {}",
    ] {
        shop.cluster.apply(&policy(&shop, spec)).await?;
        // A replica may tell of a sidecar more a moment after all that were known had it.
        let object = wait_until("all sidecars enforce it", PODS, async || {
            shop.enforced("retrypolicy", "endpoints").await?;
            let object = shop.of_kind("rp", "endpoints").await?;
            for type_ in ["Accepted", "ResolvedRefs", "Programmed"] {
                let condition = condition(&object, type_);
                ensure!(condition["status"] == "True", "{condition}");
            }
            Ok(object)
        })
        .await?;
        let target = format!("orders.{}", shop.namespace);
        assert_eq!(object["status"]["target"], target, "{object}");
    }
    let columns = shop
        .cluster
        .kubectl(&["get", "meshwright", "-n", &shop.namespace])
        .await?;
    for column in ["endpoints", "TARGET", "ACCEPTED", "PROGRAMMED", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }

    let lost = policy(&shop, "loadBalancing: {type: LeastRequest}")
        .replace("name: orders}", "name: ordres}");
    shop.cluster.apply(&lost).await?;
    let accepted = wait_until("the target is missed", PODS, async || {
        let object = shop.of_kind("retrypolicy", "endpoints").await?;
        let accepted = condition(&object, "Accepted");
        ensure!(accepted["reason"] == "TargetNotFound", "{accepted}");
        Ok(accepted)
    })
    .await?;
    assert_eq!(accepted["status"], "False");
    let message = accepted["message"].as_str().unwrap_or_default();
    assert!(message.contains("did you mean \"orders\"?"), "{message}");
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_what_a_retry_policy_can_not_say() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    for (spec, says) in [
        ("", "without any it says nothing"),
        ("loadBalancing: {type: ConsistentHash}", "has hashOn"),
        (
            "loadBalancing: {type: ConsistentHash, hashOn: {type: Source}, slowStart: 30s}",
            "has no slowStart",
        ),
        ("loadBalancing: {slowStart: 16m}", "slowStart is 1s to 15m"),
        (
            "healthCheck: {path: /a, interval: 5s, timeout: 6s}",
            "timeout is longer than interval",
        ),
        ("healthCheck: {path: a}", "spec.healthCheck.path"),
        ("maxRetries: 11", "spec.maxRetries"),
        ("backoff: {initial: 10s}", "initial is longer than max"),
        (
            "retryOn: {grpcCodes: [Unavailable]}",
            "every gRPC call is a POST",
        ),
        ("budget: {percent: 101}", "spec.budget.percent"),
        (
            "circuitBreaker: {openFor: 10m, maxOpenFor: 1m}",
            "openFor is longer than maxOpenFor",
        ),
    ] {
        let wrong = policy(&shop, spec);
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    let rule = "{kind: ApiRoute, name: orders, sectionName: get}";
    for field in [
        "budget: {}",
        "circuitBreaker: {}",
        "loadBalancing: {}",
        "healthCheck: {path: /}",
    ] {
        let wrong = policy(&shop, field).replace("{kind: Service, name: orders}", rule);
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        let says = "is one for a whole destination";
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    Ok(())
}
