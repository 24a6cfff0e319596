//! Records of CSV (RFC 4180): commas, quotes, a header, lines that end with LF or CRLF.
//!
//! What the RFC does not say is no CSV here: quotes in fields that do not begin with one, lines with more or fewer
//! fields than the header. Where a line ends can be told all the same. The crates for CSV take such for something, and
//! what was meant would be published as something else.

use bytes::Bytes;

use super::{Broken, Piece, Record, Wrong, take};

/// The most columns.
const COLUMNS: usize = 1024;

/// Where a body is, and what its header says.
#[derive(Debug, Default)]
pub(super) struct Lines {
    at: At,
    header: Option<Header>,
}

/// The names of the columns, each as the JSON of an object begins with it: `"name":`.
#[derive(Debug)]
struct Header {
    names: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// At the beginning of a field.
    #[default]
    Field,
    /// In one without quotes, or behind the quotes of one.
    Plain,
    /// In the quotes of one.
    Quoted,
    /// Behind a quote in quotes: it ends them, unless another one follows.
    Quote,
}

// === impl Lines ===

impl Lines {
    pub(super) fn held(&self) -> usize {
        let names = self.header.iter().flat_map(|header| &header.names);
        names.map(|name| name.len() + size_of::<Vec<u8>>()).sum()
    }

    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        piece: &mut Piece,
    ) -> Result<Option<Record>, Broken> {
        loop {
            let Some(end) = input.iter().position(|byte| self.at.pass(*byte)) else {
                piece.push(take(input, input.len()));
                return Ok(None);
            };
            piece.push(take(input, end));
            take(input, 1);
            if let Some(record) = self.line(piece)? {
                return Ok(Some(record));
            }
        }
    }

    pub(super) fn end(&mut self, piece: &mut Piece) -> Result<Option<Record>, Broken> {
        let record = self.line(piece)?;
        match self.header {
            Some(_) => Ok(record),
            None => Err(Broken(
                "the body has no header: its first line names the columns",
            )),
        }
    }

    /// The line that has come, unless it is empty or the header.
    fn line(&mut self, piece: &mut Piece) -> Result<Option<Record>, Broken> {
        self.at = At::Field;
        if !piece.long && matches!(&*piece.bytes, b"" | b"\r") {
            piece.clear();
            return Ok(None);
        }
        let Some(header) = &self.header else {
            if piece.long {
                return Err(Broken("the header is longer than maxRecordBytes"));
            }
            self.header = Some(Header::read(&piece.bytes)?);
            piece.clear();
            return Ok(None);
        };
        let max = piece.max;
        Ok(Some(piece.record(|line| header.object(line, max))))
    }
}

// === impl At ===

impl At {
    /// Goes on behind a byte; whether that ends the line.
    fn pass(&mut self, byte: u8) -> bool {
        *self = match (*self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) | (Self::Field | Self::Quote, b'"') => Self::Quoted,
            (_, b'\n') => return true,
            (_, b',') => Self::Field,
            _ => Self::Plain,
        };
        false
    }
}

// === impl Header ===

impl Header {
    fn read(line: &[u8]) -> Result<Self, Broken> {
        let unreadable = "the header is no line of CSV in UTF-8, or names more than 1024 columns";
        let fields = fields(line).map_err(|_| Broken(unreadable))?;
        let mut seen = std::collections::HashSet::new();
        let mut names = Vec::new();
        for field in &fields {
            if field.is_empty() {
                return Err(Broken("the header has a column without a name"));
            }
            if !seen.insert(field) {
                return Err(Broken("the header names a column twice"));
            }
            let mut name = Vec::with_capacity(field.len() + 3);
            write(&mut name, field);
            name.push(b':');
            names.push(name);
        }
        Ok(Self { names })
    }

    /// A line as a JSON object: each field is the string that its column has.
    fn object(&self, line: &[u8], max: usize) -> Result<Bytes, Wrong> {
        let fields = fields(line)?;
        let (have, want) = (fields.len(), self.names.len());
        if have != want {
            let why = format!("it has {have} fields, and the header names {want} columns");
            return Err(Wrong::Malformed(why));
        }
        let mut object = Vec::with_capacity(line.len() + 2);
        for (name, field) in self.names.iter().zip(&fields) {
            object.push(if object.is_empty() { b'{' } else { b',' });
            object.extend_from_slice(name);
            write(&mut object, field);
            if object.len() >= max {
                return Err(Wrong::Long(max));
            }
        }
        object.push(b'}');
        Ok(object.into())
    }
}

fn write(to: &mut Vec<u8>, text: &str) {
    // Neither a text nor a vector makes that fail.
    let _ = serde_json::to_writer(to, text);
}

/// The fields of a line.
fn fields(line: &[u8]) -> Result<Vec<String>, Wrong> {
    let wrong = |why: &str| Wrong::Malformed(why.to_owned());
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = str::from_utf8(line).map_err(|_| wrong("it is no text in UTF-8"))?;
    let mut fields = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let field;
        (field, rest) = match text.strip_prefix('"') {
            None => match text.split_once(',') {
                None => (text.to_owned(), None),
                Some((field, rest)) => (field.to_owned(), Some(rest)),
            },
            Some(quoted) => unquoted(quoted)?,
        };
        if !text.starts_with('"') && field.contains('"') {
            return Err(wrong(
                "a field has a quote and is not in quotes; write it in quotes, and the quote twice",
            ));
        }
        fields.push(field);
        // A line of many commas has many fields: more than can be right need not be held.
        if fields.len() > COLUMNS {
            return Err(wrong("it has more than 1024 fields"));
        }
    }
    Ok(fields)
}

/// A field in quotes, behind the first of them, and what follows it.
fn unquoted(text: &str) -> Result<(String, Option<&str>), Wrong> {
    let wrong = |why: &str| Wrong::Malformed(why.to_owned());
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (before, behind) = rest
            .split_once('"')
            .ok_or_else(|| wrong("a field begins with a quote, and does not end with one"))?;
        field.push_str(before);
        rest = match behind.as_bytes().first() {
            None => return Ok((field, None)),
            Some(b',') => return Ok((field, behind.get(1..))),
            Some(b'"') => {
                field.push('"');
                behind.get(1..).unwrap_or_default()
            }
            Some(_) => return Err(wrong("something follows the quote that ends a field")),
        };
    }
}
