//! How much is kept, for how long, and what ends it.

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use sidecar::proxy::limits::LOAD;
use tests::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, SETTINGS};
use tests::frames::{block, frame};
use tests::mesh::Mesh;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::app::{App, chunked, reply};
use super::{World, documents, is_hit, status, until};

#[tokio::test]
async fn what_is_too_large_or_breaks_off_is_passed_on_and_not_kept() -> Result<()> {
    const LARGE: usize = 300_000;
    let app = App::new(|head, _| {
        let says = [("cache-control", "max-age=600")];
        let pieces = |number: usize| vec![Bytes::from(vec![b'x'; 1_000]); number];
        match head.uri.path() {
            "/large" => reply(200, &says, vec![b'x'; LARGE]),
            "/large-in-pieces" => chunked(&says, pieces(300), false),
            "/broken" => chunked(&says, pieces(3), true),
            "/pieces" => chunked(&says, pieces(3), false),
            _ => reply(200, &says, "small"),
        }
    });
    let world = World::of("{ maxEntryBytes: 10000 }", "", app).await?;
    for _ in 0..3 {
        let large = world.get("/large").await?;
        let told = (large.body.len(), status(&large));
        assert_eq!(told, (LARGE, "meshwright; fwd=uri-miss"));
        let large = world.get("/large-in-pieces").await?;
        assert_eq!((large.body.len(), is_hit(&large)), (LARGE, false));
        assert!(world.get("/broken").await.is_err());
    }
    for kept in ["/small", "/pieces"] {
        until("it is kept", async || Ok(is_hit(&world.get(kept).await?))).await?;
    }
    assert_eq!(world.get("/pieces").await?.body.len(), 3_000);
    let bytes = world
        .sidecar
        .metric(r#"meshwright_cache_bytes{direction="inbound",route="shop/orders"}"#);
    assert!(bytes.await? < Some(10_000.0));
    Ok(())
}

/// Answers HTTP/2 with the beginning of an answer and the end of its stream, which is no error; the
/// fourth time and from then on with all of it.
async fn gives_up_thrice(mut stream: TcpStream) -> Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    let mut frames = Frames::server(stream);
    frames.send(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut answers = 0;
    while let Some(asked) = frames.next().await {
        if asked.kind != HEADERS {
            continue;
        }
        let says = block(&[(":status", b"200"), ("cache-control", b"max-age=600")]);
        let head = frame(HEADERS, END_HEADERS, asked.stream, &says);
        let end = match answers {
            0..3 => [
                frame(DATA, 0, asked.stream, b"half"),
                frame(RST_STREAM, 0, asked.stream, &[0; 4]),
            ],
            _ => [
                frame(DATA, 0, asked.stream, b"half"),
                frame(DATA, END_STREAM, asked.stream, b" and half"),
            ],
        };
        frames.send(&[head, end.concat()].concat()).await?;
        answers += 1;
    }
    Ok(())
}

#[tokio::test]
async fn what_breaks_off_in_http2_without_an_error_is_not_kept() -> Result<()> {
    let http2 = "targetPort: 8080, appProtocol: kubernetes.io/h2c";
    let mesh = Mesh::start(&documents("{}", "").replace("targetPort: 8080", http2)).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(gives_up_thrice(stream));
        }
    });
    let web = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for _ in 0..3 {
        // Where the head and the end come at once, there may be no answer.
        if let Ok(half) = web.get("http://orders/a").await {
            assert!(!is_hit(&half), "{half:?}");
        }
    }
    until("all of it is kept", async || {
        let answer = web.get("http://orders/a").await?;
        assert_eq!(answer.body, "half and half");
        Ok(is_hit(&answer))
    })
    .await
}

#[tokio::test]
async fn what_comes_in_crumbs_counts_for_what_it_takes() -> Result<()> {
    let app = App::new(|head, _| {
        let number = head.uri.path().trim_start_matches('/').parse();
        let crumbs = vec![Bytes::from_static(b"x"); number.unwrap_or_default()];
        chunked(&[("cache-control", "max-age=600")], crumbs, false)
    });
    // Twice as much may be in memory: 20000 crumbs take more than that.
    let world = World::of("{ maxBytes: 1000000, maxEntryBytes: 100000 }", "", app).await?;
    for _ in 0..3 {
        let crumbs = world.get("/20000").await?;
        assert_eq!((crumbs.body.len(), is_hit(&crumbs)), (20_000, false));
    }
    until("fewer are kept", async || {
        Ok(is_hit(&world.get("/2000").await?))
    })
    .await
}

