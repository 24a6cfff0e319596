//! Connections to a Redis: kept, refused, broken.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fake::{Does, usual};
use super::*;

#[tokio::test]
async fn a_broker_that_is_away_is_reconnected_to() {
    let mut server = Server::start("");
    server.kill();
    let redis = Redis::open(server.address("", "")).await.unwrap();
    assert!(!redis.is_connected());
    let billing = group("billing", "orders");
    let joined = redis.join(&billing).await.map(drop);
    assert!(matches!(joined, Err(Unsubscribed::Away(_))), "{joined:?}");
    server.start_again();
    until(|| redis.is_connected()).await;
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    // Who waits when it goes is told, and joins again when it is back.
    let (_, lost) = tokio::join!(async { server.kill() }, async {
        let since = Instant::now();
        loop {
            if let Err(lost) = queue.pull(1).await {
                return (lost, since.elapsed());
            }
        }
    });
    assert!(lost.1 < Duration::from_secs(4), "{lost:?}");
    server.start_again();
    until(|| redis.is_connected()).await;
    publish(&redis, "orders", "b").await;
    let mut queue = redis.join(&billing).await.unwrap();
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
}

#[tokio::test]
async fn publishing_while_it_is_away_answers_at_once() {
    let mut server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    server.kill();
    until(|| !redis.is_connected()).await;
    let since = Instant::now();
    let published = redis.publish("orders", None, message("a"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::Away));
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    server.start_again();
    until(|| redis.is_connected()).await;
    // Nor is it said later.
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    assert_eq!(queue.lag().await.unwrap().waiting, 0);
}

/// What nobody publishes again, and what may come again: the first is added, the other is left to a script.
const IDS: [Option<&str>; 2] = [None, Some("1")];

/// What comes of publishing to one that does something else at that.
async fn published(
    does: fn() -> Does,
    id: Option<&str>,
    patience: Duration,
) -> (Result<bool, Unpublished>, Duration) {
    let dial = fake::start(move |asked| match asked {
        "EVALSHA" | "XADD" => does(),
        asked => usual(asked),
    });
    let redis = Redis::open(address(dial.await, "", "")).await.unwrap();
    until(|| redis.is_connected()).await;
    let since = Instant::now();
    let published = redis.publish("orders", id, message("a"), patience).await;
    (published, since.elapsed())
}

