//! Bodies that come bit by bit, through several policies.

use std::time::Duration;

use anyhow::{Result, ensure};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Frame};
use tests::mesh::SOON;
use tests::raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{World, documents};
use crate::cache::app::{App, reply};

/// Says `event 0`, `event 1`, … as far as it is let.
fn events(upto: &watch::Sender<usize>) -> App {
    let upto = upto.subscribe();
    App::new(move |_, _| {
        let upto = upto.clone();
        let events = futures::stream::unfold((0, upto), |(next, mut upto)| async move {
            upto.wait_for(|upto| *upto > next).await.ok()?;
            let frame = Frame::data(Bytes::from(format!("event {next}\n")));
            (next < 3).then_some((Ok(frame), (next + 1, upto)))
        });
        let lines = [
            ("content-type", "text/event-stream"),
            ("cache-control", "max-age=60"),
        ];
        let body = StreamBody::new(events);
        reply(200, &lines, "").map(|_| BoxBody::new(body))
    })
}

/// Reads until this has come.
async fn reads(stream: &mut TcpStream, seen: &mut Vec<u8>, text: &str) -> Result<()> {
    let has = |seen: &[u8]| String::from_utf8_lossy(seen).contains(text);
    while !has(seen) {
        let read = timeout(SOON, stream.read_buf(seen)).await??;
        ensure!(read > 0, "closed before {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_passes_as_it_comes_through_limits_cache_hedging_and_retries() -> Result<()> {
    let upto = watch::Sender::new(0);
    let app = events(&upto);
    let world = World::of(
        &documents(
            "cache: {}, idempotency: {}",
            "{ name: bytes, requests: 1000000, per: 1s, cost: { type: Bytes } }, \
             { name: spikes, requests: 100, per: 1s, burst: 1, action: Delay, delay: { max: 1s, maxQueue: 9 } }",
            "maxRetries: 3, perTryTimeout: 5s, retryOn: { conditions: [Reset, PerTryTimeout] }, \
             hedging: { after: 2s }, budget: { percent: 100, minPerSecond: 1000 }",
        ),
        std::slice::from_ref(&app),
    )
    .await?;
    let mut stream = raw::connect(&world.web).await?;
    let request = "GET http://orders/events HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let (head, mut seen) = raw::head(&mut stream).await?;
    assert!(head.contains("fwd=uri-miss; stored"), "{head}");
    for event in 0..3 {
        let text = format!("event {event}\n");
        ensure!(
            !String::from_utf8_lossy(&seen).contains(&text),
            "not before it is said"
        );
        upto.send_replace(event + 1);
        reads(&mut stream, &mut seen, &text).await?;
    }
    upto.send_replace(4);
    reads(&mut stream, &mut seen, "0\r\n\r\n").await?;
    assert_eq!(
        app.requests(),
        1,
        "neither hedged nor tried again once it had begun"
    );
    // Complete, it is kept, and given at once.
    let kept = world.web.get("http://orders/events").await?;
    assert_eq!(kept.body, "event 0\nevent 1\nevent 2\n");
    assert_eq!(app.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_tried_again_and_not_kept() -> Result<()> {
    let app = App::new(|_, _| {
        let pieces = vec![Bytes::from_static(b"begun ")];
        crate::cache::app::chunked(&[("cache-control", "max-age=60")], pieces, true)
    });
    let world = World::of(
        &documents(
            "cache: {}",
            "{ name: all, requests: 1000, per: 1s }",
            "maxRetries: 3, retryOn: { conditions: [Reset] }, backoff: { initial: 1ms }, \
             budget: { percent: 100, minPerSecond: 1000 }",
        ),
        std::slice::from_ref(&app),
    )
    .await?;
    for calls in 1..4 {
        let broken = world.web.get("http://orders/").await;
        assert!(broken.is_err(), "{broken:?}");
        assert_eq!(app.requests(), calls, "once for each");
    }
    tokio::time::timeout(Duration::from_secs(5), async {
        // What was under way has ended, whoever read it.
        while world
            .sum("meshwright_requests_in_flight{direction=\"inbound\"}")
            .await?
            > 0.0
        {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await?
}
