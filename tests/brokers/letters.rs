//! Topics that are looked through once more: the same of every broker.

use std::time::Duration;

use sidecar::events::broker::{Broker, Delivered, Group, Message, Queue, Start, Unsubscribed};
use tokio::time::Instant;

use crate::{nats, rabbitmq, redis};

const PATIENCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

fn message(text: &str) -> Message {
    Message {
        headers: vec![("ce-id".to_owned(), text.to_owned())],
        data: text.to_owned().into(),
    }
}

async fn pull(queue: &mut dyn Queue, count: usize) -> Vec<Box<dyn Delivered>> {
    let (mut found, since) = (Vec::new(), Instant::now());
    while found.len() < count {
        assert!(since.elapsed() < SOON, "only {} came", found.len());
        found.extend(queue.pull(count - found.len()).await.unwrap());
    }
    found
}

fn data(delivered: &dyn Delivered) -> String {
    String::from_utf8(delivered.message().data.to_vec()).unwrap()
}

/// What is done with a run: a group of what a topic holds takes one out, passes by the rest, and is forgotten.
async fn looks_through(broker: &dyn Broker) {
    broker.create_topic("letters").await.unwrap();
    for text in ["a", "b", "c"] {
        let published = broker.publish("letters", None, message(text), PATIENCE);
        published.await.unwrap();
    }
    let run = |name: &str| Group {
        name: name.to_owned(),
        topic: "letters".to_owned(),
        start: Start::Earliest,
        create: true,
        window: None,
        kept: true,
    };
    let one = run("one");
    let mut queue = broker.join(&one).await.unwrap();
    let found = pull(&mut *queue, 3).await;
    for letter in &found {
        match data(&**letter).as_str() {
            "b" => {
                broker.discard("letters", &letter.place()).await.unwrap();
                letter.acknowledge().await.unwrap();
            }
            // What is acknowledged there is gone for everybody.
            _ if queue.takes() => letter.give_back(Duration::ZERO).await.unwrap(),
            _ => letter.acknowledge().await.unwrap(),
        }
    }
    queue.leave().await;
    drop((queue, found));
    broker.forget(&one).await.unwrap();
    // It is forgotten, and so may be what is not there.
    broker.forget(&one).await.unwrap();
    broker.forget(&run("never")).await.unwrap();
    let mut queue = broker.join(&run("two")).await.unwrap();
    // Held: one that is dropped may come again at once.
    let found = pull(&mut *queue, 2).await;
    let mut left = Vec::from_iter(found.iter().map(|one| data(&**one)));
    left.sort();
    assert_eq!(left, ["a", "c"]);
    assert!(queue.pull(1).await.unwrap().is_empty(), "and nothing else");
}

/// How much is before a group is told to who is not in it.
async fn counts(broker: &dyn Broker) {
    let group = Group {
        name: "billing".to_owned(),
        topic: "orders".to_owned(),
        start: Start::New,
        create: true,
        window: None,
        kept: false,
    };
    let missing = broker.lag(&group).await.unwrap_err();
    assert!(
        matches!(
            missing,
            Unsubscribed::MissingTopic | Unsubscribed::MissingGroup
        ),
        "{missing}"
    );
    let mut queue = broker.join(&group).await.unwrap();
    for text in ["a", "b", "c"] {
        let published = broker.publish("orders", None, message(text), PATIENCE);
        published.await.unwrap();
    }
    let since = Instant::now();
    while broker.lag(&group).await.unwrap().waiting != 3 {
        assert!(since.elapsed() < SOON, "they do not wait");
    }
    let found = pull(&mut *queue, 3).await;
    for one in &found {
        one.acknowledge().await.unwrap();
    }
    let since = Instant::now();
    loop {
        let lag = broker.lag(&group).await.unwrap();
        if (lag.waiting, lag.unacknowledged) == (0, 0) {
            break;
        }
        assert!(since.elapsed() < SOON, "{lag:?}");
    }
}

#[tokio::test]
async fn in_nats_what_a_topic_holds_is_looked_through_counted_and_taken_out() {
    let server = nats::Server::start("");
    let nats = server.open().await;
    looks_through(&nats).await;
    counts(&nats).await;
}

#[tokio::test]
async fn in_redis_what_a_topic_holds_is_looked_through_counted_and_taken_out() {
    let server = redis::Server::start("");
    let redis = server.open().await;
    looks_through(&redis).await;
    counts(&redis).await;
}

#[tokio::test]
async fn in_rabbitmq_what_a_topic_holds_is_looked_through_counted_and_taken_out() {
    let host = rabbitmq::host().await;
    let rabbit = host.open().await;
    looks_through(&rabbit).await;
    counts(&rabbit).await;
}
