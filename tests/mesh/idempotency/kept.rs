//! What is kept of a first call, and given again.

use anyhow::Result;
use bytes::Bytes;
use http::Method;

use super::{World, documents, is_replayed, ledger, pay, post, until};
use crate::cache::app::{App, chunked, reply};

#[tokio::test]
async fn the_first_answer_is_kept_and_given_again_with_its_headers() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    let first = pay(&world.web, "a", "10 EUR").await?;
    assert_eq!((first.status, &*first.body), (201, "payment 0"));
    assert!(!is_replayed(&first));
    for _ in 0..3 {
        let again = pay(&world.web, "a", "10 EUR").await?;
        assert!(is_replayed(&again), "{again:?}");
        assert_eq!((again.status, &again.body), (201, &first.body));
        for name in ["location", "set-cookie", "content-length", "date"] {
            assert_eq!(again.headers.get(name), first.headers.get(name), "{name}");
        }
    }
    assert_eq!(world.app.requests(), 1);
    assert_eq!(pay(&world.web, "b", "10 EUR").await?.body, "payment 1");
    // Whoever chooses no key is carried out each time, and so is what changes nothing.
    for number in 2..4 {
        let answer = post(&world.web, "/payments", &[], "10 EUR").await?;
        assert_eq!(answer.body, format!("payment {number}"));
    }
    let key = [("idempotency-key", "a")];
    for number in 4..6 {
        let answer = world.web.get_with("http://payments/payments", &key).await?;
        assert_eq!(answer.body, format!("payment {number}"));
    }
    assert_eq!(world.became("first").await?, 2.0);
    assert_eq!(world.became("replayed").await?, 3.0);
    let log = world.sidecar.log()?;
    assert!(log.contains("\"idempotency\":\"replayed\""), "{log}");
    let config = world.sidecar.config().await?;
    let held = &config["inForce"]["serves"][0]["idempotency"][0];
    assert_eq!(held["keys"], 2, "{held}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_comes_with_another_request_is_409_and_nothing_is_asked() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    let key = [("idempotency-key", "a")];
    assert_eq!(pay(&world.web, "a", "10 EUR").await?.status, 201);
    let others = [
        pay(&world.web, "a", "11 EUR").await?,
        pay(&world.web, "a", "").await?,
        post(&world.web, "/refunds", &key, "10 EUR").await?,
        post(&world.web, "/payments?twice", &key, "10 EUR").await?,
        {
            let (url, body) = ("http://payments/payments", Bytes::from_static(b"10 EUR"));
            world.web.send(Method::PATCH, url, &key, body).await?
        },
    ];
    for other in others {
        assert_eq!(
            (other.status, other.reason()),
            (409, "idempotency_conflict")
        );
    }
    assert_eq!(world.app.requests(), 1);
    assert!(is_replayed(&pay(&world.web, "a", "10 EUR").await?));
    Ok(())
}

#[tokio::test]
async fn failures_are_kept_as_well_but_those_by_which_the_application_says_that_it_did_nothing()
-> Result<()> {
    let app = App::new(|head, number| {
        let status = head
            .uri
            .path()
            .trim_start_matches('/')
            .parse()
            .unwrap_or(201);
        reply(status, &[], format!("{number}"))
    });
    let world = World::of("{ releaseOn: [429, 503] }", "", app).await?;
    let call = async |path: &str| post(&world.web, path, &[("idempotency-key", path)], "").await;
    for (path, kept) in [
        ("/400", true),
        ("/500", true),
        ("/504", true),
        ("/429", false),
        ("/503", false),
    ] {
        let first = call(path).await?;
        let again = call(path).await?;
        assert_eq!(is_replayed(&again), kept, "{path}");
        assert_eq!(first.body == again.body, kept, "{path}");
        assert_eq!(first.status, again.status);
    }
    assert_eq!(world.became("released").await?, 4.0);
    Ok(())
}

