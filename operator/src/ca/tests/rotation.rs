use super::*;
use crate::ca::rotation::MAX_PROOFS;

const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(20);

pub(super) fn asked(request: &str) -> Wanted {
    Wanted::Own {
        request: Some(request.to_owned()),
    }
}

pub(super) fn stage(authorities: &Authorities) -> &'static str {
    match authorities.stage {
        Stage::Settled(_) => "settled",
        Stage::Announced { .. } => "announced",
        Stage::Retiring { .. } => "retiring",
    }
}

/// What is kept after a step, or as it was, read again from what was written: whoever goes on has
/// nothing else.
pub(super) fn stepped(authorities: &Authorities, moment: &Moment<'_>) -> Authorities {
    match authorities.stepped(moment).unwrap() {
        Some(step) => Authorities::from_text(&step.to_text()).unwrap(),
        None => authorities.clone(),
    }
}

/// What is kept once it is at a stage, and when: nobody lags, and it is looked each minute.
fn at_stage(
    authorities: &Authorities,
    from: SystemTime,
    wanted: &Wanted,
    until: &str,
) -> (Authorities, SystemTime) {
    let (mut all, mut now) = (authorities.clone(), from);
    for _ in 0..3 * 24 * 60 {
        all = stepped(&all, &moment(now, wanted));
        if stage(&all) == until {
            return (all, now);
        }
        now += Duration::from_secs(60);
    }
    panic!("{} after three days", stage(&all));
}

/// Whether the operator's own chain proves it to who trusts that bundle.
fn serves(all: &Authorities, bundle: &TrustBundle, now: SystemTime) -> Result<(), rustls::Error> {
    let (line, proofs) = all.serving(now, MARGIN);
    let mut issued = leaf::issue(line, &key(), ORDERS, None, now, LEAF_LIFE).unwrap();
    issued.chain.extend(proofs);
    proves(&issued.chain, bundle, now)
}

#[test]
fn an_intermediate_is_replaced_months_before_it_ends_and_its_leaves_stay_good() {
    let first = made(start());
    let later = moment(start() + 200 * DAY, &OWN);
    assert!(first.stepped(&later).unwrap().is_none(), "nothing is due");
    let now = start() + 300 * DAY;
    let issued = issue(&first, ORDERS, now);

    let second = first.stepped(&moment(now, &OWN)).unwrap().unwrap();

    let [before, after] = [&first, &second].map(|all| all.signing().signer.certificate.clone());
    assert_ne!(before, after);
    assert_eq!(first.bundle(), second.bundle(), "the root is the same");
    proves(&issued.chain, &second.bundle(), now).unwrap();
    proves(&issue(&second, ORDERS, now).chain, &first.bundle(), now).unwrap();
}

#[test]
fn the_next_root_is_trusted_long_before_it_signs_and_the_old_one_until_its_last_leaf_ends() {
    let first = made(start());
    let old = first.bundle();
    let wanted = asked("1");

    let announced = stepped(&first, &moment(start(), &wanted));
    let both = announced.bundle();
    assert_eq!((stage(&announced), both.roots.len()), ("announced", 2));
    assert_eq!(both.roots[0], old.roots[0]);
    assert!(both.revision > old.revision);
    let still = issue(&announced, ORDERS, start()).chain;
    proves(&still, &old, start()).expect("the old root still signs");

    let (retiring, now) = at_stage(&announced, start(), &wanted, "retiring");
    let waited = now.duration_since(start()).unwrap();
    assert!(waited >= LEAF_LIFE + MARGIN, "{waited:?}");
    assert_eq!(retiring.bundle(), both);
    let issued = issue(&retiring, ORDERS, now).chain;
    assert!(proves(&issued, &old, now).is_err(), "the next root signs");
    proves(&issued, &both, now).unwrap();
    let last_of_the_old = issue(&announced, ORDERS, now + LOOK);

    let (settled, end) = at_stage(&retiring, now, &wanted, "settled");
    assert!(end > last_of_the_old.expires, "its last leaf has ended");
    let alone = settled.bundle();
    assert_eq!(alone.roots, both.roots[1..]);
    assert!(alone.revision > both.revision);
    let stolen = issue(&announced, ORDERS, end).chain;
    assert!(proves(&stolen, &alone, end).is_err(), "the old root's leaf");
    let text = settled.to_text();
    let root = first.signing().own.as_ref().unwrap();
    let key = pem_block("PRIVATE KEY", root.key_der.secret_der());
    let key = key.replace('\n', "\\n");
    assert!(
        first.to_text().contains(&key) && !text.contains(&key),
        "its key is gone"
    );
}

