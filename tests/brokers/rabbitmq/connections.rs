//! Connections to a RabbitMQ: kept, refused, broken, starved.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use tests::brokers::older;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[tokio::test]
async fn a_broker_that_is_killed_forgets_nothing_that_it_has_confirmed() {
    let mut server = tokio::task::spawn_blocking(|| Server::start(1))
        .await
        .unwrap();
    let host = server.host(0).await;
    let rabbit = host.open().await;
    let billing = group("billing", "orders");
    let mut queue = rabbit.join(&billing).await.unwrap();
    starved(&server, &rabbit, &mut *queue).await;
    // One was delivered in vain before, one waits at the broker to come again, one is delivered.
    for text in ["again", "later", "held"] {
        publish(&rabbit, "orders", text).await;
    }
    let mut found = pull(&mut *queue, 3).await;
    found.sort_by_key(|one| one.message().data.clone());
    found[0].give_back(Duration::ZERO).await.unwrap();
    let again = pull(&mut *queue, 1).await;
    assert_eq!(again[0].attempt(), 2);
    let mut later = found.remove(2);
    let (_connection, anybody) = host.anybody().await;
    let since = Instant::now();
    let attempt = loop {
        assert!(since.elapsed() < SOON);
        let attempt = later.attempt();
        later.give_back(Duration::from_secs(2)).await.unwrap();
        if count(&anybody, "orders/billing#2s").await == 1 {
            break attempt;
        }
        // The queue for it was only just made.
        later = pull(&mut *queue, 1).await.remove(0);
    };
    // Some are under way.
    let (mut confirmed, mut number) = (Vec::new(), 0);
    let publishing = async {
        loop {
            let texts = Vec::from_iter((number..number + 20).map(|number| number.to_string()));
            let all = texts
                .iter()
                .map(|text| rabbit.publish("orders", None, message(text), SOON));
            let all = futures::future::join_all(all).await;
            number += 20;
            let held = texts.into_iter().zip(&all).filter(|(_, one)| one.is_ok());
            confirmed.extend(held.map(|(text, _)| text));
            if let Some(Err(why)) = all.into_iter().find(Result::is_err) {
                return why;
            }
        }
    };
    let killing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
    };
    let (why, ()) = tokio::join!(publishing, killing);
    assert!(
        matches!(why, Unpublished::Unconfirmed(_) | Unpublished::Away),
        "{why:?}"
    );
    assert!(!confirmed.is_empty());
    until(|| !rabbit.is_connected()).await;
    let since = Instant::now();
    let published = rabbit.publish("orders", None, message("a"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::Away));
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    // What was sent before may still be handed out until that is noticed.
    while queue.pull(1).await.is_ok() {
        assert!(since.elapsed() < SOON);
    }
    assert!(found[1].acknowledge().await.is_err());
    assert!(again[0].extend().await.is_err());
    let joined = rabbit.join(&billing).await.map(drop);
    assert!(matches!(joined, Err(Unsubscribed::Away(_))), "{joined:?}");
    server.start_again();
    server.host(0).await;
    until(|| rabbit.is_connected()).await;
    let mut queue = rabbit.join(&billing).await.unwrap();
    let (mut attempts, since) = (std::collections::HashMap::new(), Instant::now());
    let is_there = |attempts: &std::collections::HashMap<String, u32>| {
        let named = ["again", "later", "held"];
        let all = confirmed.iter().map(String::as_str).chain(named);
        all.into_iter().all(|text| attempts.contains_key(text))
    };
    while !is_there(&attempts) {
        assert!(
            since.elapsed() < SOON,
            "{} of {}",
            attempts.len(),
            confirmed.len()
        );
        for one in queue.pull(100).await.unwrap() {
            let text = String::from_utf8(one.message().data.to_vec()).unwrap();
            attempts.insert(text, one.attempt());
            one.acknowledge().await.unwrap();
        }
    }
    assert_eq!(attempts["again"], 3);
    assert_eq!(attempts["later"], attempt + 1);
    assert_eq!(attempts["held"], 2);
}

