//! Topics that callers listen to by WebSocket.

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tests::python;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::brokers::{START, with_redis};
use super::streaming::{LIVE, MANY, impatient, publish_many};
use super::*;

/// What asks for a WebSocket; RFC 6455 has this key, and its answer.
const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One who listens, and what was heard.
struct Listening {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    protocol: Option<String>,
    /// The last place that it knows.
    place: String,
    /// The events that it has heard of, in order.
    heard: Vec<Value>,
}

impl Listening {
    async fn to(client: &Client, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let address = client.sidecar().address();
        let stream = tokio::net::TcpStream::connect((address, 15001)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request =
            Request::get(format!("http://billing.shop{target}")).header("host", "billing.shop");
        for (name, value) in HANDSHAKE.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let answer = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        ensure!(answer.status() == 101, "{answer:?}");
        assert_eq!(answer.headers()["sec-websocket-accept"], ACCEPT);
        assert_eq!(answer.headers()["upgrade"], "websocket");
        let protocol = answer.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|name| name.to_str()).transpose()?;
        let protocol = protocol.map(str::to_owned);
        let upgraded = TokioIo::new(hyper::upgrade::on(answer).await?);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config));
        let mut this = Self {
            socket: socket.await,
            protocol,
            place: String::new(),
            heard: Vec::new(),
        };
        // It is told where it begins.
        this.hears().await?;
        let first = this.heard.pop().context("nothing")?;
        assert_eq!(
            (&first["type"], &first["source"], &first["specversion"]),
            (
                &json!("dev.meshwright.listening"),
                &json!("/apiroutes/shop/billing"),
                &json!("1.0")
            )
        );
        Ok(this)
    }

    /// Until it begins; whoever asks is refused until then.
    async fn begins(client: &Client, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut listening = None;
        wait_until("it begins", SOON, async || {
            listening = Some(Self::to(client, target, headers).await?);
            Ok(())
        })
        .await?;
        listening.context("it")
    }

    /// Hears the next event, or how it was closed.
    async fn hears(&mut self) -> Result<Option<CloseFrame>> {
        loop {
            let heard = timeout(SOON, self.socket.next()).await.context("silence")?;
            match heard.context("it ended without a word")?? {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text)?;
                    let place = event["lasteventid"].as_str().context("a place")?;
                    self.place = place.to_owned();
                    self.heard.push(event);
                    return Ok(None);
                }
                Message::Close(close) => return Ok(Some(close.context("a code")?)),
                Message::Ping(_) => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
    }

    /// Hears of an event.
    async fn of(&mut self, id: &str) -> Result<()> {
        while self.heard.last().is_none_or(|event| event["id"] != id) {
            let closed = self.hears().await?;
            ensure!(closed.is_none(), "{closed:?}");
        }
        Ok(())
    }

    /// Hears to the end, which the connection then comes to: the code.
    async fn closes(&mut self) -> Result<u16> {
        loop {
            let Some(close) = self.hears().await? else {
                continue;
            };
            assert!(!close.reason.is_empty());
            let rest = timeout(SOON, self.socket.next()).await?;
            ensure!(rest.is_none(), "{rest:?}");
            return Ok(close.code.into());
        }
    }

    fn ids(&self) -> Vec<&str> {
        let ids = self.heard.iter().map(|event| event["id"].as_str());
        ids.map(Option::unwrap_or_default).collect()
    }
}

