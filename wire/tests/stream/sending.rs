//! What is sent, in what portions, and what becomes of it.

use wire::delta::{Held, MAX_CHANGES, MAX_DELTA_BYTES, Outcome};
use wire::resource::MAX_BODY_BYTES;

use crate::snapshot::{Enforced, Snapshot, Stream, hash_of, id, sidecar_with};

#[test]
fn a_new_sidecar_receives_everything_and_is_told_that_it_is_complete() {
    let view = Snapshot::at(1)
        .with("route/shop/orders", "v1")
        .with("identity/cluster.local/bundle", "roots");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    // Roots before the routes that need them.
    assert_eq!(
        traffic.put(),
        ["identity/cluster.local/bundle", "route/shop/orders"]
    );
    assert_eq!(traffic.completes(), [true]);
    assert_eq!(enforced.resources, view.hashes());
    assert_eq!(enforced.calls.len(), 1, "linked once");
    assert!(held.is_complete());
    assert_eq!(
        traffic.outcome("route/shop/orders"),
        Some(&Outcome::Held(hash_of("v1")))
    );
}

#[test]
fn a_sidecar_for_which_there_is_nothing_is_still_told_that_it_is_complete() {
    let view = Snapshot::at(1);
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.completes(), [true]);
    assert!(held.is_complete());
}

#[test]
fn a_slow_consumer_gets_only_the_newest_version() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);
    let first = stream.sent.next(&view).unwrap();

    for version in 2..=100 {
        view.advance(version);
        view.put("route/shop/orders", &format!("v{version}"));
        stream.sent.changed([id("route/shop/orders")]);
        assert!(stream.sent.next(&view).is_none(), "one is in flight");
    }
    let ack = held.receive(first, &mut enforced).unwrap();
    stream.sent.on_ack(ack);
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.deltas.len(), 1);
    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn what_changed_and_changed_back_is_not_sent_again() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(3);
    stream.sent.changed([id("route/shop/orders")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    assert!(traffic.put().is_empty());
    assert!(enforced.calls.is_empty());
    // But the sidecar knows that what it has is the present.
    assert_eq!(held.seen(), view.seen);
}

#[test]
fn an_idle_sidecar_is_told_how_new_its_configuration_is_when_asked_to_refresh() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(9);
    assert!(stream.sent.next(&view).is_none());
    stream.sent.refresh();
    stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(held.seen(), view.seen);

    stream.sent.refresh();
    assert!(stream.sent.next(&view).is_none(), "nothing new to say");
}

