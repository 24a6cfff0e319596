//! What survives the end of a stream, and the end of the process.

use wire::delta::{Held, Save, Sent, Torn};

use crate::snapshot::{Enforced, Snapshot, Stream, Volume, hash_of, id, sidecar_with};

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
fn a_refresh_costs_the_volume_a_few_bytes_however_much_is_held() {
    let mut view = Snapshot::at(1);
    for n in 0..40 {
        view.put_bytes(&format!("route/shop/r{n}"), 100_000);
    }
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut volume = Volume::default();
    assert!(volume.save(&mut held) > 4_000_000);
    let mut stream = Stream::open(&mut held, &view);
    for revision in 2..100 {
        view.advance(revision);
        stream.sent.refresh();
        stream.settle(&mut held, &view, &mut enforced);
        let written = volume.save(&mut held);
        assert!(written < 200, "{written} bytes");
    }

    let restored = Held::from_bytes(&volume.file).unwrap();

    assert_eq!(restored.seen(), view.seen);
    assert_eq!(restored.resources().count(), 40);
}

#[test]
fn what_a_delta_changed_is_appended_and_read_again() {
    let mut view = Snapshot::at(1)
        .with("guard/shop/orders", "deny")
        .with("route/shop/orders", "v1");
    view.put_bytes("route/shop/large", 100_000);
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut volume = Volume::default();
    volume.save(&mut held);
    let mut stream = Stream::open(&mut held, &view);
    let mut change = |view: &Snapshot, volume: &mut Volume, ids: &[&str]| {
        stream.sent.changed(ids.iter().map(|text| id(text)));
        stream.settle(&mut held, view, &mut enforced);
        let written = volume.save(&mut held);
        assert!(written < 1000, "{written} bytes");
        assert_eq!(
            Held::from_bytes(&volume.file).unwrap().to_bytes(),
            held.to_bytes()
        );
    };

    view.advance(2);
    view.put("route/shop/orders", "v2");
    view.remove("guard/shop/orders");
    change(
        &view,
        &mut volume,
        &["route/shop/orders", "guard/shop/orders"],
    );
    view.advance(3);
    view.put("guard/shop/orders", "open");
    change(&view, &mut volume, &["guard/shop/orders"]);
}

#[test]
fn a_sidecar_that_is_killed_while_it_appends_starts_from_what_it_held_before() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut volume = Volume::default();
    volume.save(&mut held);
    let mut stream = Stream::open(&mut held, &view);
    let mut ends = vec![(volume.file.len(), hash_of("v1"))];
    for version in ["v2", "v3"] {
        view.advance(ends.len() as u64 + 1);
        view.put("route/shop/orders", version);
        stream.sent.changed([id("route/shop/orders")]);
        stream.settle(&mut held, &view, &mut enforced);
        volume.save(&mut held);
        ends.push((volume.file.len(), hash_of(version)));
    }

    for length in ends[0].0..=volume.file.len() {
        let (_, hash) = ends.iter().rfind(|(end, _)| *end <= length).unwrap();
        let restored = Held::from_bytes(&volume.file[..length]).unwrap();
        let holds = restored.get(&id("route/shop/orders")).unwrap().hash;
        assert_eq!(holds, *hash, "cut at {length}");
    }
    // What was there as a whole and is no longer what it was is damaged, and not cut off.
    let mut damaged = volume.file.clone();
    damaged[ends[1].0 - 1] ^= 0x10;
    assert_eq!(Held::from_bytes(&damaged).err(), Some(Torn::Checksum));
}

#[test]
fn a_file_is_written_anew_before_it_is_much_larger_than_what_it_says() {
    let mut view = Snapshot::at(1);
    view.put_bytes("route/shop/large", 2_000_000);
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut volume = Volume::default();
    let whole = volume.save(&mut held);
    let mut stream = Stream::open(&mut held, &view);
    let mut anew = 0;
    for revision in 2..100 {
        view.advance(revision);
        view.put_bytes("route/shop/orders", 50_000 + revision as usize);
        stream.sent.changed([id("route/shop/orders")]);
        stream.settle(&mut held, &view, &mut enforced);
        anew += usize::from(volume.save(&mut held) > whole);
        assert!(volume.file.len() < whole / 4 * 5 + 100_000);
    }
    assert!((5..20).contains(&anew), "{anew} times");
    let restored = Held::from_bytes(&volume.file).unwrap();
    assert_eq!(restored.to_bytes(), held.to_bytes());
}

#[test]
fn after_a_write_that_failed_the_file_is_written_anew() {
    let mut view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (mut held, mut enforced) = sidecar_with(&view);
    let mut volume = Volume::default();
    volume.save(&mut held);
    let mut stream = Stream::open(&mut held, &view);
    view.advance(2);
    view.put("route/shop/orders", "v2");
    stream.sent.changed([id("route/shop/orders")]);
    stream.settle(&mut held, &view, &mut enforced);
    let Save::Append(half) = held.save() else {
        panic!("it has a file");
    };
    volume.file.extend_from_slice(&half[..half.len() / 2]);
    held.save_failed();

    volume.save(&mut held);

    let restored = Held::from_bytes(&volume.file).unwrap();
    assert_eq!(restored.to_bytes(), held.to_bytes());
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
