//! What is said of certificates long before they end.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use operator::ca::{Certificate, Report};

use super::told::{Page, Remedy, Told, remedy};
use crate::certificates::OURS;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// It is told when so much is left, or less for what is short-lived: what renews by itself has done so
/// before.
const TOLD: (Duration, u32) = (DAY.saturating_mul(30), 6);
/// And it is wrong when so much is left.
const WRONG: (Duration, u32) = (DAY.saturating_mul(7), 20);
/// Clocks further apart than this are told of.
const CLOCKS: Duration = Duration::from_secs(60);

/// What is wrong with certificates, and what has to be known.
pub(super) fn findings(report: &Report, now: SystemTime) -> Told {
    let mut told = Told::default();
    if let Some(problem) = &report.problem {
        let remedy = remedy!(
            "put that right, and `meshwright certificates status` says when the operator has seen it"
        );
        told.wrong(Page::CERTIFICATES, problem, remedy);
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
            told.wrong(
                Page::CERTIFICATES,
                end_of(one, left),
                renewed_by(one, &report.authority),
            );
        } else if left <= TOLD.0.min(life / TOLD.1) {
            told.note(
                Page::CERTIFICATES,
                end_of(one, left),
                renewed_by(one, &report.authority),
            );
        }
    }
    let apart = now
        .duration_since(there)
        .unwrap_or_else(|error| error.duration());
    if apart > CLOCKS {
        let what = format_args!(
            "the operator's clock and this one are {} s apart: where clocks differ by more than 300 s, \
             certificates are refused that were just issued",
            apart.as_secs()
        );
        told.note(
            Page::CERTIFICATES,
            what,
            remedy!("set the one that is wrong"),
        );
    }
    told
}

/// When it ends.
fn end_of(one: &Certificate, left: Duration) -> String {
    let what = format!("the mesh's {} ({})", one.kind, one.subject);
    match left.as_secs() / DAY.as_secs() {
        _ if left.is_zero() => format!(
            "{what} has ended at {}, and no call between workloads succeeds",
            one.ends
        ),
        0 => format!("{what} ends within a day, at {}", one.ends),
        days => format!("{what} ends in {days} days, at {}", one.ends),
    }
}

/// What has another take its place.
fn renewed_by(one: &Certificate, authority: &str) -> Remedy {
    match (authority == OURS, one.kind.as_str()) {
        (true, "root") => remedy!("rotate with `meshwright certificates rotate`"),
        (true, _) => remedy!("the operator should have renewed it: its log says why not"),
        (false, _) => remedy!("have it renewed by whoever writes {authority}"),
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
        findings(report, time(&report.now).unwrap()).parts()
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
            notes[0].contains(": rotate with `meshwright certificates rotate` (docs/"),
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
            notes[0].contains(
                ": have it renewed by whoever writes the Secret meshwright-system/mesh-ca ("
            ),
            "{notes:?}"
        );
        let (wrong, _) = days(4);
        assert!(wrong[0].contains("ends in 4 days"), "{wrong:?}");
    }

    #[test]
    fn what_the_operator_has_a_problem_with_is_wrong_in_its_words() {
        let mut report = report("Meshwright", "root", (-1, 3650));
        report.problem = Some("the Secret can't be used".to_owned());
        let (wrong, notes) = said(&report);
        assert!(notes.is_empty(), "{notes:?}");
        assert!(
            wrong[0].starts_with("the Secret can't be used: put that right, and "),
            "{wrong:?}"
        );
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
            let (wrong, notes) = findings(&report, clock).parts();
            assert!(wrong.is_empty());
            assert_eq!(notes.len(), usize::from(apart.is_some()), "{notes:?}");
            assert!(
                notes.iter().all(|note| note.contains(apart.unwrap())),
                "{notes:?}"
            );
        }
    }
}