#[tokio::test]
async fn a_call_that_broke_off_is_not_made_again_and_one_that_was_never_sent_is() -> Result<()> {
    let app = App::new(|head, number| match head.uri.path() {
        "/breaks" => chunked(&[], vec![Bytes::from_static(b"pay")], true),
        _ => reply(201, &[], format!("payment {number}")),
    });
    let world = World::of("{}", "", app.clone()).await?;
    let key = [("idempotency-key", "a")];
    let first = post(&world.web, "/breaks", &key, "").await?;
    assert_eq!((first.status, first.reason()), (502, "upstream_reset"));
    for _ in 0..3 {
        let again = post(&world.web, "/breaks", &key, "").await?;
        assert_eq!((again.status, again.reason()), (409, "idempotency_unknown"));
    }
    assert_eq!(app.requests(), 1);

    // An application that is not there has carried out nothing.
    let (listener, sidecar) = world.mesh.listener("away").await?;
    let address = listener.local_addr()?;
    drop(listener);
    let services = documents("{}", "").replace("payments", "away") + "---\n" + &documents("{}", "");
    world.mesh.write("routes.yaml", &services)?;
    world.mesh.programmed("away").await?;
    let call = async || {
        let url = "http://away/payments";
        world.web.send(Method::POST, url, &key, Bytes::new()).await
    };
    let first = call().await?;
    assert_eq!(
        (first.status, first.reason()),
        (503, "application_unreachable")
    );
    app.listen(tokio::net::TcpListener::bind(address).await?);
    until(
        "it is carried out when the application is there",
        async || Ok(call().await?.status == 201),
    )
    .await?;
    assert!(is_replayed(&call().await?));
    assert_eq!(app.requests(), 2);
    drop(sidecar);
    Ok(())
}

#[tokio::test]
async fn what_is_kept_outlives_edits_and_ends_with_its_window() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    assert_eq!(pay(&world.web, "a", "10 EUR").await?.status, 201);
    let other = "  timeouts: { request: 9s }\n";
    let edited = "{ required: true, maxBytes: 4194304, window: 2s, timeout: 1s }";
    world.mesh.write("routes.yaml", &documents(edited, other))?;
    until("the edit is in force", async || {
        Ok(post(&world.web, "/payments", &[], "").await?.status == 400)
    })
    .await?;
    assert!(is_replayed(&pay(&world.web, "a", "10 EUR").await?));
    assert_eq!(pay(&world.web, "b", "10 EUR").await?.status, 201);
    let before = world.app.requests();
    // Its own window: the key stands for another call then.
    until("its window has passed", async || {
        // An answer that is the mesh's own is neither.
        let answer = pay(&world.web, "b", "10 EUR").await?;
        Ok(answer.status == 201 && !is_replayed(&answer))
    })
    .await?;
    assert!(world.app.requests() > before, "nothing was carried out");
    assert!(is_replayed(&pay(&world.web, "a", "10 EUR").await?));
    Ok(())
}

#[tokio::test]
async fn the_cache_hears_of_what_is_carried_out_and_not_of_what_is_given_again() -> Result<()> {
    let app = App::new(|_, number| {
        reply(
            200,
            &[("cache-control", "max-age=600")],
            format!("{number}"),
        )
    });
    let world = World::of("{}", "  cache: {}\n", app).await?;
    let get = async || world.web.get("http://payments/payments").await;
    until("the answer is kept", async || {
        Ok(get().await?.headers["cache-status"]
            .to_str()?
            .contains("hit"))
    })
    .await?;
    let kept = get().await?.body;
    assert_eq!(pay(&world.web, "a", "").await?.status, 200);
    let anew = get().await?.body;
    assert_ne!(anew, kept, "what changes its path makes it worthless");
    assert!(is_replayed(&pay(&world.web, "a", "").await?));
    assert_eq!(get().await?.body, anew, "nothing has changed");
    Ok(())
}
