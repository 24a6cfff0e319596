//! A shop whose processes are of one version or another, and what governs calls in it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;

/// Programs of one version.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    /// The folder that they are in.
    pub(crate) folder: PathBuf,
}

/// A mesh with two pods of `orders`, and callers in its namespace and in another one.
pub(crate) struct World {
    mesh: Mesh,
    orders: Vec<Workload>,
    callers: Vec<Client>,
    /// Counts edits: each is told by what an answer says.
    edit: AtomicUsize,
    /// What the operator is at the moment.
    operator: Mutex<String>,
}

/// What a caller in the namespace of `orders` calls, and one of another namespace.
const NEAR: &[&str] = &["http://orders/open", "http://orders.shop/open/book"];
const FAR: &[&str] = &["http://orders.shop/open", "http://10.96.0.7/open/book"];

/// The Service, and what governs calls to it: where they may go, who may enter, how much, and that a
/// call is repeated. All of it can be written since 0.1.
fn yaml(edit: usize) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: orders, namespace: shop }}
spec: {{ clusterIP: 10.96.0.7, selector: {{ app: orders }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: orders, namespace: shop }}
spec:
  hosts: [orders]
  rules:
    - name: open
      matches: [{{ path: {{ type: Prefix, value: /open }} }}]
      responseHeaders: {{ set: [{{ name: x-edit, value: number {edit} }}] }}
    - name: secret
      matches: [{{ path: {{ type: Prefix, value: /secret }} }}]
  authorization:
    rules:
      - {{ name: no-secrets, action: Deny, paths: [{{ type: Prefix, value: /secret }}] }}
      - {{ name: known, principals: {{ namespaces: [shop, office] }} }}
---
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: {{ name: orders, namespace: shop }}
spec:
  targetRefs: [{{ kind: Service, name: orders }}]
  maxRetries: 2
---
apiVersion: meshwright.dev/v1alpha1
kind: RateLimit
metadata: {{ name: orders, namespace: shop }}
spec:
  targetRefs: [{{ kind: Service, name: orders }}]
  limits: [{{ name: plenty, requests: 1000000, per: 1s }}]
"
    )
}

// === impl World ===

impl World {
    /// Everything is of this version.
    pub(crate) async fn start(version: &Version) -> Result<Self> {
        let mesh = Mesh::prepare()?;
        mesh.run_programs_of(&version.folder);
        mesh.write("shop.yaml", &yaml(0))?;
        mesh.start_operator().await?;
        let orders = [
            mesh.workload("orders").await?,
            mesh.workload("orders").await?,
        ];
        let callers = vec![mesh.client("web").await?, mesh.client("office/desk").await?];
        Ok(World {
            mesh,
            orders: orders.into(),
            callers,
            edit: AtomicUsize::default(),
            operator: Mutex::new(version.name.clone()),
        })
    }

    /// Others beside the first callers' sidecars, and what they call.
    pub(crate) fn callers(&self) -> Vec<(Client, &'static [&'static str])> {
        let callers = self.callers.iter().zip([NEAR, FAR]);
        callers
            .map(|(client, urls)| (client.another(), urls))
            .collect()
    }

    /// The operator ends, and one of this version takes its place.
    pub(crate) async fn operator_becomes(&self, version: &Version) -> Result<()> {
        self.mesh.run_programs_of(&version.folder);
        self.mesh.kill_operator().await?;
        self.mesh.start_operator().await?;
        version
            .name
            .clone_into(&mut self.operator.lock().expect("no panic while it is held"));
        Ok(())
    }

    /// Pods of `orders` come with sidecars of this version, one by one, and those that there were go.
    pub(crate) async fn destinations_become(&mut self, version: &Version) -> Result<()> {
        self.mesh.run_programs_of(&version.folder);
        for _ in 0..self.orders.len() {
            let new = self.mesh.arriving_workload("orders").await?;
            self.orders.push(new);
            let old = self.orders.remove(0);
            self.mesh.leaves(&old.sidecar).await?;
        }
        Ok(())
    }

    /// More pods that call, of this version.
    pub(crate) async fn add_callers(&mut self, version: &Version) -> Result<()> {
        self.mesh.run_programs_of(&version.folder);
        for app in ["web", "office/desk"] {
            self.callers.push(self.mesh.client(app).await?);
        }
        Ok(())
    }

    /// The operator is gone, and what it said last is in force.
    pub(crate) async fn kill_operator(&self) -> Result<()> {
        self.mesh.kill_operator().await
    }

    /// Every sidecar is killed, and one of this version starts from what it had kept.
    pub(crate) async fn sidecars_become(&self, version: &Version) -> Result<()> {
        let destinations = self.orders.iter().map(|orders| &orders.sidecar);
        for sidecar in destinations.chain(self.callers.iter().map(Client::sidecar)) {
            sidecar.kill().await?;
            sidecar.start_of(&version.folder)?;
            sidecar.ready().await?;
        }
        self.each_is("sidecars are others", self.edit.load(Ordering::Relaxed))
            .await
    }

    /// An edit is made, and every caller's next calls are governed by it and by all else.
    pub(crate) async fn is_governed(&self, when: &str) -> Result<()> {
        let edit = self.edit.fetch_add(1, Ordering::Relaxed) + 1;
        self.mesh.write("shop.yaml", &yaml(edit))?;
        self.each_is(when, edit).await
    }

    async fn each_is(&self, when: &str, edit: usize) -> Result<()> {
        let operator = self
            .operator
            .lock()
            .expect("no panic while it is held")
            .clone();
        for (number, caller) in self.callers.iter().enumerate() {
            let which = format!("{when} (operator {operator}), caller {number}");
            let urls = if number % 2 == 0 { NEAR } else { FAR };
            wait_until(&which, SOON, async || {
                for url in urls {
                    let open = caller.get(url).await?;
                    ensure!(
                        outcome(&open) == (200, "") && says(&open) == format!("number {edit}"),
                        "{url}: {open:?}\n{}",
                        caller.sidecar().log()?
                    );
                    let host = url.split("/open").next().context("a host")?;
                    let refused = caller.get(&format!("{host}/secret")).await?;
                    ensure!(refused.status == 403, "{refused:?}");
                    let nowhere = caller.get(&format!("{host}/elsewhere")).await?;
                    ensure!(outcome(&nowhere) == (404, "no_route"), "{nowhere:?}");
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

fn outcome(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.reason())
}

/// Which edit governed a call.
fn says(answer: &Answer) -> &str {
    let said = answer.headers.get("x-edit");
    said.and_then(|said| said.to_str().ok()).unwrap_or_default()
}
