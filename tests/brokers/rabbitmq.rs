//! RabbitMQ.
//!
//! A node takes long to start: one serves all tests, each with a virtual host of its own. Those that kill it, or
//! starve it, have another.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::json;
use sidecar::events::broker::rabbitmq::{Address, RabbitMq};
use sidecar::events::broker::{
    Broker, Delivered, Group, Lost, Message, Queue, Start, Unpublished, Unsubscribed,
};
use tests::brokers::rabbitmq::{Node, free};

mod connections;
mod groups;
mod publishing;

/// How long anything may take that is waited for.
const SOON: Duration = Duration::from_secs(20);
/// How long a node may take to start.
const START: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(5);

/// How many virtual hosts a node has: as many tests can share it.
const HOSTS: usize = 24;

/// A node, killed when this is dropped, and when these tests end.
struct Server {
    node: Node,
    address: SocketAddr,
}

/// One of its virtual hosts.
#[derive(Clone)]
pub(super) struct Host {
    address: SocketAddr,
    name: String,
}

/// The node that all share.
async fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| Server::start(HOSTS)));
    server.await.unwrap()
}

/// A virtual host that nobody else has, of the node that all share.
pub(super) async fn host() -> Host {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    server().await.host(number).await
}

impl Server {
    fn start(hosts: usize) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free()));
        let names = Vec::from_iter((0..hosts).map(|number| format!("host{number}")));
        let all = names.iter().map(|host| {
            json!({ "user": "mesh", "vhost": host, "configure": ".*", "write": ".*", "read": ".*" })
        });
        let some = names.iter().map(|host| {
            json!({ "user": "guest of one", "vhost": host, "configure": "^$", "write": "^orders$", "read": "^$" })
        });
        let definitions = json!({
            "users": [
                { "name": "mesh", "password": "right-one", "tags": [] },
                { "name": "guest of one", "password": "p", "tags": [] },
            ],
            "vhosts": names.iter().map(|host| json!({ "name": host })).collect::<Vec<_>>(),
            "permissions": all.chain(some).collect::<Vec<_>>(),
        });
        let node = Node::start(address, &definitions);
        Self { node, address }
    }

    fn kill(&mut self) {
        self.node.kill();
    }

    fn start_again(&mut self) {
        self.node.start_again();
    }

    /// One of its virtual hosts, when it is up.
    async fn host(&self, number: usize) -> Host {
        assert!(number < HOSTS, "more tests than virtual hosts");
        let host = Host {
            address: self.address,
            name: format!("host{number}"),
        };
        let since = Instant::now();
        while Connection::connect(&host.uri(), ConnectionProperties::default())
            .await
            .is_err()
        {
            assert!(since.elapsed() < START, "the node does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        host
    }

    /// Has the node do something, and answers what that says.
    async fn control(&self, arguments: &[&str]) -> String {
        self.node.control(arguments)
    }
}

impl Host {
    fn uri(&self) -> String {
        format!("amqp://mesh:right-one@{}/{}", self.address, self.name)
    }

    fn address(&self) -> Address {
        Address {
            dial: self.address.into(),
            name: "rabbitmq.test".to_owned(),
            user: "mesh".to_owned(),
            password: "right-one".to_owned(),
            virtual_host: self.name.clone(),
        }
    }

    pub(super) async fn open(&self) -> RabbitMq {
        let rabbit = RabbitMq::open(self.address()).unwrap();
        until(|| rabbit.is_connected()).await;
        rabbit
    }

    /// What somebody else does.
    async fn anybody(&self) -> (Connection, Channel) {
        let uri = self.uri();
        let connection = Connection::connect(&uri, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let confirm = ConfirmSelectOptions::default();
        channel.confirm_select(confirm).await.unwrap();
        (connection, channel)
    }
}

/// How many messages are in a queue that nobody was delivered.
async fn count(anybody: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = anybody.queue_declare(queue.into(), passive, FieldTable::default());
    declared.await.unwrap().message_count()
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < START, "it did not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn message(text: &str) -> Message {
    Message {
        headers: vec![("ce-id".to_owned(), text.to_owned())],
        data: text.to_owned().into(),
    }
}

async fn publish(rabbit: &RabbitMq, topic: &str, text: &str) {
    let published = rabbit.publish(topic, None, message(text), PATIENCE).await;
    assert_eq!(published, Ok(false));
}

fn group(name: &str, topic: &str) -> Group {
    Group {
        name: name.to_owned(),
        topic: topic.to_owned(),
        start: Start::New,
        create: true,
        window: None,
        kept: false,
    }
}

/// Pulls until so many came.
async fn pull(queue: &mut dyn Queue, count: usize) -> Vec<Box<dyn Delivered>> {
    let (mut found, since) = (Vec::new(), Instant::now());
    while found.len() < count {
        assert!(since.elapsed() < SOON, "only {} came", found.len());
        found.extend(queue.pull(count - found.len()).await.unwrap());
    }
    found
}

/// Nothing comes for a moment.
async fn nothing(queue: &mut dyn Queue) {
    let pulled = tokio::time::timeout(Duration::from_millis(300), queue.pull(1)).await;
    assert!(pulled.is_err(), "something came");
}

async fn acknowledge(delivered: &[Box<dyn Delivered>]) {
    for one in delivered {
        one.acknowledge().await.unwrap();
    }
}

fn texts(delivered: &[Box<dyn Delivered>]) -> Vec<String> {
    let texts = delivered.iter().map(|one| &one.message().data);
    let texts = texts.map(|data| String::from_utf8(data.to_vec()).unwrap());
    let mut texts = Vec::from_iter(texts);
    texts.sort();
    texts
}

/// Numbers as texts, in the order of [`texts`].
fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    let mut numbers = Vec::from_iter(range.map(|number| number.to_string()));
    numbers.sort();
    numbers
}

/// How much is before a group, when that is so much.
async fn lag(queue: &mut dyn Queue, waiting: u64, unacknowledged: u64) {
    let since = Instant::now();
    loop {
        let lag = queue.lag().await.unwrap();
        if (lag.waiting, lag.unacknowledged) == (waiting, unacknowledged) {
            return;
        }
        assert!(since.elapsed() < SOON, "{lag:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
