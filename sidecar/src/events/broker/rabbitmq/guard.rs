//! What a RabbitMQ says, made such that the crate can read it.
//!
//! The crate reads tables within one another without end, on the stack of its thread, and ends the
//! connection at a short text that is not UTF-8 (lapin 4.12, amq-protocol 10.6). A RabbitMQ hands on
//! what it was given, so anybody who may publish could end the process, or hold up a queue for ever:
//! what nobody acknowledges comes again. And what is returned as nobody holds it, the crate writes to
//! the log, data and all. So what comes from a broker passes through here: properties that can't be
//! read are left out, texts are made ASCII where they are no UTF-8, and what is returned is emptied.
//!
//! Lengths and offsets are those of AMQP 0-9-1 (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>,
//! section 4.2), types of tables those of <https://www.rabbitmq.com/docs/amqp-0-9-1-errata>, section 3.

use std::collections::HashMap;

use crate::events::broker::dial::shown;

/// The longest frame, in bytes, that is asked for and let through.
pub(super) const MAX_FRAME: usize = 128 * 1024;
/// The longest properties, in bytes, that are waited for: a broker adds to what it was sent.
const MAX_PROPERTIES: usize = 1024 * 1024;
/// The longest message, in bytes: no RabbitMQ takes longer ones.
const MAX_MESSAGE: u64 = 512 * 1024 * 1024;
/// How deep tables may lie in one another.
const DEPTH: u32 = 8;
/// What comes before a frame's payload, and after it, in bytes.
const HEAD: usize = 7;
const END: u8 = 0xCE;

/// The types of frames.
mod kind {
    pub(super) const METHOD: u8 = 1;
    pub(super) const HEADER: u8 = 2;
    pub(super) const BODY: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 8;
}

/// The class of messages.
const BASIC: u16 = 60;

/// Follows one connection, in the direction from the broker.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// What is not complete: a frame.
    held: Vec<u8>,
    /// The channels on which a message comes that is returned.
    returned: HashMap<u16, Returned>,
    /// How many channels the broker has ended.
    pub(super) ends: u32,
    /// The channels that many publish on at once.
    pub(super) shared: HashMap<u16, Shared>,
    /// The version that the broker says it is of.
    pub(super) version: Option<String>,
    /// Why it has ended the connection.
    pub(super) reason: Option<String>,
}

/// What is known of a channel that many publish on.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// How many messages are not written yet.
    pub(super) unwritten: usize,
    /// Whether a message was returned on it.
    pub(super) has_returned: bool,
    /// Whether nobody begins to publish on it any more.
    pub(super) is_left: bool,
    /// That the broker has ended it, which the crate is not told before all is written: it would say that it has heard
    /// that, and write the rest then, at which the broker ends the connection.
    pub(super) ended: Option<Vec<u8>>,
}

/// It is no RabbitMQ that says this. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak as a RabbitMQ does")]
pub(super) struct Malformed;

/// What is still to come of a message that is returned.
#[derive(Debug)]
enum Returned {
    Properties,
    /// So many bytes.
    Data(u64),
}

/// Reads what lies one after the other. Whatever returns nothing found something else.
struct Reader<'a> {
    bytes: &'a mut [u8],
    at: usize,
    version: Option<String>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn is_certain(&self) -> bool {
        !self.has_returned && self.ended.is_none()
    }
}

// === impl Guard ===

impl Guard {
    /// Appends to `passed` as much as can be passed on of what was read, and keeps the rest.
    ///
    /// # Errors
    /// That it is not from a RabbitMQ.
    pub(super) fn pass(&mut self, read: &[u8], passed: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(read);
        let mut at = 0;
        while let Some([kind, c0, c1, s0, s1, s2, s3]) = held[at..].first_chunk::<HEAD>() {
            let channel = u16::from_be_bytes([*c0, *c1]);
            let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
            let size = usize::try_from(size).map_err(|_| Malformed)?;
            let longest = match *kind {
                kind::HEADER => MAX_PROPERTIES,
                _ => MAX_FRAME,
            };
            if size > longest {
                return Err(Malformed);
            }
            let whole = HEAD + size + 1;
            let kind = *kind;
            let Some(frame) = held.get_mut(at..at + whole) else {
                break;
            };
            let (payload, end) = frame[HEAD..].split_at_mut(size);
            if *end != [END] {
                return Err(Malformed);
            }
            self.frame(kind, channel, payload, passed)?;
            at += whole;
        }
        held.drain(..at);
        self.held = held;
        Ok(())
    }