#[tokio::test]
async fn what_is_under_way_when_the_connection_breaks_is_unconfirmed() {
    for id in IDS {
        let (published, took) = published(|| Does::HangsUp, id, SOON).await;
        assert!(
            matches!(published, Err(Unpublished::Unconfirmed(_))),
            "{published:?}"
        );
        assert!(took < PATIENCE, "{took:?}");
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_they_want_to_for_a_broker_that_is_silent() {
    let patience = Duration::from_millis(300);
    for id in IDS {
        let (published, took) = published(|| Does::Nothing, id, patience).await;
        assert!(
            matches!(published, Err(Unpublished::Unconfirmed(_))),
            "{published:?}"
        );
        assert!(took >= patience && took < PATIENCE, "{took:?}");
    }
}

#[tokio::test]
async fn a_broker_that_does_nothing_for_now_is_away() {
    for answer in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
    ] {
        let dial = fake::start(move |asked| match asked {
            "EVALSHA" | "XADD" => Does::Says(answer),
            asked => usual(asked),
        });
        let redis = Redis::open(address(dial.await, "", "")).await.unwrap();
        until(|| redis.is_connected()).await;
        for id in IDS {
            let published = redis.publish("orders", id, message("a"), SOON).await;
            assert_eq!(published, Err(Unpublished::Away));
        }
        let joined = redis.join(&group("billing", "orders")).await.map(drop);
        assert!(matches!(joined, Err(Unsubscribed::Away(_))), "{joined:?}");
    }
    // Nor is one connected to that has not read what it holds.
    let dial = fake::start(|_| Does::Says("-LOADING Redis is loading the dataset in memory\r\n"));
    let redis = Redis::open(address(dial.await, "", "")).await.unwrap();
    away_because(&redis, "LOADING").await;
}

/// Waits until it is known why a broker is away.
async fn away_because(redis: &Redis, why: &str) {
    let since = Instant::now();
    loop {
        let joined = redis.join(&group("billing", "orders")).await.map(drop);
        let Err(Unsubscribed::Away(told)) = joined else {
            panic!("{joined:?}");
        };
        if told.starts_with(why) {
            return;
        }
        assert!(since.elapsed() < SOON, "{told}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_without_a_word_of_them() {
    let server = Server::start("requirepass right-one\nuser mesh on >right-one ~* +@all");
    let nobody = Redis::open(server.address("", "")).await.unwrap();
    let refuses =
        |code: &str| format!("it refuses what its Secret has as username and password: {code}");
    away_because(&nobody, &refuses("NOAUTH")).await;
    for user in ["", "mesh"] {
        let wrong = Redis::open(server.address(user, "wrong-one"))
            .await
            .unwrap();
        away_because(&wrong, &refuses("WRONGPASS")).await;
        let right = Redis::open(server.address(user, "right-one"))
            .await
            .unwrap();
        until(|| right.is_connected()).await;
        right.create_topic(&format!("orders{user}")).await.unwrap();
    }
}

#[tokio::test]
async fn what_may_not_be_done_is_refused_and_not_waited_for() {
    let rights = "~orders ~meshwright:*{orders}:* resetchannels +eval +evalsha +exists +type +time";
    let publishes = "+xadd +get +set +xrange";
    let reads = "+xgroup +xpending +xreadgroup +xclaim +xack +xread +xinfo|groups +xrange +xlen +del +zadd +zrem +zrange +zrangebyscore +zscore +expire";
    let server = Server::start(&format!(
        "user publishes on >p {rights} {publishes}\nuser reads on >p {rights} {reads}"
    ));
    let [publishes, reads] = ["publishes", "reads"].map(|user| server.address(user, "p"));
    let (publishes, reads) = (
        Redis::open(publishes).await.unwrap(),
        Redis::open(reads).await.unwrap(),
    );
    until(|| publishes.is_connected() && reads.is_connected()).await;
    // Nothing else may be asked of them, and they need no more.
    let mut queue = reads.join(&group("billing", "orders")).await.unwrap();
    reads.join(&group("billing", "orders")).await.unwrap();
    let held = publishes
        .publish("orders", Some("1"), message("a"), SOON)
        .await;
    assert_eq!(held, Ok(false));
    let found = pull(&mut *queue, 1).await;
    found[0].give_back(Duration::ZERO).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    acknowledge(&found).await;
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
    for (redis, topic) in [(&publishes, "secret"), (&reads, "orders")] {
        let published = redis.publish(topic, None, message("a"), SOON).await;
        assert!(
            matches!(published, Err(Unpublished::Refused(_))),
            "{published:?}"
        );
    }
    let joined = publishes.join(&group("other", "orders")).await.map(drop);
    assert!(
        matches!(joined, Err(Unsubscribed::Refused(_))),
        "{joined:?}"
    );
    let created = publishes.create_topic("secret").await;
    assert!(
        matches!(created, Err(Unsubscribed::Refused(_))),
        "{created:?}"
    );
}

#[tokio::test]
async fn a_broker_that_takes_nothing_says_why() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    let refused = async |code: &str, id: Option<&str>| {
        let published = redis.publish("orders", id, message("a"), SOON).await;
        let Err(Unpublished::Refused(why)) = published else {
            panic!("{published:?}");
        };
        assert!(why.starts_with(code), "{why}");
    };
    server.say("CONFIG SET maxmemory 1").await;
    for id in IDS {
        refused("OOM", id).await;
    }
    server.say("CONFIG SET maxmemory 0").await;
    server.say("CONFIG SET min-replicas-to-write 1").await;
    for id in IDS {
        refused("NOREPLICAS", id).await;
    }
    server.say("CONFIG SET min-replicas-to-write 0").await;
    // Its id was not remembered by any of that.
    let published = redis.publish("orders", Some("1"), message("a"), SOON).await;
    assert_eq!(published, Ok(false));
    server.say("REPLICAOF 127.0.0.1 1").await;
    for id in [None, Some("2")] {
        until(|| redis.is_connected()).await;
        refused("READONLY", id).await;
        // Another one may be the master: it is dialled anew.
        until(|| !redis.is_connected()).await;
    }
    until(|| redis.is_connected()).await;
}

#[tokio::test]
async fn a_version_that_can_not_do_what_is_needed_is_told() {
    let dial = fake::start(|asked| match asked {
        "HELLO" => Does::Says("-ERR unknown command 'HELLO'\r\n"),
        "INFO" => Does::Says("$32\r\n# Server\r\nredis_version:5.0.14\r\n\r\n"),
        asked => usual(asked),
    });
    let redis = Redis::open(address(dial.await, "", "")).await.unwrap();
    until(|| redis.is_connected()).await;
    let joined = redis.join(&group("billing", "orders")).await.map(drop);
    let told = Unsubscribed::TooOld {
        version: "5.0.14".to_owned(),
        needed: "6.2",
    };
    assert_eq!(joined, Err(told));
}

#[tokio::test]
async fn a_broker_that_stores_nothing_is_used_and_says_so() {
    let server = Server::start_with("appendonly no");
    let redis = server.open().await;
    assert_eq!(redis.durability(), Durability::None);
    redis.create_topic("orders").await.unwrap();
    publish(&redis, "orders", "a").await;
}

#[tokio::test]
async fn scripts_that_it_has_forgotten_are_told_anew() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    for text in ["a", "b"] {
        server.say("SCRIPT FLUSH").await;
        publish(&redis, "orders", text).await;
        server.say("SCRIPT FLUSH").await;
        let found = pull(&mut *queue, 1).await;
        assert_eq!(texts(&found), [text]);
        server.say("SCRIPT FLUSH").await;
        acknowledge(&found).await;
    }
}

#[tokio::test]
async fn a_deleted_stream_is_lost_and_joined_again() {
    let server = Server::start("");
    let redis = server.open().await;
    let billing = group("billing", "orders");
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    let held = pull(&mut *queue, 1).await;
    // One is waiting when it goes, and one asks afterwards.
    let mut other = redis.join(&billing).await.unwrap();
    let (_, waiting) = tokio::join!(server.say("DEL orders"), async {
        let since = Instant::now();
        let pulled = other.pull(1).await.map(|found| found.len());
        (pulled, since.elapsed())
    });
    assert!(waiting.0.is_err(), "{waiting:?}");
    assert!(waiting.1 < Duration::from_secs(4), "{waiting:?}");
    assert!(queue.pull(1).await.is_err());
    // There is nothing to be done with it any more.
    held[0].acknowledge().await.unwrap();
    assert!(held[0].extend().await.is_err());
    let published = redis.publish("orders", None, message("b"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::UnknownTopic));
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "c").await;
    let found = pull(&mut *queue, 1).await;
    assert_eq!(
        (texts(&found), found[0].attempt()),
        (vec!["c".to_owned()], 1)
    );
}