#[test]
fn a_request_is_carried_out_once_and_one_meanwhile_by_the_rotation_under_way() {
    let (first, wanted) = (made(start()), asked("1"));
    let all = stepped(&first, &moment(start(), &wanted));
    let roots = all.bundle();
    let all = stepped(&all, &moment(start() + LOOK, &asked("2")));
    assert_eq!(all.bundle(), roots, "no other is begun");
    let (all, now) = at_stage(&all, start(), &asked("2"), "retiring");
    let (all, now) = at_stage(&all, now, &asked("3"), "settled");
    for request in ["3", "3"] {
        let same = all.stepped(&moment(now + DAY, &asked(request))).unwrap();
        assert!(same.is_none(), "{request} was carried out");
    }
    assert!(all.stepped(&moment(now + DAY, &OWN)).unwrap().is_none());
    let again = stepped(&all, &moment(now + DAY, &asked("4")));
    assert_eq!(stage(&again), "announced");
}

#[test]
fn a_root_is_followed_when_a_fifth_of_its_life_is_left() {
    let first = made(start());
    let early = moment(start() + 8 * YEAR - 2 * DAY, &OWN);
    assert_eq!(stage(&stepped(&first, &early)), "settled");
    let due = moment(start() + 8 * YEAR + DAY, &OWN);
    assert_eq!(stage(&stepped(&first, &due)), "announced");

    let month = Moment {
        root_life: MIN_ROOT_LIFE,
        ..moment(start(), &OWN)
    };
    let first = Authorities::first(&month).unwrap();
    let due = moment(start() + 25 * DAY, &OWN);
    let next = stepped(&first, &due);
    assert_eq!(stage(&next), "announced");
    let left = next.signing().left(due.now);
    assert!(left > LEAF_LIFE, "what signs has time for it: {left:?}");
}

#[test]
fn as_long_as_a_sidecar_has_not_acknowledged_the_next_root_it_does_not_sign() {
    let (first, wanted) = (made(start()), asked("1"));
    let mut all = stepped(&first, &moment(start(), &wanted));
    let mut now = start() + LEAF_LIFE;
    for _ in 0..1000 {
        now += LOOK;
        for lagging in [Some(1), None] {
            let lagging = Moment {
                lagging,
                ..moment(now, &wanted)
            };
            all = stepped(&all, &lagging);
        }
        assert_eq!(stage(&all), "announced");
    }
    all = stepped(&all, &moment(now, &wanted));
    assert_eq!(stage(&all), "retiring", "it has at last");
}

#[test]
fn a_replica_whose_sidecars_lag_holds_the_others_until_it_is_ready_or_gone() {
    let (first, wanted) = (made(start()), asked("1"));
    let announced = stepped(&first, &moment(start(), &wanted));
    let ready = |now| moment(now, &wanted);
    let lags = |now| Moment {
        lagging: Some(3),
        replica: "two",
        ..moment(now, &wanted)
    };
    let mut all = announced;
    let mut now = start() + LEAF_LIFE;
    let mut writes = 0;
    for _ in 0..30 {
        writes += usize::from(all.stepped(&lags(now)).unwrap().is_some());
        all = stepped(&all, &lags(now));
        now += LOOK;
        all = stepped(&all, &ready(now));
        assert_eq!(stage(&all), "announced");
    }
    assert!(writes <= 16, "not with each look: {writes}");
    // Replica two has been killed.
    let (retiring, after) = at_stage(&all, now, &wanted, "retiring");
    assert!(after.duration_since(now).unwrap() <= MARGIN + LOOK);
    assert!(retiring.holds.is_empty());
}

#[test]
fn whichever_replica_looks_and_ends_after_whichever_step_all_go_on_with_the_same() {
    let root = |all: &Authorities| all.signing().roots.clone();
    let wanted = asked("1");
    let mut all = made(start());
    let (mut now, mut seen) = (start(), vec![stage(&all)]);
    let mut random = 7_u64;
    while seen.len() < 4 {
        // Two look at the same time: what the second writes is of a version that is no more.
        let one = all.stepped(&moment(now, &wanted)).unwrap();
        let two = Moment {
            replica: "two",
            ..moment(now, &wanted)
        };
        assert_eq!(one.is_some(), all.stepped(&two).unwrap().is_some());
        if let Some(one) = one {
            all = Authorities::from_text(&one.to_text()).unwrap();
        }
        if stage(&all) != seen[seen.len() - 1] {
            seen.push(stage(&all));
        }
        // Then nobody is there for up to an hour.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        now += Duration::from_secs(20 + (random >> 33) % 3600);
        let before = root(&all);
        let again = Authorities::from_text(&all.to_text()).unwrap();
        assert_eq!((root(&again), again.bundle()), (before, all.bundle()));
    }
    assert_eq!(seen, ["settled", "announced", "retiring", "settled"]);
}