/// The lines that a sidecar has logged of `/live`.
fn lines(sidecar: &Sidecar) -> Result<Vec<Value>> {
    let log = sidecar.log()?;
    let lines = log
        .lines()
        .filter(|line| line.contains("\"path\":\"/live\""));
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn who_listens_by_websocket_is_told_each_event_and_goes_on_where_it_was() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    world.accepted("0").await?;
    let offers = [("sec-websocket-protocol", "chat, cloudevents.json")];
    let mut live = Listening::begins(&web, "/live", &offers).await?;
    assert_eq!(live.protocol.as_deref(), Some("cloudevents.json"));
    // It knows its place before it has heard of anything.
    let begin = live.place.clone();
    for id in ["1", "2"] {
        world.accepted(id).await?;
        live.of(id).await?;
    }
    assert_eq!(live.ids(), ["1", "2"], "what came before is not new");
    let event = &live.heard[0];
    assert_eq!(
        (&event["type"], &event["data"]["sku"], &event["specversion"]),
        (&json!("com.shop.stock"), &json!("1"), &json!("1.0"))
    );
    let second = live.place.clone();
    // Without a word.
    drop(live);

    // What came while it was away it is told now, and nothing twice.
    world.accepted("3").await?;
    let query = format!("/live?lastEventId={second}");
    let mut again = Listening::to(&web, &query, &[]).await?;
    assert_eq!(again.protocol, None, "nobody asked for it");
    assert_eq!(again.place, second);
    again.of("3").await?;
    assert_eq!(again.ids(), ["3"]);
    let mut from_begin = Listening::to(&web, "/live", &[("last-event-id", &begin)]).await?;
    from_begin.of("3").await?;
    assert_eq!(from_begin.ids(), ["1", "2", "3"]);
    let mut all = Listening::to(&web, "/all", &[]).await?;
    all.of("3").await?;
    assert_eq!(all.ids(), ["0", "1", "2", "3"]);
    // Several hear the same.
    world.accepted("4").await?;
    for one in [&mut again, &mut from_begin, &mut all] {
        one.of("4").await?;
    }
    let seen = world.billing.upstream.seen();
    assert!(!seen.iter().any(|one| one.target.starts_with("/live")));

    // It goes in order, and what it asked was one request.
    again.socket.close(None).await?;
    while timeout(SOON, again.socket.next()).await?.is_some() {}
    drop(again);
    for sidecar in [web.sidecar(), &world.billing.sidecar] {
        wait_until("it is one line", SOON, async || {
            let lines = lines(sidecar)?;
            let closed = |line: &&Value| {
                let said = line["request_bytes"].as_u64();
                line["outcome"] == "complete" && said.is_some_and(|said| said > 0)
            };
            let line = lines.iter().find(closed);
            let line = line.with_context(|| format!("{lines:?}"))?;
            ensure!(line["status"] == 101, "{line}");
            // What both said, frames and all.
            let bytes = [&line["response_bytes"], &line["request_bytes"]];
            let [back, there] = bytes.map(|bytes| bytes.as_u64().unwrap_or_default());
            ensure!(back > 500 && there >= 6, "{line}");
            // Nor is it anybody's fault that one went without a word.
            let failed = lines.iter().any(|line| line["outcome"] == "failed");
            ensure!(!failed, "{lines:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_websocket_says_why_it_ends_with_its_sidecar_its_broker_and_its_rule() -> Result<()> {
    let mut world = World::subscribed("", "").await?;
    world.mesh.write("live.yaml", LIVE)?;
    let web = world.mesh.client("web").await?;
    let mut live = Listening::begins(&web, "/live", &[]).await?;
    world.accepted("1").await?;
    live.of("1").await?;

    let sidecar = &world.billing.sidecar;
    let (ended, code) = tokio::join!(sidecar.terminate(), live.closes());
    assert_eq!(code?, 1001);
    assert_eq!(ended?, Some(0));
    world.billing.sidecar.start()?;
    world.billing.sidecar.ready().await?;
    world.accepted("2").await?;
    let query = format!("/live?lastEventId={}", live.place);
    let mut live = Listening::begins(&web, &query, &[]).await?;
    live.of("2").await?;
    assert_eq!(live.ids(), ["2"]);

    world.nats.kill();
    assert_eq!(live.closes().await?, 1013);
    world.nats.run().await?;
    let query = format!("/live?lastEventId={}", live.place);
    let mut live = Listening::begins(&web, &query, &[]).await?;
    world.accepted("3").await?;
    live.of("3").await?;
    assert_eq!(live.ids(), ["3"]);

    // Nobody hears by what is no longer written.
    world.mesh.remove("live.yaml")?;
    assert_eq!(live.closes().await?, 1008);
    Ok(())
}

#[tokio::test]
async fn who_sends_a_message_is_told_that_none_is_taken() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    drop(Listening::begins(&web, "/live", &[]).await?);
    for message in [
        Message::text("{}"),
        Message::binary(vec![0; 16]),
        Message::binary(vec![0; 1 << 20]),
    ] {
        let mut live = Listening::to(&web, "/live", &[]).await?;
        live.socket.send(Message::Ping("still?".into())).await?;
        let heard = timeout(SOON, live.socket.next()).await?;
        let heard = heard.context("it ended")??;
        assert_eq!(heard, Message::Pong("still?".into()));
        // What is too long nobody reads to its end.
        let _ = live.socket.send(message).await;
        let close = live.hears().await?.context("an event")?;
        assert_eq!(u16::from(close.code), 1003);
    }
    Ok(())
}

#[tokio::test]
async fn who_does_not_read_a_websocket_is_given_no_more_and_misses_nothing() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    let mut slow = Listening::begins(&web, "/live", &[]).await?;
    publish_many(&world, [web.sidecar(), &world.billing.sidecar]).await?;
    slow.of(&MANY.to_string()).await?;
    let wanted = Vec::from_iter((1..=MANY).map(|number| number.to_string()));
    assert_eq!(slow.ids(), wanted);
    Ok(())
}

#[tokio::test]
async fn a_websocket_with_nothing_to_say_is_not_ended_for_silence() -> Result<()> {
    let world = World::subscribed("", &impatient()).await?;
    let web = world.mesh.client("web").await?;
    let mut live = Listening::begins(&web, "/live", &[]).await?;
    // Three in each second that nothing else is said.
    for _ in 0..6 {
        let heard = timeout(SOON, live.socket.next()).await?;
        let heard = heard.context("it ended")??;
        assert!(heard.is_ping(), "{heard:?}");
    }
    world.accepted("1").await?;
    live.of("1").await
}

#[tokio::test]
async fn what_opens_no_websocket_is_told_what_it_lacks() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let [web, other] = [
        world.mesh.client("web").await?,
        world.mesh.client("other").await?,
    ];
    drop(Listening::begins(&web, "/live", &[]).await?);
    let url = "http://billing.shop/live";
    let answer = other.get_with(url, &HANDSHAKE).await?;
    assert_eq!((answer.status, answer.reason()), (403, "not_permitted"));
    let short = STANDARD.encode([0; 15]);
    // With another value, or none.
    fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        let others = HANDSHAKE.into_iter().filter(|(one, _)| *one != name);
        let it = Some((name, value)).filter(|_| !value.is_empty());
        others.chain(it).collect()
    }
    for (headers, status, says) in [
        (with("upgrade", "chat"), 400, "upgrade: "),
        (with("upgrade", ""), 426, "upgrade: "),
        (with("connection", ""), 426, "upgrade: "),
        (
            with("sec-websocket-version", "8"),
            426,
            "sec-websocket-version: ",
        ),
        (
            with("sec-websocket-version", ""),
            426,
            "sec-websocket-version: ",
        ),
        (with("sec-websocket-key", ""), 400, "sec-websocket-key: "),
        (with("sec-websocket-key", "x"), 400, "sec-websocket-key: "),
        (
            with("sec-websocket-key", &short),
            400,
            "sec-websocket-key: ",
        ),
        (with("last-event-id", "x"), 400, "last-event-id: "),
    ] {
        let answer = web.get_with(url, &headers).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (status, "bad_request"),
            "{headers:?}"
        );
        if status == 426 {
            assert_eq!(answer.headers["sec-websocket-version"], "13");
        }
        let detail = problem(&answer)["errors"][0]["detail"].clone();
        let detail = detail.as_str().context("a detail")?;
        assert!(detail.starts_with(says), "{detail}");
    }
    let answer = web
        .send(Method::POST, url, &HANDSHAKE, Bytes::new())
        .await?;
    assert_eq!((answer.status, answer.reason()), (405, "bad_request"));
    let answer = web
        .send(Method::GET, url, &HANDSHAKE, "body".into())
        .await?;
    assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
    let answer = web.get_with("http://billing.shop/none", &HANDSHAKE).await?;
    assert_eq!((answer.status, answer.reason()), (404, "topic_unknown"));
    Ok(())
}

