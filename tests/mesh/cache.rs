//! Answers that are kept at the destination, by whole sidecars.

pub(crate) mod app;
mod at_caller;
mod bounds;
mod fetches;
mod principals;
mod semantics;

use anyhow::Result;
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;

use self::app::App;
use crate::routing::services;

/// A caller of the Service `orders`, whose ApiRoute keeps answers as this says and is in force; and
/// what is beside the application.
struct World {
    mesh: Mesh,
    app: App,
    sidecar: Sidecar,
    web: Client,
}

impl World {
    /// `cache` is what follows `cache:`, `more` other fields of the spec.
    async fn of(cache: &str, more: &str, app: App) -> Result<Self> {
        let mesh = Mesh::start(&documents(cache, more)).await?;
        let (listener, sidecar) = mesh.listener("orders").await?;
        app.listen(listener);
        let web = mesh.client("web").await?;
        mesh.programmed("orders").await?;
        Ok(Self {
            mesh,
            app,
            sidecar,
            web,
        })
    }

    async fn get(&self, target: &str) -> Result<Answer> {
        self.get_with(target, &[]).await
    }

    async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let url = format!("http://orders{target}");
        self.web.get_with(&url, headers).await
    }
}

fn documents(cache: &str, more: &str) -> String {
    format!(
        "{}---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: orders, namespace: shop }}\n\
         spec:\n  hosts: [orders]\n  cache: {cache}\n{more}",
        services(&["orders"])
    )
}

/// What the cache says of an answer.
fn status(answer: &Answer) -> &str {
    let status = answer.headers.get("cache-status");
    status.and_then(|status| status.to_str().ok()).unwrap_or("")
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("meshwright; hit; ttl=")
}

async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    wait_until(what, SOON, async || {
        anyhow::ensure!(holds().await?, "not yet");
        Ok(())
    })
    .await
}
