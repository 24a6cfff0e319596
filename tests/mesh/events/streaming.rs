//! Topics that callers listen to.

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::*;

/// Whoever may, listens to the topic `stock` at the Service `billing`.
pub(super) const LIVE: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: billing, namespace: shop }\n\
    spec:\n  hosts: [billing]\n  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n  rules:\n  \
    - { matches: [{ path: { type: Exact, value: /live } }], stream: { broker: events, topic: stock } }\n  \
    - { matches: [{ path: { type: Exact, value: /all } }], stream: { broker: events, topic: stock, startFrom: { type: Earliest } } }\n  \
    - { matches: [{ path: { type: Exact, value: /third } }], stream: { broker: events, topic: stock, startFrom: { type: Sequence, sequence: \"3\" } } }\n  \
    - { matches: [{ path: { type: Exact, value: /none } }], stream: { broker: events, topic: nothing } }\n  \
    - {}\n";

/// One who listens, and what was heard.
struct Listening {
    body: Incoming,
    heard: String,
}

impl Listening {
    async fn to(client: &Client, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let address = client.sidecar().address();
        let stream = tokio::net::TcpStream::connect((address, 15001)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request =
            Request::get(format!("http://billing.shop{target}")).header("host", "billing.shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        ensure!(answer.status() == 200, "{answer:?}");
        let media = answer.headers().get("content-type").context("a type")?;
        assert_eq!(media, "text/event-stream");
        let mut this = Self {
            body: answer.into_body(),
            heard: String::new(),
        };
        // It is told where it begins.
        this.until("id: ").await?;
        this.until("\n\n").await?;
        Ok(this)
    }

    /// Until it begins; whoever asks is refused until then.
    async fn begins(client: &Client, target: &str) -> Result<Self> {
        let mut listening = None;
        wait_until("it begins", SOON, async || {
            listening = Some(Self::to(client, target, &[]).await?);
            Ok(())
        })
        .await?;
        listening.context("it")
    }

    /// Hears more; nothing when it has ended.
    async fn hears(&mut self) -> Result<bool> {
        let frame = timeout(SOON, self.body.frame()).await.context("silence")?;
        let Some(frame) = frame.transpose()? else {
            return Ok(false);
        };
        let data = frame.data_ref().context("data")?;
        self.heard.push_str(str::from_utf8(data)?);
        Ok(true)
    }

    async fn until(&mut self, says: &str) -> Result<()> {
        while !self.heard.contains(says) {
            ensure!(self.hears().await?, "it ended: {}", self.heard);
        }
        Ok(())
    }

    /// Hears of an event.
    async fn of(&mut self, id: &str) -> Result<()> {
        self.until(&format!("\"id\":\"{id}\"")).await?;
        while !self.heard.ends_with("\n\n") {
            ensure!(self.hears().await?, "it ended: {}", self.heard);
        }
        Ok(())
    }

    /// The last place that it knows.
    fn place(&self) -> &str {
        let ids = self
            .heard
            .lines()
            .filter_map(|line| line.strip_prefix("id: "));
        ids.fold("", |_, id| id)
    }

    /// The events that it has heard of, in order.
    fn ids(&self) -> Vec<String> {
        let data = self
            .heard
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let ids = data.map(|json| {
            let event: Value = serde_json::from_str(json).unwrap_or_default();
            event["id"].as_str().unwrap_or_default().to_owned()
        });
        ids.collect()
    }
}

#[tokio::test]
async fn who_listens_is_told_each_event_and_goes_on_where_it_was() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    world.accepted("0").await?;
    let mut live = Listening::begins(&web, "/live").await?;
    // It knows its place before it has heard of anything.
    let begin = live.place().to_owned();
    for id in ["1", "2"] {
        world.accepted(id).await?;
        live.of(id).await?;
    }
    assert_eq!(live.ids(), ["1", "2"], "what came before is not new");
    let event = live
        .heard
        .lines()
        .find_map(|line| line.strip_prefix("data: "));
    let event: Value = serde_json::from_str(event.context("an event")?)?;
    assert_eq!(
        (&event["type"], &event["data"]["sku"], &event["specversion"]),
        (&json!("com.shop.stock"), &json!("1"), &json!("1.0"))
    );
    let second = live.place().to_owned();
    drop(live);

    // What came while it was away it is told now, and nothing twice.
    world.accepted("3").await?;
    let mut again = Listening::to(&web, "/live", &[("last-event-id", &second)]).await?;
    again.of("3").await?;
    assert_eq!(again.ids(), ["3"]);
    let mut from_begin = Listening::to(&web, &format!("/live?lastEventId={begin}"), &[]).await?;
    from_begin.of("3").await?;
    assert_eq!(from_begin.ids(), ["1", "2", "3"]);
    let mut all = Listening::to(&web, "/all", &[]).await?;
    all.of("3").await?;
    assert_eq!(all.ids(), ["0", "1", "2", "3"]);
    let mut from_third = Listening::to(&web, "/third", &[]).await?;
    from_third.of("3").await?;
    assert_eq!(from_third.ids(), ["2", "3"]);
    // Several hear the same.
    world.accepted("4").await?;
    for one in [&mut again, &mut from_begin, &mut all] {
        one.of("4").await?;
    }
    assert_eq!(
        world
            .billing
            .upstream
            .seen()
            .iter()
            .filter(|one| one.target == "/live")
            .count(),
        0
    );
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_with_its_sidecar_its_broker_and_its_rule_and_goes_on_after_them()
-> Result<()> {
    let mut world = World::subscribed("", "").await?;
    world.mesh.write("live.yaml", LIVE)?;
    let web = world.mesh.client("web").await?;
    let mut live = Listening::begins(&web, "/live").await?;
    world.accepted("1").await?;
    live.of("1").await?;
    let place = live.place().to_owned();

    let sidecar = &world.billing.sidecar;
    let (ended, told) = tokio::join!(sidecar.terminate(), async {
        while live.hears().await? {}
        anyhow::Ok(())
    });
    told.context("it ends as an answer does")?;
    assert_eq!(ended?, Some(0));
    world.billing.sidecar.start()?;
    world.billing.sidecar.ready().await?;
    world.accepted("2").await?;
    let goes_on = async |world: &World, place: &str, id: &str| {
        let mut live = None;
        wait_until("it goes on", SOON, async || {
            live = Some(Listening::to(&web, "/live", &[("last-event-id", place)]).await?);
            Ok(())
        })
        .await?;
        let mut live = live.context("it")?;
        world.accepted(id).await?;
        live.of(id).await?;
        anyhow::Ok(live)
    };
    let mut live = goes_on(&world, &place, "3").await?;
    assert_eq!(live.ids(), ["2", "3"]);
    let place = live.place().to_owned();

    world.nats.kill();
    while live.hears().await? {}
    world.nats.run().await?;
    let mut live = goes_on(&world, &place, "4").await?;
    assert_eq!(live.ids(), ["4"]);

    // Nobody hears by what is no longer written.
    world.mesh.remove("live.yaml")?;
    while live.hears().await? {}
    Ok(())
}

/// How many events [`publish_many`] publishes: 50 MB, more than all sockets between take.
pub(super) const MANY: usize = 200;

/// Publishes many events while somebody does not read; the sidecars between hold none of them.
pub(super) async fn publish_many(world: &World, between: [&Sidecar; 2]) -> Result<()> {
    let before = [between[0].usage()?.resident, between[1].usage()?.resident];
    let mut direct = world.nats.direct().await?;
    let data = format!("\"{}\"", "x".repeat(256 << 10));
    for number in 1..=MANY {
        let id = number.to_string();
        let event = [
            ("ce-id", id.as_str()),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-specversion", "1.0"),
            ("content-type", "application/json"),
        ];
        direct.publish("stock", &event, &data).await?;
    }
    let most = [between[0].usage()?.resident, between[1].usage()?.resident];
    for (before, most) in before.into_iter().zip(most) {
        let grown = most.saturating_sub(before);
        ensure!(grown < 24 << 20, "it has grown by {grown} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn who_does_not_read_is_given_no_more_than_it_reads_and_misses_nothing() -> Result<()> {
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    let mut slow = Listening::begins(&web, "/live").await?;
    publish_many(&world, [web.sidecar(), &world.billing.sidecar]).await?;
    let last = format!("\"id\":\"{MANY}\"");
    let mut ids = Vec::new();
    loop {
        slow.until("\n\n").await?;
        let (events, rest) = slow.heard.rsplit_once("\n\n").context("events")?;
        let ended = events.contains(&last);
        for event in events.split("\n\n").filter(|one| one.contains("data: ")) {
            let (_, id) = event.rsplit_once("\"id\":\"").context("an id")?;
            ids.push(id.split('"').next().unwrap_or_default().to_owned());
        }
        slow.heard = rest.to_owned();
        if ended {
            break;
        }
    }
    let wanted = Vec::from_iter((1..=MANY).map(|number| number.to_string()));
    assert_eq!(ids, wanted);
    assert!(slow.body.frame().now_or_never().is_none(), "it goes on");
    Ok(())
}

#[tokio::test]
async fn a_stream_with_nothing_to_say_is_not_ended_for_silence() -> Result<()> {
    let world = World::subscribed("", &impatient()).await?;
    let web = world.mesh.client("web").await?;
    let mut live = Listening::begins(&web, "/live").await?;
    // Three in each second that nothing else is said.
    while live.heard.matches("\n:\n").count() < 6 {
        ensure!(live.hears().await?, "it ended: {}", live.heard);
    }
    world.accepted("1").await?;
    live.of("1").await
}

/// A stream that a second of silence would end.
pub(super) fn impatient() -> String {
    let rule = "stream: { broker: events, topic: stock } }";
    let impatient = LIVE.replace(rule, &rule.replace(" } }", " }, timeouts: { idle: 1s } }"));
    assert_ne!(impatient, LIVE);
    impatient
}

#[tokio::test]
async fn one_more_than_may_listen_is_told_so_and_may_when_another_one_goes() -> Result<()> {
    // Of each worker.
    const MAY: usize = 256;
    let world = World::subscribed("", LIVE).await?;
    let web = world.mesh.client("web").await?;
    let mut all = vec![Listening::begins(&web, "/live").await?];
    let refused = loop {
        match Listening::to(&web, "/live", &[]).await {
            Ok(one) => all.push(one),
            Err(why) => break why.to_string(),
        }
        ensure!(all.len() <= 8 * MAY, "nobody is refused");
    };
    assert!(all.len() >= MAY, "{} listen: {refused}", all.len());
    assert!(
        refused.contains("503") && refused.contains("overloaded"),
        "{refused}"
    );
    all.clear();
    Listening::begins(&web, "/live").await.map(drop)
}

#[tokio::test]
async fn who_may_not_listen_or_asks_for_what_is_not_there_is_told() -> Result<()> {
    let mut world = World::subscribed("", LIVE).await?;
    let [web, other] = [
        world.mesh.client("web").await?,
        world.mesh.client("other").await?,
    ];
    drop(Listening::begins(&web, "/live").await?);
    let url = "http://billing.shop/live";
    let answer = other.get(url).await?;
    assert_eq!((answer.status, answer.reason()), (403, "not_permitted"));
    let answer = web.send(Method::POST, url, &[], Bytes::new()).await?;
    assert_eq!((answer.status, answer.reason()), (405, "bad_request"));
    for place in ["x", "-1", "1-0", "18446744073709551615"] {
        let answer = web.get_with(url, &[("last-event-id", place)]).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "bad_request"),
            "{place}"
        );
        let detail = problem(&answer)["errors"][0]["detail"].clone();
        assert!(
            detail
                .as_str()
                .is_some_and(|says| says.starts_with("last-event-id: "))
        );
    }
    let answer = web.get("http://billing.shop/none").await?;
    assert_eq!((answer.status, answer.reason()), (404, "topic_unknown"));
    world.nats.kill();
    wait_until("it is known to be away", SOON, async || {
        let answer = web.get(url).await?;
        ensure!(
            (answer.status, answer.reason()) == (503, "broker_unavailable"),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}
