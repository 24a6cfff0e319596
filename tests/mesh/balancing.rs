//! Which endpoint a request goes to, as a RetryPolicy says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::future::try_join_all;
use sidecar::net::tls::ALPN_H1;
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tests::raw::peer;
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::services;

/// A RetryPolicy for the Service `orders`.
fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{ name: orders-policy, namespace: shop }}\n\
         spec:\n  targetRefs: [{{ kind: Service, name: orders }}]\n{spec}"
    )
}

/// How many requests each has seen since this was last asked.
fn counted(workloads: &[Workload], before: &mut Vec<usize>) -> Vec<usize> {
    let now: Vec<_> = workloads
        .iter()
        .map(|one| one.upstream.requests())
        .collect();
    before.resize(now.len(), 0);
    let since = now.iter().zip(&*before).map(|(now, before)| now - before);
    let since = since.collect();
    *before = now;
    since
}

async fn calls(client: &Client, count: usize, headers: &[(&str, &str)]) -> Result<()> {
    for _ in 0..count {
        let answer = client.get_with("http://orders/", headers).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    Ok(())
}

/// Waits until the client's sidecar knows so many endpoints of `orders`.
async fn knows(client: &Client, endpoints: usize) -> Result<()> {
    wait_until("the caller knows the endpoints", SOON, async || {
        let config = client.sidecar().config().await?;
        let services = config["inForce"]["services"].as_array();
        let orders = services.into_iter().flatten();
        let mut orders = orders.filter(|service| service["service"] == "shop/orders");
        let known = orders
            .next()
            .map(|orders| orders["ports"][0]["endpoints"].clone());
        match known.as_ref().and_then(|known| known.as_array()) {
            Some(known) if known.len() == endpoints => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await
}

#[tokio::test]
async fn round_robin_gives_each_endpoint_its_turn_and_an_edit_takes_it_back() -> Result<()> {
    let balanced = services(&["orders"]) + &policy("  loadBalancing: { type: RoundRobin }\n");
    let mesh = Mesh::start(&balanced).await?;
    let orders: [Workload; 3] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders-policy").await?;
    knows(&client, 3).await?;
    let mut before = Vec::new();
    calls(&client, 30, &[]).await?;
    assert_eq!(counted(&orders, &mut before), [10, 10, 10]);

    let hashed = "  loadBalancing: { type: ConsistentHash, hashOn: { type: Source } }\n";
    mesh.write("routes.yaml", &(services(&["orders"]) + &policy(hashed)))?;
    wait_until("the edit is in force", SOON, async || {
        counted(&orders, &mut before);
        calls(&client, 12, &[]).await?;
        let counted = counted(&orders, &mut before);
        match counted.contains(&12) {
            true => Ok(()),
            false => bail!("{counted:?}"),
        }
    })
    .await
}

#[tokio::test]
async fn the_same_header_or_cookie_leads_to_the_same_endpoint_from_every_caller() -> Result<()> {
    for (on, header, value) in [
        ("{ type: Header, name: X-User }", "x-user", "ann"),
        (
            "{ type: Cookie, name: session }",
            "cookie",
            "a=b; session=ann",
        ),
    ] {
        let hashed = format!("  loadBalancing: {{ type: ConsistentHash, hashOn: {on} }}\n");
        let mesh = Mesh::start(&(services(&["orders"]) + &policy(&hashed))).await?;
        let orders: [Workload; 4] = mesh.workloads("orders").await?;
        let callers = [
            mesh.client_with_workers("web", 2).await?,
            mesh.client("cart").await?,
        ];
        mesh.programmed("orders-policy").await?;
        let mut chosen = BTreeSet::new();
        let mut before = Vec::new();
        for client in &callers {
            knows(client, 4).await?;
            calls(client, 20, &[(header, value)]).await?;
            let counted = counted(&orders, &mut before);
            chosen.insert(counted.iter().position(|count| *count == 20));
        }
        assert!(chosen.len() == 1 && !chosen.contains(&None), "{chosen:?}");
        // The endpoint of one value goes; the value finds another, and stays there.
        let place = chosen.into_iter().flatten().next().unwrap_or_default();
        mesh.not_ready(orders[place].sidecar.pod())?;
        for client in &callers {
            knows(client, 3).await?;
        }
        counted(&orders, &mut before);
        for client in &callers {
            calls(client, 10, &[(header, value)]).await?;
        }
        let counted = counted(&orders, &mut before);
        assert!(counted.contains(&20) && counted[place] == 0, "{counted:?}");
    }
    Ok(())
}

#[tokio::test]
async fn who_answers_slowly_gets_few_requests_without_any_policy() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders: [Workload; 2] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    knows(&client, 2).await?;
    orders[0].upstream.takes(Duration::from_millis(300));
    // One after the other, so that counts of what is in flight tell nothing.
    calls(&client, 60, &[]).await?;
    let counted = counted(&orders, &mut Vec::new());
    assert!(counted[0] <= 6, "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn who_does_not_answer_in_time_gets_few_requests() -> Result<()> {
    let route = crate::routing::route("    - timeouts: { request: 300ms }\n");
    let mesh = Mesh::start(&(services(&["orders"]) + &route)).await?;
    let orders: [Workload; 2] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    knows(&client, 2).await?;
    let _held = orders[0].upstream.holds();
    let mut late = 0;
    for _ in 0..60 {
        late += usize::from(client.get("http://orders/").await?.status == 504);
    }
    assert!((1..=6).contains(&late), "{late} of 60");
    Ok(())
}

#[tokio::test]
async fn who_fails_at_once_draws_no_requests() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let mut orders: [Workload; 2] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    knows(&client, 2).await?;
    let posted = async || {
        let body = bytes::Bytes::from_static(b"x");
        let answer = client.send(http::Method::POST, "http://orders/", &[], body);
        anyhow::Ok(answer.await?.status)
    };
    orders[1].upstream.takes(Duration::from_millis(20));
    for _ in 0..20 {
        assert_eq!(posted().await?, 200);
    }
    // An application that is gone: its sidecar answers at once, with a body that can't be sent again.
    orders[0].upstream.close();
    let mut refused = 0;
    for _ in 0..100 {
        refused += usize::from(posted().await? != 200);
    }
    assert!(refused <= 10, "{refused} of 100");
    Ok(())
}

#[tokio::test]
async fn callers_stay_in_their_zone_while_its_endpoints_are_there() -> Result<()> {
    let yaml = services(&["orders"]).replace(
        "spec: { selector",
        "spec: { trafficDistribution: PreferSameZone, selector",
    );
    let mesh = Mesh::start(&yaml).await?;
    let orders: [Workload; 3] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    let zone = "topology.kubernetes.io/zone";
    mesh.mark(client.sidecar().pod(), "labels", zone, "b")?;
    for (workload, in_zone) in orders.iter().zip(["a", "b", "a"]) {
        mesh.mark(workload.sidecar.pod(), "labels", zone, in_zone)?;
    }
    let mut before = Vec::new();
    wait_until("calls stay in the zone", SOON, async || {
        counted(&orders, &mut before);
        calls(&client, 12, &[]).await?;
        match counted(&orders, &mut before).as_slice() {
            [0, 12, 0] => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    // The last of the zone goes, and nobody is refused.
    mesh.not_ready(orders[1].sidecar.pod())?;
    knows(&client, 2).await?;
    counted(&orders, &mut before);
    calls(&client, 12, &[]).await?;
    assert_eq!(counted(&orders, &mut before)[1], 0);
    Ok(())
}

#[tokio::test]
async fn a_new_endpoint_starts_slowly() -> Result<()> {
    let slow = "  loadBalancing: { type: RoundRobin, slowStart: 10m }\n";
    let mesh = Mesh::start(&(services(&["orders"]) + &policy(slow))).await?;
    let first = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders-policy").await?;
    knows(&client, 1).await?;
    calls(&client, 1, &[]).await?;
    let second = mesh.workload("orders").await?;
    knows(&client, 2).await?;
    let orders = [first, second];
    let mut before = Vec::new();
    counted(&orders, &mut before);
    calls(&client, 200, &[]).await?;
    let counted = counted(&orders, &mut before);
    // A tenth of its turns at first: of 200 requests some 18, and with six standard deviations 45.
    assert!((1..=45).contains(&counted[1]), "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_not_well_is_avoided_until_it_is() -> Result<()> {
    let check = "  healthCheck: { path: /health, interval: 5s, unhealthyThreshold: 1, \
                 healthyThreshold: 1 }\n";
    let mesh = Mesh::start(&(services(&["orders"]) + &policy(check))).await?;
    let orders: [Workload; 2] = mesh.workloads("orders").await?;
    let callers = [
        mesh.client_with_workers("web", 2).await?,
        mesh.client("cart").await?,
        mesh.client("till").await?,
    ];
    mesh.programmed("orders-policy").await?;
    for client in &callers {
        knows(client, 2).await?;
    }
    let checks = |workload: &Workload| {
        let seen = workload.upstream.seen();
        seen.iter().filter(|seen| seen.target == "/health").count()
    };
    // Nobody has called yet, so nobody asks.
    assert_eq!(orders.iter().map(checks).sum::<usize>(), 0);
    let answered = async |client: &Client| {
        let answer = client.get("http://orders/").await?;
        anyhow::Ok(answer.status)
    };
    let avoided = async |client: &Client| {
        for _ in 0..20 {
            if answered(client).await? != 200 {
                bail!("it is picked");
            }
        }
        Ok(())
    };
    orders[0].upstream.answers(500);
    for client in &callers {
        wait_until("the one that is not well is avoided", SOON, || {
            avoided(client)
        })
        .await?;
    }
    // However many ask, the application is asked about once a second at the most: three callers and
    // rounds of five seconds, so by one sidecar at most one in a second.
    let seen = orders[0].upstream.seen();
    let asked: Vec<_> = seen
        .iter()
        .filter(|seen| seen.target == "/health")
        .collect();
    assert!(!asked.is_empty());
    assert_eq!(asked[0].headers["user-agent"], "meshwright-health-check");
    assert!(!asked[0].headers.contains_key("meshwright-health-check"));

    orders[0].upstream.answers(200);
    let mut before = Vec::new();
    wait_until("it is used again", SOON, async || {
        counted(&orders, &mut before);
        calls(&callers[0], 20, &[]).await?;
        match counted(&orders, &mut before)[0] {
            0..=2 => bail!("it is avoided"),
            _ => Ok(()),
        }
    })
    .await?;
    // When none is well, the calls go to those that are there all the same.
    for workload in &orders {
        workload.upstream.answers(503);
    }
    wait_until("both are not well", SOON, async || {
        let config = callers[0].sidecar().config().await?;
        match config["avoidedEndpoints"].as_u64() {
            Some(2) => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    let answer = callers[0].get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, ""), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn however_many_ask_how_an_application_is_it_hears_one_question() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.takes(Duration::from_millis(200));
    let client = mesh.client("web").await?;
    // A peer's sidecar asks, as thirty would.
    let ask = async |mark: &str| {
        let asked = (0..30).map(|_| async {
            let mut io = peer(client.sidecar(), &orders.sidecar, ALPN_H1).await?;
            let request = format!("GET /health HTTP/1.1\r\nhost: orders\r\n{mark}\r\n");
            io.write_all(request.as_bytes()).await?;
            let mut answer = [0; 12];
            timeout(SOON, io.read_exact(&mut answer)).await??;
            assert_eq!(&answer, b"HTTP/1.1 200");
            anyhow::Ok(())
        });
        try_join_all(asked).await
    };
    let begun = Instant::now();
    ask("meshwright-health-check: 1\r\nauthorization: x\r\n").await?;
    // One a second; the thirty may have taken longer than that to come.
    let most = 1 + usize::try_from(begun.elapsed().as_secs())?;
    let heard = orders.upstream.requests();
    assert!((1..=most).contains(&heard), "{heard} of at most {most}");
    // Nothing of what the peer has written but the path.
    let seen = &orders.upstream.seen()[0];
    assert_eq!(seen.headers["host"], "orders.shop");
    assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
    ask("").await?;
    assert_eq!(
        orders.upstream.requests(),
        heard + 30,
        "requests are all its own"
    );
    // One with a body is a request, whatever it says of itself: it arrives with all of it.
    let mut io = peer(client.sidecar(), &orders.sidecar, ALPN_H1).await?;
    let request = "GET /health HTTP/1.1\r\nhost: orders\r\nmeshwright-health-check: 1\r\n\
                   content-length: 5\r\n\r\nhello";
    io.write_all(request.as_bytes()).await?;
    timeout(SOON, io.read_exact(&mut [0; 12])).await??;
    let seen = orders.upstream.seen();
    assert_eq!(seen.last().map(|seen| &seen.body[..]), Some(&b"hello"[..]));
    Ok(())
}

#[tokio::test]
async fn the_callers_namespace_wins_over_the_producers_policy() -> Result<()> {
    // Callers and Service share the one namespace of the harness: what differs is who has written it,
    // so the consumer's Service stands in another.
    let producers = "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: { name: producers, namespace: bank }\n\
         spec: { targetRefs: [{ kind: Service, name: ledger }], loadBalancing: { type: LeastRequest } }\n";
    let consumers = "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: { name: consumers, namespace: shop }\n\
         spec: { targetRefs: [{ kind: Service, name: ledger, namespace: bank }], \
         loadBalancing: { type: RoundRobin } }\n";
    let service = services(&["ledger"]).replace("namespace: shop", "namespace: bank");
    let mesh = Mesh::start(&(service + producers + consumers)).await?;
    let client = mesh.client("web").await?;
    mesh.programmed("producers").await?;
    mesh.programmed("consumers").await?;
    let config = client.sidecar().config().await?;
    let services = config["inForce"]["services"].as_array();
    let mut services = services.into_iter().flatten();
    let ledger = services.find(|service| service["service"] == "bank/ledger");
    let policy = ledger.map(|ledger| ledger["retryPolicy"].clone());
    assert_eq!(policy, Some(serde_json::json!("shop/consumers")));
    Ok(())
}
