//! Who reads a topic by itself.

use sidecar::events::broker::{Reader, Since};

use super::*;

/// Reads until so many have come; their data and places.
async fn read(reader: &mut dyn Reader, count: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let begun = Instant::now();
    while all.len() < count {
        assert!(begun.elapsed() < SOON, "{all:?}");
        for one in reader.next().await.unwrap() {
            let data = String::from_utf8(one.message.data.to_vec()).unwrap();
            all.push((data, one.place));
        }
    }
    all
}

#[tokio::test]
async fn a_topic_is_read_by_anybody_from_a_place_on() {
    let server = Server::start("");
    let nats = server.open().await;
    let since = |start| Since::Start(start);
    let absent = nats.read("orders", &since(Start::New)).await.map(drop);
    assert_eq!(absent, Err(Unsubscribed::MissingTopic));
    nats.create_topic("orders").await.unwrap();
    let mut empty = nats.read("orders", &since(Start::New)).await.unwrap();
    for text in ["a", "b", "c"] {
        publish(&nats, "orders", text).await;
    }
    let mut new = nats.read("orders", &since(Start::New)).await.unwrap();
    let mut all = nats.read("orders", &since(Start::Earliest)).await.unwrap();
    let found = read(&mut *all, 3).await;
    let texts = Vec::from_iter(found.iter().map(|(text, _)| text.as_str()));
    assert_eq!(texts, ["a", "b", "c"]);
    assert_eq!(read(&mut *empty, 3).await, found);
    let last = &found[2].1;
    for one in [&new, &all, &empty] {
        assert_eq!(&one.place(), last);
    }
    let behind_first = Since::Place(found[0].1.clone());
    let mut behind = nats.read("orders", &behind_first).await.unwrap();
    assert_eq!(behind.place(), found[0].1);
    assert_eq!(read(&mut *behind, 2).await, found[1..]);
    // All of them hear what comes, and more of it than is asked for at once.
    let more = Vec::from_iter((0..30).map(|number| number.to_string()));
    for text in &more {
        publish(&nats, "orders", text).await;
    }
    for one in [&mut new, &mut all, &mut empty, &mut behind] {
        let found = read(&mut **one, 30).await;
        let texts = Vec::from_iter(found.iter().map(|(text, _)| text.clone()));
        assert_eq!(texts, more);
    }
    // Nothing of it was kept from a group.
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    assert_eq!(pull(&mut *queue, 33).await.len(), 33);
}
