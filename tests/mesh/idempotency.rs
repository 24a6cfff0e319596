//! Calls that are carried out once, by whole sidecars: one file for each of what is promised of them.

mod bounds;
mod calls;
mod kept;
mod principals;
mod shared;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;

use crate::cache::app::{App, reply};
use crate::routing::services;

/// A caller of the Service `payments`, whose ApiRoute says this of calls that are carried out once and
/// is in force; and what is beside the application.
struct World {
    mesh: Mesh,
    app: App,
    sidecar: Sidecar,
    web: Client,
}

impl World {
    /// `idempotency` is what follows `idempotency:`, `more` other fields of the spec.
    async fn of(idempotency: &str, more: &str, app: App) -> Result<Self> {
        let mesh = Mesh::start(&documents(idempotency, more)).await?;
        let (listener, sidecar) = mesh.listener("payments").await?;
        app.listen(listener);
        let web = mesh.client("web").await?;
        mesh.programmed("payments").await?;
        Ok(Self {
            mesh,
            app,
            sidecar,
            web,
        })
    }

    /// How many requests have become this.
    async fn became(&self, outcome: &str) -> Result<f64> {
        let series = format!(
            "meshwright_idempotency_requests_total{{route=\"shop/payments\",outcome=\"{outcome}\"}}"
        );
        Ok(self.sidecar.metric(&series).await?.unwrap_or_default())
    }
}

fn documents(idempotency: &str, more: &str) -> String {
    format!(
        "{}---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: payments, namespace: shop }}\n\
         spec:\n  hosts: [payments]\n  idempotency: {idempotency}\n{more}",
        services(&["payments"])
    )
}

/// An application that makes a payment of each request: whoever repeats one pays twice.
fn ledger() -> App {
    App::new(|_, number| {
        let place = format!("/payments/{number}");
        let lines = [("location", &*place), ("set-cookie", "seen=1")];
        reply(201, &lines, format!("payment {number}"))
    })
}

/// A payment with this key.
async fn pay(client: &Client, key: &str, body: &str) -> Result<Answer> {
    post(client, "/payments", &[("idempotency-key", key)], body).await
}

async fn post(
    client: &Client,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let url = format!("http://payments{target}");
    let body = Bytes::copy_from_slice(body.as_bytes());
    client.send(Method::POST, &url, headers, body).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer
        .headers
        .get("idempotent-replayed")
        .is_some_and(|said| said == "true")
}

async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    wait_until(what, SOON, async || {
        ensure!(holds().await?, "not yet");
        Ok(())
    })
    .await
}
