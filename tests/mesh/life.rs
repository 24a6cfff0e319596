//! Starting, failing, ending: of applications, sidecars and the operator.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;

use crate::routing::{route, services};

#[tokio::test]
async fn a_sidecar_killed_while_the_operator_is_away_comes_back_and_serves() -> Result<()> {
    let yaml = services(&["orders", "orders-v2"])
        + &route("    - backendRefs: [{ name: orders-v2, port: 80 }]\n");
    let mesh = Mesh::start(&yaml).await?;
    let v2 = mesh.workload("orders-v2").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);

    mesh.kill_operator().await?;
    for sidecar in [client.sidecar(), &v2.sidecar] {
        sidecar.kill().await?;
        sidecar.start()?;
        sidecar.ready().await?;
    }

    assert_eq!(client.get("http://orders/").await?.status, 200);
    assert_eq!(v2.upstream.requests(), 2);
    assert_eq!(
        client.sidecar().config().await?["operator"]["connected"],
        false
    );

    mesh.start_operator().await?;
    wait_until("the stream is back", SOON, async || {
        let config = client.sidecar().config().await?;
        ensure!(
            config["operator"]["connected"] == true,
            "{}",
            config["operator"]
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_edited_last_is_in_force_after_a_kill_while_the_operator_is_away() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "orders-v2"])).await?;
    let v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    v1.upstream.says("one");
    v2.upstream.says("two");
    let client = mesh.client("web").await?;
    // Each edit is a delta of its own, after the complete set.
    for (to, says) in [
        ("orders-v2", "two"),
        ("orders", "one"),
        ("orders-v2", "two"),
    ] {
        let rule = format!("    - backendRefs: [{{ name: {to}, port: 80 }}]\n");
        mesh.write("edit.yaml", &route(&rule))?;
        wait_until("the edit is in force", SOON, async || {
            let answer = client.get("http://orders/").await?;
            ensure!(answer.body == says, "{answer:?}");
            Ok(())
        })
        .await?;
    }
    mesh.programmed("orders").await?;

    mesh.kill_operator().await?;
    client.sidecar().kill().await?;
    client.sidecar().start()?;
    client.sidecar().ready().await?;

    assert_eq!(client.get("http://orders/").await?.body, "two");
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_starts_before_the_operator_waits_unready() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    mesh.kill_operator().await?;
    let waiting = mesh.unready("web").await?;
    wait_until("it says what it waits for", SOON, async || {
        let config = waiting.config().await?;
        ensure!(
            config["notReadyBecause"] == "no certificate in force yet",
            "{config}"
        );
        Ok(())
    })
    .await?;
    mesh.start_operator().await?;
    waiting.ready().await
}

#[tokio::test]
async fn a_sidecar_that_has_waited_long_is_ready_within_five_seconds_of_the_operators_return()
-> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    mesh.kill_operator().await?;
    let waiting = mesh.unready("web").await?;
    // With pauses that double, the next try would be 6 to 12 s away after as many failures.
    wait_until("it has failed often", SOON, async || {
        let log = waiting.log()?;
        ensure!(log.matches("no certificate").count() >= 7, "{log}");
        Ok(())
    })
    .await?;
    mesh.start_operator().await?;
    let returned = Instant::now();
    waiting.ready().await?;
    let took = returned.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn traffic_goes_on_while_the_operator_is_away() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.kill_operator().await?;
    for _ in 0..50 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    assert_eq!(orders.upstream.requests(), 50);
    Ok(())
}

#[tokio::test]
async fn without_an_operator_certificates_serve_to_their_end_and_are_renewed_once_it_is_back()
-> Result<()> {
    let began = Instant::now();
    let mesh = Mesh::start_with(&services(&["orders"]), &["--leaf-life=1m"]).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.kill_operator().await?;

    // At half of their life they should have been renewed.
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(50) {
        let answer = client.get("http://orders/").await?;
        calls += 1;
        ensure!(
            answer.status == 200,
            "call {calls}, {:?}: {answer:?}",
            began.elapsed()
        );
    }
    // What has ended lets nobody in any more.
    let ends = Duration::from_secs(90);
    wait_until(
        "a certificate that has ended serves no more",
        ends,
        async || {
            let answer = client.get("http://orders/").await?;
            ensure!(answer.status == 503, "{answer:?}");
            Ok(())
        },
    )
    .await?;
    mesh.start_operator().await?;
    wait_until("calls go on", SOON, async || {
        let answer = client.get("http://orders/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_replica_that_dies_costs_no_request() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let [one, two] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    wait_until("both replicas are called", SOON, async || {
        ensure!(client.get("http://orders/").await?.status == 200);
        ensure!(one.upstream.requests() > 0 && two.upstream.requests() > 0);
        Ok(())
    })
    .await?;

    // No endpoint update comes to help: the dead replica is still in the list.
    one.sidecar.kill().await?;
    for _ in 0..50 {
        let answer = client.get("http://orders/").await?;
        assert_eq!((answer.status, answer.reason()), (200, ""));
    }
    Ok(())
}

#[tokio::test]
async fn an_application_that_dies_beside_its_sidecar_costs_no_request_without_a_body() -> Result<()>
{
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let [mut one, two] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    wait_until("both replicas are called", SOON, async || {
        ensure!(client.get("http://orders/").await?.status == 200);
        ensure!(one.upstream.requests() > 0 && two.upstream.requests() > 0);
        Ok(())
    })
    .await?;

    // Its sidecar is well, and says that nothing reached the application.
    one.upstream.close();
    wait_until("its sidecar notices", SOON, async || {
        ensure!(client.get("http://orders/").await?.status == 200);
        Ok(())
    })
    .await?;
    for _ in 0..50 {
        let answer = client.get("http://orders/").await?;
        assert_eq!((answer.status, answer.reason()), (200, ""));
    }
    Ok(())
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_503_with_a_reason_and_comes_back() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let mut orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);

    orders.upstream.close();
    wait_until("the refusal has its reason", SOON, async || {
        let down = client.get("http://orders/").await?;
        ensure!(
            (down.status, down.reason()) == (503, "application_unreachable"),
            "{down:?}"
        );
        Ok(())
    })
    .await?;

    orders.upstream.open().await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_what_is_in_flight_end_and_then_ends() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    orders.upstream.takes(Duration::from_millis(800));

    let in_flight = client.get("http://orders/slow");
    let drained = async {
        wait_until("the request is in flight", SOON, async || {
            ensure!(orders.upstream.requests() == 2);
            Ok(())
        })
        .await?;
        orders.sidecar.terminate().await
    };
    let (answer, code) = tokio::join!(in_flight, drained);

    assert_eq!(answer?.status, 200);
    assert_eq!(code?, Some(0));
    Ok(())
}

