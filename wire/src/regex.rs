//! The regular expressions of routes: one syntax and one set of limits at both ends, so that what
//! the compiler accepts, every sidecar builds.
//!
//! An expression fits a whole path or value, never a part of one. It is matched byte by byte, without
//! Unicode's tables: a path in its normal form is ASCII. The time of a match grows with the length of
//! what is matched times the size of the expression, and both are bounded here.

use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};
use regex_syntax::ast::{self, Ast, Flag, GroupKind};

/// An expression is no longer than this, in bytes.
pub const MAX_LENGTH: usize = 512;
/// An expression compiles to no more than this, in bytes: a few thousand states, where expressions of
/// routes have a few dozen. It bounds what `(a{100}){100}` costs in memory, and a match in time.
pub const MAX_COMPILED: usize = 64 * 1024;
/// What a thread remembers of matches with one expression, in bytes.
pub const MAX_REMEMBERED: usize = 64 * 1024;
/// What a thread remembers of matches with a [`Set`], in bytes.
pub const MAX_REMEMBERED_OF_SET: usize = 512 * 1024;
/// One route has no more expressions than this: every sidecar of the mesh holds them.
pub const MAX_IN_ROUTE: usize = 64;
/// A longer path or value fits no expression. Heads of requests are up to 64 KiB, all of which a
/// stranger could make every expression read.
pub const MAX_SUBJECT: usize = 4 * 1024;

/// One expression.
#[derive(Clone, Debug)]
pub struct Regex(regex::bytes::Regex);

/// Several expressions, matched at once.
#[derive(Clone, Debug)]
pub struct Set(RegexSet);

// === impl Regex ===

impl Regex {
    /// Reads an expression as a person writes it.
    ///
    /// # Errors
    /// A clause that says what is wrong.
    pub fn new(written: &str) -> Result<Self, String> {
        check(written)?;
        let compiled = RegexBuilder::new(&format!(r"\A(?:{written})\z"))
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_REMEMBERED)
            .build();
        compiled.map(Self).map_err(refused)
    }

    /// Whether it fits the whole of `subject`.
    pub fn fits(&self, subject: &[u8]) -> bool {
        subject.len() <= MAX_SUBJECT && self.0.is_match(subject)
    }
}

// === impl Set ===

impl Set {
    /// Puts expressions together, at most [`MAX_IN_ROUTE`].
    ///
    /// # Errors
    /// A clause that says what is wrong with all together.
    pub fn new(expressions: &[Regex]) -> Result<Self, String> {
        if expressions.len() > MAX_IN_ROUTE {
            return Err(too_many(expressions.len()));
        }
        let compiled = RegexSetBuilder::new(expressions.iter().map(|one| one.0.as_str()))
            .unicode(false)
            // Each is bounded, and so is their number; the set adds little of its own.
            .size_limit(2 * MAX_COMPILED * MAX_IN_ROUTE)
            .dfa_size_limit(MAX_REMEMBERED_OF_SET)
            .build();
        compiled.map(Self).map_err(refused)
    }