#[tokio::test]
async fn what_is_still_coming_when_its_caller_has_gone_takes_the_place_of_a_request() -> Result<()>
{
    let ends = watch::Sender::new(false);
    let end = ends.clone();
    let app = App::new(move |_, _| {
        let mut end = end.subscribe();
        let begins = stream::once(async { Ok(Frame::data(Bytes::from_static(b"begins"))) });
        let ends = stream::once(async move {
            let _ = end.wait_for(|ends| *ends).await;
            None
        });
        let body = StreamBody::new(begins.chain(ends.filter_map(std::future::ready)));
        reply(200, &[("cache-control", "max-age=600")], "").map(|_| BoxBody::new(body))
    });
    let world = World::of("{}", "", app).await?;
    let proxy = (world.web.sidecar().address(), 15001);
    let asks_and_goes = async |number: usize| {
        let mut stream = TcpStream::connect(proxy).await?;
        let asks = format!("GET http://orders/{number} HTTP/1.1\r\nhost: orders\r\n\r\n");
        stream.write_all(asks.as_bytes()).await?;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await?;
        ensure!(&first == b"HTTP/1.1 200", "{number} is turned away");
        Ok(())
    };
    for wave in 0..LOAD.requests_each / 128 {
        let asking = (0..128).map(|number| asks_and_goes(wave * 128 + number));
        for gone in join_all(asking).await {
            gone?;
        }
    }
    until("they have gone", async || {
        let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
        Ok(world.sidecar.metric(series).await? == Some(0.0))
    })
    .await?;
    let more = world.get("/more").await?;
    assert_eq!((more.status, more.reason()), (503, "overloaded"));
    ends.send_replace(true);
    until("their places are free", async || {
        Ok(is_hit(&world.get("/0").await?) && world.get("/more").await?.status == 200)
    })
    .await
}

#[tokio::test]
async fn no_more_is_kept_than_was_said() -> Result<()> {
    let app = App::new(|_, _| reply(200, &[("cache-control", "max-age=600")], vec![b'x'; 5_000]));
    let cache = "{ maxBytes: 100000, maxEntries: 10, maxEntryBytes: 10000 }";
    let world = World::of(cache, "", app).await?;
    for number in 0..100 {
        assert_eq!(world.get(&format!("/{number}")).await?.status, 200);
    }
    let bytes = world
        .sidecar
        .metric(r#"meshwright_cache_bytes{direction="inbound",route="shop/orders"}"#);
    let bytes = bytes.await?.unwrap_or(f64::MAX);
    assert!(bytes > 50_000.0 && bytes <= 100_000.0, "{bytes}");
    let entries = world
        .sidecar
        .metric(r#"meshwright_cache_entries{direction="inbound",route="shop/orders"}"#);
    assert!(entries.await? <= Some(10.0));
    Ok(())
}

#[tokio::test]
async fn what_is_kept_outlives_an_edit_of_something_else_and_ends_with_the_cache() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    until("it is kept", async || Ok(is_hit(&world.get("/a").await?))).await?;
    let asked = world.app.requests();
    let timeouts = "  timeouts: { request: 77s }\n";
    for cache in ["{}", "{ staleIfError: 10s }"] {
        let yaml = documents(cache, timeouts);
        world.mesh.write("routes.yaml", &yaml)?;
        world.mesh.programmed("orders").await?;
        until("it is in force", async || {
            let verdict = world.mesh.verdict("orders").await?;
            Ok(verdict["programmed"]["n"] == verdict["programmed"]["m"])
        })
        .await?;
        assert!(is_hit(&world.get("/a").await?));
    }
    assert_eq!(world.app.requests(), asked);
    let yaml = documents("{}", timeouts).replace("  cache: {}\n", "");
    world.mesh.write("routes.yaml", &yaml)?;
    until("nothing is kept", async || {
        Ok(status(&world.get("/a").await?).is_empty())
    })
    .await
}

#[tokio::test]
async fn what_is_kept_can_be_shown_and_purged() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    for target in ["/a", "/a/b?x=1", "/ab"] {
        until("it is kept", async || Ok(is_hit(&world.get(target).await?))).await?;
    }
    let shown = world.sidecar.config().await?;
    let serves = &shown["inForce"]["serves"][0]["cache"];
    assert_eq!(serves["route"], "shop/orders", "{shown}");
    assert_eq!(serves["entries"], 3);
    let purged = world.sidecar.admin("/cache", Some("purge=/a")).await?;
    assert_eq!(purged.status, 200, "{}", purged.body);
    assert!(purged.body.contains("\"purged\": 2"), "{}", purged.body);
    assert!(!is_hit(&world.get("/a").await?));
    assert!(!is_hit(&world.get("/a/b?x=1").await?));
    assert!(is_hit(&world.get("/ab").await?));
    let wrong = world.sidecar.admin("/cache", Some("purge=a")).await?;
    assert_eq!(wrong.status, 400);
    Ok(())
}

#[tokio::test]
async fn a_cache_stands_where_its_answers_are_made_and_nowhere_else() -> Result<()> {
    let mesh = Mesh::start(&documents("{}", "")).await?;
    let elsewhere = documents("{}", "").replace(
        "metadata: { name: orders, namespace: shop }\nspec:\n  hosts: [orders]",
        "metadata: { name: orders, namespace: other }\nspec:\n  hosts: [orders.shop]",
    );
    mesh.write("routes.yaml", &elsewhere)?;
    until("it is refused", async || {
        let verdict = mesh.verdict("orders").await?.to_string();
        Ok(verdict.contains("spec.cache: which answers the pods of namespace shop keep"))
    })
    .await
}
