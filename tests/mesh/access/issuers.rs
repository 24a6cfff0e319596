//! Issuers whose keys are fetched, and servers that are asked about tokens.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use futures::future::{try_join, try_join_all};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tests::client::Client;
use tests::issuer::{Issuer, in_seconds};
use tests::mesh::Mesh;
use tests::node::MockIssuer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{enforced, route, until};
use crate::cache::app::{App, reply};
use crate::routing::services;

/// Tokens of an issuer in the mesh.
fn access(more: &str) -> String {
    format!(
        "  auth:\n    jwt:\n    - issuer: http://issuer\n      audiences: [orders]\n      jwks: {{ uri: \
         'http://issuer.shop.svc/jwks'{more} }}\n"
    )
}

fn claims() -> Value {
    json!({"iss": "http://issuer", "aud": "orders", "sub": "ann", "exp": in_seconds(600)})
}

async fn with_token(client: &Client, token: &str) -> Result<(u16, String)> {
    let header = format!("Bearer {token}");
    let answer = client
        .get_with("http://orders/", &[("authorization", &header)])
        .await?;
    Ok((answer.status, answer.reason().to_owned()))
}

fn fine() -> (u16, String) {
    (200, String::new())
}

#[tokio::test]
async fn keys_of_a_foreign_issuer_are_fetched_over_the_mesh_and_followed_when_they_change()
-> Result<()> {
    let yaml = services(&["orders", "issuer"]) + &route(&access(""));
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;

    // Nobody can tell yet, and nobody is let in for that.
    let early = Issuer::new("early").token(&claims());
    let uncheckable = (503, "credentials_uncheckable".to_owned());
    assert_eq!(with_token(&client, &early).await?, uncheckable);

    let (listener, _sidecar) = mesh.listener("issuer").await?;
    let at = listener.local_addr()?;
    drop(listener);
    let (mut issuer, first) = MockIssuer::start(at, "http://issuer").await?;
    let token = issuer.token(&first, &claims()).await?;
    until("the keys have come", async || {
        Ok(with_token(&client, &token).await? == fine())
    })
    .await?;

    // Another key, which is known as soon as a token names it; the old one holds beside it.
    let second = issuer.another_key().await?;
    let of_second = issuer.token(&second, &claims()).await?;
    let late = async || Ok(with_token(&client, &of_second).await? == fine());
    until("the new key is known", late).await?;
    assert_eq!(with_token(&client, &token).await?, fine());

    // A token that nobody has made does not make it be asked for more.
    for _ in 0..20 {
        let stranger = Issuer::new("nobody").token(&claims());
        let refused = (401, "credentials_invalid".to_owned());
        assert_eq!(with_token(&client, &stranger).await?, refused);
    }
    Ok(())
}

#[tokio::test]
async fn keys_change_under_traffic_and_no_good_token_is_refused() -> Result<()> {
    let yaml = services(&["orders", "issuer"]) + &route(&access(", cacheTTL: 10s"));
    let mesh = Mesh::start(&yaml).await?;
    let (_orders, jwks) = (
        mesh.workload("orders").await?,
        mesh.workload("issuer").await?,
    );
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    jwks.upstream.says(Issuer::key_set(&[&old]));
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    let of = |issuer: &Issuer| issuer.token(&claims());
    until("the keys have come", async || {
        Ok(with_token(&client, &of(&old)).await? == fine())
    })
    .await?;

    // As issuers do it: the new key is published, then used, then the old one goes.
    jwks.upstream.says(Issuer::key_set(&[&old, &new]));
    let (before, mut fetched) = (jwks.upstream.requests(), 0);
    while fetched < 3 {
        assert_eq!(with_token(&client, &of(&old)).await?, fine());
        fetched = jwks.upstream.requests() - before;
        if fetched > 0 {
            assert_eq!(with_token(&client, &of(&new)).await?, fine());
        }
        if fetched > 1 {
            break;
        }
    }
    jwks.upstream.says(Issuer::key_set(&[&new]));
    let refused = async || {
        assert_eq!(with_token(&client, &of(&new)).await?, fine());
        Ok(with_token(&client, &of(&old)).await?.0 == 401)
    };
    until("the old key is taken no more", refused).await?;
    Ok(())
}

