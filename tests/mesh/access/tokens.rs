//! Tokens of issuers whose keys stand written.

use anyhow::Result;
use serde_json::{Value, json};
use tests::issuer::{Issuer, in_seconds};

use super::{until, world};
use crate::routing::services;

fn access(keys: &str, more: &str) -> String {
    format!(
        "  auth:\n    jwt:\n    - issuer: https://issuer\n      audiences: [orders]\n      jwks: {{ \
         inline: '{keys}' }}\n{more}"
    )
}

fn claims() -> Value {
    json!({"iss": "https://issuer", "aud": "orders", "sub": "ann", "exp": in_seconds(600)})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_request_enters_with_a_token_of_the_issuer_and_the_application_does_not_get_it()
-> Result<()> {
    let issuer = Issuer::new("a");
    let more =
        "      claimsToHeaders: [{ claim: sub, header: X-User }, { claim: /a/b, header: x-b }]\n";
    let (_mesh, orders, client) = world(&access(&Issuer::key_set(&[&issuer]), more), "").await?;
    let answer = client.get("http://orders/").await?;
    assert_eq!(
        (answer.status, answer.reason()),
        (401, "credentials_missing")
    );
    assert_eq!(answer.headers["www-authenticate"], "Bearer");

    let token = format!("Bearer {}", issuer.token(&claims()));
    let spoof = [
        ("authorization", &*token),
        ("x-user", "root"),
        ("x-b", "c"),
        ("x-c", "d"),
    ];
    let answer = client.get_with("http://orders/", &spoof).await?;
    assert_eq!((answer.status, answer.reason()), (200, ""));
    let headers = &orders.upstream.seen()[0].headers;
    assert_eq!(headers["x-user"], "ann");
    assert!(!headers.contains_key("x-b"), "nobody but a token says it");
    assert!(!headers.contains_key("authorization"));
    assert_eq!(headers["x-c"], "d");
    // What concerns one connection takes nothing from the application.
    let named = [("authorization", &*token), ("connection", "x-user, close")];
    client.get_with("http://orders/", &named).await?;
    assert_eq!(orders.upstream.seen()[1].headers["x-user"], "ann");
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_and_told_why() -> Result<()> {
    let (issuer, stranger) = (Issuer::new("a"), Issuer::new("a"));
    let more = "      requiredScopes: [read]\n      requiredClaims: [sub]\n";
    let (_mesh, orders, client) = world(&access(&Issuer::key_set(&[&issuer]), more), "").await?;
    let good = with("scope", json!("read"));
    let of = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.token(&claims)
    };
    let genuine = issuer.token(&good);
    let (head, tail) = genuine.rsplit_once('.').unwrap_or_default();
    let unsigned = format!(
        "eyJhbGciOiJub25lIn0.{}.",
        head.split('.').nth(1).unwrap_or_default()
    );
    for (token, status, reason, told) in [
        (genuine.clone(), 200, "", ""),
        (
            stranger.token(&good),
            401,
            "credentials_invalid",
            "the signature of the token is not valid",
        ),
        (
            format!("{head}.{}", tail.chars().rev().collect::<String>()),
            401,
            "credentials_invalid",
            "",
        ),
        (
            unsigned,
            401,
            "credentials_invalid",
            "not signed in a way that is accepted",
        ),
        (
            "x".to_owned(),
            401,
            "credentials_invalid",
            "the token is not a well-formed JWT",
        ),
        (
            of("exp", json!(in_seconds(-120))),
            401,
            "credentials_invalid",
            "the token has expired",
        ),
        (of("exp", json!(in_seconds(-30))), 200, "", ""),
        (
            of("nbf", json!(in_seconds(120))),
            401,
            "credentials_invalid",
            "the token is not valid yet",
        ),
        (
            of("iss", json!("https://other")),
            401,
            "credentials_invalid",
            "an issuer that is not accepted",
        ),
        (
            of("aud", json!(["x", "y"])),
            401,
            "credentials_invalid",
            "the token is for another audience",
        ),
        (
            of("sub", Value::Null),
            401,
            "credentials_invalid",
            "lacks a claim",
        ),
        (
            of("scope", json!("reader")),
            403,
            "scope_missing",
            "insufficient_scope",
        ),
    ] {
        let header = format!("Bearer {token}");
        let answer = client
            .get_with("http://orders/", &[("authorization", &header)])
            .await?;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{told}");
        let challenge = answer.headers.get("www-authenticate");
        let challenge = challenge.map_or("", |value| value.to_str().unwrap_or_default());
        assert!(challenge.contains(told), "{told}: {challenge}");
    }
    assert_eq!(orders.upstream.requests(), 2);
    let series =
        r#"meshwright_access_total{route="shop/orders",rule="",outcome="refused",why="expired"}"#;
    assert_eq!(orders.sidecar.metric(series).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn a_token_is_read_from_where_the_policy_says_and_from_one_place_only() -> Result<()> {
    let issuer = Issuer::new("a");
    let more = "      from: [{ in: Query, name: access_token }, { in: Cookie, name: session }, { in: \
                Header, name: x-token }]\n";
    let (_mesh, orders, client) = world(&access(&Issuer::key_set(&[&issuer]), more), "").await?;
    let token = issuer.token(&claims());
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; session={token}");
    let query = format!("http://orders/x?a=b&access_token={token}");
    let plain = "http://orders/x?a=b";
    for (url, headers, status) in [
        (plain, vec![("authorization", &*bearer)], 401),
        (&query, vec![], 200),
        (plain, vec![("cookie", &*cookie)], 200),
        (plain, vec![("x-token", &*token)], 200),
        (&query, vec![("cookie", &*cookie)], 401),
        (plain, vec![("x-token", &*token), ("x-token", &*token)], 401),
    ] {
        let answer = client.get_with(url, &headers).await?;
        assert_eq!(answer.status, status, "{headers:?} {}", answer.reason());
    }
    for seen in orders.upstream.seen() {
        assert_eq!(seen.target, "/x?a=b");
        assert!(!seen.headers.contains_key("x-token"));
    }
    Ok(())
}

#[tokio::test]
async fn all_that_is_required_must_be_there_and_any_is_enough_otherwise() -> Result<()> {
    let issuer = Issuer::new("a");
    let keys = Issuer::key_set(&[&issuer]);
    let both = |require: &str| {
        access(
            &keys,
            &format!("    apiKey: {{}}\n    require: {require}\n"),
        )
    };
    let acme = super::consumer("acme", "gold", "mk_acme1_a", "")?;
    let (mesh, _orders, client) = world(&both("All"), &acme).await?;
    let bearer = format!("Bearer {}", issuer.token(&claims()));
    let (token, key) = (("authorization", &*bearer), ("x-api-key", "mk_acme1_a"));
    let status = async |headers: &[(&str, &str)]| {
        anyhow::Ok(client.get_with("http://orders/", headers).await?.status)
    };
    assert_eq!(status(&[token, key]).await?, 200);
    for some in [&[][..], &[token], &[key]] {
        assert_eq!(status(some).await?, 401, "{some:?}");
    }
    mesh.write(
        "routes.yaml",
        &(services(&["orders"]) + &super::route(&both("Any")) + &acme),
    )?;
    until("any is enough", async || Ok(status(&[token]).await? == 200)).await?;
    assert_eq!(status(&[key]).await?, 200);
    assert_eq!(status(&[]).await?, 401);
    assert_eq!(status(&[token, ("x-api-key", "mk_acme1_b")]).await?, 401);
    Ok(())
}
