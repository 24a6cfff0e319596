//! Whatever comes from the network or the disk: no panic, and bounds hold.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use wire::{
    delta::{
        Held, InvalidHello, MAX_CHANGES, MAX_HELD, MAX_HELD_BYTES, MAX_HELLO_BYTES,
        MAX_REASON_CHARS, MAX_REMOVED, Sent,
    },
    discovery::{
        Ack, Delta, FromSidecar, Generation, Hello, Holding, Rejected, Removed, Resource, Room,
        from_sidecar,
    },
    id::{MAX_ID_BYTES, MAX_PART_BYTES},
    lookup::MAX_ASKED,
    message::{Said, Unfit},
    server::MAX_MESSAGE_BYTES,
};

use crate::snapshot::{Enforced, Snapshot, Stream, Volume, bytes, id};

fn resource(held: &mut Held, id: &str, text: &str) -> Delta {
    let body = bytes(text);
    let hash = wire::resource::hash(&[], &body).to_vec();
    Delta {
        nonce: held.hello().nonce.wrapping_add(1),
        resources: vec![Resource {
            id: id.to_owned(),
            generation: Some(Generation { seen: vec![1; 5] }),
            hash: hash.into(),
            capabilities: Vec::new(),
            body,
        }],
        ..Default::default()
    }
}

fn reason(delta: Delta, held: &mut Held) -> String {
    let mut enforced = Enforced::default();
    let mut ack = held.receive(delta, &mut enforced).unwrap();
    assert!(enforced.resources.is_empty());
    ack.rejected.remove(0).reason
}

#[test]
fn a_damaged_body_is_rejected() {
    let mut held = Held::default();
    let mut delta = resource(&mut held, "route/shop/orders", "v1");
    delta.resources[0].body = bytes("v2");
    assert!(reason(delta, &mut held).contains("hash"));
}

#[test]
fn a_resource_of_which_was_taken_what_it_needs_is_rejected() {
    let mut held = Held::default();
    let mut delta = resource(&mut held, "route/shop/orders", "v1");
    let needs = ["route".to_owned()];
    delta.resources[0].hash = wire::resource::hash(&needs, &bytes("v1")).to_vec().into();
    assert!(reason(delta, &mut held).contains("hash"));
}

#[test]
fn an_id_that_is_none_is_rejected_and_told_in_a_bounded_text() {
    let mut held = Held::default();
    let delta = resource(&mut held, &"x/".repeat(1_000_000), "v1");
    let mut enforced = Enforced::default();
    let ack = held.receive(delta, &mut enforced).unwrap();
    assert!(ack.rejected[0].id.len() < 1000);
}

#[test]
fn a_kind_of_a_newer_operator_is_rejected_and_the_rest_is_taken() {
    let mut held = Held::default();
    let mut delta = resource(&mut held, "teapot/shop/orders", "v1");
    let known = resource(&mut held.clone(), "route/shop/orders", "v1");
    delta.resources.extend(known.resources);
    let mut enforced = Enforced::default();

    let ack = held.receive(delta, &mut enforced).unwrap();

    assert_eq!(ack.rejected.len(), 1);
    assert_eq!(ack.rejected[0].id, "teapot/shop/orders");
    assert!(enforced.resources.contains_key(&id("route/shop/orders")));
}

