//! Bodies that are published record by record.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures::{Stream, StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use tests::mesh::Usage;

use super::*;

/// What is uploaded to the Service `billing` is published to the topic `stock`.
const UPLOADS: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: billing, namespace: shop }\n\
    spec:\n  hosts: [billing]\n  rules:\n  \
    - { matches: [{ path: { type: Exact, value: /lines } }], publish: { broker: events, topic: stock, \
        event: { type: com.shop.line, source: /lines }, maxBytes: 68719476736, split: { format: NDJSON, maxRecordBytes: 65536 } } }\n  \
    - { matches: [{ path: { type: Exact, value: /array } }], publish: { broker: events, topic: stock, split: { format: JSONArray } } }\n  \
    - { matches: [{ path: { type: Exact, value: /items } }], publish: { broker: events, topic: stock, maxBytes: 68719476736, split: { format: JSONArray } } }\n  \
    - { matches: [{ path: { type: Exact, value: /csv } }], publish: { broker: events, topic: stock, maxBytes: 68719476736, split: { format: CSV } } }\n  \
    - { matches: [{ path: { type: Exact, value: /xml } }], publish: { broker: events, topic: stock, maxBytes: 68719476736, \
        split: { format: XML, recordPath: all/one } } }\n  \
    - { matches: [{ path: { type: Exact, value: /skip } }], publish: { broker: events, topic: stock, \
        split: { format: NDJSON, onRecordError: Skip, maxFailedRecords: 2 } } }\n  \
    - { matches: [{ path: { type: Exact, value: /letters } }], publish: { broker: events, topic: stock, \
        split: { format: NDJSON, maxRecordBytes: 100, onRecordError: DeadLetter, maxFailedRecords: 9, deadLetter: { topic: stock.dlq } } } }\n  \
    - {}\n";

/// By how much memory may grow while any number of records flows through.
const FLAT: u64 = 32 << 20;
/// How many bytes are uploaded of each format but lines.
const MORE: u64 = 64 << 20;

