//! What is published together, of which RabbitMQ tells one thing for all.

use std::cell::Cell;
use std::collections::BTreeSet;

use futures::StreamExt as _;
use lapin::options::{
    BasicGetOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeleteOptions,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;

/// How many are published at once.
const AT_ONCE: usize = 64;
/// How many are published before something happens, and after that; and no more than that in all.
const BEFORE: usize = 300;
const AFTER: usize = 200;
const MOST: usize = 50_000;

/// A topic that has held something.
async fn held_something(rabbit: &RabbitMq, topic: &str) {
    rabbit.create_topic(topic).await.unwrap();
    publish(rabbit, topic, "first").await;
}

/// Publishes to topics by turns while something happens in their midst; returns what became of each.
async fn published<'t>(
    rabbit: &RabbitMq,
    topics: &[&'t str],
    happens: impl Future,
) -> Vec<(&'t str, String, Result<bool, Unpublished>)> {
    let (begun, enough) = (Cell::new(0), Cell::new(MOST));
    let topics = topics.iter().cycle().enumerate();
    let topics = topics.take_while(|(number, _)| {
        begun.set(*number);
        *number < enough.get()
    });
    let publishing = topics.map(async |(number, topic)| {
        let text = number.to_string();
        let told = rabbit.publish(topic, None, message(&text), PATIENCE).await;
        (*topic, text, told)
    });
    let publishing = futures::stream::iter(publishing).buffer_unordered(AT_ONCE);
    let happening = async {
        while begun.get() < BEFORE {
            tokio::task::yield_now().await;
        }
        happens.await;
        enough.set(begun.get() + AFTER);
    };
    let (told, ()) = tokio::join!(publishing.collect::<Vec<_>>(), happening);
    assert!(told.len() < MOST, "it never happened");
    told
}

/// What a queue holds.
async fn held(anybody: &Channel, queue: &str) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(got) = anybody.basic_get(queue.into(), options).await.unwrap() {
        held.insert(String::from_utf8(got.delivery.data).unwrap());
    }
    held
}