#[test]
fn a_delta_that_names_an_id_twice_changes_it_not_at_all() {
    let orders = "route/shop/orders";
    let generation = Some(Generation { seen: vec![2; 5] });
    let put = |text: &str| {
        let mut delta = resource(&mut Held::default(), orders, text);
        let mut put = delta.resources.remove(0);
        put.generation = generation.clone();
        put
    };
    let removed = || Removed {
        id: orders.to_owned(),
        generation: generation.clone(),
    };
    let twice = [
        (vec![put("v2"), put("v3")], vec![]),
        (vec![put("v2"), put("v3"), put("v2")], vec![]),
        (vec![put("v1"), put("v1")], vec![]),
        // The same as is held: nothing to do, unless it was removed.
        (vec![put("v1")], vec![removed()]),
        (vec![put("v2")], vec![removed()]),
        (vec![], vec![removed(), removed()]),
    ];
    for (resources, removed) in twice {
        for holds in [true, false] {
            let (mut held, mut enforced) = (Held::default(), Enforced::default());
            if holds {
                let first = resource(&mut held, orders, "v1");
                held.receive(first, &mut enforced).unwrap();
            }
            let (before, known) = (held.get(&id(orders)).cloned(), held.known(&id(orders)));

            let delta = Delta {
                nonce: held.hello().nonce.wrapping_add(1),
                resources: resources.clone(),
                removed: removed.clone(),
                ..Default::default()
            };
            let ack = held.receive(delta, &mut enforced);

            let rejected = ack.unwrap().rejected;
            assert_eq!(rejected.len(), 1, "{rejected:?}");
            assert!(rejected[0].reason.contains("twice"), "{rejected:?}");
            assert_eq!(held.get(&id(orders)), before.as_ref());
            assert_eq!(held.known(&id(orders)), known);
            assert_eq!(enforced.resources.len(), usize::from(holds));
        }
    }
}

#[test]
fn what_is_sent_again_unchanged_is_not_applied_again_but_known_to_be_newer() {
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    let delta = resource(&mut held, "route/shop/orders", "v1");
    held.receive(delta, &mut enforced).unwrap();
    let mut delta = resource(&mut held, "route/shop/orders", "v1");
    let seen = vec![2; 5];
    delta.resources[0].generation = Some(Generation { seen });

    let ack = held.receive(delta, &mut enforced).unwrap();

    assert!(ack.rejected.is_empty());
    assert_eq!(enforced.calls.len(), 1);
    let known = held.known(&id("route/shop/orders"));
    assert_eq!(known.at(wire::generation::Input::ApiRoute), 2);
}

#[test]
fn a_sidecar_holds_no_more_than_it_may() {
    let mut view = Snapshot::at(1);
    let body = 1024 * 1024;
    for n in 0..MAX_HELD_BYTES / body + 2 {
        view.put_bytes(&format!("route/shop/r{n}"), body);
    }
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    let total: usize = held.resources().map(|resource| resource.body.len()).sum();
    assert!(total <= MAX_HELD_BYTES && total > MAX_HELD_BYTES - 2 * body);
    // Room that becomes free can be used.
    view.resources.retain(|id, _| id.name.ends_with('1'));
    view.advance(2);
    view.put("route/shop/r2", "small");
    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);
    assert_eq!(enforced.resources, view.hashes());
}

#[test]
fn a_sidecar_takes_no_more_than_its_hello_can_name() {
    let part = "a".repeat(MAX_PART_BYTES - 6);
    let name = |n| format!("endpoints/{part}xxxxxx/{part}{n:06}");
    let names = MAX_HELLO_BYTES / MAX_ID_BYTES;
    let mut view = Snapshot::at(u64::MAX / 2);
    for n in 0..names {
        view.put(&name(n), "v1");
    }
    let (mut held, mut enforced) = (Held::default(), Enforced::default());

    Stream::open(&mut held, &view).settle(&mut held, &view, &mut enforced);

    let message = FromSidecar::from(held.hello());
    assert!(message.encoded_len() <= MAX_MESSAGE_BYTES);
    assert!(message.encoded_len() > MAX_HELLO_BYTES / 10 * 8);
    assert!(message.into_hello().is_ok());
    assert!(held.resources().count() < names);

    // Nor does it remember more removals than it can name, of resources that it never held.
    view.advance(u64::MAX - 1);
    let removed = (0..MAX_REMOVED).map(|n| Removed {
        id: name(names + n),
        generation: Some(view.seen.into()),
    });
    for removed in removed.collect::<Vec<_>>().chunks(MAX_CHANGES) {
        let delta = Delta {
            nonce: held.hello().nonce.wrapping_add(1),
            removed: removed.to_vec(),
            ..Default::default()
        };
        held.receive(delta, &mut enforced).unwrap();
    }
    assert!(held.hello().encoded_len() <= MAX_HELLO_BYTES);
}

