//! What RFC 9111 says of one caller after another.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::app::{App, reply};
use super::{World, is_hit, status, until};

#[tokio::test]
async fn an_answer_that_is_fresh_is_given_again_with_its_age_and_counted() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    let first = world.get("/a?x=1").await?;
    assert_eq!(status(&first), "meshwright; fwd=uri-miss; stored");
    assert_eq!((first.body.as_str(), first.headers.get("age")), ("0", None));
    // It is kept when its last byte has passed, which the caller may see first.
    until("it is kept", async || {
        Ok(is_hit(&world.get("/a?x=1").await?))
    })
    .await?;
    let asked = world.app.requests();
    let again = world.get("/a?x=1").await?;
    assert!(is_hit(&again) && again.headers.contains_key("age"));
    assert_eq!(
        again.headers["content-length"],
        again.body.len().to_string()
    );

    // The head of it, too; nothing else has the same key.
    let url = "http://orders/a?x=1";
    let head = world.web.send(Method::HEAD, url, &[], Bytes::new()).await?;
    assert!(is_hit(&head) && head.body.is_empty());
    assert_eq!(
        head.headers["content-length"],
        again.headers["content-length"]
    );
    assert_eq!(world.app.requests(), asked);
    assert!(!is_hit(&world.get("/a?x=2").await?));

    let hits =
        r#"meshwright_cache_requests_total{direction="inbound",route="shop/orders",outcome="hit"}"#;
    assert!(world.sidecar.metric(hits).await? >= Some(3.0));
    let misses = r#"meshwright_cache_requests_total{direction="inbound",route="shop/orders",outcome="miss"}"#;
    assert!(world.sidecar.metric(misses).await? >= Some(2.0));
    let bytes = r#"meshwright_cache_bytes{direction="inbound",route="shop/orders"}"#;
    assert!(world.sidecar.metric(bytes).await? > Some(0.0));
    let log = world.sidecar.log()?;
    assert!(log.contains(r#""cache":"hit""#), "{log}");
    Ok(())
}

#[tokio::test]
async fn what_does_not_say_that_it_is_fresh_is_kept_for_the_default_and_not_without() -> Result<()>
{
    let says_nothing = || App::saying(("x-says", "nothing"));
    let world = World::of("{ defaultTTL: 0s }", "", says_nothing()).await?;
    for _ in 0..3 {
        assert_eq!(status(&world.get("/a").await?), "meshwright; fwd=uri-miss");
    }
    assert_eq!(world.app.requests(), 3);
    let world = World::of("{ defaultTTL: 10m }", "", says_nothing()).await?;
    until("it is kept", async || Ok(is_hit(&world.get("/a").await?))).await
}

#[tokio::test]
async fn an_answer_is_asked_about_and_what_a_304_says_holds() -> Result<()> {
    let app = App::new(|head, number| {
        let says = [("etag", "\"1\""), ("cache-control", "no-cache")];
        match head.headers.get("if-none-match") {
            Some(tag) if tag == "\"1\"" => reply(304, &[says[0], says[1], ("x-a", "new")], ""),
            _ => reply(
                200,
                &[says[0], says[1], ("x-a", "old")],
                format!("{number}"),
            ),
        }
    });
    let world = World::of("{}", "", app).await?;
    assert_eq!(world.get("/a").await?.headers["x-a"], "old");
    until("it is asked about", async || {
        let answer = world.get("/a").await?;
        let told = status(&answer).starts_with("meshwright; fwd=stale; fwd-status=304");
        Ok(told && answer.body == "0" && answer.headers["x-a"] == "new")
    })
    .await?;
    let series = r#"meshwright_cache_requests_total{direction="inbound",route="shop/orders",outcome="revalidated"}"#;
    assert!(world.sidecar.metric(series).await? >= Some(1.0));
    Ok(())
}

#[tokio::test]
async fn what_a_304_ends_is_given_as_it_says_and_not_kept() -> Result<()> {
    let app = App::new(|head, number| {
        let says = [("etag", "\"1\""), ("cache-control", "no-cache")];
        let ends = [("etag", "\"1\""), ("cache-control", "private, max-age=9")];
        match head.headers.contains_key("if-none-match") {
            true => reply(304, &ends, ""),
            false => reply(200, &says, format!("{number}")),
        }
    });
    let world = World::of("{}", "", app).await?;
    until("it is asked about", async || {
        let answer = world.get("/a").await?;
        let told = status(&answer) == "meshwright; fwd=stale; fwd-status=304";
        if told {
            assert_eq!(answer.headers["cache-control"], "private, max-age=9");
        }
        Ok(told)
    })
    .await?;
    let next = world.get("/a").await?;
    assert!(status(&next).starts_with("meshwright; fwd=uri-miss"));
    Ok(())
}

#[tokio::test]
async fn who_has_an_answer_already_is_told_so_and_gets_ranges_of_it() -> Result<()> {
    let app = App::new(|_, _| {
        let says = [
            ("cache-control", "max-age=600"),
            ("etag", "\"1\""),
            ("content-type", "text/plain"),
        ];
        reply(200, &says, "0123456789")
    });
    let world = World::of("{}", "", app).await?;
    // Of what is not kept, the part is the application's to give, and is not kept.
    let part = world.get_with("/b", &[("range", "bytes=0-1")]).await?;
    assert_eq!(status(&part).split("; ").nth(1), Some("fwd=uri-miss"));
    until("it is kept", async || Ok(is_hit(&world.get("/a").await?))).await?;
    let asked = world.app.requests();
    let known = [("if-none-match", "\"0\", W/\"1\"")];
    let known = world.get_with("/a", &known).await?;
    assert_eq!((known.status, known.body.as_str()), (304, ""));
    assert!(!known.headers.contains_key("content-type"));
    assert_eq!(known.headers["etag"], "\"1\"");

    for (range, part, body) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
        ("bytes=5-99", "bytes 5-9/10", "56789"),
    ] {
        let given = world.get_with("/a", &[("range", range)]).await?;
        assert_eq!((given.status, given.body.as_str()), (206, body), "{range}");
        assert_eq!(given.headers["content-range"], part);
    }
    let outside = world.get_with("/a", &[("range", "bytes=10-")]).await?;
    assert_eq!((outside.status, outside.body.as_str()), (416, ""));
    assert_eq!(outside.headers["content-range"], "bytes */10");
    for all in [
        &[("range", "bytes=0-1, 3-4")][..],
        &[("range", "lines=1-2")],
        &[("range", "bytes=0-1"), ("if-range", "\"0\"")],
    ] {
        let given = world.get_with("/a", all).await?;
        assert_eq!((given.status, given.body.len()), (200, 10), "{all:?}");
    }
    let given = world.get_with("/a", &[("range", "bytes=0-1"), ("if-range", "\"1\"")]);
    assert_eq!(given.await?.status, 206);
    assert_eq!(world.app.requests(), asked);
    Ok(())
}

