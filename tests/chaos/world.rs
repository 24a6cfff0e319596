//! A mesh with a broker, whoever publishes and two who are subscribed, all of which can be struck.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::time::{Instant, sleep_until};

use crate::application::Application;
use crate::broker::{Broker, Kind, PASSWORD, USER, VIRTUAL_HOST};
use crate::history::{Journal, Struck};
use crate::network::Network;
use crate::schedule::{Fault, Planned, Schedule};

/// How many are subscribed.
pub(crate) const REPLICAS: usize = 2;

/// The port of a broker behind its network, at the address of an application.
const BEHIND: u16 = 18_080;

/// The mesh, and all in it.
pub(crate) struct World {
    pub(crate) broker: Broker,
    network: Network,
    producer: Sidecar,
    brokers_sidecar: Sidecar,
    subscribers: Vec<(Application, Sidecar)>,
    journal: Journal,
    // Last: it looks for panics in what the processes have said.
    mesh: Mesh,
}

/// What is to be done at a moment.
#[derive(Clone, Copy)]
enum Step {
    Begin(usize),
    End(usize),
}

/// What is written of a mesh whose subscription has this in its delivery.
fn documents(kind: Kind, delivery: &str) -> String {
    let scheme = kind.scheme();
    let services = ["stock", "billing"].map(|name| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: 8080 }}] }}\n---\n"
        )
    });
    let (user, start) = match kind {
        Kind::Nats => (
            format!("username: {USER}, "),
            ", startFrom: { type: Earliest }",
        ),
        Kind::RabbitMq => (
            format!("username: {USER}, virtualHost: {VIRTUAL_HOST}, "),
            "",
        ),
        Kind::Redis => (String::new(), ", startFrom: { type: Earliest }"),
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
         publish: {{ broker: events, topic: stock }}\n  - {{}}\n\
         ---\napiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
         metadata: {{ name: billing, namespace: shop }}\n\
         spec:\n  source: {{ type: Broker, broker: {{ name: events, topic: stock{start} }} }}\n  \
         target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /events }}\n  \
         delivery: {{ onExhausted: DeadLetter, deadLetter: {{ topic: stock.dlq }}, {delivery} }}\n",
        services.concat()
    )
}

// === impl World ===

impl World {
    /// Starts all of it. What an application does with an event, the seed says.
    pub(crate) async fn start(
        kind: Kind,
        delivery: &str,
        seed: u64,
        journal: &Journal,
    ) -> Result<Self> {
        let mesh = Mesh::start(&documents(kind, delivery)).await?;
        let (listener, brokers_sidecar) = mesh.listener("broker").await?;
        let behind = SocketAddr::new(listener.local_addr()?.ip(), BEHIND);
        let network = Network::open(listener, behind);
        let broker = Broker::start(kind, behind).await?;
        let (_, producer) = mesh.listener("stock").await?;
        let mut subscribers = Vec::new();
        for _ in 0..REPLICAS {
            let (listener, sidecar) = mesh.listener("billing").await?;
            let application = Application::start(listener, seed, journal.clone())?;
            subscribers.push((application, sidecar));
        }
        let world = Self {
            broker,
            network,
            producer,
            brokers_sidecar,
            subscribers,
            journal: journal.clone(),
            mesh,
        };
        world.mesh.programmed("stock").await?;
        world.mesh.programmed("billing").await?;
        wait_until("all are in the group", SOON, async || {
            for (_, sidecar) in &world.subscribers {
                let series = "meshwright_events_subscribed{subscription=\"shop/billing\"}";
                let found = sidecar.metric(series).await?;
                ensure!(found == Some(1.0), "{found:?}");
            }
            Ok(())
        })
        .await?;
        Ok(world)
    }

    /// Where events are published.
    pub(crate) fn publishes_at(&self) -> Ipv4Addr {
        self.producer.address()
    }

    /// How often somebody connected to the broker.
    pub(crate) fn connections(&self) -> usize {
        self.network.accepted()
    }

    /// Strikes as a schedule says. When it returns, nothing is away any more, though it may still start.
    pub(crate) async fn strike(&mut self, schedule: &Schedule) -> Result<()> {
        let all = schedule.0.iter().enumerate();
        let steps = all.flat_map(|(place, one)| {
            [
                (one.at, Step::Begin(place)),
                (one.at + one.lasts, Step::End(place)),
            ]
        });
        let mut steps = Vec::from_iter(steps);
        steps.sort_by_key(|(at, _)| *at);
        let (begun, mut open) = (Instant::now(), vec![None; schedule.0.len()]);
        for (at, step) in steps {
            sleep_until(begun + at).await;
            match step {
                Step::Begin(place) => {
                    let Planned { fault, .. } = schedule.0[place];
                    let from = SystemTime::now();
                    self.begin(fault).await?;
                    open[place] = Some((from, SystemTime::now()));
                }
                Step::End(place) => {
                    let Planned { fault, .. } = schedule.0[place];
                    self.end(fault).await?;
                    let (from, begun) = open[place].context("it ends before it begins")?;
                    let until = SystemTime::now();
                    self.journal.struck(Struck {
                        fault,
                        from,
                        begun,
                        until,
                    });
                }
            }
        }
        Ok(())
    }

    async fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Subscriber(place) => self.subscribers[place].1.kill().await?,
            Fault::Frozen(place) => self.subscribers[place].1.signal(Signal::SIGSTOP)?,
            Fault::Producer => self.producer.kill().await?,
            Fault::Application(place) => self.subscribers[place].0.kill(),
            Fault::Broker => tokio::task::block_in_place(|| self.broker.kill()),
            Fault::BrokersSidecar => self.brokers_sidecar.kill().await?,
            Fault::Network(cut) => self.network.cut(cut),
        }
        Ok(())
    }

    async fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Subscriber(place) => self.subscribers[place].1.start()?,
            Fault::Frozen(place) => self.subscribers[place].1.signal(Signal::SIGCONT)?,
            Fault::Producer => self.producer.start()?,
            Fault::Application(place) => self.subscribers[place].0.start_again().await?,
            Fault::Broker => tokio::task::block_in_place(|| self.broker.start_again())?,
            Fault::BrokersSidecar => self.brokers_sidecar.start()?,
            Fault::Network(_) => self.network.mend(),
        }
        Ok(())
    }
}
