//! A request in words, and as JSON with the pod that saw it.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// The columns, the last of any width.
const TITLES: [&str; 10] = [
    "TIME", "SEEN BY", "WAY", "STATUS", "LATENCY", "METHOD", "REQUEST", "ROUTE", "REASON", "PEER",
];

/// How wide columns are to begin with: as what mostly stands in them.
const WIDTHS: [usize; 10] = [12, 7, 8, 6, 8, 6, 24, 24, 15, 4];

/// Wider than this a column doesn't become: one long path would move all that follows.
const WIDEST: usize = 48;

/// Columns that grow with what is in them.
#[derive(Debug)]
pub(super) struct Columns {
    widths: [usize; 10],
    titled: bool,
}

/// A request with the pod whose sidecar saw it, as JSON.
pub(super) fn with_pod(pod: &str, line: &str) -> String {
    let pod = json!(pod);
    match line.strip_prefix('{') {
        Some(rest) => format!("{{\"workload\":{pod},{rest}"),
        None => line.to_owned(),
    }
}

/// Requests that are not shown, as JSON.
pub(super) fn lost(pod: &str, requests: u64) -> String {
    json!({ "workload": pod, "lost": requests }).to_string()
}

// === impl Columns ===

impl Columns {
    /// For requests that these pods see.
    pub(super) fn of<'a>(pods: impl Iterator<Item = &'a str>) -> Self {
        let mut widths = WIDTHS;
        let longest = pods.map(|pod| pod.chars().count()).max();
        widths[1] = widths[1].max(longest.unwrap_or_default());
        Self {
            widths,
            titled: false,
        }
    }

    /// A request as a row, below the titles if it is the first.
    pub(super) fn row(&mut self, pod: &str, line: &str) -> String {
        let row = cells(pod, &serde_json::from_str(line).unwrap_or_default());
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count().min(WIDEST));
        }
        let row = self.line(row.iter().map(String::as_str));
        if self.titled {
            return row;
        }
        self.titled = true;
        format!("{}\n{row}", self.line(TITLES.into_iter()))
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (cell, width) in cells.zip(self.widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn cells(pod: &str, seen: &Value) -> [String; 10] {
    let text = |field: &str| seen[field].as_str().unwrap_or_default();
    let or_none = |text: String| match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    };
    // 2026-01-31T06:29:06.123456Z
    let time = text("time").split('T').nth(1).unwrap_or_default();
    let status = match (seen["status"].as_u64(), &seen["grpc_status"]) {
        (None | Some(0), _) => String::new(),
        (Some(status), Value::Null) => status.to_string(),
        (Some(status), grpc) => format!("{status} grpc {}", bare(grpc)),
    };
    // How it ended, where there is no reason to name.
    let mut reason = match (text("reason"), text("outcome"), text("cache")) {
        ("", "complete", "" | "miss" | "bypass") => String::new(),
        ("", "complete", cached) => format!("cache {cached}"),
        ("", outcome, _) => outcome.to_owned(),
        (reason, _, _) => reason.to_owned(),
    };
    if reason.is_empty()
        && let once @ ("unkept" | "released" | "replayed" | "unprotected") = text("idempotency")
    {
        reason = once.to_owned();
    }
    if let Some(attempts @ 2..) = seen["attempts"].as_u64() {
        let after = match text("retried_after") {
            "" => String::new(),
            after => format!(", after {after}"),
        };
        reason = format!("{reason} ({attempts} tries{after})");
    }
    let route = [text("route"), text("rule")];
    let peer = match text("direction") {
        "inbound" => workload_of(text("source")),
        _ => text("endpoint").to_owned(),
    };
    [
        time.chars().take(12).collect(),
        pod.to_owned(),
        text("direction").to_owned(),
        or_none(status),
        latency(seen["duration_us"].as_u64().unwrap_or_default()),
        text("method").to_owned(),
        format!("{}{}", text("host"), text("path")),
        or_none(route.join(" ").trim().to_owned()),
        or_none(reason.trim_start().to_owned()),
        or_none(peer),
    ]
}

