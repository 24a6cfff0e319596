//! Groups in order: one member at a time is delivered to.

use super::*;

/// What members of these tests keep for so long.
const LEASE: Duration = Duration::from_secs(3);

fn in_order(window: usize) -> Group {
    Group {
        window: Some(window),
        ..group("billing", "orders")
    }
}

#[tokio::test]
async fn one_member_at_a_time_is_delivered_to_and_the_next_gets_what_it_left() {
    let server = Server::start("");
    let [left, right] = [
        server.open_with_lease(LEASE).await,
        server.open_with_lease(LEASE).await,
    ];
    left.create_topic("orders").await.unwrap();
    let mut first = left.join(&in_order(4)).await.unwrap();
    publish(&left, "orders", "a").await;
    let a = pull(&mut *first, 1).await;
    let mut second = right.join(&in_order(4)).await.unwrap();
    for text in ["b", "c"] {
        publish(&left, "orders", text).await;
    }
    let (found, nothing) = tokio::join!(pull(&mut *first, 2), second.pull(4));
    assert_eq!(texts(&found), ["b", "c"]);
    assert!(nothing.unwrap().is_empty());
    acknowledge(&a).await;
    drop((first, left, found));
    let found = pull(&mut *second, 2).await;
    assert_eq!(texts(&found), ["b", "c"]);
    assert_eq!(found[0].attempt(), 2);
    assert!(found[0].position() < found[1].position());
    acknowledge(&found).await;
}

#[tokio::test]
async fn no_more_is_delivered_in_order_than_the_window() {
    let server = Server::start("");
    let nats = server.open_with_lease(LEASE).await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&in_order(2)).await.unwrap();
    for text in ["a", "b", "c"] {
        publish(&nats, "orders", text).await;
    }
    let found = pull(&mut *queue, 2).await;
    assert!(queue.pull(1).await.unwrap().is_empty());
    for one in &found {
        one.extend().await.unwrap();
        assert!(one.is_ours());
    }
    acknowledge(&found[..1]).await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["c"]);
}

#[tokio::test]
async fn who_joins_anew_over_its_connection_is_still_the_one() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&in_order(2)).await.unwrap();
    publish(&nats, "orders", "a").await;
    let a = pull(&mut *queue, 1).await;
    drop(queue);
    let since = Instant::now();
    let mut queue = nats.join(&in_order(2)).await.unwrap();
    publish(&nats, "orders", "b").await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
    // Long before it is not the one any more that asked last.
    assert!(since.elapsed() < Duration::from_secs(10));
    acknowledge(&a).await;
}

#[tokio::test]
async fn a_group_that_is_there_is_made_one_in_order_and_again_one_in_none() {
    let server = Server::start("");
    let nats = server.open_with_lease(LEASE).await;
    nats.create_topic("orders").await.unwrap();
    for wanted in [
        group("billing", "orders"),
        in_order(2),
        group("billing", "orders"),
    ] {
        let mut queue = nats.join(&wanted).await.unwrap();
        publish(&nats, "orders", "a").await;
        acknowledge(&pull(&mut *queue, 1).await).await;
    }
}

#[tokio::test]
async fn the_lease_of_a_message_ends_here_before_it_ends_at_the_broker() {
    let server = Server::start("");
    let nats = server.open_with_lease(Duration::from_secs(1)).await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    publish(&nats, "orders", "a").await;
    let first = pull(&mut *queue, 1).await;
    assert!(first[0].is_ours());
    let again = tokio::select! {
        biased;
        () = until(|| !first[0].is_ours()) => pull(&mut *queue, 1).await,
        again = queue.pull(1) => panic!("{:?} came while it was ours", again.map(|it| it.len())),
    };
    assert!(again[0].is_ours());
}

#[tokio::test]
async fn a_lease_that_has_ended_in_order_is_not_begun_anew() {
    let server = Server::start("");
    let nats = server.open_with_lease(Duration::from_secs(1)).await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&in_order(4)).await.unwrap();
    publish(&nats, "orders", "a").await;
    let first = pull(&mut *queue, 1).await;
    first[0].extend().await.unwrap();
    until(|| !first[0].is_ours()).await;
    // The broker would keep for it what another one has by now.
    first[0].extend().await.unwrap_err();
}

#[tokio::test]
async fn what_somebody_publishes_is_not_taken_for_what_the_broker_says_of_who_is_delivered_to() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&in_order(4)).await.unwrap();
    publish(&nats, "orders", "a").await;
    let anybody = async_nats::connect(server.address.to_string())
        .await
        .unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Pin-Id", "another");
    // Answered once it is held: the next goes by another connection.
    anybody
        .request_with_headers("orders", headers, "b".into())
        .await
        .unwrap();
    publish(&nats, "orders", "c").await;
    let found = pull(&mut *queue, 3).await;
    assert_eq!(texts(&found), ["a", "b", "c"]);
    acknowledge(&found).await;
}

#[tokio::test]
async fn groups_of_one_name_are_each_delivered_to_for_themselves() {
    let server = Server::start("");
    let nats = server.open_with_lease(LEASE).await;
    let of = |topic: &str| Group {
        topic: topic.to_owned(),
        ..in_order(4)
    };
    let mut queues = Vec::new();
    for topic in ["orders", "returns"] {
        nats.create_topic(topic).await.unwrap();
        queues.push(nats.join(&of(topic)).await.unwrap());
    }
    for text in ["a", "b", "c"] {
        for (queue, topic) in queues.iter_mut().zip(["orders", "returns"]) {
            publish(&nats, topic, text).await;
            let found = pull(&mut **queue, 1).await;
            assert_eq!(
                (texts(&found), found[0].attempt()),
                (vec![text.to_owned()], 1)
            );
            acknowledge(&found).await;
        }
    }
}

#[tokio::test]
async fn who_leaves_makes_way_at_once_for_who_waits() {
    let server = Server::start("");
    let [left, right] = [server.open().await, server.open().await];
    left.create_topic("orders").await.unwrap();
    let mut first = left.join(&in_order(4)).await.unwrap();
    publish(&left, "orders", "a").await;
    acknowledge(&pull(&mut *first, 1).await).await;
    let mut second = right.join(&in_order(4)).await.unwrap();
    let since = Instant::now();
    first.leave().await;
    publish(&right, "orders", "b").await;
    assert_eq!(texts(&pull(&mut *second, 1).await), ["b"]);
    // Long before the broker has waited for the other one in vain.
    assert!(since.elapsed() < Duration::from_secs(10));
}