#[tokio::test]
async fn a_queue_that_is_dropped_waits_no_more_and_what_it_handed_out_can_be_acknowledged() {
    let server = Server::start("");
    let redis = server.open().await;
    let billing = group("billing", "orders");
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let clients = async || format!("{:?}", server.say("CLIENT LIST").await);
    let waiting = async || clients().await.matches("cmd=xread").count();
    nothing_comes(&mut *queue, Duration::from_millis(300)).await;
    assert_eq!(waiting().await, 1);
    drop(queue);
    let since = Instant::now();
    while waiting().await > 0 {
        assert!(since.elapsed() < SOON);
    }
    acknowledge(&found).await;
    let mut queue = redis.join(&billing).await.unwrap();
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
    // All of it goes with whoever used it.
    drop((queue, redis, found));
    while clients().await.matches("lib").count() > 0 && clients().await.lines().count() > 1 {
        assert!(since.elapsed() < SOON);
    }
}

#[tokio::test]
async fn a_broker_that_hangs_keeps_nobody_and_is_asked_again_when_it_goes_on() {
    let server = Server::start("");
    let redis = server.open_with_lease(Duration::from_secs(1)).await;
    let billing = group("billing", "orders");
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let process = Pid::from_raw(server.child.id().try_into().unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    let since = Instant::now();
    let patience = Duration::from_millis(100);
    let published = redis.publish("orders", None, message("b"), patience).await;
    assert!(
        matches!(published, Err(Unpublished::Unconfirmed(_))),
        "{published:?}"
    );
    let joins = redis.join(&billing);
    let (pulled, done, joined) = tokio::join!(queue.pull(1), found[0].acknowledge(), joins);
    assert!(pulled.is_err() && done.is_err());
    let joined = joined.map(drop);
    assert!(matches!(joined, Err(Unsubscribed::Away(_))), "{joined:?}");
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
    kill(process, Signal::SIGCONT).unwrap();
    // What nobody waits for any more may be done all the same.
    publish(&redis, "orders", "c").await;
    let mut came = Vec::new();
    while !came.contains(&"c".to_owned()) {
        assert!(since.elapsed() < SOON * 2, "{came:?}");
        came.extend(texts(&pull(&mut *queue, 1).await));
    }
}

#[tokio::test]
async fn nobody_dials_for_one_that_was_dropped() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let dial = listener.local_addr().unwrap();
    let redis = Redis::open(address(dial, "mesh", "secret")).await.unwrap();
    // It is dialled, and hangs up; so it is dialled again.
    for _ in 0..2 {
        let dialled = tokio::time::timeout(SOON, listener.accept()).await;
        drop(dialled.unwrap().unwrap());
    }
    drop(redis);
    // One try may be under way.
    let mut dialled = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await {
        dialled += 1;
    }
    assert!(dialled <= 1, "{dialled}");
}
