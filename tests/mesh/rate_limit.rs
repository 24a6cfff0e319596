//! How much callers use: one file for each of what a RateLimit says.

mod actions;
mod answers;
mod exact;
mod keys;
mod script;
mod shared;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;

use crate::access::consumer;
use crate::routing::services;

/// A caller of the Service `orders`, with a RateLimit of these limits that is in force at its pod.
async fn world(limits: &str, more: &str) -> Result<(Mesh, Workload, Client)> {
    let yaml = format!("{}{}{more}", services(&["orders"]), rate_limit(limits));
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("limits").await?;
    if more.contains("kind: ApiRoute") {
        mesh.programmed("orders").await?;
    }
    let names = limits.matches("name: ").count();
    holds(&orders, |limits| limits.len() >= names.min(1)).await?;
    Ok((mesh, orders, client))
}

/// The RateLimit `limits` for the Service `orders`.
fn rate_limit(limits: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\n\
         metadata: {{ name: limits, namespace: shop }}\n\
         spec:\n  targetRefs: [{{ kind: Service, name: orders }}]\n  limits:\n{limits}"
    )
}

/// Until the pod's sidecar holds such limits.
async fn holds(orders: &Workload, are: impl Fn(&[Value]) -> bool) -> Result<()> {
    wait_until("the limits are in force", SOON, async || {
        let config = orders.sidecar.config().await?;
        let served = &config["inForce"]["serves"][0]["limits"];
        match served.as_array() {
            Some(limits) if are(limits) => Ok(()),
            _ => bail!("{served}"),
        }
    })
    .await
}

/// Status and reason of so many calls.
async fn calls(
    client: &Client,
    count: usize,
    headers: &[(&str, &str)],
) -> Result<Vec<(u16, String)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let answer = client.get_with("http://orders/", headers).await?;
        all.push((answer.status, answer.reason().to_owned()));
    }
    Ok(all)
}

/// How many of so many calls pass; the others are too much.
async fn pass(client: &Client, count: usize, headers: &[(&str, &str)]) -> Result<usize> {
    let mut passed = 0;
    for (status, reason) in calls(client, count, headers).await? {
        match (status, &*reason) {
            (200, "") => passed += 1,
            (429, "rate_limited") => {}
            other => bail!("{other:?}"),
        }
    }
    Ok(passed)
}

fn header<'a>(answer: &'a Answer, name: &str) -> Result<&'a str> {
    let value = answer.headers.get(name).with_context(|| name.to_owned())?;
    Ok(value.to_str()?)
}
