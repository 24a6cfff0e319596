//! Records of XML 1.0: elements at a path, each of which becomes a document.
//!
//! Where elements begin and end is told here, while they come; whether one is well-formed by quick-xml, when all of
//! it is there. Neither knows document types: no entity is ever expanded, and who declares one is refused. Whatever
//! stands between records is passed over.

mod element;

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

use self::element::read;
use super::{Broken, Piece, Record, take};

/// The most elements within one another.
const DEPTH: usize = 127;
/// The longest name of an element, and the longest tag of one that holds records or is one, in bytes.
const NAME: usize = 1024;
const TAG: usize = 16 * 1024;
/// The most bytes of declarations of namespaces that the elements around a record bring into it.
const DECLARED: usize = 4 * 1024;
/// The most attributes of an element: each is compared with all others.
const ATTRIBUTES: usize = 256;

/// Which elements are records: local names, that of the root first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// Where a document is.
#[derive(Debug)]
pub(super) struct Document {
    path: Path,
    at: At,
    /// The elements that are open, that of the root first.
    open: Vec<Open>,
    /// How many are open around the record that has begun.
    record: Option<usize>,
    /// The name of the tag that has begun, and whether all of it has come.
    name: Vec<u8>,
    named: bool,
    /// Outside of records all of the tag; of the declaration, its beginning.
    tag: Vec<u8>,
    /// Whether the root has come.
    rooted: bool,
}

#[derive(Debug)]
struct Open {
    name: Vec<u8>,
    /// Whether it leads to records.
    leads: bool,
    /// The namespaces that it declares: the attribute's name, and all of the attribute.
    declares: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    /// Behind `<`.
    Less,
    /// Behind `<!`, with what has come of what follows.
    Mark([u8; 7], usize),
    Tag {
        quote: Option<u8>,
        ends: bool,
        slash: bool,
    },
    /// With how many of the two characters that end it have come.
    Comment(u8),
    CData(u8),
    Instruction(bool),
}

/// A tag that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Start,
    End,
    Empty,
}

// === impl Path ===

impl Path {
    /// Reads names between slashes.
    ///
    /// # Errors
    /// That there is none.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let names = Vec::from_iter(text.split('/').map(str::to_owned));
        match names.iter().any(String::is_empty) {
            true => Err(
                "it is no path: write the names of elements between slashes, that of the root first",
            ),
            false => Ok(Self(names)),
        }
    }
}

// === impl At ===

impl At {
    /// Goes on behind a byte; which tag has ended with it.
    fn pass(&mut self, byte: u8) -> Result<Option<Tag>, Broken> {
        const TAG: At = At::Tag {
            quote: None,
            ends: false,
            slash: false,
        };
        *self = match (*self, byte) {
            (Self::Text, b'<') => Self::Less,
            (Self::Text, _) => Self::Text,
            (Self::Less, b'!') => Self::Mark([0; 7], 0),
            (Self::Less, b'?') => Self::Instruction(false),
            (Self::Less, b'/') => Self::Tag {
                quote: None,
                ends: true,
                slash: false,
            },
            (Self::Less, b'>') => return Err(Broken("a tag has no name")),
            (Self::Less, _) => TAG,
            (Self::Mark(mut mark, mut came), byte) => {
                if let Some(next) = mark.get_mut(came) {
                    *next = byte;
                }
                came += 1;
                match mark.get(..came).unwrap_or_default() {
                    b"--" => Self::Comment(0),
                    b"[CDATA[" => Self::CData(0),
                    mark if b"--".starts_with(mark) || b"[CDATA[".starts_with(mark) => {
                        Self::Mark(self.mark(mark), came)
                    }
                    _ => {
                        return Err(Broken(
                            "it declares a document type, and none is read: take <!DOCTYPE out of it",
                        ));
                    }
                }
            }
            (
                Self::Tag {
                    quote: Some(quote),
                    ends,
                    ..
                },
                byte,
            ) => Self::Tag {
                quote: (quote != byte).then_some(quote),
                ends,
                slash: false,
            },
            (Self::Tag { ends, slash, .. }, b'>') => {
                *self = Self::Text;
                return Ok(Some(match (ends, slash) {
                    (true, _) => Tag::End,
                    (false, true) => Tag::Empty,
                    (false, false) => Tag::Start,
                }));
            }
            (Self::Tag { .. }, b'<') => {
                return Err(Broken("a tag does not end before the next one"));
            }
            (Self::Tag { ends, .. }, b'"' | b'\'') => Self::Tag {
                quote: Some(byte),
                ends,
                slash: false,
            },
            (Self::Tag { ends, .. }, _) => Self::Tag {
                quote: None,
                ends,
                slash: byte == b'/',
            },
            (Self::Comment(2..), b'>') | (Self::CData(2..), b'>') => Self::Text,
            (Self::Comment(came), b'-') => Self::Comment(came.saturating_add(1)),
            (Self::Comment(_), _) => Self::Comment(0),
            (Self::CData(came), b']') => Self::CData(came.saturating_add(1)),
            (Self::CData(_), _) => Self::CData(0),
            (Self::Instruction(true), b'>') => Self::Text,
            (Self::Instruction(_), byte) => Self::Instruction(byte == b'?'),
        };
        Ok(None)
    }

