//! Whose a key is.

use anyhow::Result;

use super::{World, documents, is_replayed, ledger, pay, post, until};
use crate::access::consumer;

const ACME: &str = "mk_acme1_secret0123456789secret0123456789";
const OTHER: &str = "mk_other1_secret0123456789secret012345678";

#[tokio::test]
async fn the_same_key_of_another_principal_is_another_key() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    let app = world.mesh.client("app").await?;
    // By the workload that calls, where nobody has credentials.
    assert_eq!(pay(&world.web, "a", "10 EUR").await?.body, "payment 0");
    let other = pay(&app, "a", "10 EUR").await?;
    assert_eq!(other.body, "payment 1");
    assert!(!is_replayed(&other));
    assert_eq!(
        pay(&app, "a", "11 EUR").await?.reason(),
        "idempotency_conflict"
    );
    assert_eq!(pay(&world.web, "a", "10 EUR").await?.body, "payment 0");

    // By the consumer, whichever workload it comes by.
    let yaml = documents("{}", "  auth: { apiKey: {} }\n")
        + &consumer("acme", "gold", ACME, "")?
        + &consumer("other", "gold", OTHER, "")?;
    world.mesh.write("routes.yaml", &yaml)?;
    let paid = async |client, key: &str| {
        let headers = [("idempotency-key", "b"), ("x-api-key", key)];
        post(client, "/payments", &headers, "10 EUR").await
    };
    until("the keys are asked for, and known", async || {
        let without = pay(&world.web, "b", "10 EUR").await?;
        Ok(without.status == 401
            && paid(&world.web, ACME).await?.status == 201
            && paid(&app, OTHER).await?.status == 201)
    })
    .await?;
    let (acme, other) = (paid(&world.web, ACME).await?, paid(&app, OTHER).await?);
    assert_ne!(acme.body, other.body);
    assert_eq!(paid(&app, ACME).await?.body, acme.body);
    assert_eq!(paid(&world.web, OTHER).await?.body, other.body);
    let again = world.app.requests();
    assert_eq!(paid(&world.web, ACME).await?.body, acme.body);
    assert_eq!(world.app.requests(), again);
    Ok(())
}

#[tokio::test]
async fn who_may_not_enter_learns_nothing_of_what_is_kept() -> Result<()> {
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n";
    let world = World::of("{}", access, ledger()).await?;
    let app = world.mesh.client("app").await?;
    until("it may enter", async || {
        Ok(pay(&world.web, "a", "1").await?.status == 201)
    })
    .await?;
    for body in ["1", "2"] {
        let refused = pay(&app, "a", body).await?;
        assert_eq!((refused.status, refused.reason()), (403, "not_permitted"));
    }
    Ok(())
}
