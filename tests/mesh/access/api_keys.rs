//! Keys of consumers.

use anyhow::Result;

use super::{consumer, enforced, route, until, world};

const KEYS: &str = "  auth: { apiKey: { name: X-Key } }\n";

#[tokio::test]
async fn a_request_enters_with_the_key_of_a_consumer_and_with_no_other() -> Result<()> {
    let acme = consumer("acme", "gold", "mk_acme1_secret", "")?;
    let (_mesh, orders, client) = world(KEYS, &acme).await?;
    let get = async |headers: &[(&str, &str)]| client.get_with("http://orders/", headers).await;

    let answer = get(&[]).await?;
    assert_eq!(
        (answer.status, answer.reason()),
        (401, "credentials_missing")
    );
    assert_eq!(answer.headers["www-authenticate"], "ApiKey");
    for wrong in [
        "mk_acme1_secre",
        "mk_acme1_secrets",
        "mk_acme2_secret",
        "acme",
        "",
    ] {
        let answer = get(&[("x-key", wrong)]).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (401, "credentials_invalid"),
            "{wrong}"
        );
        assert!(!answer.body.contains("acme1"), "{}", answer.body);
    }
    let twice = get(&[("x-key", "mk_acme1_secret"), ("x-key", "mk_acme1_secret")]).await?;
    assert_eq!(twice.reason(), "credentials_invalid");
    let elsewhere = get(&[("x-api-key", "mk_acme1_secret")]).await?;
    assert_eq!(elsewhere.reason(), "credentials_missing");
    assert_eq!(orders.upstream.requests(), 0);

    let answer = get(&[("x-key", "mk_acme1_secret"), ("x-other", "1")]).await?;
    assert_eq!((answer.status, answer.reason()), (200, ""));
    let seen = &orders.upstream.seen()[0];
    assert_eq!(seen.headers["x-other"], "1");
    assert!(
        !seen.headers.contains_key("x-key"),
        "the application does not get the key"
    );
    Ok(())
}