async fn world() -> Result<(World, Client)> {
    let world = World::subscribed("", UPLOADS).await?;
    let web = world.mesh.client("web").await?;
    wait_until("it is split", SOON, async || {
        let answer = upload(&web, "array", &[], "[]").await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await?;
    Ok((world, web))
}

async fn upload(
    client: &Client,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let (url, body) = (
        format!("http://billing.shop/{path}"),
        Bytes::from(body.to_owned()),
    );
    client.send(Method::POST, &url, headers, body).await
}

/// The records of an answer that failed, and in what order.
fn failed(told: &Value) -> Vec<u64> {
    let failed = told["failed"].as_array().into_iter().flatten();
    failed.filter_map(|one| one["record"].as_u64()).collect()
}

#[tokio::test]
async fn records_of_every_format_become_events() -> Result<()> {
    let (world, web) = world().await?;
    for (path, body, becomes) in [
        ("lines", "{\"n\":1}\n[2]\n\n", ["{\"n\":1}", "[2]"]),
        ("array", "[{\"n\":1}, 2]", ["{\"n\":1}", "2"]),
        (
            "csv",
            "n,m\r\n1,a\r\n2,\"b\"\r\n",
            ["{\"n\":\"1\",\"m\":\"a\"}", "{\"n\":\"2\",\"m\":\"b\"}"],
        ),
        (
            "xml",
            "<all xmlns='urn:a'><one>1</one> <one n='2'/></all>",
            [
                "<one xmlns=\"urn:a\">1</one>",
                "<one xmlns=\"urn:a\" n='2'/>",
            ],
        ),
    ] {
        let answer = upload(&web, path, &[("idempotency-key", path)], body).await?;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
        let told = json!({ "id": path, "accepted": 2, "rejected": 0, "failed": [] });
        assert_eq!(problem(&answer), told);
        let ids = [format!("{path}-1"), format!("{path}-2")];
        let seen = world.delivered(&[&ids[0], &ids[1]]).await?;
        for (id, becomes) in ids.iter().zip(becomes) {
            let event = seen.iter().find(|one| id_of(one) == id).context("it")?;
            assert_eq!(event.body, becomes);
            let media = if path == "xml" {
                "application/xml"
            } else {
                "application/json"
            };
            assert_eq!(header(event, "content-type"), media);
            assert!(!header(event, "traceparent").is_empty());
        }
    }
    let seen = world.delivered(&["lines-1"]).await?;
    let line = seen
        .iter()
        .find(|one| id_of(one) == "lines-1")
        .context("it")?;
    assert_eq!(
        (header(line, "ce-type"), header(line, "ce-source")),
        ("com.shop.line", "/lines")
    );
    // By the port of the application as well.
    let answer = publish(&world.billing.sidecar, "events/stock", &[], "[7]").await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(problem(&answer)["accepted"], 1);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_sent_again_is_held_once() -> Result<()> {
    let (world, web) = world().await?;
    let key = [("idempotency-key", "k")];
    let lines = String::from_iter((1..=300).map(|n| format!("{n}\n")));
    for _ in 0..2 {
        let answer = upload(&web, "lines", &key, &lines).await?;
        assert_eq!(
            (answer.status, &problem(&answer)["accepted"]),
            (202, &json!(300))
        );
    }
    assert_eq!(world.nats.held("stock").await?, 300);
    // Only what follows is published, under the numbers that it has.
    let more = lines.clone() + "301\n302\n";
    let resumed = [key[0], ("resume-from", "301")];
    let answer = upload(&web, "lines", &resumed, &more).await?;
    assert_eq!(
        (answer.status, &problem(&answer)["accepted"]),
        (202, &json!(2))
    );
    assert_eq!(world.nats.held("stock").await?, 302);
    world.delivered(&["k-1", "k-300", "k-301", "k-302"]).await?;
    // Without a key each is another one, and nothing can be resumed.
    for _ in 0..2 {
        let answer = upload(&web, "lines", &[], "1\n").await?;
        assert_eq!(answer.status, 202);
        assert_eq!(problem(&answer)["id"].as_str().map(str::len), Some(36));
    }
    assert_eq!(world.nats.held("stock").await?, 304);
    for headers in [&[("resume-from", "2")][..], &[key[0], ("resume-from", "0")]] {
        let answer = upload(&web, "lines", headers, "1\n").await?;
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_record_ends_an_upload_and_it_is_told_where_to_go_on() -> Result<()> {
    let (world, web) = world().await?;
    let key = [("idempotency-key", "k")];
    // Far more follows than is read before the answer.
    let lines = |third: &str| format!("1\n2\n{third}\n{}", "4\n".repeat(2_000_000));
    let answer = upload(&web, "lines", &key, &lines("{")).await?;
    assert_eq!((answer.status, answer.reason()), (400, "event_malformed"));
    let told = problem(&answer);
    assert_eq!(
        (&told["accepted"], &told["resumeFrom"], &told["id"]),
        (&json!(2), &json!(3), &json!("k"))
    );
    let detail = told["errors"][0]["detail"].as_str().unwrap_or_default();
    assert!(
        detail.starts_with("record 3: it is not written as JSON"),
        "{detail}"
    );
    assert_eq!(world.nats.held("stock").await?, 2);
    let resumed = [key[0], ("resume-from", "3")];
    let answer = upload(&web, "lines", &resumed, "1\n2\n3\n4\n").await?;
    assert_eq!(
        (answer.status, &problem(&answer)["accepted"]),
        (202, &json!(2))
    );
    assert_eq!(world.nats.held("stock").await?, 4);

    // What says that it is something else, and what ends too soon.
    for (path, headers, body, expected) in [
        (
            "lines",
            &[("content-type", "application/cloudevents+json")][..],
            "{}",
            (415, "event_unsupported"),
        ),
        (
            "lines",
            &[("content-type", "multipart/form-data; boundary=a")],
            "",
            (415, "event_unsupported"),
        ),
        (
            "lines",
            &[("content-encoding", "gzip")],
            "",
            (415, "event_unsupported"),
        ),
        ("array", &[], "[1,2", (400, "event_malformed")),
        ("xml", &[], "<!DOCTYPE all><all/>", (400, "event_malformed")),
        ("csv", &[], "a,a\n1,2\n", (400, "event_malformed")),
        (
            "array",
            &[],
            &format!("[{}1]", "1,".repeat(600_000)),
            (413, "request_too_large"),
        ),
    ] {
        let answer = upload(&web, path, headers, body).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            expected,
            "{path} {headers:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn records_that_fail_are_left_out_or_are_dead_letters_and_not_more_than_may() -> Result<()> {
    let (world, web) = world().await?;
    let lines = "1\n{\n3\n}\n5\n";
    let answer = upload(&web, "skip", &[("idempotency-key", "s")], lines).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    let told = problem(&answer);
    assert_eq!(
        (&told["accepted"], &told["rejected"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(failed(&told), [2, 4]);
    let answer = upload(&web, "skip", &[], &format!("{lines}{{\n7\n")).await?;
    assert_eq!(
        (answer.status, &problem(&answer)["resumeFrom"]),
        (400, &json!(6))
    );
    assert_eq!(failed(&problem(&answer)), [2, 4]);

    let lines = format!("1\n{{\n3\n\"{}\"\n5\n", "x".repeat(200));
    let answer = upload(&web, "letters", &[("idempotency-key", "d")], &lines).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(failed(&problem(&answer)), [2, 4]);
    let letters = world.dead_letters(2).await?;
    let [(headers, data), (long, nothing)] = &*letters else {
        panic!("{letters:?}");
    };
    assert_eq!((data.as_str(), nothing.as_str()), ("{", ""));
    for line in [
        "ce-id: d-2",
        "ce-type: dev.meshwright.malformed",
        "ce-dlqreason: Malformed",
        "ce-dlqtopic: stock",
    ] {
        assert!(
            headers.to_lowercase().contains(&line.to_lowercase()),
            "{headers}"
        );
    }
    assert!(
        long.contains("ce-dlqreason: TooLarge") && long.contains("d-4"),
        "{long}"
    );
    Ok(())
}

#[tokio::test]
async fn an_upload_stops_where_nothing_is_confirmed_and_goes_on_from_there() -> Result<()> {
    const LINES: usize = 5000;
    let (world, web) = world().await?;
    let lines = String::from_iter((1..=LINES).map(|n| format!("{{\"n\":{n}}}\n")));
    let key = ("idempotency-key", "k");
    let halting = async {
        // So many that the first of them must have been confirmed.
        wait_until("some are held", SOON, async || {
            let held = world.nats.held("stock").await?;
            ensure!(held > 1000, "{held}");
            Ok(())
        })
        .await?;
        world.nats.signal(Signal::SIGSTOP)
    };
    let headers = [key];
    let sending = upload(&web, "lines", &headers, &lines);
    let (answer, halted) = tokio::join!(sending, halting);
    world.nats.signal(Signal::SIGCONT)?;
    halted?;
    let answer = answer?;
    assert_eq!(
        (answer.status, answer.reason()),
        (503, "publish_unconfirmed")
    );
    assert!(answer.headers.contains_key("retry-after"));
    let told = problem(&answer);
    let count =
        |field: &str| anyhow::Ok(usize::try_from(told[field].as_u64().context("a count")?)?);
    let (from, accepted) = (count("resumeFrom")?, count("accepted")?);
    assert!(accepted >= from - 1 && from > 1, "{told}");
    let answer = upload(
        &web,
        "lines",
        &[key, ("resume-from", &from.to_string())],
        &lines,
    )
    .await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(problem(&answer)["accepted"], LINES + 1 - from);
    assert_eq!(world.nats.held("stock").await?, LINES, "each of them, once");
    Ok(())
}

#[tokio::test]
async fn an_upload_whose_sidecar_is_killed_is_sent_again_and_each_record_is_held_once() -> Result<()>
{
    const LINES: usize = 3000;
    let (world, web) = world().await?;
    let line = |n: usize| format!("{{\"n\":{n}}}");
    let lines = String::from_iter((1..=LINES).map(|n| line(n) + "\n"));
    // More of it is never sent: whenever its sidecar dies, that is in the middle.
    let half = Bytes::from(lines[..lines.len() / 2].to_owned());
    let killing = async {
        wait_until("some are held", SOON, async || {
            let held = world.nats.held("stock").await?;
            ensure!(held > 300, "{held}");
            Ok(())
        })
        .await?;
        world.billing.sidecar.kill().await
    };
    let endless = stream::iter([half]).chain(stream::pending());
    let (broken, killed) = tokio::join!(streamed(&web, ("lines", "k"), endless), killing);
    killed?;
    let (status, told) = broken?;
    assert!(status.is_server_error(), "{status}: {told}");
    assert!(told["resumeFrom"].is_null(), "nobody knows: {told}");
    let held = world.nats.held("stock").await?;
    assert!(held < LINES, "{held}");

    world.billing.sidecar.start()?;
    world.billing.sidecar.ready().await?;
    let answer = upload(&web, "lines", &[("idempotency-key", "k")], &lines).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(problem(&answer)["accepted"], LINES);
    let messages = world.nats.messages("stock").await?;
    assert_eq!(messages.len(), LINES, "each of them, once");
    let ids = messages.iter().map(|(headers, data)| {
        let mut headers = headers.lines();
        let id = headers.find_map(|line| line.strip_prefix("ce-id: "));
        (id.unwrap_or_default().to_owned(), data.clone())
    });
    let all = (1..=LINES).map(|n| (format!("k-{n}"), line(n)));
    assert_eq!(BTreeSet::from_iter(ids), BTreeSet::from_iter(all));
    Ok(())
}

#[tokio::test]
async fn a_broker_without_the_topic_is_told_before_much_is_read() -> Result<()> {
    let world = World::start(UPLOADS).await?;
    let web = world.mesh.client("web").await?;
    wait_until("the broker says so", SOON, async || {
        let answer = upload(&web, "lines", &[], &"1\n".repeat(100_000)).await?;
        ensure!(
            (answer.status, answer.reason()) == (404, "topic_unknown"),
            "{answer:?}"
        );
        ensure!(problem(&answer)["resumeFrom"] == 1, "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn however_much_is_uploaded_no_more_is_held_than_a_few_records() -> Result<()> {
    // `make soak` sends a gigabyte in a million records.
    let number = |name: &str, usual: u64| -> Result<u64> {
        std::env::var(name).map_or(Ok(usual), |text| Ok(text.parse()?))
    };
    let bytes = number("MESHWRIGHT_UPLOAD_BYTES", 200 << 20)?;
    let each = number("MESHWRIGHT_UPLOAD_RECORD_BYTES", 32 << 10)?;
    let world = World::start(UPLOADS).await?;
    // What nobody is subscribed to is not kept either.
    let stream = json!({
        "name": "stock", "subjects": ["stock"], "storage": "memory", "max_msgs": 100, "discard": "old",
    });
    let mut direct = world.nats.direct().await?;
    let made = direct
        .request("$JS.API.STREAM.CREATE.stock", &stream.to_string())
        .await?;
    ensure!(made["config"].is_object(), "{made}");
    let web = world.mesh.client("web").await?;
    let data = "x".repeat(usize::try_from(each)? - 3);
    let uploads = [
        ("lines", ["", &format!("\"{data}\"\n"), ""], bytes / each),
        ("items", ["[0", &format!(",\"{data}\""), "]"], MORE / each),
        ("csv", ["n\n", &format!("{data}\n"), ""], MORE / each),
        (
            "xml",
            ["<all>", &format!("<one>{data}</one>"), "</all>"],
            MORE / each,
        ),
    ];
    wait_until("it is split", SOON, async || {
        let lines = "1\n".repeat(3000);
        let answer = upload(&web, "lines", &[], &lines).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await?;

    let both = [web.sidecar(), &world.billing.sidecar];
    let resident = || -> Result<[u64; 2]> {
        let usage: [Usage; 2] = [both[0].usage()?, both[1].usage()?];
        Ok(usage.map(|usage| usage.resident))
    };
    let before = resident()?;
    let mut most = before;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    for (path, body, count) in uploads {
        let mut sending = std::pin::pin!(sends(&web, path, body, count));
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer?,
                _ = looks.tick() => {
                    let now = resident()?;
                    most = [most[0].max(now[0]), most[1].max(now[1])];
                }
            }
        };
        let first = u64::from(path == "items");
        assert_eq!(answer["accepted"], count + first, "{path}: {answer}");
    }
    for (before, most) in before.into_iter().zip(most) {
        let grown = most.saturating_sub(before);
        println!("{} MiB, {} KiB more at the most", before >> 20, grown >> 10);
        ensure!(grown < FLAT, "it has grown by {grown} bytes");
    }
    let held = world.nats.held("stock").await?;
    ensure!(held == 100, "{held}");
    Ok(())
}

/// Sends a record so often, between what is before and after all of them, and reads the report.
async fn sends(client: &Client, path: &str, body: [&str; 3], count: u64) -> Result<Value> {
    let [before, record, after] = body.map(|part| Bytes::from(part.to_owned()));
    let records = (0..count).map(move |_| record.clone());
    let whole = [before].into_iter().chain(records).chain([after]);
    let (status, told) = streamed(client, (path, ""), stream::iter(whole)).await?;
    ensure!(status == 202, "{path}: {status}: {told}");
    Ok(told)
}

/// Uploads what comes, under a key if there is one: the status, and the report.
async fn streamed<S>(
    client: &Client,
    (path, key): (&str, &str),
    body: S,
) -> Result<(StatusCode, Value)>
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let sidecar = client.sidecar().address();
    let connection = tokio::net::TcpStream::connect((sidecar, 15001)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(connection);
    let frames = body.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
    let url = format!("http://billing.shop/{path}");
    let mut request = Request::post(url).header("host", "billing.shop");
    if !key.is_empty() {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(StreamBody::new(frames))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body)?))
}