#[test]
fn what_left_the_view_is_removed() {
    let mut view = Snapshot::at(1)
        .with("route/shop/orders", "v1")
        .with("route/shop/carts", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(2);
    view.remove("route/shop/carts");
    stream.sent.changed([id("route/shop/carts")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.removed(), ["route/shop/carts"]);
    assert_eq!(traffic.outcome("route/shop/carts"), Some(&Outcome::Removed));
    assert_eq!(enforced.resources, view.hashes());
}

/// What a sidecar does that has rejected `v2` of something, and is then to have `then`.
fn after_a_rejection(
    before: Option<&str>,
    then: Option<&str>,
    over_a_new_stream: bool,
) -> Enforced {
    let mut view = Snapshot::at(1);
    if let Some(before) = before {
        view.put("access/shop/orders", before);
    }
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut stream = Stream::open(&mut held, &view);
    let orders = id("access/shop/orders");

    view.advance(2);
    view.put("access/shop/orders", "v2");
    enforced.forbidden.insert(orders.clone());
    stream.sent.changed([orders.clone()]);
    stream.settle(&mut held, &view, &mut enforced);
    enforced.forbidden.clear();
    enforced.calls.clear();

    view.advance(3);
    match then {
        Some(then) => view.put("access/shop/orders", then),
        None => view.remove("access/shop/orders"),
    }
    if over_a_new_stream {
        stream = Stream::open(&mut held, &view);
    }
    stream.sent.changed([orders.clone()]);
    stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(held.get(&orders).map(|one| one.hash), then.map(hash_of));

    // Once, and not at each change of something else.
    stream.sent.changed([orders.clone()]);
    stream.settle(&mut held, &view, &mut enforced);
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    enforced
}

#[test]
fn what_is_wanted_again_after_another_version_was_rejected_is_put_in_force_again() {
    // What was rejected may have left something closed, whose predecessor is held all the while.
    for over_a_new_stream in [false, true] {
        let enforced = after_a_rejection(Some("v1"), Some("v1"), over_a_new_stream);
        assert_eq!(enforced.calls, [[id("access/shop/orders")]]);
    }
}

#[test]
fn what_was_rejected_and_never_held_is_removed_when_it_is_wanted_no_more() {
    for over_a_new_stream in [false, true] {
        let enforced = after_a_rejection(None, None, over_a_new_stream);
        assert_eq!(enforced.calls, [[id("access/shop/orders")]]);
    }
}

#[test]
fn one_rejected_resource_leaves_the_others_held_and_keeps_its_predecessor() {
    let mut view = Snapshot::at(1)
        .with("route/shop/orders", "v1")
        .with("route/shop/carts", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(2);
    view.put("route/shop/orders", "v2");
    view.put("route/shop/carts", "v2");
    enforced.forbidden.insert(id("route/shop/orders"));
    stream
        .sent
        .changed([id("route/shop/orders"), id("route/shop/carts")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources[&id("route/shop/carts")], hash_of("v2"));
    assert_eq!(enforced.resources[&id("route/shop/orders")], hash_of("v1"));
    assert_eq!(
        held.get(&id("route/shop/orders")).unwrap().hash,
        hash_of("v1")
    );
    let believed: Vec<_> = stream.sent.held().map(|(_, hash)| *hash).collect();
    assert_eq!(believed, [hash_of("v2"), hash_of("v1")], "carts, orders");
    assert_eq!(
        traffic.outcome("route/shop/orders"),
        Some(&Outcome::Rejected("forbidden by the test".to_owned()))
    );
}

#[test]
fn what_was_rejected_is_not_sent_again_until_it_changes() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "bad");
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    enforced.forbidden.insert(id("route/shop/orders"));
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    stream.sent.changed([id("route/shop/orders")]);
    assert!(
        stream
            .settle(&mut held, &view, &mut enforced)
            .put()
            .is_empty()
    );

    enforced.forbidden.clear();
    view.advance(2);
    view.put("route/shop/orders", "good");
    stream.sent.changed([id("route/shop/orders")]);
    stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn a_resource_that_needs_what_the_sidecar_cannot_do_is_rejected_by_name() {
    let mut view = Snapshot::at(1).with("route/shop/carts", "v1");
    view.put_needing("route/shop/orders", "v1", &["route", "match.moon-phase"]);
    let (mut held, mut enforced) = (Held::new("0.1.0", &["route"]), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    let Some(Outcome::Rejected(reason)) = traffic.outcome("route/shop/orders") else {
        panic!("{:?}", traffic.outcomes);
    };
    assert!(
        reason.contains("match.moon-phase") && reason.contains("0.1.0"),
        "{reason}"
    );
    assert!(!reason.contains("route,"), "{reason}");
    assert!(enforced.resources.contains_key(&id("route/shop/carts")));
    assert!(!enforced.resources.contains_key(&id("route/shop/orders")));
}

#[test]
fn a_resource_that_needs_something_else_is_sent_again_although_it_says_the_same() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = (Held::new("0.1.0", &["route"]), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    // An operator that was updated, on the same stream and on another.
    view.advance(2);
    view.put_needing("route/shop/orders", "v1", &["route", "match.moon-phase"]);
    stream.sent.changed([id("route/shop/orders")]);
    let living = stream.settle(&mut held, &view, &mut enforced);
    let another = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    for traffic in [living, another] {
        let outcome = traffic.outcome("route/shop/orders");
        assert!(
            matches!(outcome, Some(Outcome::Rejected(why)) if why.contains("match.moon-phase")),
            "{outcome:?}"
        );
    }
    let keeps = held.get(&id("route/shop/orders")).unwrap();
    assert!(keeps.capabilities.is_empty());

    view.advance(3);
    view.put_needing("route/shop/orders", "v1", &["route"]);
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    let holds = held.get(&id("route/shop/orders")).unwrap();
    assert_eq!(*holds.capabilities, ["route"]);
}

#[test]
fn room_that_a_delta_frees_is_there_for_what_else_is_in_it() {
    let mut view = Snapshot::at(1);
    view.put_bytes("route/shop/gone", 600);
    view.put_bytes("route/shop/smaller", 300);
    let (mut held, mut enforced) = (Held::default().with_room(2, 1000), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(2);
    view.remove("route/shop/gone");
    // Sent before what becomes smaller.
    view.put_bytes("route/shop/new", 900);
    view.put_bytes("route/shop/smaller", 10);
    let changed = ["gone", "smaller", "new"].map(|name| id(&format!("route/shop/{name}")));
    stream.sent.changed(changed);
    let traffic = stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.deltas.len(), 1);
    assert_eq!(enforced.resources, view.hashes());
    let held = |(_, outcome): &(_, Outcome)| !matches!(outcome, Outcome::Rejected(_));
    assert!(traffic.outcomes.iter().all(held), "{:?}", traffic.outcomes);
}

#[test]
fn what_had_no_room_is_sent_again_on_the_same_stream_once_it_has() {
    let mut view = Snapshot::at(1);
    view.put_bytes("guard/shop/old", 600);
    view.put_bytes("route/shop/large", 700);
    view.put_bytes("route/shop/small", 500);
    let (mut held, mut enforced) = (Held::default().with_room(9, 1000), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);
    let traffic = stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(enforced.resources.len(), 1);
    let refused = traffic.outcome("route/shop/large");
    assert!(matches!(refused, Some(Outcome::Rejected(why)) if why.contains("as much as it may")));

    // Enough for one, not for the other: only that one is worth sending.
    view.advance(2);
    view.put_bytes("guard/shop/old", 400);
    stream.sent.changed([id("guard/shop/old")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(traffic.put(), ["guard/shop/old", "route/shop/small"]);
    let taken = traffic.outcome("route/shop/small");
    assert!(matches!(taken, Some(Outcome::Held(_))), "{taken:?}");

    view.advance(3);
    view.remove("route/shop/small");
    view.remove("guard/shop/old");
    stream
        .sent
        .changed([id("route/shop/small"), id("guard/shop/old")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(traffic.put(), ["route/shop/large"]);
    assert_eq!(enforced.resources, view.hashes());

    // While nothing is freed, nothing is sent again.
    view.advance(4);
    view.put_bytes("route/shop/second", 900);
    stream.sent.changed([id("route/shop/second")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(traffic.put(), ["route/shop/second"]);
    view.put("route/shop/third", "v1");
    stream.sent.changed([id("route/shop/third")]);
    let traffic = stream.settle(&mut held, &view, &mut enforced);
    assert_eq!(traffic.put(), ["route/shop/third"]);
}

#[test]
fn a_large_configuration_comes_in_portions_and_only_the_last_is_complete() {
    let mut view = Snapshot::at(1);
    for n in 0..2 * MAX_CHANGES + 1 {
        view.put(&format!("route/shop/r{n}"), "v1");
    }
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.completes(), [false, false, true]);
    // Nor is the sidecar told of a position before it has everything of it.
    let told: Vec<bool> = traffic.deltas.iter().map(|d| d.seen.is_some()).collect();
    assert_eq!(told, [false, false, true]);
    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn a_delta_is_bounded_in_bytes_but_always_carries_something() {
    use prost::Message;
    let mut view = Snapshot::at(1);
    for n in 0..5 {
        view.put_bytes(&format!("route/shop/r{n}"), MAX_DELTA_BYTES / 2 - 1000);
    }
    view.put_bytes("route/shop/large", MAX_BODY_BYTES - 100);
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(enforced.resources, view.hashes());
    assert_eq!(traffic.deltas.len(), 4);
    for delta in &traffic.deltas {
        assert!(delta.encoded_len() <= MAX_DELTA_BYTES || delta.resources.len() == 1);
    }
}

#[test]
fn a_body_that_no_sidecar_would_take_is_not_sent_but_reported() {
    let mut view = Snapshot::at(1).with("route/shop/carts", "v1");
    view.put_bytes("route/shop/orders", MAX_BODY_BYTES + 1);
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.put(), ["route/shop/carts"]);
    assert!(matches!(
        traffic.outcome("route/shop/orders"),
        Some(Outcome::Rejected(reason)) if reason.contains("limit")
    ));
}

#[test]
fn ids_that_change_all_the_time_do_not_starve_the_others() {
    let mut view = Snapshot::at(1).with("route/shop/quiet", "v1");
    let busy: Vec<String> = (0..MAX_CHANGES + 500)
        .map(|n| format!("endpoints/shop/s{n}"))
        .collect();
    for id in &busy {
        view.put(id, "v0");
    }
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let mut stream = Stream::open(&mut held, &view);

    // Before each delta, everything that comes before the quiet one changes.
    for version in 1..=3 {
        view.advance(1 + version);
        for text in &busy {
            view.put(text, &format!("v{version}"));
        }
        stream.sent.changed(busy.iter().map(|text| id(text)));
        let delta = stream.sent.next(&view).unwrap();
        let ack = held.receive(delta, &mut enforced).unwrap();
        stream.sent.on_ack(ack);
    }

    assert!(enforced.resources.contains_key(&id("route/shop/quiet")));
}
