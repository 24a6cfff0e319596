//! What people read: sentences, and one table.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use super::control::Row;

/// Says a line on standard output. A closed output is no reason to end a mesh.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// The table of a mesh's workloads, and below it what is published.
pub(crate) fn workloads(rows: &[Row], published: &BTreeMap<String, String>) -> String {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                &row.workload,
                &row.address,
                &row.identity,
                &row.ports,
                &row.state,
            ]
            .into_iter()
            .cloned()
            .collect()
        })
        .collect();
    let mut text = table(
        &["WORKLOAD", "ADDRESS", "IDENTITY", "PORTS", "STATE"],
        &cells,
    );
    if !published.is_empty() {
        let rows: Vec<_> = published
            .iter()
            .map(|(what, at)| vec![what.clone(), at.clone()])
            .collect();
        text.push_str("\n\n");
        text.push_str(&table(&["PUBLISHED", "AT"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["web".to_owned(), "ready".to_owned()],
            vec!["inventory".to_owned(), "…".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "STATE"], &rows),
            "NAME       STATE\nweb        ready\ninventory  …"
        );
    }
}
