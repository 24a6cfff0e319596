//! How it goes with an EventSubscription: the condition `Ready`, and figures.

use crds::event_subscription::{EventError, ReplayPhase, ReplayStatus};
use crds::status::{ConditionType, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wire::discovery::{EventFailure, ReplayReport};

use super::ReportedCondition;
use crate::push::EventsReport;

/// What a status of HTTP may be: with another one, which a sidecar may say, no status could be written.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// How it goes with the events of an EventSubscription, as `GET /verdicts` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// How many sidecars have said how it goes.
    pub sidecars: usize,
    /// How many of these deliver.
    pub delivering: usize,
    /// In order: the pod whose sidecar delivers, as `namespace/pod`; none where nobody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// Events that were not delivered yet; none where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Events that were, and are not done; none where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacknowledged: Option<u64>,
    /// Events that are being delivered.
    pub in_flight: u64,
    /// What became a dead letter, since these sidecars began.
    pub dead_lettered: u64,
    /// The last delivery that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<EventError>,
    /// How it goes with what is delivered once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
}

// === impl Figures ===

impl From<&EventsReport> for Figures {
    fn from(report: &EventsReport) -> Self {
        Self {
            sidecars: report.sidecars,
            delivering: report.delivering,
            active: Some(report.chosen.clone()).filter(|pod| !pod.is_empty()),
            lag: report.lag.map(|lag| lag.waiting),
            unacknowledged: report.lag.map(|lag| lag.unacknowledged),
            in_flight: report.in_flight,
            dead_lettered: report.dead_lettered,
            last_error: report.failure.as_ref().map(error),
            replay: report.replay.as_ref().map(replay),
        }
    }
}

/// A delivery that failed.
fn error(failure: &EventFailure) -> EventError {
    let at = i64::try_from(failure.at_ms).unwrap_or(i64::MAX);
    // Kubernetes keeps whole seconds.
    let at = Timestamp::from_second(at / 1000).unwrap_or_default();
    let code = u16::try_from(failure.status).ok();
    EventError {
        code: code.filter(|code| STATUSES.contains(code)),
        reason: failure.reason.clone(),
        time: at.to_string(),
    }
}

/// A number as every reader of JSON has it exactly.
pub(crate) fn in_a_status(number: u64) -> i64 {
    const LARGEST: i64 = (1 << 53) - 1;
    i64::try_from(number).unwrap_or(LARGEST).min(LARGEST)
}

/// How it goes with what is delivered once more.
fn replay(report: &ReplayReport) -> ReplayStatus {
    ReplayStatus {
        request: report.request.clone(),
        phase: match report.finished {
            true => ReplayPhase::Done,
            false => ReplayPhase::Running,
        },
        done: in_a_status(report.done),
        failed: in_a_status(report.failed),
        message: Some(report.why.clone()).filter(|why| !why.is_empty()),
    }
}

/// The condition that only those who carry it out can tell; `sidecars`: how many should.
pub(super) fn ready(accepted: bool, report: &EventsReport, sidecars: usize) -> ReportedCondition {
    let (status, reason, message) = match report {
        _ if !accepted => (
            "False",
            Reason::NotAccepted,
            "there is nothing to deliver".to_owned(),
        ),
        EventsReport { sidecars: 0, .. } if sidecars == 0 => (
            "False",
            Reason::NotCarriedOut,
            "no sidecar carries it out: no pod that it is for runs with one, and there is no pod of the Deployment \
             meshwright-events either, which the chart installs with events.replicas"
                .to_owned(),
        ),
        EventsReport { sidecars: 0, .. } => (
            "Unknown",
            Reason::Pending,
            "no sidecar that would deliver has said how it goes".to_owned(),
        ),
        report if report.delivering > 0 => ("True", Reason::Ready, some(report)),
        report if report.gone > 0 => (
            "False",
            Reason::TargetGone,
            "the target answered 410: nothing is delivered until the object is written anew"
                .to_owned(),
        ),
        report if report.suspended > 0 => (
            "False",
            Reason::Suspended,
            "spec.suspend is true: events stay in the broker".to_owned(),
        ),
        report if report.nobody == report.sidecars && report.why.is_empty() => (
            "False",
            Reason::NoTarget,
            match report.lag {
                Some(_) => "no pod that it is for runs with a sidecar: what waits is counted",
                None => "no pod that it is for runs with a sidecar",
            }
            .to_owned(),
        ),
        report => ("False", Reason::NotDelivering, why(report)),
    };
    ReportedCondition {
        type_: ConditionType::Ready.to_string(),
        status: status.to_owned(),
        reason: reason.to_string(),
        message,
    }
}

