//! What a document shows in its blocks of `console`: things to type, and what they answer.

/// One thing to type, and what it answers as far as the README shows it.
#[derive(Debug)]
pub struct Typed {
    /// For a shell; what stands in several lines, in several.
    pub command: String,
    /// Line by line, as [`is_as_shown`] takes it.
    pub answer: Vec<String>,
}

/// What a document's blocks of `console` say to type.
pub fn typed(readme: &str) -> Vec<Typed> {
    let mut typed: Vec<Typed> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            line => match (line.strip_prefix("$ "), typed.last_mut()) {
                (Some(command), _) => typed.push(Typed {
                    command: command.to_owned(),
                    answer: Vec::new(),
                }),
                (None, Some(last)) => last.answer.push(line.to_owned()),
                (None, None) => panic!("an answer to nothing: {line}"),
            },
        }
    }
    typed
}

/// Whether lines are as they are shown: `...` stands for anything in a line, and alone for any lines;
/// `~` and a number at the beginning of a line for a number that chance may have made of it.
pub fn is_as_shown(shown: &[String], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=lines.len()).any(|skipped| is_as_shown(rest, &lines[skipped..]))
        }
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, more)| fits(first, line) && is_as_shown(rest, more)),
    }
}

fn fits(shown: &str, line: &str) -> bool {
    if let Some((expected, shown)) = shown.trim_start().strip_prefix('~').and_then(counted) {
        return counted(line.trim_start()).is_some_and(|(seen, line)| {
            // Of what is drawn with any probability, the variance is below the expected number.
            (seen - expected).abs() < 5.0 * expected.sqrt() && fits(shown, line)
        });
    }
    match shown.split_once("...") {
        None => shown == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(at, _)| &rest[at..]);
            ends.any(|end| fits(after, end)) || fits(after, "")
        }),
    }
}

/// The number at the beginning of a line, and the rest.
fn counted(line: &str) -> Option<(f64, &str)> {
    let (number, _) = line.split_once(' ')?;
    Some((number.parse().ok()?, &line[number.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_compared_line_by_line_and_in_order() {
        let shown = |text: &str, lines: &str| {
            let text: Vec<String> = text.lines().map(str::to_owned).collect();
            is_as_shown(&text, &lines.lines().collect::<Vec<_>>())
        };
        assert!(shown("a\n...\nb...d...", "a\nx\ny\nbccd"));
        assert!(shown("...", "") && shown("a\n...", "a"));
        assert!(!shown("a\n...\nb", "a\nb\nc"));
        assert!(shown(" ~100 v1\n  ~36 v2", "     81 v1\n     55 v2"));
        assert!(
            !shown("~100 v1", "50 v1") && !shown("~100 v1", "100 v2") && !shown("~100 v1", "v1")
        );
        assert!(!shown("a...c", "abd") && !shown("a", "ab") && !shown("a", ""));
    }
}
