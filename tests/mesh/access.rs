//! Who may enter: one file for each kind of credential, and who may do what.

mod answers;
mod api_keys;
mod authorization;
mod connections;
mod issuers;
mod tokens;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;

use crate::routing::services;

/// A caller of the Service `orders`, whose ApiRoute says this of who may enter and is in force.
async fn world(access: &str, more: &str) -> Result<(Mesh, Workload, Client)> {
    let mesh = Mesh::start(&format!("{}{}{more}", services(&["orders"]), route(access))).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    enforced(&mesh).await?;
    Ok((mesh, orders, client))
}

/// Until the sidecars that should enforce the ApiRoute do: caller and destination.
async fn enforced(mesh: &Mesh) -> Result<()> {
    until("all that should enforce it do", async || {
        let verdict = mesh.verdict("orders").await?;
        let (n, m) = (&verdict["programmed"]["n"], &verdict["programmed"]["m"]);
        Ok(n == m && m.as_u64() >= Some(2))
    })
    .await
}

async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    wait_until(what, SOON, async || {
        ensure!(holds().await?, "not yet");
        Ok(())
    })
    .await
}

/// The ApiRoute `orders` with these fields of its spec.
fn route(access: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: orders, namespace: shop }}\n\
         spec:\n  hosts: [orders]\n{access}"
    )
}

/// A consumer with this key.
pub(crate) fn consumer(name: &str, plan: &str, key: &str, more: &str) -> Result<String> {
    let id = key.split('_').nth(1).context("mk_<id>_<secret>")?;
    let hash = digest(&SHA256, key.as_bytes());
    let hash: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!(
        "---\napiVersion: v1\nkind: Secret\ntype: meshwright.dev/api-key\nmetadata:\n  name: \
         consumer-{id}\n  namespace: shop\n  labels: {{ meshwright.dev/consumer: {name}, \
         meshwright.dev/plan: {plan} }}\nstringData:\n  keyID: {id}\n  keyHash: sha256:{hash}\n{more}"
    ))
}