#[tokio::test]
async fn a_page_listens_where_it_is_of_what_was_called_or_allowed() -> Result<()> {
    let shared = LIVE.replace(
        "stream: { broker: events, topic: stock } }",
        "stream: { broker: events, topic: stock }, cors: { allowOrigins: [\"https://a.example\"] } }",
    );
    assert_ne!(shared, LIVE);
    let world = World::subscribed("", &shared).await?;
    let web = world.mesh.client("web").await?;
    drop(Listening::begins(&web, "/live", &[]).await?);
    let page = |origin: &'static str| ("origin", origin);
    let cookie = ("cookie", "session=1");
    for (target, headers, may) in [
        ("/live", vec![page("https://a.example")], true),
        ("/live", vec![page("https://a.example"), cookie], false),
        ("/live", vec![page("https://b.example")], false),
        ("/live", vec![page("null")], false),
        ("/live", vec![page("http://billing.shop"), cookie], true),
        ("/all", vec![page("https://a.example")], false),
        ("/all", vec![page("https://billing.shop"), cookie], true),
        ("/all", vec![cookie], true),
    ] {
        if may {
            Listening::to(&web, target, &headers).await?;
            continue;
        }
        let url = format!("http://billing.shop{target}");
        let asked = [&HANDSHAKE[..], &headers].concat();
        let answer = web.get_with(&url, &asked).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (403, "origin_not_allowed"),
            "{target} {headers:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_topic_of_redis_is_told_by_websocket_and_goes_on_where_it_was() -> Result<()> {
    let (mesh, _redis) = with_redis().await?;
    mesh.write("live.yaml", LIVE)?;
    let [stock, billing] = [
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    ];
    mesh.programmed("stock").await?;
    mesh.programmed("billing").await?;
    let accepted = async |id: &str| {
        let headers = [("idempotency-key", id)];
        wait_until("it is accepted", START, async || {
            let answer = publish(&stock.sidecar, "events/stock", &headers, "it").await?;
            ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await
    };
    let web = mesh.client("web").await?;
    accepted("1").await?;
    let mut all = Listening::begins(&web, "/all", &[]).await?;
    accepted("2").await?;
    all.of("1").await?;
    let first = all.place.clone();
    assert!(first.contains('-'), "{first}");
    all.of("2").await?;
    let query = format!("/live?lastEventId={first}");
    let mut live = Listening::to(&web, &query, &[]).await?;
    accepted("3").await?;
    for one in [&mut all, &mut live] {
        one.of("3").await?;
    }
    assert_eq!(all.ids(), ["1", "2", "3"]);
    assert_eq!(live.ids(), ["2", "3"]);
    drop(billing);
    Ok(())
}

#[tokio::test]
async fn pythons_client_of_websocket_and_cloudevents_sdk_understand_what_they_hear() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    drop(Listening::begins(&web, "/live", &[]).await?);
    for id in ["1", "2", "3"] {
        world.accepted(id).await?;
    }
    let host = web.sidecar().address().to_string();
    let listen = async |target: &str, count: &str| {
        let arguments = [&host, "15001", "billing.shop", target, count];
        let said = python::run("listen.py", &arguments, "").await?;
        let said = said.lines().map(serde_json::from_str::<Value>);
        Ok::<_, anyhow::Error>(said.collect::<Result<Vec<_>, _>>()?)
    };
    let said = listen("/all", "4").await?;
    let [protocol, first, events @ .., closed] = &said[..] else {
        anyhow::bail!("{said:?}");
    };
    assert_eq!(protocol["subprotocol"], "cloudevents.json");
    assert_eq!(first["attributes"]["type"], "dev.meshwright.listening");
    let ids = Vec::from_iter(events.iter().map(|event| &event["attributes"]["id"]));
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(events[0]["data"], json!({ "sku": "1" }));
    assert_eq!(closed["code"], 1003, "it has sent a message");
    // It breaks off, and goes on.
    let place = events[0]["attributes"]["lasteventid"].as_str();
    let place = place.context("a place")?;
    let said = listen(&format!("/all?lastEventId={place}"), "3").await?;
    let ids = Vec::from_iter(said[2..4].iter().map(|event| &event["attributes"]["id"]));
    assert_eq!(ids, ["2", "3"]);
    Ok(())
}
