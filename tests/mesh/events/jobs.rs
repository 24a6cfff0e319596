//! What is replied to an event, for whoever published it.

use anyhow::{Result, ensure};

use super::*;
use crate::redis::{self, Redis};

/// Keeps what is replied to what is posted to `/updates`; `billing` may answer later, by its own port.
fn routes(lives: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: stock, namespace: shop }}\n\
         spec:\n  hosts: [stock]\n{spec}  rules:\n  \
         - matches: [{{ path: {{ type: Exact, value: /updates }}, method: POST }}]\n    \
         publish:\n      broker: events\n      topic: stock\n      \
         asyncReply: {{ resultPath: /jobs, topic: invoices, timeToLive: {lives}, \
         store: {{ redis: {{ urlSecretRef: {{ name: store, key: url }} }} }} }}\n  \
         - {{}}\n\
         ---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: billing, namespace: shop }}\n\
         spec: {{ hosts: [billing], rules: [{{ matches: [{{ path: {{ type: Exact, value: /none }} }}], \
         publish: {{ broker: events, topic: invoices }} }}, {{}}] }}\n"
    )
}

/// A mesh with both, and two who call.
struct Jobs {
    world: World,
    redis: Redis,
    web: Client,
    app: Client,
}

impl Jobs {
    async fn start(lives: &str, spec: &str) -> Result<Self> {
        let mesh = Mesh::start(&format!(
            "{}{}{}{}{}",
            services(&["stock", "billing"]),
            nats::documents(),
            redis::documents(),
            routes(lives, spec),
            subscription("", "  reply: { topic: invoices }\n"),
        ))
        .await?;
        let nats = Nats::start(&mesh).await?;
        let redis = Redis::durable(&mesh).await?;
        let [stock, billing] = [
            mesh.workload("stock").await?,
            mesh.workload("billing").await?,
        ];
        let [web, app] = [mesh.client("web").await?, mesh.client("app").await?];
        for name in ["stock", "billing"] {
            mesh.programmed(name).await?;
        }
        let world = World {
            mesh,
            nats,
            stock,
            billing,
        };
        Ok(Self {
            world,
            redis,
            web,
            app,
        })
    }

    /// Posts what becomes an event with this id, until it is accepted; where what comes of it is fetched.
    async fn place(&self, client: &Client, id: &str) -> Result<String> {
        let place = std::cell::RefCell::new(String::new());
        wait_until("the job is accepted", SOON, async || {
            let answer = post(client, id).await?;
            ensure!(answer.status == 202, "{answer:?}");
            ensure!(answer.headers["retry-after"] == "1", "{answer:?}");
            ensure!(problem(&answer)["id"] == id, "{answer:?}");
            *place.borrow_mut() = answer.headers["location"].to_str()?.to_owned();
            Ok(())
        })
        .await?;
        Ok(place.into_inner())
    }

    /// The result, once it is there.
    async fn result(&self, place: &str) -> Result<Answer> {
        wait_until("the result is there", LEASE + SOON, async || {
            let answer = fetch(&self.web, place).await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await?;
        fetch(&self.web, place).await
    }

    /// How many replies became this.
    async fn became(&self, outcome: &str) -> Result<f64> {
        let labels = format!("subscription=\"shop/stock/jobs\",outcome=\"{outcome}\"");
        let series = format!("meshwright_events_delivered_total{{{labels}}}");
        let count = self.world.stock.sidecar.metric(&series).await?;
        Ok(count.unwrap_or_default())
    }

    /// The target replies with an event, of the data `paid`.
    fn replies(&self) {
        replies(&self.world.billing);
    }
}

fn replies(Workload { upstream, .. }: &Workload) {
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "invoice-1"),
        ("ce-source", "/billing"),
        ("ce-type", "com.shop.invoice"),
        ("content-type", "text/plain"),
    ] {
        upstream.adds(name, value);
    }
    upstream.says("paid");
}

async fn post(client: &Client, id: &str) -> Result<Answer> {
    let headers = [
        ("idempotency-key", id),
        ("content-type", "application/json"),
    ];
    let url = "http://stock.shop/updates";
    let body = Bytes::from_static(b"{}");
    client.send(Method::POST, url, &headers, body).await
}

async fn fetch(client: &Client, place: &str) -> Result<Answer> {
    client.get(&format!("http://stock.shop{place}")).await
}