#[tokio::test]
async fn while_the_issuer_is_away_its_last_keys_are_taken_and_an_edit_keeps_them() -> Result<()> {
    let yaml = services(&["orders", "issuer"]) + &route(&access(""));
    let mesh = Mesh::start(&yaml).await?;
    let (_orders, mut jwks) = (
        mesh.workload("orders").await?,
        mesh.workload("issuer").await?,
    );
    let issuer = Issuer::new("a");
    jwks.upstream.says(Issuer::key_set(&[&issuer]));
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    let token = issuer.token(&claims());
    until("the keys have come", async || {
        Ok(with_token(&client, &token).await? == fine())
    })
    .await?;

    jwks.upstream.close();
    assert_eq!(with_token(&client, &issuer.token(&claims())).await?, fine());
    let edited = access("") + "      requiredClaims: [department]\n";
    mesh.write(
        "routes.yaml",
        &(services(&["orders", "issuer"]) + &route(&edited)),
    )?;
    let lacks = async || Ok(with_token(&client, &token).await?.0 == 401);
    until("the edit is in force", lacks).await?;
    let mut claims = claims();
    claims["department"] = "books".into();
    assert_eq!(with_token(&client, &issuer.token(&claims)).await?, fine());
    Ok(())
}

#[tokio::test]
async fn keys_are_not_taken_from_whoever_answers_in_plaintext() -> Result<()> {
    let yaml = services(&["orders", "issuer"]) + &route(&access(""));
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let issuer = Issuer::new("a");
    let outside = mesh.outsider("issuer").await?;
    outside.says(Issuer::key_set(&[&issuer]));
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    let told = async || Ok(orders.sidecar.log()?.contains("it is outside the mesh"));
    until("it is told", told).await?;
    assert_eq!(with_token(&client, &issuer.token(&claims())).await?.0, 503);
    assert_eq!(outside.requests(), 0);
    Ok(())
}