/// A broker that is short of memory reads nothing that is published. Nobody waits for it longer than asked, and what was
/// delivered can be done with.
async fn starved(server: &Server, rabbit: &RabbitMq, queue: &mut dyn Queue) {
    publish(rabbit, "orders", "before").await;
    let found = pull(queue, 1).await;
    server
        .control(&["set_vm_memory_high_watermark", "absolute", "1"])
        .await;
    let (patience, since) = (Duration::from_millis(700), Instant::now());
    let mut last = Ok(false);
    while last != Err(Unpublished::Away) {
        assert!(since.elapsed() < SOON, "{last:?}");
        let since = Instant::now();
        last = rabbit
            .publish("orders", None, message("starved"), patience)
            .await;
        assert!(since.elapsed() < patience * 2);
    }
    acknowledge(&found).await;
    server
        .control(&["set_vm_memory_high_watermark", "absolute", "2GB"])
        .await;
    let since = Instant::now();
    while rabbit
        .publish("orders", None, message("starved"), PATIENCE)
        .await
        .is_err()
    {
        assert!(since.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Those that nobody confirmed may have come as well.
    loop {
        let pulled = tokio::time::timeout(Duration::from_millis(500), queue.pull(10)).await;
        let Ok(found) = pulled else {
            break;
        };
        acknowledge(&found.unwrap()).await;
    }
}

/// What is logged, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_without_a_word_of_them() {
    let host = host().await;
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let logged = || String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let wrong = Address {
        password: "wrong-one".to_owned(),
        ..host.address()
    };
    let rabbit = RabbitMq::open(wrong).unwrap();
    let since = Instant::now();
    let told = loop {
        let joined = rabbit.join(&group("billing", "orders")).await.map(drop);
        match joined.unwrap_err() {
            Unsubscribed::Away(why) if why.contains("ACCESS_REFUSED") => break why,
            why => assert!(since.elapsed() < SOON, "{why}"),
        }
    };
    let refuses = "it refuses what its Secret has as username and password: ACCESS_REFUSED";
    assert!(told.starts_with(refuses), "{told}");
    assert!(!told.contains("wrong-one"));
    let right = host.open().await;
    right.create_topic("orders").await.unwrap();
    let away = logged().matches("the broker is away").count();
    // Of the connection that publishes, and of the one that delivers, however often they are tried.
    assert_eq!(away, 2);
    for secret in ["wrong-one", "right-one"] {
        assert!(!logged().contains(secret), "{}", logged());
    }
}

#[tokio::test]
async fn what_may_not_be_done_is_refused_and_not_waited_for() {
    let host = host().await;
    let rabbit = host.open().await;
    for topic in ["orders", "secret"] {
        rabbit.create_topic(topic).await.unwrap();
    }
    let guest = Address {
        user: "guest of one".to_owned(),
        password: "p".to_owned(),
        ..host.address()
    };
    let guest = RabbitMq::open(guest).unwrap();
    until(|| guest.is_connected()).await;
    let since = Instant::now();
    publish(&guest, "orders", "a").await;
    let published = guest.publish("secret", None, message("a"), SOON).await;
    assert!(
        matches!(published, Err(Unpublished::Refused(_))),
        "{published:?}"
    );
    let created = guest.create_topic("third").await;
    assert!(
        matches!(created, Err(Unsubscribed::Refused(_))),
        "{created:?}"
    );
    let joined = guest.join(&group("billing", "orders")).await.map(drop);
    assert!(
        matches!(joined, Err(Unsubscribed::Refused(_))),
        "{joined:?}"
    );
    assert!(since.elapsed() < PATIENCE);
    publish(&guest, "orders", "b").await;
}

#[tokio::test]
async fn one_that_does_not_answer_is_away_and_nobody_dials_for_one_that_was_dropped() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = Address {
        dial: listener.local_addr().unwrap().into(),
        name: "rabbitmq.test".to_owned(),
        user: "mesh".to_owned(),
        password: "secret".to_owned(),
        virtual_host: "/".to_owned(),
    };
    let rabbit = RabbitMq::open(address).unwrap();
    // It says nothing, and something that is no AMQP.
    let (silent, _) = tokio::time::timeout(SOON, listener.accept())
        .await
        .unwrap()
        .unwrap();
    drop(silent);
    let (mut other, _) = tokio::time::timeout(SOON, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let said = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut other, said)
        .await
        .unwrap();
    let dialled = tokio::time::timeout(SOON, listener.accept()).await;
    let (silent, _) = dialled.unwrap().unwrap();
    assert!(!rabbit.is_connected());
    let published = rabbit.publish("orders", None, message("a"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::Away));
    drop(rabbit);
    // Whoever listens there by then is not told who we are.
    let mut read = Vec::new();
    let mut silent = silent;
    let end = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut read);
    tokio::time::timeout(SOON, end).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&read).contains("secret"));
    let dialled = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await;
    assert!(dialled.is_err(), "it is dialled");
}

