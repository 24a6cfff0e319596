//! A real broker, at the place of a pod that is outside the mesh.
//!
//! They keep what they have on disk as they do where nobody has said otherwise: what is compared is what it takes to tell
//! them, and not the disk.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tempfile::TempDir;
use tests::brokers;
use tests::brokers::rabbitmq::Node;
use tests::wait_until;

use crate::bare::Client;

/// Who publishes and who is subscribed, to a broker.
pub(crate) const USER: &str = "mesh";
pub(crate) const PASSWORD: &str = "s3cret";
/// Where the topics of RabbitMQ are.
pub(crate) const VIRTUAL_HOST: &str = "shop";

/// How long a broker may take to start.
const START: Duration = Duration::from_secs(90);

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nats,
    RabbitMq,
    Redis,
}

/// One that runs until it is dropped.
pub(crate) struct Broker {
    _process: Process,
    _folder: TempDir,
}

enum Process {
    Program(Child),
    Node(#[expect(dead_code, reason = "it ends when it is dropped")] Box<Node>),
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Nats, Self::RabbitMq, Self::Redis];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::RabbitMq => "RabbitMQ",
            Self::Redis => "Redis",
        }
    }

    /// What its addresses begin with.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::RabbitMq => "amqp",
            Self::Redis => "redis",
        }
    }

    /// The one whose addresses begin so.
    pub(crate) fn of(scheme: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|one| one.scheme() == scheme);
        found.with_context(|| format!("{scheme} is no broker"))
    }
}

// === impl Broker ===

impl Broker {
    /// Starts one that listens there, and waits until it answers.
    pub(crate) async fn start(kind: Kind, address: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meshwright-bench-")
            .tempdir()?;
        let process = match kind {
            Kind::Nats => Process::Program(nats(folder.path(), address)?),
            Kind::Redis => Process::Program(redis(folder.path(), address)?),
            // It takes some seconds, in which nothing else is done here.
            Kind::RabbitMq => Process::Node(Box::new(rabbitmq(address))),
        };
        let broker = Self {
            _process: process,
            _folder: folder,
        };
        wait_until("the broker answers", START, async || {
            Client::connect(kind, address).await
        })
        .await?;
        Ok(broker)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn nats(folder: &Path, address: SocketAddr) -> Result<Child> {
    let config = folder.join("config");
    let text = format!(
        "listen: \"{address}\"\njetstream {{ store_dir: \"{}\" }}\n\
         authorization {{ user: {USER}, password: {PASSWORD} }}\n",
        folder.join("store").display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(brokers::nats_server());
    command.arg("-c").arg(config);
    spawn(command)
}

fn redis(folder: &Path, address: SocketAddr) -> Result<Child> {
    let config = folder.join("config");
    let text = format!(
        "bind {}\nport {}\ndir {}\nsave \"\"\nrequirepass {PASSWORD}\nappendonly yes\n",
        address.ip(),
        address.port(),
        folder.display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("redis-server");
    command.arg(config);
    spawn(command)
}

fn rabbitmq(address: SocketAddr) -> Node {
    let definitions = json!({
        "users": [{ "name": USER, "password": PASSWORD, "tags": [] }],
        "vhosts": [{ "name": VIRTUAL_HOST }],
        "permissions": [{
            "user": USER, "vhost": VIRTUAL_HOST, "configure": ".*", "write": ".*", "read": ".*",
        }],
    });
    Node::start(address, &definitions)
}

fn spawn(mut command: Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command.spawn().with_context(|| format!("{command:?}"))
}
