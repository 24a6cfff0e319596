use super::*;
use crate::proxy::error::Reason;
use crate::telemetry::metrics::text::Format;
use crate::telemetry::metrics::{Code, CodeClass, GrpcStatus, ReasonLabel, Shared};
use http::StatusCode;

fn labels(source: &str, status: u16) -> RequestLabels {
    let status = Some(StatusCode::from_u16(status).unwrap());
    RequestLabels {
        direction: Direction::inbound,
        source: Source::Workload(source.parse().unwrap()),
        service: Shared("shop/orders".into()),
        route: Shared("shop/orders".into()),
        rule: Shared("canary".into()),
        code_class: CodeClass::of(status),
        code: Code::of(status),
        grpc_status: GrpcStatus::None,
        reason: ReasonLabel(None),
    }
}

fn caller(number: usize) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/caller-{number}")
}

fn worker() -> (Arc<Metrics>, RequestMetrics) {
    let metrics = Arc::new(Metrics::new());
    let worker = RequestMetrics::new(metrics.clone());
    (metrics, worker)
}

fn end(worker: &RequestMetrics, labels: RequestLabels) {
    worker.begun(labels.direction);
    let ended = Ended {
        duration: Duration::from_millis(3),
        request_bytes: 10,
        response_bytes: 100,
    };
    worker.ended(labels, ended);
}

fn value(metrics: &Metrics, series: &str) -> Option<u64> {
    let text = metrics.render(Format::Classic);
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[test]
fn a_request_is_counted_with_its_caller_route_status_and_reason() {
    let (metrics, worker) = worker();
    let mut labels = labels(&caller(1), 504);
    labels.reason = ReasonLabel(Some(Reason::RequestTimeout));
    worker.begun(Direction::inbound);
    end(&worker, labels.clone());
    end(&worker, labels);
    let flow = r#"direction="inbound",source="shop/caller-1",service="shop/orders",route="shop/orders",rule="canary",code_class="5xx""#;
    for (series, expected) in [
        (
            format!(
                r#"meshwright_requests_total{{{flow},code="504",grpc_status="",reason="request_timeout"}}"#
            ),
            2,
        ),
        (
            format!(
                r#"meshwright_request_duration_seconds_bucket{{le="0.005",{flow},reason="request_timeout"}}"#
            ),
            2,
        ),
        (
            format!(r#"meshwright_request_body_bytes_total{{{flow},reason="request_timeout"}}"#),
            20,
        ),
        (
            format!(r#"meshwright_response_body_bytes_total{{{flow},reason="request_timeout"}}"#),
            200,
        ),
        (
            r#"meshwright_requests_in_flight{direction="inbound"}"#.into(),
            1,
        ),
    ] {
        let text = metrics.render(Format::Classic);
        assert_eq!(value(&metrics, &series), Some(expected), "{series}: {text}");
    }
}

#[test]
fn a_status_or_grpc_status_that_an_application_makes_up_is_no_label_of_its_own() {
    let (metrics, worker) = worker();
    for status in 200..1000 {
        end(&worker, labels(&caller(1), status));
    }
    let text = metrics.render(Format::Classic);
    let lines = text
        .lines()
        .filter(|line| line.starts_with("meshwright_requests_total"));
    assert!(lines.count() < 80, "{text}");
    assert!(text.contains(r#"code_class="2xx",code="204""#));
    assert!(text.contains(r#"code_class="2xx",code="other""#));
    assert!(text.contains(r#"code_class="other",code="other""#));
    let grpc = |status: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-status", http::HeaderValue::from_static(status));
        GrpcStatus::of(&headers)
    };
    assert_eq!(grpc("16"), Some(GrpcStatus::Known(16)));
    assert_eq!(grpc("17"), Some(GrpcStatus::Other));
    assert_eq!(grpc("-1"), Some(GrpcStatus::Other));
    assert_eq!(GrpcStatus::of(&http::HeaderMap::new()), None);
}

#[test]
fn of_too_many_series_the_callers_become_other_and_none_is_lost() {
    let (metrics, worker) = worker();
    let callers = MAX_REQUEST_SERIES + 300;
    for number in 0..callers {
        end(&worker, labels(&caller(number), 200));
    }
    let counted: Vec<_> = metrics.requests.counted().collect();
    assert_eq!(counted.len(), MAX_REQUEST_SERIES + 1);
    let all: u64 = counted.iter().map(|(_, count)| count).sum();
    assert_eq!(all, callers as u64);
    let other = counted
        .iter()
        .find(|(labels, _)| labels.source == Source::Other);
    assert_eq!(other.unwrap().1, 300);
    // The histograms were fewer from the beginning.
    let overflow = (callers - MAX_FLOW_SERIES) as u64;
    assert_eq!(
        value(&metrics, "meshwright_series_overflow_total"),
        Some(overflow)
    );
}

#[test]
fn whatever_the_labels_are_there_is_a_last_bound() {
    let (metrics, worker) = worker();
    for number in 0..2 * MAX_REQUEST_SERIES {
        let mut labels = labels(&caller(number), 200);
        labels.service = Shared(format!("shop/{number}").into());
        end(&worker, labels);
    }
    let counted: Vec<_> = metrics.requests.counted().collect();
    assert_eq!(counted.len(), MAX_REQUEST_SERIES / 4 * 5 + 1);
    let all: u64 = counted.iter().map(|(_, count)| count).sum();
    assert_eq!(all, 2 * MAX_REQUEST_SERIES as u64);
}

#[tokio::test(start_paused = true)]
async fn a_series_that_is_idle_for_ten_minutes_is_dropped_and_one_that_is_not_stays() {
    let (metrics, worker) = worker();
    let sweeping = tokio::spawn(metrics.clone().drop_idle());
    let (idle, busy) = (labels(&caller(1), 200), labels(&caller(2), 200));
    end(&worker, idle.clone());
    for _ in 0..13 {
        end(&worker, busy.clone());
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let counted = |labels: &RequestLabels| {
        let found = metrics
            .requests
            .counted()
            .find(|(found, _)| found == labels);
        found.map(|(_, count)| count)
    };
    assert_eq!(counted(&idle), None);
    assert_eq!(counted(&busy), Some(13));
    let text = metrics.render(Format::Classic);
    assert!(!text.contains("caller-1"), "{text}");
    // A worker that still holds it begins anew, where it is seen.
    end(&worker, idle.clone());
    end(&worker, idle.clone());
    assert_eq!(counted(&idle), Some(2));
    sweeping.abort();
}
