//! Paths of RFC 9535 that lead down: `$.orders[0]['item name'].qty`, `$.items[*].sku`, `$.items[-1]`.

use std::iter::Peekable;
use std::str::CharIndices;

use super::Json;

/// The longest path, in bytes.
pub const MAX_LENGTH: usize = 512;

/// The most steps of a path.
pub const MAX_STEPS: usize = 16;

/// The greatest place, by the RFC's wish that all readers count alike (section 2.1).
const MAX_PLACE: u64 = (1 << 53) - 1;

/// A path.
#[derive(Debug)]
pub struct Path(Vec<Step>);

/// A step down.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To the member of this name.
    Name(String),
    /// To the element at this place, from 0.
    Place(usize),
    /// To the element at this place from the end, from 1.
    FromEnd(usize),
    /// To all members, or all elements.
    Every,
}

/// Why a text is no path that is read here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is longer than [`MAX_LENGTH`].
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// What stands there.
    #[error("at character {at}: {why}")]
    At {
        /// Which character it is about, from 1.
        at: usize,
        /// What is wrong there.
        why: &'static str,
    },
}

struct Parser<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
}

// === impl Path ===

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is none, or one that does more than to lead down.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.len() > MAX_LENGTH {
            return Err(Unreadable::TooLong);
        }
        let mut parser = Parser {
            text,
            chars: text.char_indices().peekable(),
        };
        if !parser.passes('$') {
            return Err(parser.wrong("a path begins with $, which is the whole of the data"));
        }
        let mut steps = Vec::new();
        loop {
            parser.space();
            match parser.peek() {
                None if text.ends_with([' ', '\t', '\n', '\r']) => {
                    return Err(parser.wrong("a path ends with no space"));
                }
                None => return Ok(Self(steps)),
                Some(_) if steps.len() == MAX_STEPS => {
                    return Err(parser.wrong("a path has 16 steps at most"));
                }
                Some(_) => steps.push(parser.step()?),
            }
        }
    }

    /// Whether it leads to one place at most.
    pub fn is_singular(&self) -> bool {
        !self.0.contains(&Step::Every)
    }

    /// What it leads to in data, where it leads to one place: a string, or a number, `true` or `false` as they are
    /// written. `None` for anything else, and where an object on the way has a member twice.
    pub fn scalar(&self, json: Json<'_>) -> Option<String> {
        let mut found = None;
        json.at(self.steps(), &mut |value| found = Some(value))
            .ok()?;
        match found?.as_bytes() {
            // One that no text is, such as half of a pair, is none.
            [b'"', ..] => serde_json::from_str(found?).ok(),
            [b'{' | b'[' | b'n', ..] => None,
            _ => found.map(str::to_owned),
        }
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }
}

