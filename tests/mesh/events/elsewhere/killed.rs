//! Pods that carry out what no pod does for itself, killed with events in hand.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::*;

/// All that was before the group is done, and nothing of it is a dead letter.
async fn all_is_done(nats: &Nats) -> Result<()> {
    wait_until("all is done", LEASE + SOON, async || {
        let undone = nats.undone("stock").await?;
        ensure!(undone == 0, "{undone}");
        Ok(())
    })
    .await?;
    assert_eq!(nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_a_killed_pod_was_posting_outside_is_posted_again_by_the_one_that_follows()
-> Result<()> {
    let system = System::start().await?;
    let (mesh, nats, stock, killed) = started(&posted_to(&system, &system.authority)).await?;
    mesh.programmed("billing").await?;
    let posted = || {
        let mut times = BTreeMap::new();
        for one in system.posted() {
            let id = one.headers["ce-id"].to_str().unwrap_or_default();
            *times.entry(id.to_owned()).or_insert(0) += 1;
        }
        times
    };
    // Nobody has heard what became of these.
    system.silent.send_replace(true);
    for key in ["1", "2", "3"] {
        accepted(&stock, key).await?;
    }
    wait_until("all are under way", SOON, async || {
        let posted = posted();
        ensure!(posted.len() == 3, "{posted:?}");
        Ok(())
    })
    .await?;
    assert_eq!(nats.in_hand("stock").await?, 3);
    killed.sidecar().kill().await?;
    accepted(&stock, "4").await?;
    system.silent.send_replace(false);
    let _follows = carrier(&mesh).await?;
    let all = [("1", 2), ("2", 2), ("3", 2), ("4", 1)];
    let all = BTreeMap::from_iter(all.map(|(id, times)| (id.to_owned(), times)));
    wait_until("all have come", LEASE + SOON, async || {
        let posted = posted();
        ensure!(posted == all, "{posted:?}");
        Ok(())
    })
    .await?;
    all_is_done(&nats).await?;
    assert_eq!(posted(), all, "and no more");
    Ok(())
}

#[tokio::test]
async fn what_a_killed_pod_was_copying_to_another_topic_is_there_once_when_it_is_back() -> Result<()>
{
    const ALL: usize = 500;
    let target = "{ type: Topic, topic: { name: stock.copy } }";
    let (mesh, nats, stock, carrier) = started(&carried(target, "")).await?;
    mesh.programmed("billing").await?;
    // So that there is something to copy for a while.
    carrier.sidecar().kill().await?;
    for key in 0..ALL {
        accepted(&stock, &key.to_string()).await?;
    }
    carrier.sidecar().start()?;
    wait_until(
        "it has some in hand, and has copied some",
        SOON,
        async || {
            carrier.sidecar().signal(Signal::SIGSTOP)?;
            let (held, in_hand) = (nats.held("stock.copy").await?, nats.in_hand("stock").await?);
            if held > 0 && in_hand > 0 {
                return Ok(());
            }
            carrier.sidecar().signal(Signal::SIGCONT)?;
            ensure!(held < ALL, "all of them are copied");
            anyhow::bail!("{held} are copied, {in_hand} in hand")
        },
    )
    .await?;
    carrier.sidecar().kill().await?;
    carrier.sidecar().start()?;
    wait_until("all are there", LEASE + SOON, async || {
        let held = nats.held("stock.copy").await?;
        ensure!(held >= ALL, "{held}");
        Ok(())
    })
    .await?;
    all_is_done(&nats).await?;
    let copies = nats.messages("stock.copy").await?;
    let skus = copies.into_iter().map(|(_, data)| data);
    let mut skus = Vec::from_iter(skus);
    skus.sort();
    let mut all = Vec::from_iter((0..ALL).map(|key| json!({ "sku": key.to_string() }).to_string()));
    all.sort();
    assert_eq!(skus, all, "each of them, once");
    Ok(())
}