#[test]
fn what_is_in_a_message_is_counted_before_it_is_decoded() {
    // Two bytes on the wire, a hundred in memory.
    let holdings = Bytes::from([0x1a, 0].repeat(MAX_MESSAGE_BYTES / 2));
    let hello = FromSidecar {
        message: Some(from_sidecar::Message::Hello(holdings)),
    };
    assert!(matches!(hello.into_hello(), Err(Unfit::TooMany(_))));
    let rejections = Bytes::from([0x12, 0].repeat(MAX_CHANGES * 2));
    let ack = FromSidecar {
        message: Some(from_sidecar::Message::Ack(rejections)),
    };
    assert!(matches!(ack.into_said(), Err(Unfit::TooMany(_))));
    let questions = Bytes::from([0x0a, 0].repeat(MAX_ASKED * 2));
    let lookup = FromSidecar {
        message: Some(from_sidecar::Message::Lookup(questions)),
    };
    assert!(matches!(lookup.into_said(), Err(Unfit::TooMany(_))));
}

#[test]
fn an_ack_that_rejects_everything_at_length_is_taken() {
    let rejected = Rejected {
        id: "x".repeat(MAX_ID_BYTES),
        reason: "\u{10000}".repeat(MAX_REASON_CHARS),
        ..Default::default()
    };
    let ack = FromSidecar::from(Ack {
        rejected: vec![rejected; MAX_CHANGES],
        ..Default::default()
    });
    assert!(ack.encoded_len() <= MAX_MESSAGE_BYTES);
    let Said::Ack(ack) = ack.into_said().unwrap() else {
        panic!("an Ack was said");
    };
    assert_eq!(ack.rejected.len(), MAX_CHANGES);
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let view = Snapshot::at(1);
    let holding = |id: &str, hash: &'static [u8]| Hello {
        holding: vec![Holding {
            id: id.to_owned(),
            generation: None,
            hash: hash.into(),
        }],
        ..Default::default()
    };
    let why = |hello| Sent::new(hello, &view).err();
    assert!(matches!(
        why(holding("route", b"")),
        Some(InvalidHello::Id(..))
    ));
    assert!(matches!(
        why(holding("route/a/b", b"short")),
        Some(InvalidHello::Hash(_))
    ));
    let many = Hello {
        holding: vec![Holding::default(); MAX_HELD + MAX_REMOVED + 1],
        ..Default::default()
    };
    assert!(matches!(why(many), Some(InvalidHello::TooMany(_))));
    assert_eq!(why(holding("teapot/a/b", b"")), None, "of a newer sidecar");
}

#[test]
fn a_reason_is_one_bounded_line() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let mut sent = Sent::new(Hello::default(), &view).unwrap();
    let delta = sent.next(&view).unwrap();

    let outcomes = sent.on_ack(Ack {
        nonce: delta.nonce,
        rejected: vec![Rejected {
            id: "route/shop/orders".to_owned(),
            reason: "no\n".repeat(100_000),
            ..Default::default()
        }],
        ..Default::default()
    });

    let wire::delta::Outcome::Rejected(reason) = &outcomes[0].1 else {
        panic!("{outcomes:?}");
    };
    assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
    assert!(!reason.contains('\n'));
}

/// Ids that are sometimes ids, generations of any length.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        "(route|guard|teapot)/[ab]/[ab]",
        "[a-z/.]{0,12}",
        any::<String>()
    ]
}

fn any_generation() -> impl Strategy<Value = Option<Generation>> {
    prop::option::of(prop::collection::vec(any::<u64>(), 0..8).prop_map(|seen| Generation { seen }))
}

fn any_room() -> impl Strategy<Value = Option<Room>> {
    let amount = || prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let room = (amount(), amount(), amount());
    prop::option::of(room.prop_map(|(resources, bytes, hello_bytes)| Room {
        resources,
        bytes,
        hello_bytes,
    }))
}