// === impl Parser ===

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn passes(&mut self, wanted: char) -> bool {
        self.chars.next_if(|(_, c)| *c == wanted).is_some()
    }

    fn space(&mut self) {
        while self
            .chars
            .next_if(|(_, c)| " \t\n\r".contains(*c))
            .is_some()
        {}
    }

    fn wrong(&mut self, why: &'static str) -> Unreadable {
        let at = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        let before = self.text.get(..at).unwrap_or_default();
        let at = before.chars().count() + 1;
        Unreadable::At { at, why }
    }

    fn step(&mut self) -> Result<Step, Unreadable> {
        if self.passes('.') {
            return match self.peek() {
                Some('.') => Err(self.wrong(
                    "what searches at any depth (..) is not read here: write out the way to it",
                )),
                Some('*') => {
                    self.chars.next();
                    Ok(Step::Every)
                }
                _ => self.short_name(),
            };
        }
        if !self.passes('[') {
            return Err(self.wrong("a step begins with . or ["));
        }
        self.space();
        let step = match self.peek() {
            Some('*') => {
                self.chars.next();
                Step::Every
            }
            Some(quote @ ('"' | '\'')) => {
                self.chars.next();
                Step::Name(self.quoted(quote)?)
            }
            Some('-' | '0'..='9') => self.place()?,
            Some('?') => {
                return Err(self.wrong(
                    "expressions (?) are not read here: a filter tests one value, and all, any and not join filters",
                ));
            }
            Some(':') => return Err(self.wrong(SLICE)),
            _ => {
                return Err(self.wrong("in brackets stand a name in quotes, a whole number or *"));
            }
        };
        self.space();
        match self.peek() {
            Some(']') => {
                self.chars.next();
                Ok(step)
            }
            Some(',') => {
                Err(self.wrong("one name or number stands in brackets: join filters with any"))
            }
            Some(':') => Err(self.wrong(SLICE)),
            _ => Err(self.wrong("here a ] is expected")),
        }
    }

    fn short_name(&mut self) -> Result<Step, Unreadable> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let is_letter = c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
            if !(is_letter || (c.is_ascii_digit() && !name.is_empty())) {
                break;
            }
            name.push(c);
            self.chars.next();
        }
        match name.is_empty() {
            false => Ok(Step::Name(name)),
            true => Err(self.wrong(
                "after . stands a name of letters, digits and _, or *: write others in brackets and quotes, as in ['a-b']",
            )),
        }
    }

    fn place(&mut self) -> Result<Step, Unreadable> {
        const WRONG: &str = "a place is a whole number, such as 0, or -1 for the last";
        let is_back = self.passes('-');
        let mut digits = String::new();
        while let Some((_, digit)) = self.chars.next_if(|(_, c)| c.is_ascii_digit()) {
            digits.push(digit);
        }
        let is_one = digits == "0" || !(digits.is_empty() || digits.starts_with('0'));
        let place = digits.parse().ok().filter(|place| *place <= MAX_PLACE);
        match (is_one, place, is_back) {
            (true, Some(0), true) | (false, ..) | (_, None, _) => Err(self.wrong(WRONG)),
            (true, Some(place), is_back) => {
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                Ok(match is_back {
                    true => Step::FromEnd(place),
                    false => Step::Place(place),
                })
            }
        }
    }

    /// The rest of a name in quotes.
    fn quoted(&mut self, quote: char) -> Result<String, Unreadable> {
        let mut name = String::new();
        loop {
            let Some(c) = self.peek() else {
                return Err(self.wrong("a name in quotes does not end"));
            };
            if c < ' ' {
                return Err(self.wrong("control characters are written as \\u and four digits"));
            }
            self.chars.next();
            match c {
                '\\' => name.push(self.escaped(quote)?),
                c if c == quote => return Ok(name),
                c => name.push(c),
            }
        }
    }

    fn escaped(&mut self, quote: char) -> Result<char, Unreadable> {
        const WRONG: &str =
            "behind \\ stands one of b f n r t / \\, the quote, or u and four digits of base 16";
        let Some(c) = self.peek() else {
            return Err(self.wrong(WRONG));
        };
        let is = match c {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '/' | '\\' => c,
            c if c == quote => c,
            'u' => {
                self.chars.next();
                return self.code_point();
            }
            _ => return Err(self.wrong(WRONG)),
        };
        self.chars.next();
        Ok(is)
    }

    /// What follows `\u`: a character, or both halves of one.
    fn code_point(&mut self) -> Result<char, Unreadable> {
        const WRONG: &str = "behind \\u stand four digits of base 16, and a character beyond these has two such halves";
        let first = self.four().ok_or_else(|| self.wrong(WRONG))?;
        let code = match first {
            0xd800..=0xdbff => {
                let goes_on = self.passes('\\') && self.passes('u');
                let second = self.four().filter(|_| goes_on);
                let second = second.filter(|second| (0xdc00..=0xdfff).contains(second));
                let second = second.ok_or_else(|| self.wrong(WRONG))?;
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| self.wrong(WRONG))
    }

    fn four(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |code, _| {
            let (_, digit) = self.chars.next_if(|(_, c)| c.is_ascii_hexdigit())?;
            Some(code * 16 + digit.to_digit(16)?)
        })
    }
}

const SLICE: &str = "slices are not read here: write one place, or * for all";
