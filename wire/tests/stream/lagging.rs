//! Replicas that lag behind what a sidecar holds never roll it back.

use wire::{
    delta::{Held, MAX_REMOVED, Sent},
    discovery::Delta,
    generation::Input,
};

use crate::snapshot::{Snapshot, Stream, hash_of, id, sidecar_with};

const DENY: &str = "guard/shop/orders";
const POLICY: &str = "retry-policy/shop/orders";

/// Everything that a replica would send that knows nothing of what the sidecar holds: as if
/// withholding had a fault.
fn unaware(held: &mut Held, view: &Snapshot) -> Delta {
    let mut hello = held.hello();
    hello.holding.clear();
    hello.seen = None;
    Sent::new(hello, view).unwrap().next(view).unwrap()
}

#[test]
fn a_deny_that_was_added_is_not_rolled_back() {
    let behind = Snapshot::at(5).with(DENY, "open");
    let ahead = Snapshot::at(6).with(DENY, "deny");
    let (mut held, mut enforced) = sidecar_with(&ahead);

    let mut stream = Stream::open(&mut held, &behind);
    let traffic = stream.settle(&mut held, &behind, &mut enforced);
    assert!(traffic.put().is_empty());
    assert_eq!(stream.sent.withheld(), 1);

    let ack = held.receive(unaware(&mut held.clone(), &behind), &mut enforced);
    assert_eq!(ack, None, "not of this stream");
    let delta = unaware(&mut held, &behind);
    let ack = held.receive(delta, &mut enforced).unwrap();
    assert!(ack.rejected[0].reason.contains("older"), "{ack:?}");
    assert_eq!(enforced.resources[&id(DENY)], hash_of("deny"));
}

#[test]
fn a_deny_that_one_replica_has_removed_is_not_brought_back_by_a_lagging_one() {
    let before = Snapshot::at(5).with(DENY, "deny");
    let (mut held, mut enforced) = sidecar_with(&before);
    let mut after = before.clone();
    after.advance(6);
    after.remove(DENY);
    Stream::open(&mut held, &after).settle(&mut held, &after, &mut enforced);
    assert!(enforced.resources.is_empty());

    let traffic = Stream::open(&mut held, &before).settle(&mut held, &before, &mut enforced);
    assert!(traffic.put().is_empty());
    let delta = unaware(&mut held, &before);
    held.receive(delta, &mut enforced).unwrap();

    assert!(enforced.resources.is_empty());
}

#[test]
fn a_removal_is_remembered_before_the_sidecar_has_been_told_everything() {
    let before = Snapshot::at(5).with(DENY, "deny");
    let (mut held, mut enforced) = sidecar_with(&before);
    let mut after = before.clone();
    after.advance(6);
    after.remove(DENY);
    let mut delta = Stream::open(&mut held, &after).sent.next(&after).unwrap();
    delta.seen = None;
    held.receive(delta, &mut enforced).unwrap();
    assert_eq!(held.seen(), before.seen);

    let delta = unaware(&mut held, &before);
    held.receive(delta, &mut enforced).unwrap();
    let traffic = Stream::open(&mut held, &before).settle(&mut held, &before, &mut enforced);

    assert!(traffic.put().is_empty());
    assert!(enforced.resources.is_empty());
}

#[test]
fn a_deny_that_was_opened_and_closed_unseen_is_not_opened_by_a_lagging_replica() {
    // The sidecar holds "deny" of position 5. At 6 it was open, at 7 it is "deny" again; a replica
    // at 7 has nothing to send. A replica at 6 covers 5, and must still not open it.
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(5).with(DENY, "deny"));
    let newest = Snapshot::at(7).with(DENY, "deny");
    let traffic = Stream::open(&mut held, &newest).settle(&mut held, &newest, &mut enforced);
    assert!(traffic.put().is_empty());

    let middle = Snapshot::at(6).with(DENY, "open");
    let traffic = Stream::open(&mut held, &middle).settle(&mut held, &middle, &mut enforced);
    assert!(traffic.put().is_empty());
    let delta = unaware(&mut held, &middle);
    held.receive(delta, &mut enforced).unwrap();

    assert_eq!(enforced.resources[&id(DENY)], hash_of("deny"));
}

#[test]
fn what_came_and_went_unseen_is_not_brought_by_a_lagging_replica() {
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(7));
    let middle = Snapshot::at(6).with("route/shop/gone", "v1");

    let traffic = Stream::open(&mut held, &middle).settle(&mut held, &middle, &mut enforced);

    assert!(traffic.put().is_empty());
    assert!(enforced.resources.is_empty());
}