prop_compose! {
    fn any_resource()(
        id in any_id(),
        generation in any_generation(),
        body in prop::collection::vec(any::<u8>(), 0..8),
        damaged in any::<bool>(),
        capabilities in prop::collection::vec("route|moon", 0..3),
    ) -> Resource {
        let mut hash = wire::resource::hash(&capabilities, &body).to_vec();
        if damaged { hash.pop(); }
        Resource { id, generation, hash: hash.into(), capabilities, body: body.into() }
    }
}

prop_compose! {
    fn any_delta()(
        resources in prop::collection::vec(any_resource(), 0..6),
        removed in prop::collection::vec((any_id(), any_generation()), 0..4),
        complete in any::<bool>(),
        seen in any_generation(),
    ) -> Delta {
        let removed = removed.into_iter().map(|(id, generation)| Removed { id, generation });
        Delta { nonce: 0, resources, removed: removed.collect(), complete, seen, answers_lookups: true, reads_reports: true, grants: None }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_deltas_confuses_a_sidecar(deltas in prop::collection::vec(any_delta(), 1..8)) {
        let (mut held, mut enforced) = (Held::default(), Enforced::default());
        let mut volume = Volume::default();
        for mut delta in deltas {
            let before = held.clone();
            delta.nonce = held.hello().nonce.wrapping_add(1);
            held.receive(delta, &mut enforced).unwrap();
            for resource in before.resources() {
                prop_assert!(held.known(&resource.id).covers(&before.known(&resource.id)));
            }
            let holds: std::collections::BTreeMap<_, _> =
                held.resources().map(|resource| (resource.id.clone(), resource.hash)).collect();
            prop_assert_eq!(&holds, &enforced.resources);
            volume.save(&mut held);
            for file in [&volume.file, &held.to_bytes()] {
                let mut restored = Held::from_bytes(file).unwrap();
                prop_assert_eq!(restored.hello().holding, held.hello().holding);
                prop_assert_eq!(restored.seen(), held.seen());
                prop_assert_eq!(restored.is_complete(), held.is_complete());
                prop_assert_eq!(restored.to_bytes(), held.to_bytes());
            }
        }
    }

    #[test]
    fn no_bytes_from_the_disk_make_a_sidecar_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = b"MWHELD02".to_vec();
        for record in [&[], &bytes[..]] {
            file.extend_from_slice(&(record.len() as u64).to_le_bytes());
            file.extend_from_slice(blake3::hash(record).as_bytes());
            file.extend_from_slice(record);
        }
        let _ = Held::from_bytes(&file);
        file.extend_from_slice(&bytes);
        let _ = Held::from_bytes(&file);
        let _ = Held::from_bytes(&bytes);
    }

    #[test]
    fn no_bytes_from_a_sidecar_make_an_operator_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let hello = from_sidecar::Message::Hello(bytes.clone());
        let _ = FromSidecar { message: Some(hello) }.into_hello();
        for message in [from_sidecar::Message::Ack, from_sidecar::Message::Lookup] {
            let _ = FromSidecar { message: Some(message(bytes.clone())) }.into_said();
        }
    }

    #[test]
    fn no_hello_and_no_ack_make_an_operator_panic(
        ids in prop::collection::vec((any_id(), any_generation(), 0usize..18), 0..6),
        rejected in prop::collection::vec((any_id(), any_room()), 0..4),
        room in any_room(),
    ) {
        let mut rounds = 0;
        let view = Snapshot::at(5).with("route/a/a", "v1").with("guard/a/b", "v1");
        let holding = ids.into_iter().map(|(id, generation, hash)| Holding {
            id, generation, hash: vec![7; hash].into(),
        });
        let hello = Hello { holding: holding.collect(), ..Default::default() };
        if let Ok(mut sent) = Sent::new(hello, &view) {
            while let Some(delta) = sent.next(&view) {
                let rejected = rejected.iter().map(|(id, needs)| {
                    Rejected { id: id.clone(), reason: String::new(), needs: *needs }
                });
                sent.on_ack(Ack { nonce: delta.nonce, rejected: rejected.collect(), room });
                rounds += 1;
                if rounds > 10 { break; }
            }
        }
    }
}