    fn mark(&self, came: &[u8]) -> [u8; 7] {
        let mut mark = [0; 7];
        for (to, from) in mark.iter_mut().zip(came) {
            *to = *from;
        }
        mark
    }
}

// === impl Document ===

impl Document {
    pub(super) fn new(path: Path) -> Self {
        Self {
            path,
            at: At::Text,
            open: Vec::new(),
            record: None,
            name: Vec::new(),
            named: false,
            tag: Vec::new(),
            rooted: false,
        }
    }

    pub(super) fn held(&self) -> usize {
        let open = self.open.iter();
        let open: usize = open.map(|open| open.name.len() + size_of::<Open>()).sum();
        open + self.tag.capacity() + DECLARED
    }

    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        piece: &mut Piece,
    ) -> Result<Option<Record>, Broken> {
        let mut run = 0;
        while let Some(&byte) = input.get(run) {
            let outside = self.record.is_none();
            if outside {
                self.outside(byte)?;
            }
            let ended = self.at.pass(byte)?;
            self.names(byte, ended)?;
            run += 1;
            let ends = match ended {
                None => continue,
                Some(Tag::Start | Tag::Empty) if outside => {
                    take(input, run);
                    run = 0;
                    self.start(ended == Some(Tag::Empty), piece)?
                }
                Some(Tag::Start) => {
                    self.push(false, BTreeMap::new())?;
                    false
                }
                Some(Tag::Empty) => false,
                Some(Tag::End) => self.ends()?,
            };
            if ends {
                piece.push(take(input, run));
                return Ok(Some(piece.record(read)));
            }
        }
        match self.record {
            Some(_) => piece.push(take(input, run)),
            None => drop(take(input, run)),
        }
        Ok(None)
    }

    pub(super) fn end(&self) -> Result<(), Broken> {
        match self.rooted && self.open.is_empty() && self.record.is_none() && self.at == At::Text {
            true => Ok(()),
            false => Err(Broken("the body ends before its document does")),
        }
    }

    /// Looks at a byte that stands in no record.
    fn outside(&mut self, byte: u8) -> Result<(), Broken> {
        match self.at {
            At::Text if byte == b'<' => {
                self.tag.clear();
                self.tag.push(byte);
            }
            At::Text if self.open.is_empty() && !byte.is_ascii_whitespace() => {
                return Err(Broken(match self.rooted {
                    true => "something follows the end of the document",
                    false => "the body is no XML in UTF-8: it does not begin with <",
                }));
            }
            At::Less | At::Tag { .. } => {
                if self.tag.len() >= TAG {
                    return Err(Broken("a tag around records is longer than 16384 bytes"));
                }
                self.tag.push(byte);
            }
            At::Instruction(question) => {
                // Of the declaration, which alone says anything.
                if self.tag.len() < 256 {
                    self.tag.push(byte);
                }
                if question && byte == b'>' {
                    is_utf8(&self.tag)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps the name of the tag that a byte belongs to.
    fn names(&mut self, byte: u8, ended: Option<Tag>) -> Result<(), Broken> {
        match self.at {
            At::Less => {
                self.name.clear();
                self.named = false;
            }
            At::Tag { .. } if !self.named => match byte {
                b'/' if self.name.is_empty() => {}
                b'/' => self.named = true,
                byte if byte.is_ascii_whitespace() => self.named = true,
                byte if self.name.len() < NAME => self.name.push(byte),
                _ => return Err(Broken("the name of an element is longer than 1024 bytes")),
            },
            _ => {}
        }
        match ended.is_some() && self.name.is_empty() {
            true => Err(Broken("a tag has no name")),
            false => Ok(()),
        }
    }

    fn push(&mut self, leads: bool, declares: BTreeMap<String, String>) -> Result<(), Broken> {
        if self.open.len() >= DEPTH {
            return Err(Broken("more than 127 elements stand within one another"));
        }
        let all = self.open.iter().flat_map(|open| open.declares.values());
        let all: usize = all.chain(declares.values()).map(String::len).sum();
        if all > DECLARED {
            return Err(Broken(
                "the namespaces that are declared around records are longer than 4096 bytes",
            ));
        }
        self.open.push(Open {
            name: self.name.clone(),
            leads,
            declares,
        });
        Ok(())
    }

    /// An element begins that is in no record. Whether a record ends with its tag.
    fn start(&mut self, empty: bool, piece: &mut Piece) -> Result<bool, Broken> {
        let level = self.open.len();
        if level == 0 && std::mem::replace(&mut self.rooted, true) {
            return Err(Broken("something follows the end of the document"));
        }
        let declares = declares(&self.tag);
        let on_path = self.open.last().is_none_or(|around| around.leads);
        let Path(path) = &self.path;
        let local = self.name.rsplit(|byte| *byte == b':').next();
        let named = path.get(level).map(String::as_bytes);
        let leads = on_path && named.is_some() && named == local;
        if !leads || level + 1 < path.len() {
            let unreadable = Broken("a tag around records is not well-formed, or not in UTF-8");
            let declares = declares.ok_or(unreadable)?;
            if !empty {
                self.push(leads, declares)?;
            }
            return Ok(false);
        }
        // As a document it declares itself what was declared around it. One that is none is told when it is read.
        let own = declares.unwrap_or_default();
        let around = self.open.iter().flat_map(|open| &open.declares);
        let around: BTreeMap<_, _> = around.collect();
        let (name, rest) = self
            .tag
            .split_at_checked(1 + self.name.len())
            .unwrap_or((&self.tag, &[]));
        piece.push(name);
        for (key, attribute) in around {
            if !own.contains_key(key) {
                piece.push(b" ");
                piece.push(attribute.as_bytes());
            }
        }
        piece.push(rest);
        if !empty {
            self.record = Some(level);
            self.push(false, BTreeMap::new())?;
        }
        Ok(empty)
    }

    /// An element ends; whether a record does with it.
    fn ends(&mut self) -> Result<bool, Broken> {
        let ends = self.open.pop().filter(|open| open.name == self.name);
        if ends.is_none() {
            return Err(Broken(
                "a tag ends an element that is not the one that is open",
            ));
        }
        let ends = self.record == Some(self.open.len());
        if ends {
            self.record = None;
        }
        Ok(ends)
    }
}

/// Refuses the declaration of another encoding.
fn is_utf8(instruction: &[u8]) -> Result<(), Broken> {
    let text = String::from_utf8_lossy(instruction).to_ascii_lowercase();
    let rest = text.strip_prefix("<?xml ");
    let encoding = rest.and_then(|rest| rest.split_once("encoding"));
    let encoding = encoding.map(|(_, rest)| {
        rest.trim_start_matches(['=', ' ', '"', '\''])
            .starts_with("utf-8")
    });
    match encoding {
        Some(false) => Err(Broken(
            "it declares another encoding than UTF-8: send it in UTF-8",
        )),
        _ => Ok(()),
    }
}

/// The namespaces that a tag declares; none when it is not well-formed.
fn declares(tag: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut reader = Reader::from_str(str::from_utf8(tag).ok()?);
    let (Ok(Event::Start(tag)) | Ok(Event::Empty(tag))) = reader.read_event() else {
        return None;
    };
    let mut declares = BTreeMap::new();
    for (at, attribute) in tag.attributes().enumerate() {
        let attribute = attribute.ok().filter(|_| at < ATTRIBUTES)?;
        if attribute.key.as_namespace_binding().is_some() {
            let (key, value) = (attribute.key.as_ref(), &attribute.value);
            // One that has both has one of them as a reference.
            let quote = if value.contains('"') { '\'' } else { '"' };
            declares.insert(key.to_owned(), format!("{key}={quote}{value}{quote}"));
        }
    }
    Some(declares)
}
