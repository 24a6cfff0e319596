//! Words without quotes that are text here and something else in a cluster: `kubectl` reads YAML 1.1.

use std::fmt;

/// A word that is to be quoted, or written otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ambiguous {
    /// Such as `yes`.
    Bool(String, bool),
    /// Such as `010` and `1_000`.
    Number(String),
}

// === impl Ambiguous ===

impl Ambiguous {
    /// What a word without quotes is in a cluster, if that is something else than text.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
                return Some(Ambiguous::Bool(word.to_owned(), true));
            }
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
                return Some(Ambiguous::Bool(word.to_owned(), false));
            }
            _ => {}
        }
        let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
        let number = digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
        let padded = digits.len() > 1 && digits.starts_with('0');
        (number && (padded || digits.contains('_'))).then(|| Ambiguous::Number(word.to_owned()))
    }

    /// The same value as every reader writes it; `None` for a number that is larger than any.
    pub(super) fn plain(&self) -> Option<String> {
        match self {
            Ambiguous::Bool(_, means) => Some(means.to_string()),
            Ambiguous::Number(word) => {
                let digits: String = word.chars().filter(char::is_ascii_digit).collect();
                let is_octal = digits.starts_with('0') && !digits.contains(['8', '9']);
                let number = i64::from_str_radix(&digits, if is_octal { 8 } else { 10 }).ok()?;
                let sign = if word.starts_with('-') { "-" } else { "" };
                Some(format!("{sign}{number}"))
            }
        }
    }
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ambiguous::Bool(word, means) => write!(
                f,
                "{word} means {means} in a cluster: write it quoted, as \"{word}\", or write {means}"
            ),
            Ambiguous::Number(word) => write!(
                f,
                "{word} is another number in a cluster, and text here: write it quoted, as \"{word}\""
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_as_a_cluster_reads_it() {
        for (word, plain) in [
            ("y", "true"),
            ("No", "false"),
            ("0400", "256"),
            ("-010", "-8"),
            ("+1_000", "1000"),
            ("0_1", "1"),
            // No octal number, and so a decimal one.
            ("008", "8"),
        ] {
            let ambiguous = Ambiguous::of(word).unwrap();
            assert_eq!(ambiguous.plain().as_deref(), Some(plain), "{word}");
        }
        let large = Ambiguous::of("01_000_000_000_000_000_000_000_000").unwrap();
        assert_eq!(large.plain(), None);
    }

    #[test]
    fn what_both_versions_of_yaml_read_alike_is_not_ambiguous() {
        for word in [
            "true", "null", "0", "10", "-1", "1.10", "1e3", "nope", "oN", "_", "_1", "0x1f",
        ] {
            assert_eq!(Ambiguous::of(word), None, "{word}");
        }
        for word in ["y", "No", "OFF", "010", "-010", "1_000", "0_1"] {
            assert!(Ambiguous::of(word).is_some(), "{word}");
        }
    }
}