#[tokio::test]
async fn a_version_that_can_not_do_what_is_needed_is_told() {
    let host = host().await;
    let dial = older::that_says(host.address, |said| {
        // A table's field: its length in four bytes, then the text.
        let at = older::behind(said, b"\x07versionS\0\0\0", b'.')?.start;
        let length = usize::from(said[at]);
        let text = at + 1..at + 1 + length;
        let other = format!("3.9.{}", "0".repeat(length.checked_sub(4)?));
        (said.len() >= text.end).then(|| {
            let (before, after) = (&said[..text.start], &said[text.end..]);
            [before, other.as_bytes(), after].concat()
        })
    });
    let address = Address {
        dial: dial.await.into(),
        ..host.address()
    };
    let rabbit = RabbitMq::open(address).unwrap();
    until(|| rabbit.is_connected()).await;
    let joined = rabbit.join(&group("billing", "orders")).await.map(drop);
    let Err(Unsubscribed::TooOld { version, needed }) = joined else {
        panic!("{joined:?}");
    };
    assert!(version.starts_with("3.9.") && needed == "3.10", "{version}");
}

/// Leads to a broker as often as it may, and counts the connections that are open.
struct Led {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Led {
    async fn to(broker: SocketAddr, most: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let led = Led {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            all: Arc::default(),
        };
        let (open, all) = (led.open.clone(), led.all.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if all.fetch_add(1, Ordering::SeqCst) >= most {
                    continue;
                }
                let open = open.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(broker).await.unwrap();
                    open.fetch_add(1, Ordering::SeqCst);
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        led
    }

    /// A client of the broker that it leads to.
    async fn open(&self, host: &Host) -> RabbitMq {
        let rabbit = RabbitMq::open(Address {
            dial: self.address.into(),
            ..host.address()
        });
        let rabbit = rabbit.unwrap();
        until(|| rabbit.is_connected()).await;
        rabbit
    }
}

/// Publishes so many to a topic that is not there, and a ninth of them to one that is.
async fn published(rabbit: &RabbitMq, count: usize) {
    rabbit.create_topic("orders").await.unwrap();
    let topics = ["missing"; 8].into_iter().chain(["orders"]);
    let topics = topics.cycle().take(count);
    let publishing = topics.map(async |topic| {
        let told = rabbit.publish(topic, None, message("a"), PATIENCE).await;
        match topic {
            "orders" => assert_eq!(told, Ok(false)),
            _ => assert_eq!(told, Err(Unpublished::UnknownTopic)),
        }
    });
    let publishing = futures::stream::iter(publishing).buffer_unordered(32);
    assert_eq!(publishing.count().await, count);
}

#[tokio::test]
async fn however_often_a_channel_is_ended_there_is_another_one_and_nothing_under_way_is_hurt() {
    let host = host().await;
    let led = Led::to(host.address, usize::MAX).await;
    let rabbit = led.open(&host).await;
    // Of more channels than a connection has numbers for.
    published(&rabbit, 9 * 300).await;
    let (_connection, anybody) = host.anybody().await;
    assert_eq!(count(&anybody, "orders").await, 300);
    // A connection that has a successor ends when nobody uses it any more.
    until(|| led.open.load(Ordering::SeqCst) == 1).await;
    assert!(led.all.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_connection_is_used_on_while_no_other_can_take_its_place() {
    let host = host().await;
    let led = Led::to(host.address, 1).await;
    let rabbit = led.open(&host).await;
    // Half of the numbers, and some more.
    published(&rabbit, 9 * 140).await;
    until(|| led.all.load(Ordering::SeqCst) > 3).await;
    published(&rabbit, 9 * 10).await;
    assert_eq!(led.open.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_said_of_one_thing_is_said_of_no_other_that_comes_much_later() {
    let host = host().await;
    let rabbit = host.open().await;
    for _ in 0..3 {
        let told = rabbit
            .publish("missing", None, message("a"), PATIENCE)
            .await;
        assert_eq!(told, Err(Unpublished::UnknownTopic));
    }
    // Each is asked for on a channel of its own, of more than a connection has numbers for.
    let asking = (0..2_200).map(async |_| rabbit.create_topic("orders").await.unwrap());
    let asking = futures::stream::iter(asking).buffer_unordered(16);
    assert_eq!(asking.count().await, 2_200);
}
