//! Policies together: what each promises holds whatever the others do, and while people edit them.

mod calls;
mod edits;
mod streams;

use anyhow::Result;
use tests::client::Client;
use tests::mesh::{Mesh, Sidecar};

use crate::cache::app::App;
use crate::routing::services;

/// `orders` in replicas of these applications, governed by all policies at once, and a caller of it.
struct World {
    mesh: Mesh,
    sidecars: Vec<Sidecar>,
    web: Client,
}

impl World {
    async fn of(documents: &str, apps: &[App]) -> Result<Self> {
        let mesh = Mesh::start(documents).await?;
        let mut sidecars = Vec::new();
        for app in apps {
            let (listener, sidecar) = mesh.listener("orders").await?;
            app.listen(listener);
            sidecars.push(sidecar);
        }
        let web = mesh.client("web").await?;
        for object in ["orders", "limits", "retries"] {
            mesh.programmed(object).await?;
        }
        Ok(Self {
            mesh,
            sidecars,
            web,
        })
    }

    /// The sum of a series at the called workload's sidecars.
    async fn sum(&self, series: &str) -> Result<f64> {
        let mut sum = 0.0;
        for sidecar in &self.sidecars {
            sum += sidecar.metric(series).await?.unwrap_or_default();
        }
        Ok(sum)
    }
}

/// What an ApiRoute, a RateLimit and a RetryPolicy say: fields of each spec, as YAML in one line.
fn documents(route: &str, limits: &str, retries: &str) -> String {
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: meshwright.dev/v1alpha1\nkind: {kind}\n\
             metadata: {{ name: {name}, namespace: shop }}\nspec: {{ {spec} }}\n"
        )
    };
    let target = "targetRefs: [{ kind: Service, name: orders }]";
    services(&["orders"])
        + &object("ApiRoute", "orders", &format!("hosts: [orders], {route}"))
        + &object(
            "RateLimit",
            "limits",
            &format!("{target}, limits: [{limits}]"),
        )
        + &object("RetryPolicy", "retries", &format!("{target}, {retries}"))
}
