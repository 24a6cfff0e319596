//! How far something is, in one line that is written over itself.

use std::io::Write as _;

use serde_json::Value;

/// How wide the bar is.
const WIDTH: u64 = 30;

/// A line on a terminal; nothing where there is none.
pub(super) struct Progress {
    /// How many there are; none where nobody knows.
    of: Option<u64>,
    shows: bool,
}

// === impl Progress ===

impl Progress {
    pub(super) fn new(of: Option<u64>, shows: bool) -> Self {
        Self { of, shows }
    }

    pub(super) fn show(&mut self, line: &Value) {
        if self.shows {
            // A terminal that is gone is told by what comes after.
            let _ = write!(std::io::stderr(), "\r{}", self.line(line));
        }
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.shows {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&self, line: &Value) -> String {
        let number = |field: &str| line[field].as_u64().unwrap_or_default();
        let (done, failed) = (number("done"), number("failed"));
        let failed = match failed {
            0 => String::new(),
            failed => format!(", {failed} of these exhausted anew"),
        };
        let all = done + number("failed");
        match self.of {
            Some(of) => {
                let full = (all.min(of) * WIDTH).checked_div(of).unwrap_or(WIDTH);
                let bar = (0..WIDTH).map(|at| if at < full { '#' } else { '.' });
                format!("[{}] {all} of {of}{failed}", String::from_iter(bar))
            }
            None => format!("{all}{failed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bar_is_as_full_as_much_is_done() {
        let of = |of, done, failed| {
            Progress::new(of, false).line(&json!({ "done": done, "failed": failed }))
        };
        let half = format!("[{}{}] 5 of 10", "#".repeat(15), ".".repeat(15));
        assert_eq!(of(Some(10), 5, 0), half);
        assert!(of(Some(10), 8, 2).ends_with("10 of 10, 2 of these exhausted anew"));
        assert!(
            of(Some(0), 0, 0).starts_with("[###"),
            "nothing is all of nothing"
        );
        // What has come meanwhile does not make it longer.
        assert!(of(Some(1), 3, 0).starts_with(&format!("[{}]", "#".repeat(30))));
        assert_eq!(of(None, 7, 0), "7");
    }
}
