//! A rotation that a sidecar holds.

use super::rotation::{asked, stage, stepped};
use super::*;

#[test]
fn a_sidecar_that_refuses_the_next_root_holds_it_for_two_lives_of_a_leaf_and_no_longer() {
    let (first, wanted) = (made(start()), asked("1"));
    let mut all = stepped(&first, &moment(start(), &wanted));
    let refused = |now| Moment {
        lagging: Some(1),
        ..moment(now, &wanted)
    };
    let mut now = start();
    let step = loop {
        now += Duration::from_secs(60);
        let Some(step) = all.stepped(&refused(now)).unwrap() else {
            continue;
        };
        if stage(&step) == "retiring" {
            break step;
        }
        assert!(!all.leaves_some(&step, &refused(now)));
        all = step;
    };
    let waited = now.duration_since(start()).unwrap();
    let held = 3 * LEAF_LIFE + MARGIN;
    assert!(
        waited >= held && waited < held + Duration::from_secs(120),
        "{waited:?}"
    );
    assert!(all.leaves_some(&step, &refused(now)), "and it is told");
}

#[tokio::test]
async fn whoever_has_not_acknowledged_the_root_that_signs_is_counted_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    std::fs::write(folder.path().join(store::REQUEST), "now\n").unwrap();
    let begun = SystemTime::now();
    ca.refresh(begun, |_| Some(2)).await.unwrap();
    ca.refresh(begun, |_| Some(2)).await.unwrap();
    let report = ca.report().unwrap();
    assert_eq!(
        (report.stage.as_str(), report.waiting),
        ("announced", Some(2))
    );
    assert!(report.latest > report.until, "{report:?}");
    let late = begun + 3 * LEAF_LIFE + ca.margin() + Duration::from_secs(1);
    for (lagging, waiting) in [(2, Some(2)), (0, None)] {
        ca.refresh(late, |_| Some(lagging)).await.unwrap();
        let report = ca.report().unwrap();
        assert_eq!(
            (report.stage.as_str(), report.waiting),
            ("retiring", waiting)
        );
        assert_eq!(report.latest, None);
    }
}