#[tokio::test]
async fn what_is_replied_to_an_event_is_fetched_by_whoever_published_it_and_by_nobody_else()
-> Result<()> {
    let jobs = Jobs::start("10m", "").await?;
    jobs.replies();
    let held = jobs.world.billing.upstream.holds();
    let place = jobs.place(&jobs.web, "1").await?;
    let token = place
        .strip_prefix("/jobs/")
        .context("a place below the path")?;
    assert_eq!(token.len(), 32, "{place}");

    let waits = fetch(&jobs.web, &place).await?;
    assert_eq!(
        (waits.status, &*waits.body),
        (202, "{\"status\":\"waiting\"}")
    );
    assert_eq!(waits.headers["retry-after"], "1");
    let unknown = format!("/jobs/{}", "0".repeat(32));
    let refused = async || {
        for (client, place) in [
            (&jobs.app, &place),
            (&jobs.web, &unknown),
            (&jobs.web, &"/jobs/none".to_owned()),
        ] {
            let answer = fetch(client, place).await?;
            assert_eq!((answer.status, answer.reason()), (404, "job_unknown"));
        }
        anyhow::Ok(())
    };
    refused().await?;

    drop(held);
    let result = jobs.result(&place).await?;
    assert_eq!(result.body, "paid");
    for (name, value) in [
        ("ce-id", "invoice-1"),
        ("ce-type", "com.shop.invoice"),
        ("content-type", "text/plain"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(result.headers[name], value, "{name}");
    }
    refused().await?;
    // Who is given the event can't fetch with what it says.
    let seen = jobs.world.delivered(&["1"]).await?;
    let job = header(&seen[0], "ce-meshwrightjob");
    assert!(job.len() == 32 && job != token, "{job}");
    assert!(!result.headers.contains_key("ce-meshwrightjob"));
    assert_eq!(fetch(&jobs.web, &format!("/jobs/{job}")).await?.status, 404);
    assert_eq!(jobs.world.stock.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_sent_twice_is_one_job_and_anothers_is_another() -> Result<()> {
    let jobs = Jobs::start("10m", "").await?;
    jobs.replies();
    let place = jobs.place(&jobs.web, "1").await?;
    assert_eq!(jobs.place(&jobs.web, "1").await?, place);
    let other = jobs.place(&jobs.app, "1").await?;
    assert_ne!(other, place);
    assert_eq!(jobs.world.nats.held("stock").await?, 2);
    assert_eq!(jobs.result(&place).await?.body, "paid");
    assert_eq!(jobs.place(&jobs.web, "1").await?, place);

    // Of a batch nobody could be told one place.
    let batch = json!([{ "specversion": "1.0", "id": "1", "source": "/s", "type": "t" }]);
    let media = [("content-type", "application/cloudevents-batch+json")];
    let (url, body) = ("http://stock.shop/updates", Bytes::from(batch.to_string()));
    let answer = jobs.web.send(Method::POST, url, &media, body).await?;
    assert_eq!((answer.status, answer.reason()), (415, "event_unsupported"));
    assert_eq!(jobs.world.nats.held("stock").await?, 2);
    Ok(())
}

#[tokio::test]
async fn without_the_store_of_jobs_nothing_is_published_and_nothing_told() -> Result<()> {
    let mut jobs = Jobs::start("10m", "").await?;
    jobs.replies();
    let place = jobs.place(&jobs.web, "1").await?;
    jobs.result(&place).await?;
    jobs.redis.kill();
    for answer in [post(&jobs.web, "2").await?, fetch(&jobs.web, &place).await?] {
        assert_eq!(
            (answer.status, answer.reason()),
            (503, "jobs_unavailable"),
            "{answer:?}"
        );
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    assert_eq!(jobs.world.nats.held("stock").await?, 1);
    jobs.redis.run().await?;
    let other = jobs.place(&jobs.web, "2").await?;
    assert_eq!(jobs.result(&other).await?.body, "paid");
    assert_eq!(jobs.result(&place).await?.body, "paid");
    Ok(())
}

#[tokio::test]
async fn what_was_replied_outlives_the_sidecar_the_broker_and_the_store() -> Result<()> {
    let mut jobs = Jobs::start("10m", "").await?;
    jobs.replies();
    let held = jobs.world.billing.upstream.holds();
    let place = jobs.place(&jobs.web, "1").await?;
    jobs.world.delivered(&["1"]).await?;
    // It comes while the store is away, which is waited for.
    jobs.redis.kill();
    drop(held);
    wait_until("the reply waits for the store", SOON, async || {
        let waits = jobs.became("unreached").await?;
        ensure!(waits > 0.0, "{waits}");
        Ok(())
    })
    .await?;
    jobs.world.stock.sidecar.kill().await?;
    jobs.world.nats.kill();
    jobs.world.nats.run().await?;
    jobs.redis.run().await?;
    jobs.world.stock.sidecar.start()?;
    jobs.world.stock.sidecar.ready().await?;
    assert_eq!(jobs.result(&place).await?.body, "paid");
    assert_eq!(jobs.became("acknowledged").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn who_answers_later_says_whose_job_it_is_and_the_first_result_counts() -> Result<()> {
    let jobs = Jobs::start("10m", "").await?;
    jobs.world.billing.upstream.answers(202);
    let place = jobs.place(&jobs.web, "1").await?;
    let seen = jobs.world.delivered(&["1"]).await?;
    let job = header(&seen[0], "ce-meshwrightjob").to_owned();
    assert_eq!(fetch(&jobs.web, &place).await?.status, 202);
    let later = async |id: &str, job: &str| {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/billing"),
            ("ce-type", "com.shop.invoice"),
            ("ce-meshwrightjob", job),
        ];
        let sidecar = &jobs.world.billing.sidecar;
        publish(sidecar, "events/invoices", &headers, id).await
    };
    // What belongs to no job that anybody waits for is nobody's result.
    assert_eq!(later("none", &"0".repeat(32)).await?.status, 202);
    assert_eq!(later("odd", "a:b").await?.status, 202);
    assert_eq!(later("first", &job).await?.status, 202);
    assert_eq!(jobs.result(&place).await?.body, "first");
    assert_eq!(later("second", &job).await?.status, 202);
    wait_until("all are done with", SOON, async || {
        let done = (
            jobs.became("acknowledged").await?,
            jobs.became("filtered").await?,
            jobs.became("duplicate").await?,
        );
        ensure!(done == (1.0, 2.0, 1.0), "{done:?}");
        Ok(())
    })
    .await?;
    assert_eq!(jobs.result(&place).await?.body, "first");
    Ok(())
}

#[tokio::test]
async fn a_job_is_forgotten_after_its_time_and_fetched_by_those_who_may_enter() -> Result<()> {
    let may = "  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n";
    let jobs = Jobs::start("1s", may).await?;
    jobs.world.billing.upstream.answers(202);
    let place = jobs.place(&jobs.web, "1").await?;
    let refused = fetch(&jobs.app, &place).await?;
    assert_eq!((refused.status, refused.reason()), (403, "not_permitted"));
    wait_until("it is forgotten", SOON, async || {
        let answer = fetch(&jobs.web, &place).await?;
        ensure!(answer.reason() == "job_unknown", "{answer:?}");
        Ok(())
    })
    .await?;
    // The same event is another job then, and is published anew.
    assert_ne!(jobs.place(&jobs.web, "1").await?, place);
    assert_eq!(jobs.world.nats.held("stock").await?, 2);
    Ok(())
}

#[tokio::test]
async fn what_is_replied_is_kept_in_the_redis_that_is_the_broker_as_well() -> Result<()> {
    let mesh = Mesh::start(&format!(
        "{}{}{}{}{}",
        services(&["stock", "billing"]),
        redis::documents(),
        brokers::broker("redis://redis", ""),
        routes("10m", ""),
        subscription("", "  reply: { topic: invoices }\n"),
    ))
    .await?;
    let _redis = Redis::durable(&mesh).await?;
    let (_stock, billing) = (
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    );
    let web = mesh.client("web").await?;
    for name in ["stock", "billing"] {
        mesh.programmed(name).await?;
    }
    replies(&billing);
    wait_until("the result is there", LEASE + SOON, async || {
        let answer = post(&web, "1").await?;
        ensure!(answer.status == 202, "{answer:?}");
        let answer = fetch(&web, answer.headers["location"].to_str()?).await?;
        ensure!(
            (answer.status, &*answer.body) == (200, "paid"),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}