#[tokio::test]
async fn so_it_does_beside_a_caller() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    orders.upstream.takes(Duration::from_millis(800));

    let in_flight = client.get("http://orders/slow");
    let drained = async {
        wait_until("the request is in flight", SOON, async || {
            ensure!(orders.upstream.requests() == 2);
            Ok(())
        })
        .await?;
        client.sidecar().terminate().await
    };
    let (answer, code) = tokio::join!(in_flight, drained);

    assert_eq!(answer?.status, 200);
    assert_eq!(code?, Some(0));
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_no_longer_ready_gets_no_more_requests() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let [one, two] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    mesh.not_ready(one.sidecar.pod())?;
    wait_until("it is no longer among the endpoints", SOON, async || {
        let config = client.sidecar().config().await?;
        ensure!(
            !config["inForce"]["services"]
                .to_string()
                .contains(one.sidecar.pod())
        );
        Ok(())
    })
    .await?;
    let before = one.upstream.requests();
    for _ in 0..20 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    assert_eq!(one.upstream.requests(), before);
    assert!(two.upstream.requests() >= 20);
    Ok(())
}

#[tokio::test]
async fn a_sidecar_whose_volume_takes_nothing_more_enforces_edits_and_keeps_them_once_it_does()
-> Result<()> {
    // Larger than a block of the volume: less would find room in the last one that a file has already.
    let long = "x".repeat(1000);
    let values: String = (0..8)
        .map(|i| format!("{{ headers: [{{ name: x-long, value: {i}{long} }}] }},"))
        .collect();
    let to = |name: &str| {
        route(&format!(
            "    - backendRefs: [{{ name: {name}, port: 80 }}]\n\
             \x20   - name: {name}-long\n      matches: [{values}]\n\
             \x20     backendRefs: [{{ name: {name}, port: 80 }}]\n"
        ))
    };
    let both = services(&["orders", "orders-v2"]);
    let mesh = Mesh::start(&(both.clone() + &to("orders"))).await?;
    let v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    v1.upstream.says("one");
    v2.upstream.says("two");
    let client = mesh.client("web").await?;
    let answers = async |says: &str| {
        wait_until("the edit is in force", SOON, async || {
            let answer = client.get("http://orders/").await?;
            ensure!(answer.body == says, "{answer:?}");
            Ok(())
        })
        .await
    };
    answers("one").await?;

    let volume = client.sidecar().restart_with_volume(1 << 20).await?;
    let kept = volume.files()?;
    volume.fill()?;
    mesh.write("routes.yaml", &(both.clone() + &to("orders-v2")))?;
    answers("two").await?;
    let said = "cannot keep the configuration for a restart";
    let full = "No space left on device";
    wait_until("it has said so", SOON, async || {
        let log = client.sidecar().log()?;
        let mut lines = log.lines();
        ensure!(
            lines.any(|line| line.contains(said) && line.contains(full)),
            "{log}"
        );
        Ok(())
    })
    .await?;
    mesh.programmed("orders").await?;
    // Nothing is left of what found no room.
    let mut left = volume.files()?;
    left.retain(|name| name != "filler");
    assert_eq!(sorted(left), sorted(kept));

    // Killed now, and without an operator, it is still who it was, and knows what it could keep last.
    mesh.kill_operator().await?;
    client.sidecar().kill().await?;
    client.sidecar().start()?;
    client.sidecar().ready().await?;
    answers("one").await?;
    mesh.start_operator().await?;
    answers("two").await?;

    volume.empty()?;
    mesh.write("routes.yaml", &(both.clone() + &to("orders")))?;
    answers("one").await?;
    mesh.write("routes.yaml", &(both + &to("orders-v2")))?;
    answers("two").await?;
    mesh.programmed("orders").await?;
    mesh.kill_operator().await?;
    client.sidecar().kill().await?;
    client.sidecar().start()?;
    client.sidecar().ready().await?;
    answers("two").await
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_sidecar_that_looks_whether_it_is_captured_says_at_a_page_of_its_own_that_it_is_ready()
-> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let page = |path: &str| format!("http://{}:15021{path}", orders.sidecar.address());
    for (path, status) in [
        ("/ready", 200),
        ("/ready/captured", 200),
        ("/ready/else", 404),
    ] {
        let answer = Client::direct().get(&page(path)).await?;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    Ok(())
}