#[test]
fn at_every_moment_every_leaf_in_force_is_proved_to_whoever_has_one() {
    let wanted = asked("1");
    let mut all = made(start());
    // Leaves, and the bundle that their sidecars were told of with them.
    let mut sidecars: Vec<(Issued, TrustBundle)> = Vec::new();
    let mut now = start();
    for hour in (0..80).step_by(3) {
        all = stepped(&all, &moment(now, &wanted));
        sidecars.push((issue(&all, ORDERS, now), all.bundle()));
        sidecars.retain(|(leaf, _)| leaf.expires > now);
        for (leaf, _) in &sidecars {
            for (_, told) in &sidecars {
                // Those that are connected have the newest bundle; the others that of their leaf.
                for bundle in [told, &all.bundle()] {
                    let good = proves(&leaf.chain, bundle, now);
                    assert!(good.is_ok(), "hour {hour}, {}: {good:?}", stage(&all));
                }
            }
        }
        for (_, told) in &sidecars {
            serves(&all, told, now).unwrap();
        }
        now += Duration::from_secs(3 * 3600);
    }
    assert_eq!((stage(&all), all.proofs.len()), ("settled", 1));
}

#[test]
fn who_knows_an_old_root_alone_still_knows_the_operator() {
    let mut all = made(start());
    let mut now = start();
    let mut bundles = vec![all.bundle()];
    for rotation in 1..=6_usize {
        let wanted = asked(&rotation.to_string());
        (all, now) = at_stage(&all, now, &wanted, "announced");
        for old in bundles.iter().rev().take(MAX_PROOFS) {
            serves(&all, old, now).unwrap();
        }
        (all, now) = at_stage(&all, now, &wanted, "retiring");
        (all, now) = at_stage(&all, now, &wanted, "settled");
        // A pod that was injected long ago, and whose node was started anew.
        for (age, old) in bundles.iter().rev().enumerate().take(MAX_PROOFS) {
            let known = serves(&all, old, now);
            assert!(known.is_ok(), "rotation {rotation}, {age}: {known:?}");
            let leaf = issue(&all, ORDERS, now);
            assert!(proves(&leaf.chain, old, now).is_err(), "the operator alone");
        }
        bundles.push(all.bundle());
    }
}

#[test]
fn leaves_that_were_signed_for_longer_are_waited_for() {
    let first = made(start());
    let hour = Duration::from_secs(3600);
    let wanted = asked("1");
    let short = |now| Moment {
        leaf_life: hour,
        ..moment(now, &wanted)
    };
    let issued = issue(&first, ORDERS, start());
    let mut all = stepped(&first, &short(start()));
    let mut now = start();
    while stage(&all) != "settled" {
        now += Duration::from_secs(60);
        all = stepped(&all, &short(now));
        if now < issued.expires {
            proves(&issued.chain, &all.bundle(), now).unwrap();
        }
    }
    let took = now.duration_since(start()).unwrap();
    assert!(took < LEAF_LIFE + 3 * hour, "and no longer: {took:?}");
}

#[test]
fn in_thirty_years_there_is_never_a_day_without_a_good_chain() {
    let mut all = made(start());
    let mut revision = 0;
    for day in 0..30 * 365 {
        let now = start() + day * DAY;
        // What a sidecar that was away for a day still trusts.
        let before = all.bundle();
        all = all.stepped(&moment(now, &OWN)).unwrap().unwrap_or(all);
        // Most days nothing changes, and signing takes a while.
        if day % 30 == 0 || stage(&all) != "settled" {
            let issued = issue(&all, ORDERS, now);
            assert!(issued.expires >= now + LEAF_LIFE, "day {day}");
            proves(&issued.chain, &before, now).unwrap();
            serves(&all, &before, now).unwrap();
        }
        let bundle = all.bundle();
        assert!(bundle.revision >= revision, "day {day}: it goes back");
        revision = bundle.revision;
    }
}

#[test]
fn what_is_kept_is_read_as_it_was_written() {
    let wanted = asked("1");
    let mut all = made(start());
    let mut now = start();
    for until in ["announced", "retiring", "settled"] {
        (all, now) = at_stage(&all, now, &wanted, until);
        let read = Authorities::from_text(&all.to_text()).unwrap();
        assert_eq!(read.to_text(), all.to_text());
        assert_eq!(read.bundle(), all.bundle());
        let nothing = read.stepped(&moment(now, &wanted)).unwrap();
        assert!(nothing.is_none(), "nothing is due only because it was read");
    }
}

