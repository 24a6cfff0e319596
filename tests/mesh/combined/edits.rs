//! Edits of policies while calls go on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tests::issuer::{Issuer, in_seconds};
use tests::mesh::{Mesh, SOON};
use tests::wait_until;

use crate::routing::services;

/// What governs `orders`: who may enter, and what its callers do when it fails.
fn policies(keys: &str, rule: &str, retries: u32) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{ name: orders, namespace: shop \
         }}\nspec:\n  hosts: [orders]\n  timeouts: {{ request: 10s }}\n  auth: {{ jwt: [{{ issuer: a, audiences: \
         [orders], jwks: {{ inline: '{keys}' }} }}] }}\n  authorization: {{ rules: [{{ name: {rule}, principals: \
         {{ scopes: [read] }} }}] }}\n---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{ \
         name: orders, namespace: shop }}\nspec: {{ targetRefs: [{{ kind: Service, name: orders }}], maxRetries: \
         {retries}, retryOn: {{ statusCodes: [503] }}, backoff: {{ initial: 1ms }}, budget: {{ percent: 100, \
         minPerSecond: 1000 }}, loadBalancing: {{ type: RoundRobin }} }}\n"
    )
}

#[tokio::test]
async fn edits_of_policies_under_load_let_nobody_in_turn_nobody_away_and_double_nothing()
-> Result<()> {
    let issuer = Issuer::new("a");
    let keys = Issuer::key_set(&[&issuer]);
    let mesh = Mesh::start(&(services(&["orders"]) + &policies(&keys, "first", 2))).await?;
    let [good, failing] = mesh.workloads::<2>("orders").await?;
    failing.upstream.answers(503);
    let client = mesh.client("web").await?;
    let claims = json!({"iss": "a", "aud": "orders", "scope": "read", "exp": in_seconds(600)});
    let token = format!("Bearer {}", issuer.token(&claims));
    let with = [("authorization", token.as_str())];
    wait_until("the policies are in force", SOON, async || {
        let answer = client.get_with("http://orders/", &with).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.status);
        let answer = client.get("http://orders/").await?;
        anyhow::ensure!(answer.status == 401, "{}", answer.status);
        Ok(())
    })
    .await?;

    let (ended, posts) = (AtomicBool::new(false), AtomicUsize::new(0));
    let reads = async {
        while !ended.load(Ordering::Relaxed) {
            // An endpoint that fails is made up for by the other, whatever is edited meanwhile.
            let answer = client.get_with("http://orders/read", &with).await?;
            assert_eq!((answer.status, answer.reason()), (200, ""));
            let stranger = client.get("http://orders/read").await?;
            assert_eq!(
                (stranger.status, stranger.reason()),
                (401, "credentials_missing")
            );
        }
        anyhow::Ok(())
    };
    let writes = async {
        while !ended.load(Ordering::Relaxed) {
            // Not sent again, so half of them fail: once each.
            let body = Bytes::from_static(b"one book");
            client
                .send(Method::POST, "http://orders/write", &with, body)
                .await?;
            posts.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let edits = async {
        for number in 0..20 {
            let yaml = policies(&keys, &format!("rule-of-edit-{number}"), 1 + number % 3);
            mesh.write("routes.yaml", &(services(&["orders"]) + &yaml))?;
            wait_until("the edit is in force", SOON, async || {
                let config = good.sidecar.config().await?.to_string();
                anyhow::ensure!(
                    config.contains(&format!("rule-of-edit-{number}\"")),
                    "not yet"
                );
                Ok(())
            })
            .await?;
        }
        ended.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(reads, writes, edits)?;
    let seen = [&good, &failing].map(|one| {
        let seen = one.upstream.seen();
        seen.iter()
            .filter(|request| request.method == Method::POST)
            .count()
    });
    assert_eq!(seen[0] + seen[1], posts.load(Ordering::Relaxed));
    let retried = failing.upstream.requests() > seen[1];
    assert!(retried, "the one that fails was asked to read as well");
    for seen in good.upstream.seen().iter().chain(&failing.upstream.seen()) {
        assert!(!seen.headers.contains_key("authorization"));
    }
    Ok(())
}

/// The limits, the cache, what is carried out once and the retries of one edit.
fn all_policies(edit: u32) -> String {
    super::documents(
        &format!(
            "cache: {{ defaultTTL: {}s, keyQuery: [q] }}, idempotency: {{ window: {}h, maxBytes: {} }}",
            1 + edit % 3,
            1 + edit,
            10_000_000 + edit
        ),
        &format!(
            "{{ name: all, requests: {}, per: 1s }}, {{ name: of-edit-{edit}, requests: 100000, per: 1s }}",
            90_000 + edit
        ),
        &format!(
            "maxRetries: {}, retryOn: {{ statusCodes: [503] }}, idempotencyKey: {{}}, backoff: {{ initial: 1ms \
             }}, budget: {{ percent: 100, minPerSecond: 1000 }}",
            2 + edit % 3
        ),
    )
}

#[tokio::test]
async fn edits_of_all_policies_under_load_refuse_nothing_and_carry_out_nothing_twice() -> Result<()>
{
    use crate::cache::app::{App, reply};
    // Every fourth call fails, whatever it is: nothing was done then, and the status says so.
    let app = App::new(|_, number| match number % 4 {
        3 => reply(503, &[], "no"),
        _ => reply(201, &[], format!("{number}")),
    });
    let release = |edit: u32| {
        let all = all_policies(edit);
        all.replace("idempotency: { ", "idempotency: { releaseOn: [503], ")
    };
    let world = super::World::of(&release(0), std::slice::from_ref(&app)).await?;
    let (ended, paid) = (AtomicBool::new(false), AtomicUsize::new(0));
    let reads = async {
        let mut number = 0;
        while !ended.load(Ordering::Relaxed) {
            let url = format!("http://orders/?q={}&n={number}", number % 7);
            let answer = world.web.get(&url).await?;
            assert_eq!((answer.status, answer.reason()), (201, ""));
            number += 1;
        }
        anyhow::Ok(number)
    };
    let writes = async {
        while !ended.load(Ordering::Relaxed) {
            let number = paid.fetch_add(1, Ordering::Relaxed).to_string();
            let key = [("idempotency-key", number.as_str())];
            let body = Bytes::copy_from_slice(number.as_bytes());
            let pay = async || {
                let url = "http://orders/pay";
                world.web.send(Method::POST, url, &key, body.clone()).await
            };
            let (first, again) = (pay().await?, pay().await?);
            assert_eq!((first.status, first.reason()), (201, ""));
            assert_eq!((again.status, &again.body), (201, &first.body));
            assert_eq!(again.headers["idempotent-replayed"], "true");
        }
        anyhow::Ok(())
    };
    let edits = async {
        for edit in 1..15 {
            world.mesh.write("routes.yaml", &release(edit))?;
            wait_until("the edit is in force", SOON, async || {
                let config = world.sidecars[0].config().await?.to_string();
                anyhow::ensure!(config.contains(&format!("\"of-edit-{edit}\"")), "not yet");
                anyhow::ensure!(
                    config.contains(&format!("{}", 10_000_000 + edit)),
                    "not yet"
                );
                Ok(())
            })
            .await?;
        }
        ended.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(reads, writes, edits)?;
    let seen = app.seen();
    let made = seen
        .iter()
        .enumerate()
        .filter(|(number, head)| head.method == Method::POST && number % 4 != 3);
    assert_eq!(made.count(), paid.load(Ordering::Relaxed), "each once");
    Ok(())
}