/// The namespace and service account of a SPIFFE id, whose trust domain all have in common.
fn workload_of(identity: &str) -> String {
    let mut parts = identity.split('/').skip(3);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("ns"), Some(namespace), Some("sa"), Some(account)) => {
            format!("{namespace}/{account}")
        }
        _ => identity.to_owned(),
    }
}

fn latency(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!(
            "{}.{:02} s",
            micros / 1_000_000,
            micros % 1_000_000 / 10_000
        ),
    }
}

fn bare(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-01-31T06:29:06.123456Z","direction":"outbound","method":"GET","host":"orders","path":"/1","service":"shop/orders","route":"shop/orders","rule":"all","endpoint":"shop/orders-0","status":200,"outcome":"complete","attempts":1,"duration_us":1234}"#;

    #[test]
    fn a_request_is_a_row_below_titles_and_columns_hold_their_places() {
        let mut columns = Columns::of(["shop/web-0"].into_iter());
        let first = columns.row("shop/web-0", LINE);
        let refused = r#"{"time":"2026-01-31T06:29:07.000001Z","direction":"inbound","method":"POST","host":"orders","path":"/2","source":"spiffe://cluster.local/ns/shop/sa/web","status":503,"grpc_status":14,"reason":"no_endpoints","outcome":"complete","duration_us":2345678}"#;
        let second = columns.row("shop/web-0", refused);
        let kept = LINE.replace("\"endpoint\":\"shop/orders-0\"", "\"cache\":\"hit\"");
        let third = columns.row("shop/web-0", &kept);
        let again = LINE.replace(
            "\"endpoint\":\"shop/orders-0\"",
            "\"idempotency\":\"replayed\"",
        );
        let fourth = columns.row("shop/web-0", &again);
        let rows = first.lines().chain(second.lines());
        let rows = rows.chain(third.lines()).chain(fourth.lines());
        let rows: Vec<_> = rows.collect();
        assert_eq!(
            rows,
            [
                "TIME          SEEN BY     WAY       STATUS  LATENCY   METHOD  REQUEST                   ROUTE                     REASON           PEER",
                "06:29:06.123  shop/web-0  outbound  200     1.2 ms    GET     orders/1                  shop/orders all           -                shop/orders-0",
                "06:29:07.000  shop/web-0  inbound   503 grpc 14  2.34 s    POST    orders/2                  -                         no_endpoints     shop/web",
                "06:29:06.123  shop/web-0  outbound  200          1.2 ms    GET     orders/1                  shop/orders all           cache hit        -",
                "06:29:06.123  shop/web-0  outbound  200          1.2 ms    GET     orders/1                  shop/orders all           replayed         -",
            ]
        );
    }

    #[test]
    fn a_request_that_was_sent_again_says_how_often_and_after_what() {
        let reason = |more: &str| {
            let line = LINE.replace(r#""attempts":1"#, more);
            cells("shop/web-0", &serde_json::from_str(&line).unwrap())[8].clone()
        };
        let again = r#""attempts":3,"retried_after":"status""#;
        assert_eq!(reason(again), "(3 tries, after status)");
        assert_eq!(reason(r#""attempts":2"#), "(2 tries)");
        let given_up = format!(r#"{again},"reason":"try_timeout""#);
        assert_eq!(reason(&given_up), "try_timeout (3 tries, after status)");
        assert_eq!(reason(r#""attempts":1"#), "-");
    }

    #[test]
    fn as_json_a_request_has_the_pod_that_saw_it() {
        let told = with_pod("shop/web-0", LINE);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["workload"], "shop/web-0");
        assert_eq!(told["path"], "/1");
        assert_eq!(
            lost("shop/web-0", 3),
            r#"{"lost":3,"workload":"shop/web-0"}"#
        );
    }

    #[test]
    fn a_latency_has_the_unit_that_fits() {
        for (micros, said) in [
            (7, "7 us"),
            (1_000, "1.0 ms"),
            (999_999, "999.9 ms"),
            (1_050_000, "1.05 s"),
        ] {
            assert_eq!(latency(micros), said);
        }
    }
}
