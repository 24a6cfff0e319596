//! NATS, with JetStream.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use sidecar::events::broker::nats::guarded::Guarded;
use sidecar::events::broker::nats::upgrade::upgrade;
use sidecar::events::broker::nats::{Address, Credentials, Nats};
use sidecar::events::broker::{
    Broker, Delivered, Group, Message, Queue, Start, Unpublished, Unsubscribed,
};
use tempfile::TempDir;
use tests::brokers;

mod connections;
mod groups;
mod order;
mod reading;

/// How long anything may take that is waited for.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A NATS, killed when this is dropped.
pub(super) struct Server {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Server {
    pub(super) fn start(more: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("store");
        let config = format!(
            "listen: \"{address}\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n{more}\n",
            store.display()
        );
        let mut file = std::fs::File::create(folder.path().join("nats.conf")).unwrap();
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

    fn address(&self, credentials: Credentials) -> Address {
        Address {
            dial: self.address,
            name: "nats.test".to_owned(),
            credentials,
        }
    }

    pub(super) async fn open(&self) -> Nats {
        let nats = Nats::open(self.address(Credentials::None)).await.unwrap();
        until(|| nats.is_connected()).await;
        nats
    }

    async fn open_with_lease(&self, lease: Duration) -> Nats {
        let nats = Nats::open_with_lease(self.address(Credentials::None), lease);
        let nats = nats.await.unwrap();
        until(|| nats.is_connected()).await;
        nats
    }

    /// What somebody else asks JetStream.
    async fn ask(&self, what: &str, body: Value) -> Value {
        let client = async_nats::connect(self.address.to_string()).await.unwrap();
        let answer = client.request(format!("$JS.API.{what}"), body.to_string().into());
        serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
    }

    /// The stream of a topic.
    async fn stream(&self, topic: &str) -> String {
        let names = self.ask("STREAM.NAMES", json!({ "subject": topic })).await;
        names["streams"][0].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir) -> Child {
    Command::new(brokers::nats_server())
        .arg("-c")
        .arg(folder.path().join("nats.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(super) async fn until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < SOON, "it did not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn message(text: &str) -> Message {
    Message {
        headers: vec![("ce-id".to_owned(), text.to_owned())],
        data: text.to_owned().into(),
    }
}

pub(super) async fn publish(nats: &Nats, topic: &str, text: &str) {
    let published = nats.publish(topic, None, message(text), PATIENCE).await;
    assert_eq!(published, Ok(false));
}

pub(super) fn group(name: &str, topic: &str) -> Group {
    Group {
        name: name.to_owned(),
        topic: topic.to_owned(),
        start: Start::Earliest,
        create: true,
        window: None,
        kept: false,
    }
}

/// Pulls until so many came.
pub(super) async fn pull(queue: &mut dyn Queue, count: usize) -> Vec<Box<dyn Delivered>> {
    let (mut found, since) = (Vec::new(), Instant::now());
    while found.len() < count {
        assert!(since.elapsed() < SOON, "only {} came", found.len());
        found.extend(queue.pull(count - found.len()).await.unwrap());
    }
    found
}

pub(super) async fn acknowledge(delivered: &[Box<dyn Delivered>]) {
    for one in delivered {
        one.acknowledge().await.unwrap();
    }
}

pub(super) fn texts(delivered: &[Box<dyn Delivered>]) -> Vec<String> {
    let texts = delivered.iter().map(|one| &one.message().data);
    texts
        .map(|data| String::from_utf8(data.to_vec()).unwrap())
        .collect()
}
