//! From an edit to what the next request meets, and what is said when it cannot be.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;

use crate::routing::{route, services};

const TO_V2: &str = "    - backendRefs: [{ name: orders-v2, port: 80 }]\n";

#[tokio::test]
async fn an_edit_and_a_deletion_change_what_the_next_request_meets() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "orders-v2"])).await?;
    let v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    v1.upstream.says("one");
    v2.upstream.says("two");
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.body, "one");

    mesh.write("edit.yaml", &route(TO_V2))?;
    mesh.programmed("orders").await?;
    assert_eq!(client.get("http://orders/").await?.body, "two");

    mesh.remove("edit.yaml")?;
    wait_until("the route is gone", SOON, async || {
        let answer = client.get("http://orders/").await?;
        ensure!(answer.body == "one", "{answer:?}");
        Ok(())
    })
    .await
}

/// Ten thousand documents take a program without optimisation, on a machine that does other things, its time.
const READ: Duration = SOON.saturating_mul(3);

#[tokio::test]
async fn ten_thousand_objects_at_once_hold_up_nobody_elses_calls_and_edits() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "orders-v2"])).await?;
    let v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    v1.upstream.says("one");
    v2.upstream.says("two");
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.body, "one");

    // Of another namespace, each wrong in a way that only the compiler finds.
    for file in 0..10 {
        let wrong = |number: usize| {
            format!(
                "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: {{ name: r{file}-{number}, namespace: crowd }}\n\
                 spec: {{ hosts: [missing-{number}] }}\n"
            )
        };
        let all = Vec::from_iter((0..1000).map(wrong));
        mesh.write(&format!("crowd-{file}.yaml"), &all.join("---\n"))?;
    }
    mesh.write("edit.yaml", &route(TO_V2))?;
    let mut failed = Vec::new();
    wait_until("the edit is in force", READ, async || {
        let answer = client.get("http://orders/").await?;
        if answer.status != 200 {
            failed.push(answer.clone());
        }
        ensure!(answer.body == "two", "{answer:?}");
        Ok(())
    })
    .await?;
    assert!(failed.is_empty(), "{failed:?}");
    wait_until("each of them is judged", READ, async || {
        let verdict = mesh.verdict("r9-999").await?;
        let said = verdict.to_string();
        ensure!(said.contains("HostNotFound"), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn half_written_yaml_changes_nothing_and_says_where_it_is_wrong() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "orders-v2"])).await?;
    let _v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    let client = mesh.client("web").await?;
    mesh.write("edit.yaml", &route(TO_V2))?;
    mesh.programmed("orders").await?;

    for (broken, says) in [
        (
            "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: { name: ord",
            "edit.yaml",
        ),
        (
            &route("    - backendRef: [{ name: orders-v2, port: 80 }]\n"),
            "backendRefs",
        ),
        (
            &route("    - backendRefs: [{ name: orders-v2, port: eighty }]\n"),
            "port",
        ),
    ] {
        mesh.write("edit.yaml", broken)?;
        let problem = wait_until("the problem is told", SOON, async || {
            let problems = mesh.problems().await?;
            let text = serde_json::to_string(&problems)?;
            ensure!(text.contains(says), "{text}");
            Ok(text)
        })
        .await?;
        assert!(problem.contains("\"line\""), "{problem}");
        let before = v2.upstream.requests();
        assert_eq!(client.get("http://orders/").await?.status, 200);
        assert_eq!(
            v2.upstream.requests(),
            before + 1,
            "the last good route stays in force"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_enforced_says_why_and_affects_nobody_else() -> Result<()> {
    let good = route(TO_V2);
    let yaml = services(&["orders", "orders-v2", "customers"]) + &good;
    let mesh = Mesh::start(&yaml).await?;
    let _v2 = mesh.workload("orders-v2").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    let other = good.replace("name: orders, ", "name: zz-late, ");
    let lost = good
        .replace("name: orders, ", "name: lost, ")
        .replace("[orders]", "[ordrs]");
    mesh.write("zz.yaml", &(other + &lost))?;

    let condition = async |name: &str| -> Result<serde_json::Value> {
        let verdict = mesh.verdict(name).await?;
        let conditions = verdict["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let accepted = conditions
            .into_iter()
            .find(|condition| condition["type"] == "Accepted");
        accepted.ok_or_else(|| anyhow::anyhow!("{verdict}"))
    };
    let conflicted = wait_until("zz-late has a verdict", SOON, async || {
        condition("zz-late").await
    })
    .await?;
    assert_eq!(conflicted["status"], "False");
    assert_eq!(conflicted["reason"], "Conflicted");
    assert!(
        conflicted["message"]
            .as_str()
            .is_some_and(|m| m.contains("shop/orders")),
        "{conflicted}"
    );
    let lost = condition("lost").await?;
    assert_eq!(lost["status"], "False");
    assert!(
        lost["message"]
            .as_str()
            .is_some_and(|m| m.contains("orders")),
        "names the nearest: {lost}"
    );
    assert_eq!(condition("orders").await?["status"], "True");
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn programmed_counts_the_sidecars_that_hold_the_current_version() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders", "orders-v2"]) + &route(TO_V2))).await?;
    let _orders = mesh.workload("orders").await?;
    let _v2 = mesh.workload("orders-v2").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let all = mesh.verdict("orders").await?["programmed"]["m"].clone();
    assert_eq!(all, 3);

    client.sidecar().signal(Signal::SIGSTOP)?;
    mesh.write(
        "routes.yaml",
        &(services(&["orders", "orders-v2"]) + &route("    - name: plain\n")),
    )?;
    wait_until("two of three hold the edit", SOON, async || {
        let verdict = mesh.verdict("orders").await?;
        ensure!(
            verdict["programmed"]["n"] == 2 && verdict["programmed"]["m"] == 3,
            "{verdict}"
        );
        ensure!(
            verdict["waiting"]
                .to_string()
                .contains(client.sidecar().pod()),
            "{verdict}"
        );
        Ok(())
    })
    .await?;

    client.sidecar().signal(Signal::SIGCONT)?;
    mesh.programmed("orders").await
}

#[tokio::test]
async fn the_operators_log_names_what_it_refuses_and_why() -> Result<()> {
    let good = route(TO_V2);
    let mesh = Mesh::start(&(services(&["orders", "orders-v2"]) + &good)).await?;
    let lost = good
        .replace("name: orders, ", "name: lost, ")
        .replace("[orders]", "[ordrs]");
    mesh.write("lost.yaml", &lost)?;
    // Not what the source says of the file.
    let verdicts = async |says: &str| {
        wait_until("the verdict is logged", SOON, async || {
            let log = mesh.operator_log()?;
            let lines = log
                .lines()
                .filter(|line| line.contains("operator::reconcile"));
            let lines: Vec<String> = lines.map(str::to_owned).collect();
            ensure!(lines.iter().any(|line| line.contains(says)), "{log}");
            Ok(lines)
        })
        .await
    };

    let lines = verdicts("shop/lost").await?;
    let verdict = mesh.verdict("lost").await?;
    let accepted = &verdict["conditions"][0];
    let (reason, message) = (accepted["reason"].as_str(), accepted["message"].as_str());
    let (Some(reason), Some(message)) = (reason, message) else {
        bail!("{verdict}");
    };
    let says = format!("ApiRoute shop/lost: Accepted=False, {reason}: {message}");
    let refused = lines.iter().find(|line| line.contains(&says));
    assert!(
        refused.is_some_and(|line| line.contains("WARN")),
        "{lines:?}"
    );
    let accepted = lines
        .iter()
        .filter(|line| line.contains("ApiRoute shop/orders is accepted"));
    assert_eq!(accepted.count(), 1, "once, for it has not changed");

    mesh.remove("lost.yaml")?;
    verdicts("ApiRoute shop/lost is gone").await?;
    Ok(())
}
