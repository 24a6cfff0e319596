//! Redis, with its streams.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ::redis::{AsyncConnectionConfig, Value};
use sidecar::events::broker::redis::{Address, Durability, Redis};
use sidecar::events::broker::{Broker, Group, Message, Queue, Start, Unpublished, Unsubscribed};
use tempfile::TempDir;

use super::nats::{PATIENCE, SOON, acknowledge, group, message, pull, texts, until};

mod connections;
mod entries;
mod fake;
mod groups;
mod leases;
mod reading;

/// A Redis, killed when this is dropped.
pub(super) struct Server {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Server {
    /// One that stores what it confirms. `more`: lines of its configuration.
    pub(super) fn start(more: &str) -> Self {
        Self::start_with(&format!("appendonly yes\nappendfsync always\n{more}"))
    }

    fn start_with(config: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let folder = TempDir::new().unwrap();
        let config = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\n{config}\n",
            address.port(),
            folder.path().display()
        );
        let mut file = std::fs::File::create(folder.path().join("redis.conf")).unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let child = spawn(&folder);
        Self {
            child,
            folder,
            address,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.folder);
    }

    fn address(&self, user: &str, password: &str) -> Address {
        address(self.address, user, password)
    }

    pub(super) async fn open(&self) -> Redis {
        let redis = Redis::open(self.address("", "")).await.unwrap();
        until(|| redis.is_connected()).await;
        redis
    }

    async fn open_with_lease(&self, lease: Duration) -> Redis {
        let redis = Redis::open_with_lease(self.address("", ""), lease);
        let redis = redis.await.unwrap();
        until(|| redis.is_connected()).await;
        redis
    }

    /// What somebody else has it do.
    async fn ask(&self, command: &[&[u8]]) -> Value {
        let client = ::redis::Client::open(format!("redis://{}/", self.address)).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(SOON));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await.unwrap();
        let mut asked = ::redis::Cmd::new();
        for part in command {
            asked.arg(part);
        }
        asked.query_async(&mut connection).await.unwrap()
    }

    /// The same, in words.
    async fn say(&self, command: &str) -> Value {
        let words = Vec::from_iter(command.split(' ').map(str::as_bytes));
        self.ask(&words).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir) -> Child {
    Command::new("redis-server")
        .arg(folder.path().join("redis.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn address(dial: SocketAddr, user: &str, password: &str) -> Address {
    Address {
        dial: dial.into(),
        name: "redis.test".to_owned(),
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

async fn publish(redis: &Redis, topic: &str, text: &str) {
    let published = redis.publish(topic, None, message(text), PATIENCE).await;
    assert_eq!(published, Ok(false));
}

/// Pulls, and nothing must come for so long.
async fn nothing_comes(queue: &mut dyn Queue, time: Duration) {
    if let Ok(pulled) = tokio::time::timeout(time, queue.pull(1)).await {
        let pulled = texts(&pulled.unwrap());
        assert_eq!(pulled, Vec::<String>::new());
    }
}
