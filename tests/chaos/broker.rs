//! Real brokers: processes that are killed and started again with what they have kept, as docs/events.md says that they
//! must be configured for a 202 to outlive that.

mod nats;
mod rabbitmq;
mod redis;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::brokers;
use tests::brokers::rabbitmq::Node;
use tests::wait_until;

use crate::history::{Id, Letter};

pub(crate) use self::rabbitmq::VIRTUAL_HOST;

/// Who the sidecars are to a broker.
pub(crate) const USER: &str = "mesh";
pub(crate) const PASSWORD: &str = "s3cret";

/// How long a broker may take to start on a machine that does other things.
const START: Duration = Duration::from_secs(90);

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nats,
    RabbitMq,
    Redis,
}

/// One that runs, or is killed.
pub(crate) struct Broker {
    kind: Kind,
    address: SocketAddr,
    process: Process,
    /// Up to where the dead letters were read.
    read: String,
}

enum Process {
    /// A program that has all that it keeps in a folder.
    Program(Option<Child>, TempDir),
    Node(Box<Node>),
}

// === impl Kind ===

impl Kind {
    /// What its addresses begin with.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::RabbitMq => "amqp",
            Self::Redis => "redis",
        }
    }

    /// Whether it holds what is published twice once.
    pub(crate) fn tells_duplicates(self) -> bool {
        self != Self::RabbitMq
    }

    /// Of how much time before it is killed it may have forgotten what it was told of deliveries. JetStream writes that down
    /// ten times in a second, and RabbitMQ soon after it was told; a disk that is busy takes longer. Redis answers when it has.
    pub(crate) fn forgets(self) -> Duration {
        match self {
            Self::Nats | Self::RabbitMq => Duration::from_secs(2),
            Self::Redis => Duration::ZERO,
        }
    }
}

// === impl Broker ===

impl Broker {
    /// Starts one that listens there, and waits until it answers.
    pub(crate) async fn start(kind: Kind, address: SocketAddr) -> Result<Self> {
        let process = match kind {
            Kind::Nats => {
                let folder = tempfile::tempdir()?;
                nats::configure(folder.path(), address)?;
                Process::Program(None, folder)
            }
            Kind::Redis => {
                let folder = tempfile::tempdir()?;
                redis::configure(folder.path(), address)?;
                Process::Program(None, folder)
            }
            Kind::RabbitMq => {
                let node = move || Node::start(address, &rabbitmq::definitions());
                let node = tokio::task::spawn_blocking(node).await?;
                Process::Node(Box::new(node))
            }
        };
        let mut broker = Self {
            kind,
            address,
            process,
            read: String::new(),
        };
        if let Process::Program(..) = broker.process {
            broker.start_again()?;
        }
        wait_until("the broker answers", START, async || match kind {
            Kind::Nats => nats::answers(address).await,
            Kind::RabbitMq => rabbitmq::answers(address).await,
            Kind::Redis => redis::answers(address).await,
        })
        .await
        .with_context(|| match &broker.process {
            Process::Node(node) => node.said(),
            Process::Program(..) => String::new(),
        })?;
        Ok(broker)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        match &mut self.process {
            Process::Program(child, _) => {
                if let Some(mut child) = child.take() {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
            Process::Node(node) => node.kill(),
        }
    }

    /// Starts it with all that it has kept, and waits for nothing.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        match &mut self.process {
            Process::Program(child, folder) => {
                *child = Some(spawn(self.kind, folder.path())?);
                Ok(())
            }
            Process::Node(node) => {
                node.start_again();
                Ok(())
            }
        }
    }

    /// The dead letters that it holds and that were not read before.
    pub(crate) async fn letters(&mut self) -> Result<Vec<Letter>> {
        match self.kind {
            Kind::Nats => nats::letters(self.address, &mut self.read).await,
            Kind::RabbitMq => rabbitmq::letters(self.address).await,
            Kind::Redis => redis::letters(self.address, &mut self.read).await,
        }
    }

    /// That it holds nothing that is before the group, or was delivered to it and is not done.
    pub(crate) async fn is_done(&self) -> Result<()> {
        match (self.kind, &self.process) {
            (_, Process::Node(node)) => rabbitmq::is_done(node),
            (Kind::Nats, _) => nats::is_done(self.address).await,
            (_, _) => redis::is_done(self.address).await,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Process::Program(..) = self.process {
            self.kill();
        }
    }
}

fn spawn(kind: Kind, folder: &Path) -> Result<Child> {
    let mut command = match kind {
        Kind::Nats => {
            let mut command = Command::new(brokers::nats_server());
            command.arg("-c");
            command
        }
        Kind::Redis | Kind::RabbitMq => Command::new("redis-server"),
    };
    command.arg(folder.join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command.spawn().with_context(|| format!("{command:?}"))
}

/// A dead letter, from what it says of itself.
fn letter<'h>(header: impl Fn(&str) -> Option<&'h str>, data: &[u8]) -> Result<Letter> {
    let said = |name: &str| header(name).with_context(|| format!("a dead letter without {name}"));
    let id: Id = said("ce-id")?.parse()?;
    ensure!(said("ce-dlqsubscription")? == "shop/billing", "{id}");
    let at: jiff::Timestamp = said("ce-dlqtime")?.parse()?;
    Ok(Letter {
        id,
        reason: said("ce-dlqreason")?.to_owned(),
        attempts: said("ce-dlqattempts")?.parse()?,
        at: SystemTime::from(at),
        intact: data == id.data().as_bytes(),
    })
}