#[test]
fn what_was_kept_before_there_were_rotations_goes_on_with_the_same_root() {
    let of_old = |lines: &[&Line]| -> String {
        let roots = lines.iter().map(|line| line.own.as_ref().unwrap());
        let blocks = roots.chain([&lines[0].signer]).map(|one| {
            pem_block("CERTIFICATE", &one.certificate)
                + &pem_block("PRIVATE KEY", one.key_der.secret_der())
        });
        blocks.collect()
    };
    let line = Line::made(start(), ROOT_LIFE).unwrap();
    let read = Authorities::from_text(&of_old(&[&line])).unwrap();
    assert_eq!(stage(&read), "settled");
    assert_eq!(read.bundle().roots, line.roots);
    assert_eq!(read.signing().between, line.between);
    assert!(
        read.stepped(&moment(start() + DAY, &OWN))
            .unwrap()
            .is_none()
    );

    let next = Line::made(start() + 8 * YEAR, ROOT_LIFE).unwrap();
    let later = Authorities::from_text(&of_old(&[&line, &next])).unwrap();
    assert_eq!(stage(&later), "announced");
    assert_eq!(
        later.signing().roots,
        line.roots,
        "the old root still signs"
    );
    assert_eq!(later.bundle().roots, [line.roots, next.roots].concat());
    assert!(later.bundle().revision > read.bundle().revision);
}

#[test]
fn what_is_no_authority_is_refused_without_showing_it() {
    let (all, other) = (made(start()), made(start()));
    let text = all.to_text();
    let signer = |all: &Authorities| {
        let key = &all.signing().signer.key_der;
        pem_block("PRIVATE KEY", key.secret_der()).replace('\n', "\\n")
    };
    for broken in [
        "",
        "{}",
        "hello",
        "{\"form\":1,\"stage\":\"-----BEGIN PRIVATE KEY-----\"",
        &all.roots_pem(),
        &text.replace(&signer(&all), &signer(&other)),
        &text.replace("\"form\": 1", "\"form\": 2"),
        &text.replace("settled", "retiring"),
        &text[..text.len() / 2],
    ] {
        let Err(error) = Authorities::from_text(broken) else {
            panic!("{broken} was taken")
        };
        let said = format!("{error} {error:?}");
        assert!(!said.contains("PRIVATE") && said.len() < 400, "{said}");
    }
}

#[tokio::test]
async fn what_another_replica_wrote_is_taken_over_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    let (mut bundle, mut serving) = (one.bundle(), one.serving());
    bundle.borrow_and_update();
    serving.mark_unchanged();
    std::fs::write(folder.path().join(store::REQUEST), "now\n").unwrap();
    let now = SystemTime::now();

    two.refresh(now, |_| Some(0)).await.unwrap();
    one.refresh(now, |_| Some(0)).await.unwrap();

    assert!(bundle.has_changed().unwrap() && serving.has_changed().unwrap());
    assert_eq!(*bundle.borrow(), *two.bundle().borrow());
    assert_eq!(bundle.borrow().roots.len(), 2);
    let pem = std::fs::read_to_string(folder.path().join(store::ROOTS)).unwrap();
    assert_eq!(pem, bundle.borrow().to_pem());
    let report = one.report().unwrap();
    assert_eq!(report.stage, "announced");
    assert_eq!(report.request.as_deref(), Some("now"));
    assert_eq!(report.certificates, two.report().unwrap().certificates);
}

#[tokio::test]
async fn a_replica_that_has_not_seen_the_keys_for_a_while_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    ca.issue(&key(), &workload()).unwrap();
    if let Some(current) = ca.lock().as_mut() {
        let long = ca.margin() + Duration::from_secs(1);
        current.seen = Instant::now().checked_sub(long).unwrap();
    }
    let refused = ca.issue(&key(), &workload());
    assert!(matches!(refused, Err(Error::Stale)), "{refused:?}");
    ca.issue_operator().unwrap();
    ca.refresh(SystemTime::now(), |_| None).await.unwrap();
    ca.issue(&key(), &workload()).unwrap();
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_a_problem_until_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    assert!(!ca.has_problem());
    let path = folder.path().join(store::AUTHORITY);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{}").unwrap();
    assert!(ca.refresh(SystemTime::now(), |_| None).await.is_err());
    ca.issue(&key(), &workload()).unwrap();
    std::fs::write(&path, good).unwrap();
    ca.refresh(SystemTime::now(), |_| None).await.unwrap();
    assert!(!ca.has_problem());
}
