//! What is said of certificates long before they end.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use operator::ca::{Certificate, Report};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// It is told when so much is left, or less for what is short-lived: what renews by itself has done so
/// before.
const TOLD: (Duration, u32) = (DAY.saturating_mul(30), 6);
/// And it is wrong when so much is left.
const WRONG: (Duration, u32) = (DAY.saturating_mul(7), 20);
/// Clocks further apart than this are told of.
const CLOCKS: Duration = Duration::from_secs(60);

/// What is wrong with certificates and what has to be known, in sentences.
pub(crate) fn findings(report: &Report, now: SystemTime) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut notes) = (Vec::new(), Vec::new());
    if let Some(problem) = &report.problem {
        wrong.push(problem.clone());
    }
    // By the operator's own clock, which is the one that counts.
    let there = time(&report.now).unwrap_or(now);
    for one in report
        .certificates
        .iter()
        .filter(|one| one.part != "previous")
    {
        let (Some(begins), Some(ends)) = (time(&one.begins), time(&one.ends)) else {
            continue;
        };
        let life = ends.duration_since(begins).unwrap_or_default();
        let left = ends.duration_since(there).unwrap_or_default();
        if left <= WRONG.0.min(life / WRONG.1) {
            wrong.push(sentence(one, left, &report.authority));
        } else if left <= TOLD.0.min(life / TOLD.1) {
            notes.push(sentence(one, left, &report.authority));
        }
    }
    let apart = now
        .duration_since(there)
        .unwrap_or_else(|error| error.duration());
    if apart > CLOCKS {
        notes.push(format!(
            "the operator's clock and this one are {} s apart: where clocks differ by more than 300 s, \
             certificates are refused that were just issued",
            apart.as_secs()
        ));
    }
    (wrong, notes)
}

fn sentence(one: &Certificate, left: Duration, authority: &str) -> String {
    let what = format!("the mesh's {} ({})", one.kind, one.subject);
    let remedy = match (authority == super::OURS, one.kind.as_str()) {
        (true, "root") => "rotate with `meshwright certificates rotate`".to_owned(),
        (true, _) => "the operator should have renewed it: its log says why not".to_owned(),
        (false, _) => format!("have it renewed by whoever writes {authority}"),
    };
    match left.as_secs() / DAY.as_secs() {
        _ if left.is_zero() => format!(
            "{what} has ended at {}, and no call between workloads succeeds: {remedy}",
            one.ends
        ),
        0 => format!("{what} ends within a day, at {}: {remedy}", one.ends),
        days => format!("{what} ends in {days} days, at {}: {remedy}", one.ends),
    }
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(authority: &str, kind: &str, days: (i64, i64)) -> Report {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let at = |days: i64| Timestamp::from_second(now.as_second() + days * 86_400).unwrap();
        serde_json::from_value(json!({
            "now": now.to_string(), "authority": authority, "stage": "settled", "message": "",
            "certificates": [{
                "kind": kind, "part": "signs", "subject": "CN=one", "fingerprint": "00",
                "begins": at(days.0).to_string(), "ends": at(days.1).to_string(),
            }],
        }))
        .unwrap()
    }

    fn said(report: &Report) -> (Vec<String>, Vec<String>) {
        findings(report, time(&report.now).unwrap())
    }

    #[test]
    fn the_end_of_a_root_is_told_a_month_before_and_wrong_a_week_before() {
        let days = |left| said(&report("Meshwright", "root", (left - 3650, left)));
        assert_eq!(days(31), (vec![], vec![]));
        let (wrong, notes) = days(30);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(
            notes[0].contains("ends in 30 days, at 2026-01-31"),
            "{notes:?}"
        );
        assert!(
            notes[0].ends_with("`meshwright certificates rotate`"),
            "{notes:?}"
        );
        let (wrong, notes) = days(7);
        assert!(
            notes.is_empty() && wrong[0].contains("ends in 7 days"),
            "{wrong:?}"
        );
        let (wrong, _) = days(-1);
        assert!(wrong[0].contains("has ended at 2025-12-31"), "{wrong:?}");
    }

    #[test]
    fn what_is_short_lived_and_renewed_in_time_is_not_told() {
        // cert-manager renews 90 days when 30 are left.
        let theirs = "the Secret meshwright-system/mesh-ca";
        let days = |left| said(&report(theirs, "intermediate", (left - 90, left)));
        assert_eq!(days(29), (vec![], vec![]));
        let (_, notes) = days(15);
        assert!(
            notes[0].ends_with("whoever writes the Secret meshwright-system/mesh-ca"),
            "{notes:?}"
        );
        let (wrong, _) = days(4);
        assert!(wrong[0].contains("ends in 4 days"), "{wrong:?}");
    }

    #[test]
    fn clocks_that_differ_by_more_than_a_minute_are_told_of() {
        let report = report("Meshwright", "root", (-1, 3650));
        let now = time(&report.now).unwrap();
        for (clock, apart) in [
            (now, None),
            (now + CLOCKS, None),
            (now + CLOCKS * 2, Some("120 s apart")),
            (now - CLOCKS * 2, Some("120 s apart")),
        ] {
            let (wrong, notes) = findings(&report, clock);
            assert!(wrong.is_empty());
            assert_eq!(notes.len(), usize::from(apart.is_some()), "{notes:?}");
            assert!(
                notes.iter().all(|note| note.contains(apart.unwrap())),
                "{notes:?}"
            );
        }
    }
}
