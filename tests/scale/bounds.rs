//! What must hold of the figures.

use std::time::Duration;

use crate::measure::Row;

/// What the operator's memory may grow by for each stream, in bytes.
const PER_STREAM: f64 = 40.0 * 1024.0;

/// With fewer streams what the operator takes once weighs more than what it takes for each.
const ENOUGH: usize = 1000;

/// From the file to the last Ack, of 99 edits in a hundred.
const EDIT: Duration = Duration::from_secs(1);

/// By how much the bytes of an edit may differ between the smallest mesh and the largest: what counts
/// the time that it took, such as the frames that ask whether somebody is there, differs too.
const ALIKE: f64 = 1.25;

/// What a stream may be sent when it comes back and holds everything, in bytes: settings, the answer's
/// head, and a delta without a resource.
const COMING_BACK: f64 = 1024.0;

/// How much more memory a sidecar may take where there are a hundred times as many Services, in bytes.
pub(crate) const SIDECAR: f64 = 2.0 * 1024.0 * 1024.0;

/// One thing that must hold.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// In words, with what was measured.
    pub(crate) says: String,
    pub(crate) holds: bool,
}

/// What must hold of these rows, and for times and memory only `in_earnest`.
pub(crate) fn bounds(rows: &[Row], in_earnest: bool) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut bound = |says: String, holds| bounds.push(Bound { says, holds });
    let streams = |row: &Row| format!("{} streams", row.streams);
    for row in rows {
        bound(
            format!(
                "{}: an edit sent {} resources to sidecars that it does not concern (none)",
                streams(row),
                row.others_changes
            ),
            row.others_changes == 0,
        );
        bound(
            format!(
                "{}: an operator that started anew sent {} resources that were held (none), and {:.0} \
                 bytes a stream (at most {COMING_BACK})",
                streams(row),
                row.restart_changes,
                row.restart_bytes
            ),
            row.restart_changes == 0 && row.restart_bytes <= COMING_BACK,
        );
    }
    let sent = rows.iter().map(|row| row.edit_bytes);
    let (least, most) = sent.fold((f64::MAX, 0.0_f64), |(least, most), one| {
        (least.min(one), most.max(one))
    });
    bound(
        format!(
            "an edit is {least:.0} to {most:.0} bytes for each sidecar, however large the mesh"
        ),
        most <= least * ALIKE,
    );
    if !in_earnest {
        return bounds;
    }
    for row in rows {
        let p99 = row.edit(99);
        bound(
            format!(
                "{}: 99 of 100 edits take at most {p99:.0?} ({EDIT:?})",
                streams(row)
            ),
            p99 < EDIT,
        );
        if row.streams >= ENOUGH {
            let kib = row.per_stream() / 1024.0;
            bound(
                format!("{}: {kib:.1} KiB of operator a stream (40)", streams(row)),
                row.per_stream() <= PER_STREAM,
            );
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            streams: 1000,
            world: 10 << 20,
            with_streams: (10 << 20) + 1000 * 40 * 1024,
            edits: vec![Duration::from_millis(900)],
            edit_bytes: 200.0,
            restart_bytes: 1024.0,
            ..Row::default()
        }
    }

    fn broken(rows: &[Row], in_earnest: bool) -> usize {
        let bounds = bounds(rows, in_earnest);
        bounds.iter().filter(|bound| !bound.holds).count()
    }

    #[test]
    fn each_figure_beyond_its_bound_is_told() {
        assert_eq!(broken(&[row()], true), 0);
        let spoilt: [fn(&mut Row); 5] = [
            |row| row.with_streams += 1000,
            |row| row.edits.push(Duration::from_secs(1)),
            |row| row.others_changes = 1,
            |row| row.restart_changes = 1,
            |row| row.restart_bytes += 1.0,
        ];
        for spoil in spoilt {
            let mut row = row();
            spoil(&mut row);
            assert_eq!(broken(&[row], true), 1);
        }
        let mut more = row();
        more.edit_bytes = 260.0;
        assert_eq!(broken(&[row(), more], true), 1);
    }

    #[test]
    fn beside_other_tests_times_and_memory_are_not_looked_at() {
        let mut slow = row();
        slow.edits.push(Duration::from_secs(5));
        slow.with_streams += 1 << 30;
        assert_eq!(broken(&[slow], false), 0);
    }
}
