//! Answers that callers' sidecars keep themselves.

mod refused;

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tests::client::{Answer, Client};
use tests::mesh::Sidecar;

use super::app::{App, reply};
use super::{World, documents, until};
use crate::access::consumer;
use crate::retries::policy;
use crate::routing::services;

/// Callers keep answers for as long as they may.
const KEPT: &str = "{ atCaller: { maxAge: 1m } }";

const PUBLIC: (&str, &str) = ("cache-control", "public, max-age=600");

/// What the caches say of an answer, the application's nearest first.
fn statuses(answer: &Answer) -> Vec<&str> {
    let lines = answer.headers.get_all("cache-status").iter();
    lines.filter_map(|line| line.to_str().ok()).collect()
}

/// Whether the caller's own sidecar gave it, and nobody else said anything.
fn is_own(answer: &Answer) -> bool {
    matches!(*statuses(answer), [one] if one.starts_with("meshwright-caller; hit; ttl="))
}

async fn until_own(client: &Client, target: &str, headers: &[(&str, &str)]) -> Result<()> {
    let url = format!("http://orders{target}");
    until("its own sidecar keeps it", async || {
        Ok(is_own(&client.get_with(&url, headers).await?))
    })
    .await
}

/// How many lines a sidecar has logged of a path, after one of the last request was.
async fn logged(sidecar: &Sidecar, path: &str, last: &str) -> Result<usize> {
    let named = |path: &str| format!(r#""path":"{path}""#);
    until("the last line is written", async || {
        Ok(sidecar.log()?.contains(&named(last)))
    })
    .await?;
    let log = sidecar.log()?;
    Ok(log
        .lines()
        .filter(|line| line.contains(&named(path)))
        .count())
}

#[tokio::test]
async fn what_a_caller_keeps_is_given_without_asking_anybody() -> Result<()> {
    let world = World::of(KEPT, "", App::saying(PUBLIC)).await?;
    let first = world.get("/a").await?;
    assert_eq!(
        statuses(&first),
        [
            "meshwright; fwd=uri-miss; stored",
            "meshwright-caller; fwd=uri-miss; stored"
        ]
    );
    until_own(&world.web, "/a", &[]).await?;
    let line = r#"meshwright_cache_requests_total{direction="outbound",route="shop/orders",outcome="hit"}"#;
    let web = world.web.sidecar();
    let hits = web.metric(line).await?;
    for _ in 0..5 {
        let answer = world.get("/a").await?;
        assert!(is_own(&answer), "{answer:?}");
        assert_eq!((answer.body.as_str(), answer.status), ("0", 200));
        let age = answer.headers.get("age").and_then(|age| age.to_str().ok());
        assert!(age.is_some_and(|age| age.parse::<u64>().is_ok()));
    }
    assert_eq!(web.metric(line).await?, hits.map(|hits| hits + 5.0));
    let head = world
        .web
        .send(Method::HEAD, "http://orders/a", &[], Bytes::new());
    let head = head.await?;
    assert!(is_own(&head) && head.body.is_empty());

    // The destination's sidecar has seen those that were asked, and no other.
    world.get("/last").await?;
    let asked = logged(&world.sidecar, "/a", "/last").await?;
    let sent = logged(web, "/a", "/last").await?;
    assert!(asked <= 2 && sent >= asked + 6, "{asked} of {sent}");
    let log = web.log()?;
    let own = log.lines().rfind(|line| line.contains(r#""path":"/a""#));
    let own = own.unwrap_or_default();
    assert!(own.contains(r#""cache":"hit""#), "{own}");
    assert!(own.contains(r#""attempts":0"#), "{own}");
    assert_eq!(world.app.requests(), 2);
    // What the sidecars say to each other of it stays between them.
    let between = |headers: &http::HeaderMap| headers.contains_key("meshwright-keeps");
    assert!(!between(&first.headers) && !between(&head.headers));
    assert!(!world.app.seen().iter().any(|seen| between(&seen.headers)));

    // Another pod has its own.
    let cron = world.mesh.client("cron").await?;
    let other = cron.get("http://orders/a").await?;
    assert!(
        statuses(&other)[0].starts_with("meshwright; hit"),
        "{other:?}"
    );
    until_own(&cron, "/a", &[]).await
}

#[tokio::test]
async fn no_caller_keeps_anything_unless_it_is_said() -> Result<()> {
    let world = World::of("{}", "", App::saying(PUBLIC)).await?;
    for _ in 0..5 {
        let answer = world.get("/a").await?;
        assert!(matches!(*statuses(&answer), [one] if one.starts_with("meshwright;")));
    }
    let shown = world.web.sidecar().admin("/cache", None).await?;
    assert!(shown.body.contains(r#""caches": []"#), "{}", shown.body);
    Ok(())
}

#[tokio::test]
async fn what_was_answered_to_credentials_is_given_to_no_others_even_if_it_is_public() -> Result<()>
{
    let world = World::of(KEPT, "", App::saying(PUBLIC)).await?;
    let callers: [&[(&str, &str)]; 5] = [
        &[],
        &[("authorization", "Bearer a")],
        &[("authorization", "Bearer b")],
        &[("cookie", "session=a")],
        &[("cookie", "session=b")],
    ];
    for caller in callers {
        let first = world.get_with("/a", caller).await?;
        assert!(!is_own(&first), "{caller:?}: {first:?}");
        until_own(&world.web, "/a", caller).await?;
    }
    // What one of them changes is changed for all.
    let sent = [("authorization", "Bearer a")];
    let url = "http://orders/a?b";
    world
        .web
        .send(Method::PUT, url, &sent, Bytes::new())
        .await?;
    for caller in callers {
        assert!(!is_own(&world.get_with("/a", caller).await?), "{caller:?}");
    }
    // What is not said to be for all is nobody's but its caller's.
    let app = App::saying(("cache-control", "max-age=600"));
    let world = World::of(KEPT, "", app).await?;
    for _ in 0..5 {
        assert!(!is_own(&world.get_with("/a", &sent).await?));
    }
    until_own(&world.web, "/a", &[]).await
}

/// Keys of two consumers, with the ApiRoute that lets them in.
fn keys(cache: &str, access: &str, keys: &[&str]) -> Result<String> {
    let mut yaml = documents(cache, access);
    for (place, key) in keys.iter().enumerate() {
        yaml += &consumer(&format!("consumer-{place}"), "gold", key, "")?;
    }
    Ok(yaml)
}

const ACME: &str = "mk_acme1_secret0123456789secret0123456789";
const OTHER: &str = "mk_other_secret0123456789secret0123456789";

#[tokio::test]
async fn keys_of_consumers_tell_answers_apart_wherever_they_are_sent() -> Result<()> {
    for (place, access) in [
        ("x-api-key", "  auth: { apiKey: {} }\n"),
        ("key", "  auth: { apiKey: { in: Query, name: key } }\n"),
    ] {
        let cache = "{ keyQuery: [key, page], atCaller: { maxAge: 1m } }";
        let world = World::of(cache, access, App::saying(PUBLIC)).await?;
        world
            .mesh
            .write("routes.yaml", &keys(cache, access, &[ACME, OTHER])?)?;
        let get = async |key: &str| match place {
            "key" => world.get(&format!("/a?key={key}")).await,
            _ => world.get_with("/a", &[(place, key)]).await,
        };
        for key in [ACME, OTHER] {
            until("the key is known", async || {
                Ok(get(key).await?.status == 200)
            })
            .await?;
        }
        // From here on nothing that is told changes; both may have their own already.
        world.web.sidecar().admin("/cache", Some("purge=/")).await?;
        for key in [ACME, OTHER] {
            assert!(!is_own(&get(key).await?), "{place}");
            until("it is kept", async || Ok(is_own(&get(key).await?))).await?;
        }
        // Who sends none, or a wrong one, gets nothing of theirs.
        let wrong = get("mk_wrong_secret0123456789secret0123456789").await?;
        assert_eq!(wrong.status, 401, "{place}");
        assert_eq!(world.get("/a").await?.status, 401, "{place}");
        assert!(!world.web.sidecar().log()?.contains(ACME), "{place}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_caller_keeps_can_be_shown_and_purged_and_goes_with_an_edit() -> Result<()> {
    let world = World::of(KEPT, "", App::saying(PUBLIC)).await?;
    for target in ["/a", "/a/b", "/ab"] {
        until_own(&world.web, target, &[]).await?;
    }
    let web = world.web.sidecar();
    let shown = web.config().await?;
    let services = shown["inForce"]["services"].as_array();
    let orders = services.into_iter().flatten();
    let mut orders = orders.filter(|service| service["service"] == "shop/orders");
    let kept = orders.next().map(|service| service["cache"].clone());
    let kept = kept.unwrap_or_default();
    assert_eq!(
        (&kept["at"], &kept["entries"]),
        (&"caller".into(), &3.into()),
        "{shown}"
    );
    let purged = web.admin("/cache", Some("purge=/a")).await?;
    assert!(purged.body.contains("\"purged\": 2"), "{}", purged.body);
    assert!(!is_own(&world.get("/a").await?));
    assert!(is_own(&world.get("/ab").await?));

    let yaml = documents(KEPT, "  timeouts: { request: 77s }\n");
    world.mesh.write("routes.yaml", &yaml)?;
    until("nothing of it is left", async || {
        Ok(!is_own(&world.get("/ab").await?))
    })
    .await?;
    until_own(&world.web, "/ab", &[]).await?;
    world.mesh.write("routes.yaml", &documents("{}", ""))?;
    until("callers keep nothing", async || {
        Ok(statuses(&world.get("/ab").await?).len() == 1)
    })
    .await
}

#[tokio::test]
async fn what_was_answered_by_another_backend_is_not_given_for_this_one() -> Result<()> {
    let rules = "  rules:\n  - name: beta\n    matches: [{ headers: [{ name: x-beta, value: \"1\" }] }]\n    \
                 backendRefs: [{ name: orders-v2, port: 80 }]\n  - name: usual\n    \
                 backendRefs: [{ name: orders, port: 80 }]\n";
    let world = World::of(KEPT, rules, App::saying(PUBLIC)).await?;
    let yaml = format!(
        "{}---\n{}",
        services(&["orders-v2"]),
        documents(KEPT, rules)
    );
    world.mesh.write("routes.yaml", &yaml)?;
    let (listener, _v2) = world.mesh.listener("orders-v2").await?;
    App::new(|_, _| reply(200, &[PUBLIC], "v2")).listen(listener);
    let beta = [("x-beta", "1")];
    until("the beta is there", async || {
        Ok(world.get_with("/a", &beta).await?.body == "v2")
    })
    .await?;
    until_own(&world.web, "/a", &beta).await?;
    until_own(&world.web, "/a", &[]).await?;
    assert_ne!(world.get("/a").await?.body, "v2");
    assert_eq!(world.get_with("/a", &beta).await?.body, "v2");
    // Whichever rule changes it, it is changed.
    let url = "http://orders/a";
    world
        .web
        .send(Method::PUT, url, &beta, Bytes::new())
        .await?;
    assert!(!is_own(&world.get("/a").await?));
    Ok(())
}

#[tokio::test]
async fn who_is_led_here_by_another_api_route_keeps_answers_as_this_one_says() -> Result<()> {
    let front = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: { name: front, namespace: shop }\nspec:\n  hosts: [front]\n  rules:\n  \
                 - responseHeaders: { set: [{ name: x-by, value: front }] }\n    \
                 backendRefs: [{ kind: ApiRoute, name: orders, port: 80 }]\n";
    let yaml = format!(
        "{}---\n{}{front}",
        services(&["front"]),
        documents(KEPT, "")
    );
    let mesh = tests::mesh::Mesh::start(&yaml).await?;
    let (listener, _orders) = mesh.listener("orders").await?;
    App::saying(PUBLIC).listen(listener);
    let web = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    mesh.programmed("front").await?;
    until("its own sidecar keeps it", async || {
        let answer = web.get("http://front/a").await?;
        // What the outer one does to answers it does to these.
        assert_eq!(answer.headers["x-by"], "front");
        Ok(is_own(&answer))
    })
    .await
}

#[tokio::test]
async fn what_is_answered_by_who_was_not_told_the_same_is_not_kept_here() -> Result<()> {
    // Of both that lead to the same pods the first says what is kept there, and callers keep nothing
    // by that.
    let front = documents(
        KEPT,
        "  rules:\n  - backendRefs: [{ name: orders, port: 80 }]\n",
    );
    let (_, front) = front.split_once("---").unwrap_or_default();
    let front = front.replace("name: orders, namespace", "name: z-front, namespace");
    let front = front.replace("hosts: [orders]", "hosts: [front]");
    let orders = documents("{}", "");
    let yaml = format!("{}---\n{orders}---{front}", services(&["front"]));
    let mesh = tests::mesh::Mesh::start(&yaml).await?;
    let (listener, _orders) = mesh.listener("orders").await?;
    App::saying(PUBLIC).listen(listener);
    let web = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    until("the other is told", async || {
        let verdict = mesh.verdict("z-front").await?.to_string();
        Ok(verdict.contains("ApiRoute shop/orders comes first and already says"))
    })
    .await?;
    until("the destination keeps it", async || {
        let answer = web.get("http://front/a").await?;
        Ok(statuses(&answer)
            .first()
            .is_some_and(|first| first.starts_with("meshwright; hit")))
    })
    .await?;
    for _ in 0..3 {
        let answer = web.get("http://front/a").await?;
        assert_eq!(statuses(&answer)[1..], ["meshwright-caller; fwd=uri-miss"]);
    }
    Ok(())
}

#[tokio::test]
async fn what_one_pod_answered_that_was_called_by_its_address_is_not_given_for_another()
-> Result<()> {
    let headless = "selector: { app: orders }, clusterIP: None";
    let rules = "  rules:\n  - rewrite: { host: legacy }\n";
    let yaml = documents(KEPT, rules).replace("selector: { app: orders }", headless);
    let mesh = tests::mesh::Mesh::start(&yaml).await?;
    let mut pods = Vec::new();
    for number in ["0", "1"] {
        let (listener, sidecar) = mesh.listener("orders").await?;
        App::new(move |_, _| reply(200, &[PUBLIC], number)).listen(listener);
        pods.push((
            format!("http://{}:8080/a", sidecar.address()),
            number,
            sidecar,
        ));
    }
    let web = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for _ in 0..2 {
        for (url, number, _) in &pods {
            until("its own sidecar keeps it", async || {
                let answer = web.get(url).await?;
                anyhow::ensure!(answer.status == 200, "not known yet");
                assert_eq!(answer.body, *number);
                Ok(is_own(&answer))
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn copies_and_what_is_sent_again_are_nothing_to_what_is_kept() -> Result<()> {
    let app = App::new(|_, number| match number {
        0 => reply(503, &[("cache-control", "no-store")], "busy"),
        number => reply(200, &[PUBLIC], format!("{number}")),
    });
    let rules = "  rules:\n  - mirror: { percent: 100, backendRef: { name: shadow, port: 80 } }\n";
    let policy =
        policy("maxRetries: 2\n  retryOn: { statusCodes: [503] }\n  backoff: { initial: 1ms }");
    let yaml = format!(
        "{}---\n{}{policy}",
        services(&["shadow"]),
        documents(KEPT, rules)
    );
    let mesh = tests::mesh::Mesh::start(&yaml).await?;
    let (listener, _orders) = mesh.listener("orders").await?;
    app.listen(listener);
    let (listener, _shadow) = mesh.listener("shadow").await?;
    let shadow = App::new(|_, _| reply(200, &[PUBLIC], "shadow"));
    shadow.listen(listener);
    let web = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    mesh.programmed("policy").await?;
    let first = web.get("http://orders/a").await?;
    assert_eq!((first.status, first.body.as_str()), (200, "1"));
    until_own(&web, "/a", &[]).await?;
    let before = shadow.requests();
    let kept = web.get("http://orders/a").await?;
    assert!(
        is_own(&kept) && kept.body != "shadow" && kept.body != "busy",
        "{kept:?}"
    );
    // A copy is of what callers ask, whoever answers it.
    until("it is copied", async || Ok(shadow.requests() > before)).await
}

#[tokio::test]
async fn who_waits_for_what_another_asks_waits_no_longer_than_its_rule_allows() -> Result<()> {
    let rules = "  rules:\n  - timeouts: { request: 1s }\n";
    let world = World::of(KEPT, rules, App::saying(PUBLIC)).await?;
    world.app.answers(false);
    let begun = std::time::Instant::now();
    let (first, second) = tokio::join!(world.get("/a"), world.get("/a"));
    for answer in [first?, second?] {
        assert_eq!((answer.status, answer.reason()), (504, "request_timeout"));
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(8));
    world.app.answers(true);
    until_own(&world.web, "/a", &[]).await?;
    // Of gRPC, and of what has a body, nothing is kept here either.
    let grpc = [("content-type", "application/grpc")];
    for _ in 0..2 {
        let past = world.get_with("/a", &grpc).await?;
        assert_eq!(
            statuses(&past).last(),
            Some(&"meshwright-caller; fwd=bypass")
        );
    }
    Ok(())
}
