//! Patterns of LIKE: `%` is any number of characters, `_` one, and `\%` and `\_` are those themselves.

/// The longest pattern, in characters: what is compared grows with it and with the text.
pub(super) const MAX_PATTERN: usize = 256;

/// A pattern that has been read.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Is(char),
}

// === impl Pattern ===

impl Pattern {
    /// `None` when it is longer than patterns may be.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut left = pattern.chars().peekable();
        while let Some(c) = left.next() {
            pieces.push(match c {
                '\\' => match left.next_if(|next| ['%', '_'].contains(next)) {
                    Some(escaped) => Piece::Is(escaped),
                    None => Piece::Is('\\'),
                },
                '%' if pieces.last() == Some(&Piece::Any) => continue,
                '%' => Piece::Any,
                '_' => Piece::One,
                c => Piece::Is(c),
            });
            if pieces.len() > MAX_PATTERN {
                return None;
            }
        }
        Some(Self(pieces))
    }

    /// Whether the whole text is as the pattern says. Only the last `%` met is ever tried again, which is enough:
    /// what an earlier one takes more, the last one could have taken.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut piece, mut rest) = (0, text);
        let mut again: Option<(usize, &str)> = None;
        loop {
            let mut left = rest.chars();
            let next = left.next();
            match (self.0.get(piece), next) {
                (Some(Piece::Any), _) => {
                    piece += 1;
                    again = Some((piece, rest));
                    continue;
                }
                (Some(Piece::One), Some(_)) => {
                    (piece, rest) = (piece + 1, left.as_str());
                    continue;
                }
                (Some(Piece::Is(c)), Some(next)) if *c == next => {
                    (piece, rest) = (piece + 1, left.as_str());
                    continue;
                }
                (None, None) => return true,
                (Some(_), None) => return false,
                (Some(_) | None, Some(_)) => {}
            }
            // The last `%` takes one character more.
            let Some((after, from)) = &mut again else {
                return false;
            };
            let mut left = from.chars();
            if left.next().is_none() {
                return false;
            }
            *from = left.as_str();
            (piece, rest) = (*after, *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_compared_by_characters_and_not_by_bytes() {
        for (text, pattern, matches) in [
            ("é", "_", true),
            ("né", "n%", true),
            ("né", "__", true),
            ("né", "___", false),
            ("", "%", true),
            ("", "", true),
            ("a", "", false),
            ("abcabc", "%abc", true),
            ("abcabd", "%abc", false),
            ("a\\b", "a\\b", true),
            ("a%", "a\\%", true),
            ("ab", "a\\%", false),
        ] {
            let read = Pattern::new(pattern).expect("a pattern");
            assert_eq!(read.matches(text), matches, "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn a_pattern_that_is_tried_again_and_again_ends_soon() {
        let pattern = "%a".repeat(127) + "b";
        let pattern = Pattern::new(&pattern).expect("a pattern");
        assert!(!pattern.matches(&"a".repeat(64 * 1024)));
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN + 1)).is_none());
    }
}