#[tokio::test]
async fn answers_are_told_apart_by_vary() -> Result<()> {
    let app = App::new(|head, _| {
        let language = head.headers.get("accept-language");
        let language = language.map_or("none", |one| one.to_str().unwrap_or_default());
        let vary = if head.uri.path() == "/any" {
            "*"
        } else {
            "Accept-Language"
        };
        let says = [("cache-control", "max-age=600"), ("vary", vary)];
        reply(200, &says, language.to_owned())
    });
    let world = World::of("{}", "", app).await?;
    for language in ["de", "fr"] {
        let headers = [("accept-language", language)];
        until("it is kept", async || {
            let answer = world.get_with("/a", &headers).await?;
            assert_eq!(answer.body, language);
            Ok(is_hit(&answer))
        })
        .await?;
    }
    let headers = [("accept-language", "de")];
    assert!(is_hit(&world.get_with("/a", &headers).await?));
    let other = world.get("/a").await?;
    assert_eq!(status(&other), "meshwright; fwd=vary-miss; stored");
    for _ in 0..3 {
        assert_eq!(
            status(&world.get("/any").await?),
            "meshwright; fwd=uri-miss"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_a_request_says_of_the_answer_that_it_takes_holds() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    let only = [("cache-control", "only-if-cached")];
    let none = world.get_with("/a", &only).await?;
    assert_eq!((none.status, none.reason()), (504, "not_cached"));
    assert_eq!(world.app.requests(), 0);
    let never = [("cache-control", "no-store")];
    for _ in 0..2 {
        let past = world.get_with("/a", &never).await?;
        assert_eq!(status(&past), "meshwright; fwd=bypass");
    }
    assert_eq!(world.get_with("/a", &only).await?.status, 504);
    until("it is kept", async || Ok(is_hit(&world.get("/a").await?))).await?;
    assert!(is_hit(&world.get_with("/a", &only).await?));
    let asked = world.app.requests();
    for asks in ["no-cache", "min-fresh=601"] {
        let asks = [("cache-control", asks)];
        let fetched = world.get_with("/a", &asks).await?;
        assert!(status(&fetched).starts_with("meshwright; fwd=request"));
    }
    assert_eq!(world.app.requests(), asked + 2);
    Ok(())
}

#[tokio::test]
async fn what_a_request_changes_is_asked_for_again() -> Result<()> {
    let app = App::new(|head, number| match head.method {
        Method::GET => reply(
            200,
            &[("cache-control", "max-age=600")],
            format!("{number}"),
        ),
        Method::DELETE => reply(404, &[], ""),
        _ => reply(
            201,
            &[("location", "/b"), ("content-location", "http://other/c")],
            "",
        ),
    });
    let world = World::of("{}", "", app).await?;
    for target in ["/a?x=1", "/b", "/c"] {
        until("it is kept", async || Ok(is_hit(&world.get(target).await?))).await?;
    }
    let send = async |method| {
        let sent = world
            .web
            .send(method, "http://orders/a", &[], Bytes::from("x"));
        sent.await.map(|answer| answer.status)
    };
    assert_eq!(send(Method::DELETE).await?, 404);
    assert!(is_hit(&world.get("/a?x=1").await?), "it has failed");
    assert_eq!(send(Method::POST).await?, 201);
    assert!(!is_hit(&world.get("/a?x=1").await?));
    assert!(!is_hit(&world.get("/b").await?));
    assert!(is_hit(&world.get("/c").await?), "another host's");
    Ok(())
}

#[tokio::test]
async fn what_may_have_been_changed_is_asked_for_again_whatever_became_of_the_request() -> Result<()>
{
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    let kept = async || until("it is kept", async || Ok(is_hit(&world.get("/a").await?))).await;
    kept().await?;
    // A call of gRPC is never answered with what is kept, and changes it all the same.
    let url = "http://orders/a";
    let grpc = [("content-type", "application/grpc")];
    let body = Bytes::from("x");
    world.web.send(Method::POST, url, &grpc, body).await?;
    assert!(!is_hit(&world.get("/a").await?));

    kept().await?;
    world.app.answers(false);
    let asked = world.app.requests();
    let proxy = (world.web.sidecar().address(), 15001);
    let mut stream = TcpStream::connect(proxy).await?;
    let asks = b"PUT http://orders/a HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(asks).await?;
    until("it has come", async || Ok(world.app.requests() > asked)).await?;
    drop(stream);
    let only = [("cache-control", "only-if-cached")];
    until("its caller has gone", async || {
        Ok(world.get_with("/a", &only).await?.status == 504)
    })
    .await?;

    world.app.answers(true);
    kept().await?;
    world.app.goes();
    let sent = world.web.send(Method::PUT, url, &[], Bytes::new()).await?;
    assert!(sent.status >= 502, "{}", sent.status);
    assert_eq!(world.get_with("/a", &only).await?.status, 504);
    Ok(())
}

#[tokio::test]
async fn a_stale_answer_is_given_while_a_new_one_is_fetched_and_where_there_is_none() -> Result<()>
{
    let says = "max-age=0, stale-while-revalidate=600";
    let world = World::of("{}", "", App::saying(("cache-control", says))).await?;
    assert_eq!(world.get("/a").await?.body, "0");
    until("a newer one is given", async || {
        let answer = world.get("/a").await?;
        Ok(status(&answer).starts_with("meshwright; hit; ttl=") && answer.body != "0")
    })
    .await?;
    let series = r#"meshwright_cache_requests_total{direction="inbound",route="shop/orders",outcome="stale"}"#;
    assert!(world.sidecar.metric(series).await? >= Some(1.0));

    let app = App::new(|_, number| match number {
        0 => reply(
            200,
            &[("cache-control", "max-age=0, stale-if-error=600")],
            "good",
        ),
        _ => reply(503, &[], "bad"),
    });
    let world = World::of("{}", "", app).await?;
    assert_eq!(world.get("/a").await?.body, "good");
    until("what was good is given", async || {
        let answer = world.get("/a").await?;
        let told = status(&answer).starts_with("meshwright; fwd=stale; fwd-status=503");
        Ok(told && answer.status == 200 && answer.body == "good")
    })
    .await?;
    world.app.goes();
    let answer = world.get("/a").await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "good"));
    let other = world.get("/b").await?;
    assert!(other.status >= 502, "{}", other.status);
    Ok(())
}
