//! The figures as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bounds::Bound;
use crate::measure::Row;

/// A column: what it is called, and its figure of a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: &[Column] = &[
    ("streams", |row| row.streams.to_string()),
    ("Services", |row| row.services.to_string()),
    ("world, MiB", |row| mib(row.world)),
    ("with streams, MiB", |row| mib(row.with_streams)),
    ("a stream, KiB", |row| {
        format!("{:.1}", row.per_stream() / 1024.0)
    }),
    ("storm, s", |row| seconds(row.storm.took)),
    ("99 of 100, s", |row| seconds(row.storm_most)),
    ("calls a sidecar", |row| {
        format!("{:.2}", row.storm_attempts)
    }),
    ("CPU, s", |row| seconds(row.storm.cpu)),
    ("first, KiB", |row| {
        format!("{:.1}", row.first_bytes / 1024.0)
    }),
    ("idle, % of a CPU", |row| {
        format!("{:.1}", row.steady.busy() * 100.0)
    }),
    ("edit p50, ms", |row| millis(row.edit(50))),
    ("p99, ms", |row| millis(row.edit(99))),
    ("bytes a sidecar", |row| format!("{:.0}", row.edit_bytes)),
    ("mesh-wide, ms", |row| millis(row.wide_edit())),
    ("bytes a sidecar", |row| format!("{:.0}", row.wide_bytes)),
    ("callers", |row| row.callers.to_string()),
    ("rolled, ms", |row| millis(row.rolled)),
    ("CPU a step, ms", |row| {
        millis(row.rolling.cpu / u32::try_from(row.steps.max(1)).unwrap_or(1))
    }),
    ("bytes a caller and step", |row| {
        format!("{:.0}", row.step_bytes)
    }),
    ("restart, s", |row| seconds(row.restart.took)),
    ("calls a sidecar", |row| {
        format!("{:.2}", row.restart_attempts)
    }),
    ("CPU, s", |row| seconds(row.restart.cpu)),
    ("bytes a stream", |row| format!("{:.0}", row.restart_bytes)),
];

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn millis(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1000.0)
}

/// A table for people, a line for each figure.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for (place, (name, figure)) in COLUMNS.iter().enumerate() {
        let _ = write!(text, "| {name:<24} |");
        for row in rows {
            let _ = write!(text, " {:>8} |", figure(row));
        }
        text.push('\n');
        if place == 0 {
            let lines = "|---:".repeat(rows.len());
            let _ = writeln!(text, "|---{lines}|");
        }
    }
    text
}

/// Whether each bound holds.
pub(crate) fn verdicts(bounds: &[Bound]) -> String {
    let lines = bounds.iter().map(|Bound { says, holds }| {
        let verdict = if *holds { "holds" } else { "BROKEN" };
        format!("{verdict:<6} {says}\n")
    });
    lines.collect()
}

/// All of it, in seconds and bytes.
pub(crate) fn json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "streams": row.streams,
            "services": row.services,
            "memory": { "world": row.world, "with_streams": row.with_streams, "per_stream": row.per_stream() },
            "storm": {
                "seconds": row.storm.took.as_secs_f64(), "most": row.storm_most.as_secs_f64(),
                "cpu": row.storm.cpu.as_secs_f64(), "attempts": row.storm_attempts, "bytes": row.first_bytes,
            },
            "steady": { "busy": row.steady.busy() },
            "edit": {
                "affected": row.affected, "seconds": all(&row.edits), "bytes": row.edit_bytes,
                "p50": row.edit(50).as_secs_f64(), "p99": row.edit(99).as_secs_f64(),
            },
            "wide_edit": { "seconds": all(&row.wide_edits), "bytes": row.wide_bytes },
            "rolling": {
                "callers": row.callers, "steps": row.steps, "bytes": row.step_bytes,
                "cpu": row.rolling.cpu.as_secs_f64(), "last": row.rolled.as_secs_f64(),
            },
            "restart": {
                "seconds": row.restart.took.as_secs_f64(), "cpu": row.restart.cpu.as_secs_f64(),
                "attempts": row.restart_attempts, "bytes": row.restart_bytes, "resources": row.restart_changes,
            },
        })
    });
    json!({ "rows": Vec::from_iter(rows) })
}

fn all(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}
