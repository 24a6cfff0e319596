//! What is no key, and what is too much.

use anyhow::{Result, ensure};
use bytes::Bytes;

use super::{World, is_replayed, ledger, pay, post, until};
use crate::cache::app::{App, chunked, reply};

#[tokio::test]
async fn a_call_without_a_key_that_can_be_used_is_400_where_one_is_required() -> Result<()> {
    let spec = "{ required: true, methods: [POST], paths: [{ type: Prefix, value: /payments }] }";
    let world = World::of(spec, "", ledger()).await?;
    let long = "a".repeat(256);
    for headers in [
        &[][..],
        &[("idempotency-key", "")],
        &[("idempotency-key", &*long)],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
    ] {
        let refused = post(&world.web, "/payments", headers, "10 EUR").await?;
        assert_eq!(
            (refused.status, refused.reason()),
            (400, "idempotency_key_required")
        );
    }
    assert_eq!(world.app.requests(), 0);
    assert_eq!(pay(&world.web, &long[1..], "10 EUR").await?.status, 201);
    // Other paths need none, and have none that counts.
    for _ in 0..2 {
        let free = post(&world.web, "/quotes", &[("idempotency-key", "a")], "").await?;
        assert!(free.status == 201 && !is_replayed(&free));
    }
    assert_eq!(world.became("key_required").await?, 4.0);
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_and_its_key_is_free() -> Result<()> {
    let world = World::of("{ maxRequestBytes: 10 }", "", ledger()).await?;
    let refused = pay(&world.web, "a", "12345678901").await?;
    assert_eq!(
        (refused.status, refused.reason()),
        (413, "request_too_large")
    );
    assert_eq!(world.app.requests(), 0);
    assert_eq!(pay(&world.web, "a", "1234567890").await?.status, 201);
    // Without a key it is as large as it likes.
    assert_eq!(
        post(&world.web, "/payments", &[], "12345678901")
            .await?
            .status,
        201
    );
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_too_large_passes_once_and_its_call_is_not_made_again() -> Result<()> {
    let app = App::new(|head, _| match head.uri.path() {
        "/told" => reply(200, &[], "a".repeat(2_000)),
        _ => {
            let pieces = (0..20).map(|_| Bytes::from("a".repeat(100)));
            chunked(&[], pieces.collect(), false)
        }
    });
    let world = World::of("{ maxAnswerBytes: 1000 }", "", app).await?;
    for path in ["/told", "/untold"] {
        let key = [("idempotency-key", path)];
        let first = post(&world.web, path, &key, "").await?;
        assert_eq!((first.status, first.body.len()), (200, 2_000), "{path}");
        let again = post(&world.web, path, &key, "").await?;
        assert_eq!((again.status, again.reason()), (409, "idempotency_unknown"));
    }
    assert_eq!(world.app.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn when_all_room_is_taken_new_keys_are_refused_and_nothing_that_is_kept_goes() -> Result<()> {
    let app = App::new(|_, _| reply(201, &[], "a".repeat(5_000)));
    let world = World::of("{ maxBytes: 65536 }", "", app).await?;
    let mut kept = 0;
    let refused = loop {
        let answer = pay(&world.web, &kept.to_string(), "").await?;
        if answer.status != 201 {
            break answer;
        }
        kept += 1;
        ensure!(kept < 20, "65536 bytes have no room for that");
    };
    assert_eq!(
        (refused.status, refused.reason()),
        (503, "idempotency_unavailable")
    );
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(kept >= 8, "{kept}");
    for key in 0..kept {
        assert!(is_replayed(&pay(&world.web, &key.to_string(), "").await?));
    }
    assert_eq!(world.app.requests(), kept);
    let held = async || {
        let series = "meshwright_idempotency_bytes{route=\"shop/payments\"}";
        anyhow::Ok(world.sidecar.metric(series).await?.unwrap_or_default())
    };
    // Another principal has room for some.
    let app = world.mesh.client("app").await?;
    assert_eq!(pay(&app, "a", "").await?.status, 201);
    until("all that was under way is given back", async || {
        Ok((40_000.0..65_536.0).contains(&held().await?))
    })
    .await
}