fn some(report: &EventsReport) -> String {
    let EventsReport {
        sidecars,
        delivering,
        ..
    } = report;
    match delivering < sidecars {
        true => format!(
            "{delivering} of {sidecars} sidecars deliver; another: {}",
            why(report)
        ),
        false => String::new(),
    }
}

fn why(report: &EventsReport) -> String {
    match report.why.as_str() {
        "" => "the sidecar has not joined the group yet".to_owned(),
        why => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wire::discovery::EventLag;

    use super::*;

    fn told(accepted: bool, report: &EventsReport) -> (String, String, String) {
        told_of(accepted, report, 2)
    }

    fn told_of(accepted: bool, report: &EventsReport, sidecars: usize) -> (String, String, String) {
        let ReportedCondition {
            status,
            reason,
            message,
            ..
        } = ready(accepted, report, sidecars);
        (status, reason, message)
    }

    fn is(status: &str, reason: &str, message: &str) -> (String, String, String) {
        (status.to_owned(), reason.to_owned(), message.to_owned())
    }

    #[test]
    fn it_is_ready_when_somebody_delivers_and_says_who_does_not() {
        let mut report = EventsReport {
            sidecars: 2,
            delivering: 2,
            ..EventsReport::default()
        };
        assert_eq!(told(true, &report), is("True", "Ready", ""));
        report.delivering = 1;
        report.why = "the broker is away".to_owned();
        let message = "1 of 2 sidecars deliver; another: the broker is away";
        assert_eq!(told(true, &report), is("True", "Ready", message));
        report.delivering = 0;
        let message = "the broker is away";
        assert_eq!(told(true, &report), is("False", "NotDelivering", message));
        report.gone = 1;
        assert_eq!(told(true, &report).1, "TargetGone");
    }

    #[test]
    fn what_nobody_has_said_is_unknown_and_what_is_refused_is_not_ready() {
        let nobody = EventsReport::default();
        assert_eq!(told(true, &nobody).0, "Unknown");
        assert_eq!(told(false, &nobody).1, "NotAccepted");
        let suspended = EventsReport {
            sidecars: 1,
            suspended: 1,
            ..EventsReport::default()
        };
        assert_eq!(told(true, &suspended).1, "Suspended");
    }

    #[test]
    fn that_nobody_is_there_to_deliver_to_is_no_failure_and_that_nobody_counts_is() {
        let mut counted = EventsReport {
            sidecars: 1,
            nobody: 1,
            why: "the broker is away".to_owned(),
            ..EventsReport::default()
        };
        let message = "the broker is away";
        assert_eq!(told(true, &counted), is("False", "NotDelivering", message));
        counted.why.clear();
        let message = "no pod that it is for runs with a sidecar";
        assert_eq!(told(true, &counted), is("False", "NoTarget", message));
        counted.lag = Some(EventLag::default());
        let message = "no pod that it is for runs with a sidecar: what waits is counted";
        assert_eq!(told(true, &counted), is("False", "NoTarget", message));
        let nobody = EventsReport::default();
        assert_eq!(told_of(true, &nobody, 0).1, "NotCarriedOut");
        assert_eq!(told_of(true, &nobody, 1).0, "Unknown");
        assert_eq!(told_of(false, &nobody, 0).1, "NotAccepted");
    }

    #[test]
    fn figures_have_what_is_known() {
        let figures = Figures::from(&EventsReport {
            lag: Some(EventLag {
                waiting: 3,
                unacknowledged: 1,
            }),
            failure: Some(EventFailure {
                status: 0,
                reason: "NoAnswer".to_owned(),
                at_ms: 1_500,
            }),
            ..EventsReport::default()
        });
        assert_eq!((figures.lag, figures.unacknowledged), (Some(3), Some(1)));
        // One that no status may have is left out.
        let wrong = EventFailure {
            status: 999,
            ..EventFailure::default()
        };
        assert_eq!(error(&wrong).code, None);
        let failure = figures.last_error.unwrap();
        assert_eq!(
            (failure.code, &*failure.time),
            (None, "1970-01-01T00:00:01Z")
        );
    }
}
