//! A body in records, cut while it comes: no more of it is held than the record that has begun.
//!
//! What a format says of where records end is all that is asked of a body as a whole ([`Broken`]). Whether a record
//! is one is asked of it alone ([`Wrong`]), so that one that is not keeps no other; after one that is not, the next
//! begins where the format says.

mod csv;
mod json;
mod xml;

use bytes::Bytes;

pub use self::xml::Path;

/// What some programs write before a text.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// How records stand in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A record is a line of JSON; lines of nothing but whitespace are none.
    Ndjson,
    /// A record is an element of the one array that the body is.
    JsonArray,
    /// Of RFC 4180, with a header: a record is a line, and becomes a JSON object of strings.
    Csv,
    /// A record is an element that stands where this says, and becomes a document.
    Xml(Path),
}

/// A record, or what is none. Of one that was too long there are no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it becomes; as it came, if it is wrong.
    pub data: Bytes,
    /// Why it is none.
    pub wrong: Option<Wrong>,
}

/// Why a record is none. Nothing of what was sent is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is longer than the bound, as it came or as what it becomes.
    #[error("it is longer than the {0} bytes of maxRecordBytes")]
    Long(usize),
    /// It is not what the format says.
    #[error("{0}")]
    Malformed(String),
}

/// Why nobody can tell where the next record begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// Cuts one body.
#[derive(Debug)]
pub struct Splitter {
    form: Form,
    piece: Piece,
    /// How much of a mark has come, while nothing else has.
    marked: Option<usize>,
}

#[derive(Debug)]
enum Form {
    Ndjson,
    JsonArray(json::Array),
    Csv(csv::Lines),
    Xml(Box<xml::Document>),
}

/// What has come of a record, no more than it may have.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    max: usize,
    long: bool,
}

// === impl Format ===

impl Format {
    /// The media type of what a record becomes.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Ndjson | Self::JsonArray | Self::Csv => "application/json",
            Self::Xml(_) => "application/xml",
        }
    }

    /// That of one that is wrong: as it came.
    pub fn raw_media_type(&self) -> &'static str {
        match self {
            Self::Ndjson | Self::JsonArray | Self::Xml(_) => "text/plain;charset=utf-8",
            Self::Csv => "text/csv;charset=utf-8",
        }
    }
}

// === impl Splitter ===

impl Splitter {
    /// One that has read nothing; no record is longer than `max` bytes.
    pub fn new(format: &Format, max: usize) -> Self {
        Self {
            form: match format {
                Format::Ndjson => Form::Ndjson,
                Format::JsonArray => Form::JsonArray(json::Array::default()),
                Format::Csv => Form::Csv(csv::Lines::default()),
                Format::Xml(path) => Form::Xml(Box::new(xml::Document::new(path.clone()))),
            },
            piece: Piece {
                bytes: Vec::new(),
                max,
                long: false,
            },
            marked: Some(0),
        }
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        let more = match &self.form {
            Form::Ndjson | Form::JsonArray(_) => 0,
            Form::Csv(lines) => lines.held(),
            Form::Xml(document) => document.held(),
        };
        self.piece.bytes.capacity() + more
    }

    /// Takes from `input` until a record has ended; nothing when all of it was taken before.
    ///
    /// # Errors
    /// That nobody can tell where the next record begins.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Record>, Broken> {
        while let Some(came) = self.marked {
            let Some(byte) = input.first() else {
                return Ok(None);
            };
            match MARK.get(came) {
                Some(of_mark) if of_mark == byte => {
                    self.marked = Some(came + 1);
                    *input = input.get(1..).unwrap_or_default();
                }
                Some(_) => {
                    // It was none. Nothing ends within it.
                    self.marked = None;
                    let mut begun = MARK.get(..came).unwrap_or_default();
                    self.cut(&mut begun)?;
                }
                None => self.marked = None,
            }
        }
        self.cut(input)
    }

    fn cut(&mut self, input: &mut &[u8]) -> Result<Option<Record>, Broken> {
        let piece = &mut self.piece;
        match &mut self.form {
            Form::Ndjson => Ok(json::line(input, piece)),
            Form::JsonArray(array) => array.next(input, piece),
            Form::Csv(lines) => lines.next(input, piece),
            Form::Xml(document) => document.next(input, piece),
        }
    }

    /// The record that ends with the body, if there is one.
    ///
    /// # Errors
    /// That the body ends before its end.
    pub fn end(&mut self) -> Result<Option<Record>, Broken> {
        let piece = &mut self.piece;
        match &mut self.form {
            Form::Ndjson => Ok(json::last(piece)),
            Form::JsonArray(array) => array.end().map(|()| None),
            Form::Csv(lines) => lines.end(piece),
            Form::Xml(document) => document.end().map(|()| None),
        }
    }
}

// === impl Piece ===

impl Piece {
    fn push(&mut self, bytes: &[u8]) {
        if self.long || self.bytes.len() + bytes.len() > self.max {
            self.long = true;
            // What was held is not needed any more.
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Whether nothing but whitespace has come.
    fn is_blank(&self) -> bool {
        !self.long && self.bytes.trim_ascii().is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.long = false;
    }

    /// What has come, as a record; `read`: what it becomes, or why it is none.
    fn record(&mut self, read: impl FnOnce(&[u8]) -> Result<Bytes, Wrong>) -> Record {
        let read = match self.long {
            true => Err(Wrong::Long(self.max)),
            false => read(&self.bytes),
        };
        let record = match read {
            Ok(data) => Record { data, wrong: None },
            Err(wrong) => Record {
                data: Bytes::copy_from_slice(&self.bytes),
                wrong: Some(wrong),
            },
        };
        self.clear();
        // One long record does not make the rest of a body take its room.
        self.bytes.shrink_to(KEPT);
        record
    }
}

/// How many bytes of room stay between records.
const KEPT: usize = 64 * 1024;

/// What is left of input behind so many bytes, and these.
fn take<'i>(input: &mut &'i [u8], bytes: usize) -> &'i [u8] {
    let (taken, rest) = input.split_at_checked(bytes).unwrap_or((input, &[]));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests;
