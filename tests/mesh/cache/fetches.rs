//! One fetch for all who ask at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{App, reply};
use super::{World, is_hit, status, until};

#[tokio::test]
async fn of_all_who_ask_for_the_same_at_once_one_asks_the_application() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    world.app.answers(false);
    let asking = join_all((0..20).map(|_| world.get("/a")));
    let opening = async {
        until("one has come", async || Ok(world.app.requests() == 1)).await?;
        // The others have come to the sidecar, and none of them further.
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(20.0))
        })
        .await?;
        assert_eq!(world.app.requests(), 1);
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    let mut collapsed = 0;
    for answer in answers {
        let answer = answer?;
        assert_eq!(answer.body, "0");
        collapsed += usize::from(status(&answer).ends_with("; collapsed"));
    }
    assert_eq!((world.app.requests(), collapsed), (1, 19));
    let series = r#"meshwright_cache_requests_total{direction="inbound",route="shop/orders",outcome="collapsed"}"#;
    assert_eq!(world.sidecar.metric(series).await?, Some(19.0));
    Ok(())
}

#[tokio::test]
async fn one_asks_for_all_also_after_a_failure_and_after_an_answer_to_credentials() -> Result<()> {
    let app = App::new(|_, number| match number {
        0 => reply(503, &[], "busy"),
        _ => reply(
            200,
            &[("cache-control", "max-age=600")],
            format!("{number}"),
        ),
    });
    let world = World::of("{}", "", app).await?;
    assert_eq!(world.get("/a").await?.status, 503);
    let sent = [("authorization", "Bearer a")];
    let own = world.get_with("/a", &sent).await?;
    assert_eq!(status(&own), "meshwright; fwd=uri-miss");
    world.app.answers(false);
    let asking = join_all((0..10).map(|_| world.get("/a")));
    let opening = async {
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(10.0))
        })
        .await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    for answer in answers {
        assert_eq!(answer?.body, "2");
    }
    assert_eq!(world.app.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn who_waits_for_what_is_for_nobody_else_goes_on_at_once() -> Result<()> {
    let app =
        App::new(|_, number| reply(200, &[("cache-control", "private")], format!("{number}")));
    let world = Arc::new(World::of("{}", "", app).await?);
    world.app.answers(false);
    let asking = join_all((0..10).map(|_| world.get("/a")));
    let opening = async {
        until("they have come", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(10.0))
        })
        .await?;
        assert_eq!(world.app.requests(), 1);
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    let mut bodies = Vec::new();
    for answer in answers {
        bodies.push(answer?.body);
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 10, "each has its own");
    // The next ones do not even wait for the first of them.
    world.app.answers(false);
    let before = world.app.requests();
    let asking = join_all((0..5).map(|_| world.get("/a")));
    let opening = async {
        until("all have come", async || {
            Ok(world.app.requests() == before + 5)
        })
        .await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (_, opened) = tokio::join!(asking, opening);
    opened
}

#[tokio::test]
async fn who_goes_away_while_others_wait_leaves_its_place_to_the_next() -> Result<()> {
    let world = Arc::new(World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?);
    world.app.answers(false);
    let first = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    until("one has come", async || Ok(world.app.requests() == 1)).await?;
    let asking = join_all((0..5).map(|_| world.get("/a")));
    let leaving = async {
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(6.0))
        })
        .await?;
        first.abort();
        until("the next one asks", async || Ok(world.app.requests() == 2)).await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let begun = Instant::now();
    let (answers, left) = tokio::join!(asking, leaving);
    left?;
    for answer in answers {
        assert_eq!(answer?.status, 200);
    }
    assert_eq!(world.app.requests(), 2);
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "nobody waits in vain"
    );
    assert!(is_hit(&world.get("/a").await?));
    Ok(())
}

#[tokio::test]
async fn who_reads_slowly_keeps_nobody_waiting() -> Result<()> {
    // More than what lies between an application and who does not read.
    const LARGE: usize = 12 * 1024 * 1024;
    let says = [("cache-control", "max-age=600")];
    let app = App::new(move |_, _| reply(200, &says, vec![b'x'; LARGE]));
    let cache = "{ maxBytes: 67108864, maxEntryBytes: 16777216 }";
    let world = World::of(cache, "", app).await?;
    let proxy = (world.web.sidecar().address(), 15001);
    let mut slow = TcpStream::connect(proxy).await?;
    let asks = b"GET http://orders/a HTTP/1.1\r\nhost: orders\r\n\r\n";
    slow.write_all(asks).await?;
    // It reads the head, and nothing more.
    let mut first = [0; 12];
    slow.read_exact(&mut first).await?;
    assert_eq!(&first, b"HTTP/1.1 200");
    let begun = Instant::now();
    let other = world.get("/a").await?;
    assert_eq!((other.body.len(), world.app.requests()), (LARGE, 1));
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "it has waited in vain"
    );

    // Who reads slowly gets all of it in the end, and who goes away leaves it to others.
    let mut rest = 0;
    let mut piece = vec![0; 1 << 16];
    while rest < LARGE {
        let read = slow.read(&mut piece).await?;
        anyhow::ensure!(read > 0, "it broke off after {rest}");
        rest += read;
    }
    let mut gone = TcpStream::connect(proxy).await?;
    let asks = b"GET http://orders/b HTTP/1.1\r\nhost: orders\r\n\r\n";
    gone.write_all(asks).await?;
    gone.read_exact(&mut first).await?;
    drop(gone);
    until("it is kept all the same", async || {
        Ok(is_hit(&world.get("/b").await?))
    })
    .await?;
    assert_eq!(world.app.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn of_all_who_ask_for_what_is_not_fresh_one_asks_about_it() -> Result<()> {
    let app = App::new(|head, number| {
        let says = [("etag", "\"1\""), ("cache-control", "max-age=1")];
        let known = head.headers.contains_key("if-none-match");
        let lasts = [("etag", "\"1\""), ("cache-control", "max-age=600")];
        match known {
            true => reply(304, &lasts, ""),
            false => reply(200, &says, format!("{number}")),
        }
    });
    let world = World::of("{}", "", app).await?;
    world.get("/a").await?;
    let only = [("cache-control", "only-if-cached")];
    until("it is stale", async || {
        Ok(world.get_with("/a", &only).await?.status == 504)
    })
    .await?;
    world.app.answers(false);
    let before = world.app.requests();
    let asking = join_all((0..10).map(|_| world.get("/a")));
    let opening = async {
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(10.0))
        })
        .await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    for answer in answers {
        assert_eq!(answer?.body, "0");
    }
    assert_eq!(world.app.requests(), before + 1);
    Ok(())
}
