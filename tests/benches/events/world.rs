//! A mesh with a broker outside of it, a sidecar beside whoever publishes and one beside whoever is subscribed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::bare::{GROUP, TOPIC};
use crate::broker::{Broker, Kind, PASSWORD, USER, VIRTUAL_HOST};
use crate::measure::{Cpus, Watched};

/// The variable by which sidecars are told to write no access log.
pub(crate) const ACCESS_LOG: &str = "MESHWRIGHT_ACCESS_LOG";
/// After how long without any an application is delivered nothing.
const QUIET: Duration = Duration::from_millis(300);
/// The file of the subscriptions.
const FILE: &str = "subscriptions.yaml";

/// Runs until it is dropped.
pub(crate) struct World {
    pub(crate) kind: Kind,
    /// The broker's.
    pub(crate) address: SocketAddr,
    /// Beside whoever publishes.
    pub(crate) stock: Sidecar,
    /// Beside whoever is subscribed.
    pub(crate) billing: Sidecar,
    pub(crate) mesh: Mesh,
    _broker: Broker,
}

fn documents(kind: Kind) -> String {
    let scheme = kind.scheme();
    let services = ["stock", "billing"].map(|name| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: 8080, appProtocol: http }}] }}\n---\n"
        )
    });
    let user = match kind {
        Kind::Nats => format!("username: {USER}, "),
        Kind::RabbitMq => format!("username: {USER}, virtualHost: {VIRTUAL_HOST}, "),
        Kind::Redis => String::new(),
    };
    format!(
        "{}apiVersion: v1\nkind: Service\nmetadata: {{ name: broker, namespace: shop }}\n\
         spec: {{ selector: {{ app: broker }}, ports: [{{ name: tcp-{scheme}, port: 4222, targetPort: 8080 }}] }}\n\
         ---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: broker\n  namespace: shop\n  \
         labels: {{ meshwright.dev/broker: events }}\n\
         stringData: {{ url: \"{scheme}://broker:4222\", {user}password: {PASSWORD} }}\n\
         ---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: stock, namespace: shop }}\n\
         spec:\n  hosts: [stock]\n  rules:\n  \
         - matches: [{{ path: {{ type: Exact, value: /updates }}, method: POST }}]\n    \
         publish: {{ broker: events, topic: {TOPIC}, event: {{ type: com.shop.stock, source: /stock }} }}\n  - {{}}\n",
        services.concat()
    )
}

/// A subscription of this name, as the one whose group is `group`.
fn subscription(name: &str, group: &str, suspended: bool) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  suspend: {suspended}\n  \
         source: {{ type: Broker, broker: {{ name: events, topic: {TOPIC}, consumerGroup: {group} }} }}\n  \
         target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /events }}\n  \
         delivery: {{ onExhausted: Drop }}\n---\n"
    )
}

// === impl World ===

impl World {
    /// Starts all of it, with no subscription yet. Sidecars and operator have one CPU, and all else the other.
    pub(crate) async fn start(kind: Kind, cpus: &Cpus) -> Result<(Self, TcpListener)> {
        cpus.pin_to_proxies()?;
        let mesh = Mesh::start(&documents(kind)).await?;
        let mut place = mesh.outsider("broker").await?;
        place.close();
        let address = place.address();
        let (_, stock) = mesh.listener("stock").await?;
        let (listener, billing) = mesh.listener("billing").await?;
        cpus.pin_to_peers()?;
        wait_until("the broker's place is free", SOON, async || {
            TcpListener::bind(address).await?;
            Ok(())
        })
        .await?;
        let broker = Broker::start(kind, address).await?;
        mesh.programmed("stock").await?;
        let world = Self {
            kind,
            address,
            stock,
            billing,
            mesh,
            _broker: broker,
        };
        Ok((world, listener))
    }

    /// Writes the one subscription, suspended or not.
    pub(crate) fn subscribe(&self, suspended: bool) -> Result<()> {
        self.mesh
            .write(FILE, &subscription(GROUP, GROUP, suspended))
    }

    /// Writes so many subscriptions, each with a group of its own.
    pub(crate) fn subscribe_often(&self, count: usize) -> Result<()> {
        let all = (0..count).map(|number| {
            let name = format!("{GROUP}-{number}");
            subscription(&name, &name, false)
        });
        self.mesh.write(FILE, &all.collect::<String>())
    }

    /// Waits until the sidecar is in so many groups.
    pub(crate) async fn joined(&self, count: usize, patience: Duration) -> Result<()> {
        let all = format!("{count} groups are joined");
        wait_until(&all, patience, async || {
            let joined = self.billing.metric("meshwright_events_subscribed").await?;
            ensure!(joined == Some(count as f64), "{joined:?}");
            Ok(())
        })
        .await
    }

    /// For its memory.
    pub(crate) fn operator(&self) -> Result<Watched> {
        // The first address of its mesh is its own.
        let [a, b, c, _] = self.billing.address().octets();
        Watched::find(&format!("--listen-grpc={a}.{b}.{c}.1:15012"))
    }

    /// Where the application publishes.
    pub(crate) fn publishes_at(&self) -> SocketAddr {
        SocketAddr::new(self.stock.address().into(), 15090)
    }
}

/// A sidecar, for its CPU time.
pub(crate) fn process(sidecar: &Sidecar) -> Result<Watched> {
    Watched::find(&format!("--listen-outbound={}:15001", sidecar.address()))
}

/// Returns once a count stands still.
pub(crate) async fn still(count: &crate::load::Count) -> Result<()> {
    let mut before = count.now();
    wait_until("nothing more is delivered", SOON, async || {
        sleep(QUIET).await;
        let now = count.now();
        let last = std::mem::replace(&mut before, now);
        ensure!(last == now, "{}", now - last);
        Ok(())
    })
    .await
}

/// Returns once a count is greater than that.
pub(crate) async fn moves(count: &crate::load::Count, from: u64) -> Result<()> {
    let moved = wait_until("something happens", SOON, async || {
        ensure!(count.now() > from, "nothing happens");
        Ok(())
    });
    moved.await.context("nothing is published or delivered")
}