    /// The places of those that fit the whole of `subject`, ascending.
    pub fn fitting(&self, subject: &[u8]) -> impl Iterator<Item = usize> + use<> {
        // Asked first because it allocates nothing, and mostly none fits.
        let any = subject.len() <= MAX_SUBJECT && self.0.is_match(subject);
        any.then(|| self.0.matches(subject)).into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The clause that refuses so many expressions in one route.
pub fn too_many(count: usize) -> String {
    format!("there are {count} regular expressions; one route has at most {MAX_IN_ROUTE}")
}

/// Refuses what is no expression by itself (`a)|(b` would be one within others' parentheses), and
/// flags that would change how all of it is read.
fn check(written: &str) -> Result<(), String> {
    if written.len() > MAX_LENGTH {
        return Err(format!(
            "a regular expression has at most {MAX_LENGTH} bytes, not {}",
            written.len()
        ));
    }
    let parsed = ast::parse::Parser::new().parse(written).map_err(|error| {
        let place = error.span().start.column;
        format!("{} (at character {place})", error.kind())
    })?;
    ast::visit(&parsed, Flags)
}

fn refused(error: regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => format!(
            "it compiles to more than {} KiB: use shorter repetitions",
            MAX_COMPILED / 1024
        ),
        // The sentence is the last line, under a drawing of the place.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

/// Looks for flags.
struct Flags;

impl ast::Visitor for Flags {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        let flags = match ast {
            Ast::Flags(set) => &set.flags,
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(flags) => flags,
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        // Unicode's tables are in some of our programs and not in others; a comment, which `x`
        // brings, could reach over the end.
        for (flag, name) in [(Flag::Unicode, 'u'), (Flag::IgnoreWhitespace, 'x')] {
            if flags.flag_state(flag) == Some(true) {
                return Err(format!("the flag {name} is not supported"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_expression_fits_the_whole_and_never_a_part() {
        for (written, fits, not) in [
            ("/a", "/a", "/ab"),
            ("/a", "/a", "x/a"),
            ("a|bc", "bc", "abc"),
            ("a|ab", "ab", "abb"),
            ("^/v[0-9]+$", "/v12", "/v12/"),
            ("(?i)/ADMIN", "/admin", "/admins"),
            ("/a\n?", "/a", "/a\n\n"),
            ("(?m)/a$", "/a", "/a\n"),
            (r"/\w+/\d{3}", "/ab_1/123", "/\u{e9}/123"),
            ("", "", "a"),
        ] {
            let regex = Regex::new(written).unwrap();
            assert!(regex.fits(fits.as_bytes()), "{written} {fits}");
            assert!(!regex.fits(not.as_bytes()), "{written} {not:?}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_in_a_sentence() {
        for (written, clause) in [
            ("/a(b", "unclosed group (at character 3)"),
            ("a)|(b", "unopened group (at character 2)"),
            ("/[a", "unclosed character class (at character 2)"),
            (
                "*",
                "repetition operator missing expression (at character 1)",
            ),
            (
                r"(a)\1",
                "backreferences are not supported (at character 4)",
            ),
            (
                "(?=a)",
                "look-around, including look-ahead and look-behind, is not supported",
            ),
            (r"\p{Greek}", "Unicode not allowed here"),
            ("(?u)a", "the flag u is not supported"),
            ("(?i:a(?s-i:b(?u:c)))", "the flag u is not supported"),
            ("(?x)a # b", "the flag x is not supported"),
            (
                "(a{100}){100}",
                "it compiles to more than 64 KiB: use shorter repetitions",
            ),
            (&"a".repeat(MAX_LENGTH + 1), "at most 512 bytes, not 513"),
        ] {
            let error = Regex::new(written).unwrap_err();
            assert!(error.contains(clause), "{written}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_longer_than_a_subject_may_be_fits_nothing() {
        let regex = Regex::new("a*").unwrap();
        let set = Set::new(std::slice::from_ref(&regex)).unwrap();
        assert!(regex.fits(&[b'a'; MAX_SUBJECT]));
        assert!(!regex.fits(&[b'a'; MAX_SUBJECT + 1]));
        assert_eq!(set.fitting(&[b'a'; MAX_SUBJECT]).count(), 1);
        assert_eq!(set.fitting(&[b'a'; MAX_SUBJECT + 1]).count(), 0);
    }

    #[test]
    fn as_many_of_the_largest_as_a_route_may_have_fit_into_a_set() {
        // The largest repetition that is accepted alone.
        let largest = (1..)
            .map_while(|n| Regex::new(&format!("[a-y]{{{n}}}z?")).ok())
            .last()
            .unwrap();
        let mut expressions = vec![largest; MAX_IN_ROUTE];
        assert!(Set::new(&expressions).is_ok(), "{expressions:?}");
        expressions.push(Regex::new("a").unwrap());
        let error = Set::new(&expressions).unwrap_err();
        assert_eq!(error, too_many(MAX_IN_ROUTE + 1));
    }

    proptest! {
        #[test]
        fn a_set_finds_what_each_alone_fits(
            written in prop::collection::vec("(/|a|b|[.]|[*]|[(]|[)]|[|]|[+]|\\[ab\\]){1,8}", 0..6),
            subject in "[/ab]{0,8}",
        ) {
            let each: Vec<_> = written.iter().filter_map(|one| Regex::new(one).ok()).collect();
            let set = Set::new(&each).unwrap();
            let found: Vec<usize> = set.fitting(subject.as_bytes()).collect();
            let alone = each.iter().enumerate().filter(|(_, one)| one.fits(subject.as_bytes()));
            prop_assert_eq!(found, alone.map(|(place, _)| place).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = Regex::new(&text);
        }
    }
}