#[test]
fn a_lagging_replica_does_not_remove_what_it_does_not_know_yet() {
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(6).with(DENY, "deny"));
    let behind = Snapshot::at(5);

    let traffic = Stream::open(&mut held, &behind).settle(&mut held, &behind, &mut enforced);

    assert!(traffic.removed().is_empty());
    assert_eq!(enforced.resources[&id(DENY)], hash_of("deny"));
}

#[test]
fn a_sidecar_that_is_ahead_of_its_replica_is_complete() {
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(6).with(DENY, "deny"));
    let behind = Snapshot::at(5).with(DENY, "open");

    let traffic = Stream::open(&mut held, &behind).settle(&mut held, &behind, &mut enforced);

    assert_eq!(traffic.completes(), [true]);
    assert_eq!(traffic.deltas[0].seen, None);
    assert_eq!(held.seen(), Snapshot::at(6).seen);
}

#[test]
fn a_replica_that_has_caught_up_sends_what_it_withheld() {
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(6).with(DENY, "deny"));
    let mut view = Snapshot::at(5).with(DENY, "open");
    let mut stream = Stream::open(&mut held, &view);
    stream.settle(&mut held, &view, &mut enforced);

    view.advance(7);
    view.put(DENY, "deny others");
    stream.sent.changed([id(DENY)]);
    stream.sent.advanced();
    stream.settle(&mut held, &view, &mut enforced);

    assert_eq!(stream.sent.withheld(), 0);
    assert_eq!(enforced.resources, view.hashes());
    assert_eq!(held.seen(), view.seen);
}

#[test]
fn a_replica_that_lags_in_one_place_still_sends_what_does_not_depend_on_it() {
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(6));
    let mut view = Snapshot::at(7)
        .with("keys/shop/orders", "v1")
        .with("route/shop/orders", "v1");
    // Keys depend on consumers, a route does not.
    view.seen = view.seen.with(Input::Consumer, 5);

    let traffic = Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    assert_eq!(traffic.put(), ["route/shop/orders"]);
    assert_eq!(traffic.deltas[0].seen, None, "not everything has been told");
}

#[test]
fn a_replica_that_has_not_seen_the_newest_settings_brings_back_nothing() {
    let with = |text: &str, settings: u64| {
        let mut view = Snapshot::at(6)
            .with("identity/example.org/bundle", text)
            .with("workload/shop/orders-1", text)
            .with("endpoints/shop/orders", text)
            .with("route/shop/orders", text)
            .with(POLICY, text);
        view.seen = view.seen.with(Input::Settings, settings);
        view
    };
    let (ahead, behind) = (with("newer domains", 2), with("older domains", 1));
    let (mut held, mut enforced) = sidecar_with(&ahead);

    let traffic = Stream::open(&mut held, &behind).settle(&mut held, &behind, &mut enforced);
    assert_eq!(traffic.put(), [""; 0]);
    let delta = unaware(&mut held, &behind);
    held.receive(delta, &mut enforced).unwrap();
    assert_eq!(enforced.resources, ahead.hashes());
}

#[test]
fn nothing_is_said_to_be_told_while_something_is_withheld() {
    // Of a batch of position 6, only the deny arrived.
    let (mut held, mut enforced) = sidecar_with(&Snapshot::at(4).with(DENY, "open"));
    let ahead = Snapshot::at(6).with(DENY, "deny");
    let mut delta = Stream::open(&mut held, &ahead).sent.next(&ahead).unwrap();
    delta.seen = None;
    held.receive(delta, &mut enforced).unwrap();

    let behind = Snapshot::at(5).with(DENY, "open");
    let mut stream = Stream::open(&mut held, &behind);
    let traffic = stream.settle(&mut held, &behind, &mut enforced);

    assert_eq!(stream.sent.withheld(), 1);
    assert_eq!(traffic.deltas[0].seen, None);
}

#[test]
fn the_oldest_of_too_many_removals_are_forgotten_without_letting_them_come_back() {
    let mut view = Snapshot::at(1);
    for n in 0..=MAX_REMOVED {
        view.put(&format!("route/shop/r{n:05}"), "v1");
    }
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut after = Snapshot::at(2);
    after.put("guard/shop/last", "v1");
    let mut stream = Stream::open(&mut held, &after);
    while let Some(mut delta) = stream.sent.next(&after) {
        delta.seen = None;
        let ack = held.receive(delta, &mut enforced).unwrap();
        stream.sent.on_ack(ack);
    }
    assert!(held.hello().holding.len() <= MAX_REMOVED + 1);
    assert!(
        held.seen() != view.seen,
        "what is forgotten raises the floor"
    );

    for _ in 0..=MAX_REMOVED / 1000 + 1 {
        let delta = unaware(&mut held, &view);
        held.receive(delta, &mut enforced).unwrap();
    }

    assert_eq!(enforced.resources, after.hashes());
}