#[tokio::test]
async fn each_of_those_published_together_is_told_whether_it_is_held_when_their_queue_goes() {
    let host = host().await;
    let rabbit = host.open().await;
    held_something(&rabbit, "orders").await;
    let (_connection, anybody) = host.anybody().await;
    let goes = anybody.queue_unbind(
        "orders".into(),
        "orders".into(),
        "".into(),
        FieldTable::default(),
    );
    let told = published(&rabbit, &["orders"], goes).await;
    let holds = held(&anybody, "orders").await;
    let (mut good, mut unknown, mut uncertain) = (0, 0, 0);
    for (_, text, told) in told {
        match told {
            Ok(_) => {
                good += 1;
                assert!(holds.contains(&text), "{text} is said to be held");
            }
            Err(Unpublished::UnknownTopic) => unknown += 1,
            Err(Unpublished::Unconfirmed(_)) => uncertain += 1,
            Err(why) => panic!("{text}: {why}"),
        }
    }
    let counts = (good, unknown, uncertain);
    assert!(good >= BEFORE - AT_ONCE && unknown > 0, "{counts:?}");
    assert!(uncertain <= AT_ONCE, "{counts:?}");
    // It is another queue that holds what comes then.
    let bound = anybody.queue_bind(
        "orders".into(),
        "orders".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    publish(&rabbit, "orders", "again").await;
    assert!(held(&anybody, "orders").await.contains("again"));
}

#[tokio::test]
async fn a_topic_that_goes_takes_nothing_with_it_that_is_published_to_another() {
    let host = host().await;
    let rabbit = host.open().await;
    held_something(&rabbit, "orders").await;
    held_something(&rabbit, "stock").await;
    let (_connection, anybody) = host.anybody().await;
    let goes = anybody.exchange_delete("orders".into(), ExchangeDeleteOptions::default());
    let told = published(&rabbit, &["orders", "stock"], goes).await;
    let holds = held(&anybody, "orders").await;
    let (mut unknown, mut uncertain, mut others) = (0, 0, 0);
    for (topic, text, told) in told {
        match (topic, told) {
            ("stock", told) => {
                assert_eq!(told, Ok(false), "{text}");
                others += 1;
            }
            (_, Ok(_)) => assert!(holds.contains(&text), "{text} is said to be held"),
            (_, Err(Unpublished::UnknownTopic)) => unknown += 1,
            (_, Err(Unpublished::Unconfirmed(_))) => uncertain += 1,
            (_, Err(why)) => panic!("{text}: {why}"),
        }
    }
    assert!(
        unknown > 0 && uncertain <= AT_ONCE,
        "{unknown} and {uncertain}"
    );
    assert_eq!(held(&anybody, "stock").await.len(), others + 1);
    let deleted = anybody.queue_delete("orders".into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    held_something(&rabbit, "orders").await;
}

/// How many channels are open in a virtual host.
async fn channels(host: &Host) -> usize {
    let server = server().await;
    // It waits for another program.
    let list = || server.node.control(&["list_channels", "--silent", "vhost"]);
    let list = tokio::task::spawn_blocking(list).await.unwrap();
    list.lines().filter(|line| *line == host.name).count()
}

#[tokio::test]
async fn channels_on_which_nothing_is_under_way_any_more_are_closed() {
    let host = host().await;
    let rabbit = host.open().await;
    rabbit.create_topic("orders").await.unwrap();
    let numbers = (0..AT_ONCE).map(|number| number.to_string());
    // Nothing is confirmed there yet: each has a channel of its own.
    let together = numbers.map(async |text| publish(&rabbit, "orders", &text).await);
    futures::future::join_all(together).await;
    assert!(channels(&host).await >= AT_ONCE);
    let since = Instant::now();
    // It is published on: one channel is shared for that, and one is ready for what goes elsewhere.
    while channels(&host).await > 2 {
        assert!(since.elapsed() < SOON, "{} channels", channels(&host).await);
        publish(&rabbit, "orders", "one more").await;
    }
    publish(&rabbit, "orders", "the last").await;
}

/// Leads one connection to a broker. Each frame that comes from there passes as what `passes` makes of it.
async fn relay(
    listener: TcpListener,
    broker: SocketAddr,
    mut passes: impl FnMut(Vec<u8>) -> Vec<u8>,
) {
    let (near, _) = listener.accept().await.unwrap();
    let far = TcpStream::connect(broker).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
        (near.into_split(), far.into_split());
    tokio::spawn(async move { copy(&mut from_client, &mut to_broker).await });
    loop {
        let mut frame = vec![0; 7];
        if from_broker.read_exact(&mut frame).await.is_err() {
            return;
        }
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
        frame.resize(7 + usize::try_from(size).unwrap() + 1, 0);
        from_broker.read_exact(&mut frame[7..]).await.unwrap();
        if to_client.write_all(&passes(frame)).await.is_err() {
            return;
        }
    }
}

/// Whether a frame is a method of the class basic that acknowledges.
fn confirms(frame: &[u8]) -> bool {
    frame[0] == 1 && frame[7..11] == [0, 60, 0, 80]
}

/// What publishes by way of a relay.
async fn by_way_of(
    host: &Host,
    passes: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> RabbitMq {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let leads = listener.local_addr().unwrap();
    tokio::spawn(relay(listener, host.address, passes));
    let rabbit = RabbitMq::open(Address {
        dial: leads.into(),
        ..host.address()
    });
    let rabbit = rabbit.unwrap();
    until(|| rabbit.is_connected()).await;
    rabbit
}

#[tokio::test]
async fn what_nobody_waits_for_and_is_not_confirmed_keeps_nobody_who_waits() {
    let host = host().await;
    let (silent, is_silent) = watch::channel(false);
    let mut of = None;
    let rabbit = by_way_of(&host, move |frame| {
        let channel = [frame[1], frame[2]];
        // Of one channel: the first on which something is confirmed then.
        match confirms(&frame) && *is_silent.borrow() {
            true if *of.get_or_insert(channel) == channel => Vec::new(),
            _ => frame,
        }
    })
    .await;
    held_something(&rabbit, "orders").await;
    silent.send_replace(true);
    for number in 0..300 {
        let text = number.to_string();
        let publishing = rabbit.publish("orders", None, message(&text), PATIENCE);
        // Whoever published it leaves.
        let left = tokio::time::timeout(Duration::from_millis(1), publishing);
        drop(left.await);
    }
    let told = rabbit.publish("orders", None, message("heard"), PATIENCE);
    assert_eq!(told.await, Ok(false));
}

#[tokio::test]
async fn what_is_returned_is_not_told_to_be_held_though_what_went_before_is_confirmed_after_it() {
    let host = host().await;
    // Once it is to hold what is confirmed (more than none), it holds it until another one is confirmed, and counts these.
    let (holds, mut held) = watch::channel(0);
    let (counts, mut kept) = (holds.clone(), Vec::new());
    let rabbit = by_way_of(&host, move |frame| {
        if !confirms(&frame) || *counts.borrow() == 0 {
            return frame;
        }
        kept.push(frame);
        counts.send_modify(|holds| *holds += 1);
        match kept.len() {
            1 => Vec::new(),
            _ => std::mem::take(&mut kept).concat(),
        }
    })
    .await;
    held_something(&rabbit, "orders").await;
    let (_connection, anybody) = host.anybody().await;
    holds.send_replace(1);
    let goes_before = rabbit.publish("orders", None, message("a"), PATIENCE);
    let comes_after = async {
        held.wait_for(|holds| *holds > 1).await.unwrap();
        let (queue, exchange) = ("orders".into(), "orders".into());
        let unbound = anybody.queue_unbind(queue, exchange, "".into(), FieldTable::default());
        unbound.await.unwrap();
        rabbit.publish("orders", None, message("b"), PATIENCE).await
    };
    let (before, after) = tokio::join!(goes_before, comes_after);
    // Which of both was held nobody knows: both were published once more, where nothing holds them.
    assert!(
        matches!(before, Err(Unpublished::Unconfirmed(_))),
        "{before:?}"
    );
    assert!(
        matches!(after, Err(Unpublished::Unconfirmed(_))),
        "{after:?}"
    );
}