    /// Appends to `passed` that channels were ended on which all is written that was to be.
    pub(super) fn pass_ends(&mut self, passed: &mut Vec<u8>) {
        self.shared.retain(|channel, shared| match &shared.ended {
            Some(end) if shared.unwritten == 0 => {
                append(passed, kind::METHOD, *channel, end);
                false
            }
            _ => true,
        });
    }

    fn frame(
        &mut self,
        kind: u8,
        channel: u16,
        payload: &mut [u8],
        passed: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        match kind {
            kind::METHOD => {
                let ends = self.ends;
                self.method(channel, payload).ok_or(Malformed)?;
                match self.shared.get_mut(&channel).filter(|_| self.ends != ends) {
                    Some(shared) => shared.ended = Some(payload.to_vec()),
                    None => append(passed, kind, channel, payload),
                }
            }
            kind::HEADER => {
                let (begin, properties) = payload.split_at_mut_checked(12).ok_or(Malformed)?;
                let (class, size) = begin.split_at(4);
                let size = size
                    .first_chunk()
                    .map_or(0, |size| u64::from_be_bytes(*size));
                if class[..2] != BASIC.to_be_bytes() || size > MAX_MESSAGE {
                    return Err(Malformed);
                }
                if self.returned.remove(&channel).is_some() {
                    if size > 0 {
                        self.returned.insert(channel, Returned::Data(size));
                    }
                    let mut nothing = [0; 14];
                    nothing[..2].copy_from_slice(&BASIC.to_be_bytes());
                    append(passed, kind, channel, &nothing);
                } else if properties.len() + 12 + HEAD + 1 > MAX_FRAME
                    || are_properties(properties).is_none()
                {
                    append(passed, kind, channel, &[&*begin, &[0, 0]].concat());
                } else {
                    append(passed, kind, channel, payload);
                }
            }
            kind::BODY => match self.returned.get_mut(&channel) {
                Some(Returned::Data(left)) => {
                    let length = u64::try_from(payload.len()).map_err(|_| Malformed)?;
                    *left = left.checked_sub(length).ok_or(Malformed)?;
                    if *left == 0 {
                        self.returned.remove(&channel);
                    }
                }
                Some(Returned::Properties) => return Err(Malformed),
                None => append(passed, kind, channel, payload),
            },
            kind::HEARTBEAT if channel == 0 && payload.is_empty() => {
                append(passed, kind, channel, payload);
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// A method is one of those that answer ours, with what belongs to it.
    fn method(&mut self, channel: u16, payload: &mut [u8]) -> Option<()> {
        let mut reader = Reader::new(payload);
        let (class, method) = (reader.u16()?, reader.u16()?);
        let parts = match (class, method) {
            (10, 10) => "11tll",
            (10, 30) => "242",
            (10, 41 | 60) => "s",
            (10, 50) | (20, 40) => "2s22",
            (10, 51 | 61) | (20, 41) | (40, 11) | (50, 21) | (BASIC, 11) | (85, 11) => "",
            (20, 11) => "l",
            (20, 20 | 21) => "1",
            (50, 11) => "s44",
            (BASIC, 21 | 31) => "s",
            (BASIC, 30) => "s1",
            (BASIC, 50) => "2sss",
            (BASIC, 60) => "s81ss",
            (BASIC, 80 | 120) => "81",
            _ => return None,
        };
        // The crate ends a connection that is told of itself elsewhere, and anything else here.
        if (class == 10) != (channel == 0) {
            return None;
        }
        let mut text = None;
        for part in parts.chars() {
            match part {
                's' => text = Some(reader.short()?.to_owned()),
                'l' => reader.long()?,
                't' => reader.table(0)?,
                number => reader.skip(usize::try_from(number.to_digit(10)?).ok()?)?,
            }
        }
        let version = reader.end()?;
        match (class, method) {
            (10, 10) => self.version = version,
            (10, 50) => self.reason = text.as_deref().map(shown),
            (20, 40) => self.ends = self.ends.saturating_add(1),
            (BASIC, 50) => {
                self.returned.insert(channel, Returned::Properties);
                if let Some(shared) = self.shared.get_mut(&channel) {
                    shared.has_returned = true;
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn append(passed: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    passed.push(kind);
    passed.extend(channel.to_be_bytes());
    // No payload is longer than what a frame may be.
    passed.extend(
        u32::try_from(payload.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    passed.extend_from_slice(payload);
    passed.push(END);
}

/// Whether the crate can read the properties of a message.
fn are_properties(bytes: &mut [u8]) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let flags = reader.u16()?;
    // Those that are there, from the first. The last two are no properties.
    for (number, part) in "sst11ssss8ssss".chars().enumerate() {
        if flags & (1 << 15 >> number) == 0 {
            continue;
        }
        match part {
            's' => drop(reader.short()?),
            't' => reader.table(0)?,
            '8' => reader.skip(8)?,
            _ => reader.skip(1)?,
        }
    }
    if flags & 0b11 != 0 {
        return None;
    }
    reader.end().map(drop)
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            version: None,
        }
    }

    /// That there is nothing more. Returns the version, if one was named.
    fn end(self) -> Option<Option<String>> {
        (self.at == self.bytes.len()).then_some(self.version)
    }

    fn take(&mut self, length: usize) -> Option<&mut [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get_mut(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?
            .first_chunk()
            .map(|it| u16::from_be_bytes(*it))
    }

    fn length(&mut self) -> Option<usize> {
        let length = self
            .take(4)?
            .first_chunk()
            .map(|it| u32::from_be_bytes(*it));
        usize::try_from(length?).ok()
    }

    /// A short text. One that is not UTF-8 is made such.
    fn short(&mut self) -> Option<&str> {
        let length = usize::from(self.u8()?);
        let text = self.take(length)?;
        if str::from_utf8(text).is_err() {
            for byte in text.iter_mut().filter(|byte| !byte.is_ascii()) {
                *byte = b'?';
            }
        }
        str::from_utf8(text).ok()
    }

    fn long(&mut self) -> Option<()> {
        let length = self.length()?;
        self.skip(length)
    }

    /// A table, or what is in it.
    fn table(&mut self, depth: u32) -> Option<()> {
        let length = self.length()?;
        let end = self.at.checked_add(length)?;
        while self.at < end {
            let is_version = depth == 0 && self.short()? == "version";
            if depth > 0 {
                self.short()?;
            }
            let from = self.at;
            self.value(depth)?;
            // It is a long text: its type and its length come before it.
            if is_version {
                let text = self.bytes.get(from + 5..self.at);
                let text = text.and_then(|text| str::from_utf8(text).ok());
                self.version = text.map(shown);
            }
        }
        (self.at == end).then_some(())
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        match self.u8()? {
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'U' | b'u' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            b'D' => self.skip(5),
            b'S' | b'x' => self.long(),
            b'V' => Some(()),
            b'F' if depth < DEPTH => self.table(depth + 1),
            b'A' if depth < DEPTH => {
                let length = self.length()?;
                let end = self.at.checked_add(length)?;
                while self.at < end {
                    self.value(depth + 1)?;
                }
                (self.at == end).then_some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        append(&mut frame, kind, channel, payload);
        frame
    }

    fn method(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
        let channel = u16::from(class != 10);
        let begin = [class.to_be_bytes(), method.to_be_bytes()].concat();
        frame(kind::METHOD, channel, &[&begin, arguments].concat())
    }

    /// Properties of a message of so many bytes.
    fn header(size: u64, properties: &[u8]) -> Vec<u8> {
        let begin = [&[0, 60, 0, 0], size.to_be_bytes().as_slice()].concat();
        frame(kind::HEADER, 1, &[&begin, properties].concat())
    }

    /// Properties with these headers only.
    fn headers(entries: &[u8]) -> Vec<u8> {
        let length = u32::try_from(entries.len()).unwrap().to_be_bytes();
        [&[0x20, 0], length.as_slice(), entries].concat()
    }

    fn passed(said: &[u8], size: usize) -> Result<(Vec<u8>, Guard), Malformed> {
        let (mut guard, mut passed) = (Guard::default(), Vec::new());
        for part in said.chunks(size) {
            guard.pass(part, &mut passed)?;
        }
        Ok((passed, guard))
    }

    const DELIVER: &[u8] = b"\x01m\0\0\0\0\0\0\0\x01\0\x06orders\x03key";
    /// Every property there is.
    const ALL: &[u8] =
        b"\xff\xfc\x01a\x01b\0\0\0\0\x02\x01\x01c\x01d\x01e\x01f\0\0\0\0\0\0\0\x01\x01g\x01h\x01i\x01j";
    const START: &[u8] =
        b"\0\x09\0\0\0\x12\x07versionS\0\0\0\x053.10x\0\0\0\x05PLAIN\0\0\0\x05en_US";

    #[test]
    fn what_can_be_read_passes_as_it_is_however_it_is_cut() {
        let said = [
            method(10, 10, START),
            method(60, 60, DELIVER),
            header(4, &headers(b"\x05ce-idS\0\0\0\x011\x01at\x01")),
            frame(kind::BODY, 1, b"data"),
            header(0, ALL),
            frame(kind::HEARTBEAT, 0, b""),
            method(10, 50, b"\x01\x40\x02no\0\0\0\0"),
        ]
        .concat();
        for size in 1..said.len() {
            let (passed, guard) = passed(&said, size).unwrap();
            assert_eq!(passed, said, "{size}");
            assert_eq!(guard.version.as_deref(), Some("3.10x"));
            assert_eq!(guard.reason.as_deref(), Some("no"));
        }
    }

    #[test]
    fn properties_that_cannot_be_read_are_left_out_and_what_follows_is_not() {
        let after = frame(kind::BODY, 1, b"data");
        // Tables in one another, each the only thing in the last.
        let deep = |what: u8, name: &[u8], count: usize| {
            let mut entries = Vec::new();
            for _ in 0..count {
                let length = u32::try_from(entries.len()).unwrap().to_be_bytes();
                let inside = [name, &[what], length.as_slice(), &entries].concat();
                entries = inside;
            }
            entries
        };
        let bad = [
            headers(&deep(b'F', b"\x01a", 9)),
            headers(&deep(b'F', b"\x01a", 15_000)),
            headers(&[b"\x01a".as_slice(), &deep(b'A', b"", 15_000)].concat()),
            headers(b"\x01a?"),
            headers(b"\x01aS\xff\xff\xff\xff"),
            headers(b"\x09a"),
            b"\0\x01".to_vec(),
            b"\x80\0\xffa".to_vec(),
            b"\0\0more".to_vec(),
            b"".to_vec(),
            headers(&[b"\x01aS\0\x01\xff\xfa".as_slice(), &vec![b'a'; 131_066]].concat()),
        ];
        for properties in bad {
            let said = [header(4, &properties), after.clone()].concat();
            let wanted = [header(4, &[0, 0]), after.clone()].concat();
            assert!(
                passed(&said, 4096).unwrap().0 == wanted,
                "{properties:.40?}"
            );
        }
        let said = header(4, &headers(&deep(b'F', b"\x01a", 8)));
        assert_eq!(passed(&said, 7).unwrap().0, said);
    }

    #[test]
    fn texts_that_are_not_utf8_are_made_such() {
        let said = [
            method(60, 60, b"\x01m\0\0\0\0\0\0\0\x01\0\x06orders\x03k\xff\xfe"),
            header(4, &headers(b"\x02a\xffS\0\0\0\x01\xff")),
        ]
        .concat();
        let wanted = [
            method(60, 60, b"\x01m\0\0\0\0\0\0\0\x01\0\x06orders\x03k??"),
            header(4, &headers(b"\x02a?S\0\0\0\x01\xff")),
        ]
        .concat();
        assert_eq!(passed(&said, 9).unwrap().0, wanted);
    }

    #[test]
    fn what_is_returned_is_emptied() {
        let returned = method(60, 50, b"\x01\x38\x08NO_ROUTE\x06orders\0");
        let ack = method(60, 80, b"\0\0\0\0\0\0\0\x01\0");
        for (size, bodies) in [
            (0, [].as_slice()),
            (9, [b"sec", b"ret".as_slice(), b"!!!"].as_slice()),
        ] {
            let bodies = bodies.iter().flat_map(|body| frame(kind::BODY, 1, body));
            let properties = header(size, &headers(b"\x01aS\0\0\0\x06secret"));
            let said = [returned.clone(), properties, bodies.collect(), ack.clone()].concat();
            let wanted = [returned.clone(), header(0, &[0, 0]), ack.clone()].concat();
            assert_eq!(passed(&said, 5).unwrap().0, wanted);
        }
    }

    #[test]
    fn what_is_no_rabbitmq_is_told() {
        for said in [
            b"AMQP\0\0\x09\x01".to_vec(),
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            frame(kind::METHOD, 0, b"\0\x0a\0\x0b"),
            frame(kind::METHOD, 1, b"\0\x0a\0\x29\0"),
            frame(kind::METHOD, 0, b"\0\x3c\0\x0b"),
            method(60, 80, b"\0"),
            method(60, 80, b"\0\0\0\0\0\0\0\x01\0\0"),
            frame(kind::HEARTBEAT, 1, b""),
            frame(kind::HEADER, 1, b"\0\x3c"),
            frame(9, 0, b""),
            [
                method(60, 50, b"\x01\x38\0\0\0"),
                frame(kind::BODY, 1, b"a"),
            ]
            .concat(),
            b"\x01\0\0\xff\xff\xff\xff".to_vec(),
            b"\x08\0\0\0\0\0\0\0".to_vec(),
        ] {
            assert!(passed(&said, said.len()).is_err(), "{said:?}");
        }
    }
}
