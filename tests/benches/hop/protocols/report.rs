//! What was measured of protocols, for people and for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Scenario, Subject};
use crate::measure::{Sample, spread};

/// Everything.
pub(crate) struct Report {
    pub(crate) subjects: Vec<Subject>,
    /// What one measurement of bulk moves.
    pub(crate) bulk_bytes: u64,
}

/// One line of the table. Every figure but the CPU's spread is a median; ratios are medians of what
/// each repetition gave.
struct Row<'a> {
    subject: &'a Subject,
    /// Microseconds for each call, or seconds for each GB.
    cpu: (f64, f64, f64),
    cpu_to_relay: Option<f64>,
    cpu_to_envoy: Option<f64>,
    busy: f64,
    /// Calls a second, or GB a second.
    rate: f64,
    rate_to_envoy: Option<f64>,
    /// Microseconds; of bulk it says nothing.
    latency: Option<(f64, f64)>,
}

// === impl Report ===

impl Report {
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.subjects
            .iter()
            .filter(|subject| !subject.samples.is_empty())
            .map(|subject| self.row(subject))
    }

    fn row<'a>(&'a self, subject: &'a Subject) -> Row<'a> {
        let samples = &subject.samples;
        let ratio = |name: &str, of: fn(&Sample) -> f64| {
            let other = self.subject(name, subject.scenario)?;
            let pairs = samples.iter().zip(&other.samples);
            let ratios = pairs.map(|(sample, other)| of(sample) / of(other));
            Some(spread(ratios).0).filter(|ratio| ratio.is_finite())
        };
        let median = |of: fn(&Sample) -> f64| spread(samples.iter().map(of)).0;
        let gigabytes = self.bulk_bytes as f64 / subject.scenario.bodies() as f64 / 1e9;
        let (cpu, rate) = match subject.scenario.is_bulk() {
            true => (1e-6 / gigabytes, gigabytes),
            false => (1.0, 1.0),
        };
        let used = spread(samples.iter().map(|sample| sample.cpu_us * cpu));
        let carried = !subject.processes.is_empty();
        Row {
            subject,
            cpu: used,
            cpu_to_relay: ratio("TCP relay", |sample| sample.cpu_us).filter(|_| carried),
            cpu_to_envoy: ratio("Envoy", |sample| sample.cpu_us).filter(|_| carried),
            busy: median(|sample| sample.busy),
            rate: median(|sample| sample.rate) * rate,
            rate_to_envoy: ratio("Envoy", |sample| sample.rate),
            latency: (!subject.scenario.is_bulk()).then(|| {
                (
                    median(|sample| sample.p50_us),
                    median(|sample| sample.p99_us),
                )
            }),
        }
    }

    fn subject(&self, name: &str, scenario: Scenario) -> Option<&Subject> {
        let mut subjects = self.subjects.iter();
        subjects.find(|subject| (subject.name, subject.scenario) == (name, scenario))
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for bulk in [false, true] {
            self.table_of(bulk, &mut text);
        }
        text
    }

    fn table_of(&self, bulk: bool, text: &mut String) {
        let (cpu, rate) = match bulk {
            true => ("CPU s/GB (min..max)", "GB/s"),
            false => ("CPU us/call (min..max)", "calls/s"),
        };
        // Writing into a String does not fail, here and below.
        let mut line = |cells: [&str; 10]| {
            let [
                what,
                proxy,
                cpu,
                relay,
                envoy,
                busy,
                rate,
                to_envoy,
                latency,
                memory,
            ] = cells;
            let _ = writeln!(
                text,
                "{what:<15} {proxy:<14} {cpu:>24} {relay:>8} {envoy:>8} {busy:>5} {rate:>8} \
                 {to_envoy:>8} {latency:>15} {memory:>7}"
            );
        };
        line([
            "pair",
            "proxy",
            cpu,
            "x relay",
            "x Envoy",
            "busy",
            rate,
            "x Envoy",
            "p50/p99 us",
            "RSS MiB",
        ]);
        let ratio = |of: Option<f64>| of.map_or("-".to_owned(), |of| format!("{of:.2}"));
        for row in self.rows() {
            if row.subject.scenario.is_bulk() != bulk {
                continue;
            }
            let (median, least, greatest) = row.cpu;
            let digits = if bulk { 2 } else { 1 };
            line([
                row.subject.scenario.name(),
                row.subject.name,
                &format!("{median:.digits$} ({least:.digits$}..{greatest:.digits$})"),
                &ratio(row.cpu_to_relay),
                &ratio(row.cpu_to_envoy),
                &format!("{:.0} %", row.busy * 100.0),
                &match bulk {
                    true => format!("{:.2}", row.rate),
                    false => format!("{:.0}", row.rate),
                },
                &ratio(row.rate_to_envoy),
                &row.latency
                    .map_or("-".to_owned(), |(p50, p99)| format!("{p50:.0} / {p99:.0}")),
                &format!("{:.1}", row.subject.resident_kib as f64 / 1024.0),
            ]);
        }
        text.push('\n');
    }

    /// For machines: what the tables say, with every sample.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows().map(|row| {
            let samples = row.subject.samples.iter().map(|sample| {
                json!({
                    "cpu_us": sample.cpu_us, "busy": sample.busy, "calls_per_second": sample.rate,
                    "p50_us": sample.p50_us, "p99_us": sample.p99_us,
                })
            });
            json!({
                "pair": row.subject.scenario.name(),
                "proxy": row.subject.name,
                "unit": if row.subject.scenario.is_bulk() { "s/GB, GB/s" } else { "us/call, calls/s" },
                "cpu": { "median": row.cpu.0, "min": row.cpu.1, "max": row.cpu.2 },
                "cpu_to_relay": row.cpu_to_relay,
                "cpu_to_envoy": row.cpu_to_envoy,
                "busy": row.busy,
                "rate": row.rate,
                "rate_to_envoy": row.rate_to_envoy,
                "p50_us": row.latency.map(|(p50, _)| p50),
                "p99_us": row.latency.map(|(_, p99)| p99),
                "resident_kib": row.subject.resident_kib,
                "samples": samples.collect::<Vec<_>>(),
            })
        });
        json!({ "bulk_bytes": self.bulk_bytes, "figures": rows.collect::<Vec<_>>() })
    }
}
