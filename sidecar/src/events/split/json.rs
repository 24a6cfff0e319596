//! Records of JSON: lines, and elements of an array.

use bytes::Bytes;

use super::super::cloud_event::{Malformed, check_json};
use super::{Broken, Piece, Record, Wrong, take};

/// Where an array is.
#[derive(Debug, Default)]
pub(super) struct Array {
    at: At,
    /// Within how many objects and arrays of an element.
    depth: u64,
    in_string: bool,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the array.
    #[default]
    Start,
    /// Behind its first bracket.
    First,
    /// In an element, or before one behind a comma.
    Element,
    /// Behind its last bracket.
    End,
}

/// What a record of JSON becomes: itself, without whitespace around it.
fn read(bytes: &[u8]) -> Result<Bytes, Wrong> {
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(Wrong::Malformed(
            "there is nothing between commas".to_owned(),
        ));
    }
    check_json(text).map_err(|why| {
        Wrong::Malformed(match why {
            Malformed::Json { line, column } => {
                format!("it is not written as JSON is: see line {line}, column {column} of it")
            }
            why => why.to_string(),
        })
    })?;
    Ok(Bytes::copy_from_slice(text))
}

/// A line of JSON.
pub(super) fn line(input: &mut &[u8], piece: &mut Piece) -> Option<Record> {
    loop {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            piece.push(take(input, input.len()));
            return None;
        };
        piece.push(take(input, end));
        take(input, 1);
        if let Some(record) = last(piece) {
            return Some(record);
        }
    }
}

/// The line that has come.
pub(super) fn last(piece: &mut Piece) -> Option<Record> {
    if piece.is_blank() {
        piece.clear();
        return None;
    }
    Some(piece.record(read))
}

// === impl Array ===

impl Array {
    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        piece: &mut Piece,
    ) -> Result<Option<Record>, Broken> {
        // What is taken together: nothing ends within it.
        let mut run = 0;
        while let Some(&byte) = input.get(run) {
            if self.at == At::Element {
                match self.pass(byte) {
                    false => run += 1,
                    true => {
                        piece.push(take(input, run));
                        take(input, 1);
                        return Ok(Some(piece.record(read)));
                    }
                }
                continue;
            }
            if byte.is_ascii_whitespace() {
                take(input, 1);
                continue;
            }
            match (self.at, byte) {
                (At::Start, b'[') => self.at = At::First,
                (At::First, b']') => self.at = At::End,
                (At::First, _) => {
                    self.at = At::Element;
                    continue;
                }
                (At::End, _) => return Err(Broken("something follows the end of the array")),
                _ => return Err(Broken("the body is no array: it does not begin with [")),
            }
            take(input, 1);
        }
        piece.push(take(input, run));
        Ok(None)
    }

    /// Goes on behind a byte of an element; whether that ends it.
    fn pass(&mut self, byte: u8) -> bool {
        if self.in_string {
            let escaped = std::mem::take(&mut self.escaped);
            match byte {
                b'"' if !escaped => self.in_string = false,
                b'\\' if !escaped => self.escaped = true,
                _ => {}
            }
            return false;
        }
        match (byte, self.depth) {
            (b'"', _) => self.in_string = true,
            (b'{' | b'[', _) => self.depth += 1,
            (b',', 0) => return true,
            (b']', 0) => {
                self.at = At::End;
                return true;
            }
            // Of an object that has not begun: then the element is none, and ends where the next comma is.
            (b'}' | b']', _) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }

    pub(super) fn end(&self) -> Result<(), Broken> {
        match self.at {
            At::End => Ok(()),
            _ => Err(Broken("the body ends before its array does")),
        }
    }
}