#[tokio::test]
async fn a_key_ends_with_its_secret_and_another_begins_beside_it() -> Result<()> {
    let old = consumer("acme", "gold", "mk_acme1_old", "")?;
    let (mesh, _orders, client) = world(KEYS, &old).await?;
    let status = async |key: &str| {
        let answer = client.get_with("http://orders/", &[("x-key", key)]).await?;
        anyhow::Ok(answer.status)
    };
    assert_eq!(status("mk_acme1_old").await?, 200);

    // Both at once: that is how one is replaced without a gap.
    mesh.write("new.yaml", &consumer("acme", "gold", "mk_acme2_new", "")?)?;
    until("the edit is in force", async || {
        Ok(status("mk_acme2_new").await? == 200)
    })
    .await?;
    assert_eq!(status("mk_acme1_old").await?, 200);

    let without = crate::routing::services(&["orders"]) + &route(KEYS);
    mesh.write("routes.yaml", &without)?;
    until("the edit is in force", async || {
        Ok(status("mk_acme1_old").await? == 401)
    })
    .await?;
    assert_eq!(status("mk_acme2_new").await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_key_is_taken_in_its_time_from_the_consumers_that_are_selected() -> Result<()> {
    let keys = [
        consumer(
            "past",
            "gold",
            "mk_past1_a",
            "  expiresAt: 2026-01-01T00:00:00Z\n",
        )?,
        consumer(
            "future",
            "gold",
            "mk_futu1_a",
            "  notBefore: 2126-01-01T00:00:00Z\n",
        )?,
        consumer("free", "free", "mk_free1_a", "")?,
        consumer(
            "gold",
            "gold",
            "mk_gold1_a",
            "  expiresAt: 2126-01-01T00:00:00Z\n",
        )?,
        consumer("broken", "gold", "mk_brok1_a", "  expiresAt: tomorrow\n")?,
    ];
    let selected = "  auth: { apiKey: { plans: [gold] } }\n";
    let (mesh, _orders, client) = world(selected, &keys.concat()).await?;
    for (key, status) in [
        ("mk_past1_a", 401),
        ("mk_futu1_a", 401),
        ("mk_free1_a", 401),
        ("mk_gold1_a", 200),
        ("mk_brok1_a", 401),
    ] {
        let answer = client
            .get_with("http://orders/", &[("x-api-key", key)])
            .await?;
        assert_eq!(answer.status, status, "{key}");
    }
    let verdict = mesh.verdict("orders").await?;
    let resolved = &verdict["conditions"][1];
    assert_eq!(
        (&resolved["status"], &resolved["reason"]),
        (&"False".into(), &"SecretNotUsable".into())
    );
    let message = resolved["message"].as_str().unwrap_or_default();
    assert_eq!(
        message,
        "Secret shop/consumer-brok1: expiresAt is no time of RFC 3339, such as \
         2027-01-31T00:00:00Z. Its key is not taken."
    );
    Ok(())
}

#[tokio::test]
async fn a_key_may_be_in_the_query_or_a_cookie_and_is_taken_out_of_there() -> Result<()> {
    let acme = consumer("acme", "gold", "mk_acme1_secret", "")?;
    let in_query = "  auth: { apiKey: { in: Query, name: key } }\n";
    let (mesh, orders, client) = world(in_query, &acme).await?;
    let answer = client
        .get("http://orders/a?x=%41&key=mk_acme1_secret&y")
        .await?;
    assert_eq!(answer.status, 200);
    assert_eq!(orders.upstream.seen()[0].target, "/a?x=%41&y");

    let in_cookie = route("  auth: { apiKey: { in: Cookie, name: key, forward: true } }\n");
    mesh.write(
        "routes.yaml",
        &(crate::routing::services(&["orders"]) + &in_cookie + &acme),
    )?;
    let cookie = [("cookie", "a=b; key=mk_acme1_secret")];
    until("the edit is in force", async || {
        let answer = client.get_with("http://orders/", &cookie).await?;
        Ok(answer.status == 200)
    })
    .await?;
    enforced(&mesh).await?;
    client.get_with("http://orders/", &cookie).await?;
    let seen = orders.upstream.seen();
    assert_eq!(
        seen[seen.len() - 1].headers["cookie"],
        "a=b; key=mk_acme1_secret"
    );
    Ok(())
}

#[tokio::test]
async fn no_key_and_no_hash_is_written_anywhere() -> Result<()> {
    let key = "mk_acme1_hunter2hunter2";
    let acme = consumer("acme", "gold", key, "")?;
    let hash = acme.split("sha256:").nth(1).unwrap_or_default();
    let hash = hash[..64].to_owned();
    let in_query = "  auth: { apiKey: { in: Query, name: key } }\n";
    let (mesh, orders, client) = world(in_query, &acme).await?;
    client.get(&format!("http://orders/?key={key}")).await?;
    client.get(&format!("http://orders/?key={key}x")).await?;
    let other = consumer("acme", "gold", "mk_acme1_other2other2", "")?;
    let both = crate::routing::services(&["orders"]) + &route(in_query) + &other;
    mesh.write("routes.yaml", &both)?;
    until("the edit is in force", async || {
        let answer = client
            .get("http://orders/?key=mk_acme1_other2other2")
            .await?;
        Ok(answer.status == 200)
    })
    .await?;
    let mut written = vec![
        mesh.operator_log()?,
        mesh.verdict("orders").await?.to_string(),
    ];
    for sidecar in [&orders.sidecar, client.sidecar()] {
        written.push(sidecar.log()?);
        written.push(sidecar.config().await?.to_string());
        written.push(sidecar.admin("/metrics", None).await?.body);
    }
    for text in written {
        for secret in ["hunter2", "other2", &hash] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    Ok(())
}
