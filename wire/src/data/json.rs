//! Data that are JSON, as a text that is walked through.

use serde::de::IgnoredAny;

use super::path::Step;

/// JSON of RFC 8259, in UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Json<'d>(&'d str);

/// An object has a member twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repeated;

/// A place in JSON that is known to be right: nothing here is checked again, and nothing panics if it were wrong.
struct Cursor<'d> {
    text: &'d str,
    at: usize,
}

// === impl Json ===

impl<'d> Json<'d> {
    /// The longest that is looked into, in bytes.
    pub const MAX_LENGTH: usize = 1024 * 1024;

    /// What these bytes are; `None` when they are no JSON, or too long.
    pub fn read(bytes: &'d [u8]) -> Option<Self> {
        if bytes.len() > Self::MAX_LENGTH {
            return None;
        }
        let text = str::from_utf8(bytes).ok()?;
        let _: IgnoredAny = serde_json::from_str(text).ok()?;
        Some(Self(text))
    }

    /// Hands out each value that a path leads to, as it is written.
    ///
    /// # Errors
    /// That an object on the way has the member twice.
    pub(super) fn at(self, steps: &[Step], found: &mut dyn FnMut(&'d str)) -> Result<(), Repeated> {
        let mut cursor = Cursor {
            text: self.0,
            at: 0,
        };
        cursor.walk(steps, found)
    }
}

/// Whether a string of JSON, with its quotes, is a text.
pub(super) fn is_text(string: &str, text: &str) -> bool {
    match string.contains('\\') {
        false => string.get(1..string.len() - 1) == Some(text),
        // One that no text is, such as half of a pair, is none.
        true => serde_json::from_str::<String>(string).is_ok_and(|string| string == text),
    }
}

// === impl Cursor ===

impl<'d> Cursor<'d> {
    /// Passes a value, and hands out what the steps lead to in it. As deep as a path is long.
    fn walk(&mut self, steps: &[Step], found: &mut dyn FnMut(&'d str)) -> Result<(), Repeated> {
        self.space();
        let Some((step, rest)) = steps.split_first() else {
            let value = self.value();
            found(value);
            return Ok(());
        };
        match (self.peek(), step) {
            (Some(b'{'), Step::Name(_) | Step::Every) => self.members(step, rest, found),
            (Some(b'['), Step::Place(_) | Step::FromEnd(_) | Step::Every) => {
                self.elements(step, rest, found)
            }
            _ => {
                self.value();
                Ok(())
            }
        }
    }

    fn members(
        &mut self,
        step: &Step,
        rest: &[Step],
        found: &mut dyn FnMut(&'d str),
    ) -> Result<(), Repeated> {
        let mut is_there = false;
        self.at += 1;
        while self.goes_on(b'}') {
            let name = self.value();
            self.space();
            // The colon.
            self.at += 1;
            let leads = match step {
                Step::Name(wanted) => is_text(name, wanted),
                _ => true,
            };
            match (leads, step) {
                (true, Step::Name(_)) if std::mem::replace(&mut is_there, true) => {
                    return Err(Repeated);
                }
                (true, _) => self.walk(rest, found)?,
                (false, _) => {
                    self.space();
                    self.value();
                }
            }
        }
        Ok(())
    }

    fn elements(
        &mut self,
        step: &Step,
        rest: &[Step],
        found: &mut dyn FnMut(&'d str),
    ) -> Result<(), Repeated> {
        let wanted = match step {
            Step::Place(place) => Some(*place),
            Step::FromEnd(back) => {
                let count = Cursor { ..*self }.count();
                // Before the first one is none.
                Some(count.checked_sub(*back).unwrap_or(usize::MAX))
            }
            _ => None,
        };
        self.at += 1;
        let mut place = 0;
        while self.goes_on(b']') {
            match wanted.is_none_or(|wanted| wanted == place) {
                true => self.walk(rest, found)?,
                false => drop(self.value()),
            }
            place += 1;
        }
        Ok(())
    }

    /// How many elements the array has that begins here.
    fn count(mut self) -> usize {
        let mut count = 0;
        self.at += 1;
        while self.goes_on(b']') {
            self.value();
            count += 1;
        }
        count
    }

    /// Whether a member or an element follows, which is then next; else passes the end.
    fn goes_on(&mut self, end: u8) -> bool {
        self.space();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.space();
        }
        match self.peek() {
            None => false,
            Some(byte) if byte == end => {
                self.at += 1;
                false
            }
            Some(_) => true,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes a value that begins here, however deep it is.
    fn value(&mut self) -> &'d str {
        let (begin, mut depth) = (self.at, 0_usize);
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                _ => self.word(),
            }
            if depth == 0 {
                break;
            }
        }
        self.text.get(begin..self.at).unwrap_or_default()
    }

    /// Passes a string.
    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
    }

    /// Passes a number, or `true`, `false` or `null`.
    fn word(&mut self) {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') {
                return;
            }
            self.at += 1;
        }
    }
}