/// Serves every connection one answer over TLS; its address, and the authority as PEM.
async fn over_tls(at: SocketAddr, body: String) -> Result<(SocketAddr, String)> {
    let made = rcgen::generate_simple_self_signed([at.ip().to_string()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind(at).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    Ok((address, made.cert.pem()))
}

#[tokio::test]
async fn keys_come_from_outside_over_tls_of_an_authority_that_is_trusted() -> Result<()> {
    let issuer = Issuer::new("a");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let (address, authority) = over_tls(loopback, Issuer::key_set(&[&issuer])).await?;
    let with = |authority: &str| {
        let lines = authority
            .lines()
            .map(|line| format!("            {line}\n"));
        let authority = match authority {
            "" => String::new(),
            _ => format!("          caCertificates: |\n{}", String::from_iter(lines)),
        };
        route(&format!(
            "  auth:\n    jwt:\n    - issuer: http://issuer\n      audiences: [orders]\n      jwks:\n          \
             uri: https://{address}/jwks\n{authority}"
        ))
    };
    // The authorities of the web vouch for nobody like that.
    let mesh = Mesh::start(&(services(&["orders"]) + &with(""))).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    let told = async || Ok(orders.sidecar.log()?.contains("could not be fetched"));
    until("it is told", told).await?;
    let token = issuer.token(&claims());
    assert_eq!(with_token(&client, &token).await?.0, 503);

    mesh.write("routes.yaml", &(services(&["orders"]) + &with(&authority)))?;
    until("the keys have come", async || {
        Ok(with_token(&client, &token).await? == fine())
    })
    .await?;
    Ok(())
}

/// Tokens that `issuer` is asked about, and the password for that.
const INTROSPECTION: &str = "  auth:\n    introspection:\n      endpoint: http://issuer/introspect\n      \
                         clientID: orders\n      clientSecretRef: { name: client, key: password }\n      \
                         audiences: [orders]\n      claimsToHeaders: [{ claim: sub, header: x-user }]\n";
const SECRET: &str = "---\napiVersion: v1\nkind: Secret\nmetadata: { name: client, namespace: shop, labels: { \
                  meshwright.dev/credential: '' } }\nstringData: { password: hunter2 }\n";

#[tokio::test]
async fn a_foreign_issuer_is_asked_what_a_token_is_worth_once_in_its_time() -> Result<()> {
    let yaml = services(&["orders", "issuer"]) + &route(INTROSPECTION);
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let (listener, _sidecar) = mesh.listener("issuer").await?;
    let at = listener.local_addr()?;
    drop(listener);
    let (mut issuer, _) = MockIssuer::start(at, "http://issuer").await?;
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;

    // Without a password nobody can be asked, and the object says so.
    assert_eq!(with_token(&client, "opaque-1").await?.0, 503);
    let verdict = mesh.verdict("orders").await?;
    let told = verdict["conditions"][1]["message"]
        .as_str()
        .unwrap_or_default();
    assert!(
        told.contains("there is no Secret \"client\" with the label"),
        "{told}"
    );

    mesh.write("secret.yaml", &SECRET[4..])?;
    let active = json!({"active": true, "aud": "orders", "sub": "ann", "exp": in_seconds(600)});
    issuer.says_of_tokens(&active).await?;
    let good = async || Ok(with_token(&client, "opaque-1").await? == fine());
    until("it can be asked", good).await?;
    let asked = issuer.asked().await?;
    for _ in 0..10 {
        assert_eq!(with_token(&client, "opaque-1").await?, fine());
    }
    // Each worker asks for itself.
    assert!(issuer.asked().await? <= asked + 4, "{asked}");
    let seen = orders.upstream.seen();
    assert_eq!(seen[seen.len() - 1].headers["x-user"], "ann");
    assert!(!seen[seen.len() - 1].headers.contains_key("authorization"));

    issuer.says_of_tokens(&json!({"active": false})).await?;
    let refused = (401, "credentials_invalid".to_owned());
    assert_eq!(with_token(&client, "opaque-2").await?, refused);
    issuer
        .says_of_tokens(&json!({"active": true, "aud": "others"}))
        .await?;
    assert_eq!(with_token(&client, "opaque-3").await?, refused);
    let (log, config) = (
        orders.sidecar.log()?,
        orders.sidecar.config().await?.to_string(),
    );
    for text in [log, config, mesh.operator_log()?] {
        assert!(
            !text.contains("hunter2") && !text.contains("opaque-"),
            "{text}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn however_many_requests_bring_a_token_each_worker_asks_about_it_once() -> Result<()> {
    let active = json!({"active": true, "aud": "orders", "exp": in_seconds(600)}).to_string();
    let issuer = App::new(move |_, _| reply(200, &[], active.clone()));
    let yaml = services(&["orders", "issuer"]) + &route(INTROSPECTION) + SECRET;
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let (listener, _sidecar) = mesh.listener("issuer").await?;
    issuer.listen(listener);
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    let good = async || Ok(with_token(&client, "warm").await? == fine());
    until("it can be asked", good).await?;
    issuer.answers(false);
    let before = issuer.requests();
    // More than the questions that a worker may have under way.
    let all = try_join_all((0..200).map(|_| with_token(&client, "opaque-1")));
    let opened = async {
        until("it is asked", async || Ok(issuer.requests() > before)).await?;
        issuer.answers(true);
        Ok(())
    };
    let (answers, ()) = try_join(all, opened).await?;
    assert!(answers.iter().all(|one| *one == fine()), "{answers:?}");
    let workers = std::thread::available_parallelism()?.get();
    assert!(issuer.requests() <= before + workers);
    Ok(())
}
