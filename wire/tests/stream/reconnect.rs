//! What survives the end of a stream, and the end of the process.

use wire::delta::{Held, Sent, Torn};

use crate::snapshot::{Enforced, Snapshot, Stream, hash_of, id, sidecar_with};

#[test]
fn a_sidecar_that_reconnects_receives_only_what_differs() {
    let mut view = Snapshot::at(1)
        .with("route/shop/same", "v1")
        .with("route/shop/changed", "v1")
        .with("route/shop/removed", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    view.advance(2);
    view.put("route/shop/changed", "v2");
    view.put("route/shop/added", "v1");
    view.remove("route/shop/removed");

    let mut stream = Stream::open(&mut held, &view);
    let initially: Vec<String> = stream.sent.held().map(|(id, _)| id.to_string()).collect();
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    // For the status: what is held is known before anything is sent.
    assert_eq!(
        initially,
        [
            "route/shop/changed",
            "route/shop/removed",
            "route/shop/same"
        ]
    );
    assert_eq!(traffic.put(), ["route/shop/added", "route/shop/changed"]);
    assert_eq!(traffic.removed(), ["route/shop/removed"]);
    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn what_was_in_flight_when_the_stream_ended_is_sent_again() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let lost = Stream::open(&mut held, &view).sent.next(&view);
    assert!(lost.is_some());

    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn a_delta_whose_ack_was_lost_is_not_sent_again() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let delta = Stream::open(&mut held, &view).sent.next(&view).unwrap();
    assert!(held.receive(delta, &mut enforced).is_some());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert!(traffic.put().is_empty());
}

#[test]
fn a_rejected_resource_is_offered_again_after_a_reconnect() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    enforced.forbidden.insert(id("route/shop/orders"));
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    assert!(enforced.resources.is_empty());

    enforced.forbidden.clear();
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn what_was_compiled_long_ago_is_sent_as_the_present() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    enforced.forbidden.insert(id("route/shop/orders"));
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    // The world moves on, this resource does not: its own generation stays at 1.
    view.advance(9);
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    assert_eq!(held.seen(), view.seen);

    enforced.forbidden.clear();
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn a_duplicate_and_a_delta_of_an_earlier_stream_are_ignored() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);
    let first = stream.sent.next(&view).unwrap();
    let ack = held.receive(first.clone(), &mut enforced).unwrap();
    assert_eq!(held.receive(first.clone(), &mut enforced), None);
    stream.sent.on_ack(ack.clone());
    assert!(stream.sent.on_ack(ack).is_empty());

    view.advance(2);
    view.put("route/shop/orders", "v2");
    let mut stream = Stream::open(&mut held, &view);
    assert_eq!(held.receive(first, &mut enforced), None);
    stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn an_ack_of_another_stream_says_nothing() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let delta = Stream::open(&mut held, &view).sent.next(&view).unwrap();
    let ack = held.receive(delta, &mut enforced).unwrap();

    let mut sent = Sent::new(Held::default().hello(), &view).unwrap();
    sent.next(&view).unwrap();

    assert!(sent.on_ack(ack).is_empty());
    assert!(sent.is_in_flight());
}

#[test]
fn what_is_held_survives_a_restart() {
    let view = Snapshot::at(3)
        .with("route/shop/orders", "v1")
        .with("guard/shop/orders", "v1");
    let (held, _) = sidecar_with(&view);

    let mut enforced = Enforced::default();
    let mut held = Held::from_bytes(&held.to_bytes()).unwrap();
    assert!(held.replay(&mut enforced).is_empty());

    assert_eq!(enforced.resources, view.hashes());
    assert!(held.is_complete());
    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    assert!(traffic.put().is_empty());
}

#[test]
fn removals_and_positions_survive_a_restart_too() {
    let before = Snapshot::at(5).with("guard/shop/orders", "deny");
    let (mut held, mut enforced) = sidecar_with(&before);
    let after = Snapshot::at(6);
    Stream::open(&mut held, &after).settle(&mut held, &after, &mut enforced);

    let mut held = Held::from_bytes(&held.to_bytes()).unwrap();
    let traffic = Stream::open(&mut held, &before).settle(&mut held, &before, &mut enforced);

    assert!(traffic.put().is_empty());
}

#[test]
fn a_torn_file_is_as_good_as_none() {
    let (held, _) = sidecar_with(&Snapshot::at(1).with("route/shop/orders", "v1"));
    let bytes = held.to_bytes();
    for length in 0..bytes.len() {
        assert!(
            Held::from_bytes(&bytes[..length]).is_err(),
            "cut at {length}"
        );
    }
    for position in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0x10;
        let why = Held::from_bytes(&bytes).err();
        assert!(
            matches!(why, Some(Torn::Magic | Torn::Checksum)),
            "{position}"
        );
    }
}

#[test]
fn a_sidecar_that_can_do_less_after_a_restart_gives_up_what_it_cannot_enforce() {
    let mut view = Snapshot::at(2).with("route/shop/carts", "v1");
    view.put_needing("route/shop/orders", "v1", &["match.header"]);
    let (held, _) = sidecar_with(&view);

    let mut older = Held::new("0.0.9", &["route"]);
    older.restore(&held.to_bytes()).unwrap();
    let mut enforced = Enforced::default();
    let rejected = older.replay(&mut enforced);

    assert_eq!(rejected[0].id, id("route/shop/orders"));
    assert_eq!(enforced.resources[&id("route/shop/carts")], hash_of("v1"));
    assert!(older.get(&id("route/shop/orders")).is_none());
    // The position is not forgotten: a lagging replica can't offer something older instead.
    let behind = Snapshot::at(1).with("route/shop/orders", "v0");
    let traffic = Stream::open(&mut older, &behind).settle(&mut older, &behind, &mut enforced);
    assert!(traffic.put().is_empty());
}
