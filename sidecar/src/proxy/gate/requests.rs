//! HTTP/1.1 requests, strictly: where each ends is decided here and by hyper, and only what both
//! read in the same way gets through.
//!
//! What comes behind a request that asks for another protocol is read as the next request until the
//! answer agrees: hyper would read it so if it does not. Who speaks the other protocol before
//! (RFC 9110 section 7.8 does not allow it) is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::limits::{MAX_CHUNK_LINE, MAX_HEAD};
use super::Refused;
use super::lines::{Field, Framing, Line, strictly};

/// Requests of one connection, as they come.
#[derive(Debug)]
pub struct Requests {
    state: State,
    line: Line,
    /// Bytes of the head, or of the trailers, so far.
    size: usize,
    framing: Framing,
    connect: bool,
    /// Heads that have ended.
    heads: u64,
    answered: Arc<Answered>,
}

/// Whether an answer has agreed to another protocol; hyper wants sockets that may move between
/// threads, so this can.
#[derive(Debug, Default)]
pub struct Answered(AtomicBool);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkLine,
    Chunk(u64),
    /// CRLF after a chunk, of which so many bytes have come.
    ChunkEnd(usize),
    Trailers,
    /// Another protocol, or a head that hyper will refuse for its size.
    Unread,
}

// === impl Answered ===

impl Answered {
    /// Another protocol follows.
    pub fn switched(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_switched(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// === impl Requests ===

impl Requests {
    /// Before the first one.
    pub fn new(answered: Arc<Answered>) -> Self {
        Self {
            state: State::Head,
            line: Line::default(),
            size: 0,
            framing: Framing::default(),
            connect: false,
            heads: 0,
            answered,
        }
    }

    /// The head that has begun and not ended.
    pub fn open_head(&self) -> Option<u64> {
        let open = self.state == State::Head && self.size > 0;
        (open && !self.answered.has_switched()).then_some(self.heads)
    }

    /// Looks at what has come.
    ///
    /// # Errors
    /// It must not be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.answered.has_switched() {
            self.state = State::Unread;
        }
        let mut at = 0;
        while at < bytes.len() {
            let left = &bytes[at..];
            let head = self.state == State::Head;
            at += self.step(left).map_err(|why| Refused {
                head_at: head.then_some(at),
                why,
            })?;
        }
        Ok(())
    }

    /// How many bytes were understood, at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match self.state {
            State::Unread => Ok(bytes.len()),
            State::Body(left) => Ok(self.skip(bytes, left, State::Body, State::Head)),
            State::Chunk(left) => Ok(self.skip(bytes, left, State::Chunk, State::ChunkEnd(0))),
            State::ChunkEnd(seen) => {
                if bytes[0] != b"\r\n"[seen] {
                    return Err("a chunk is longer than it says");
                }
                self.state = match seen {
                    0 => State::ChunkEnd(1),
                    _ => State::ChunkLine,
                };
                Ok(1)
            }
            State::Head | State::ChunkLine | State::Trailers => self.line(bytes),
        }
    }

    fn skip(&mut self, bytes: &[u8], left: u64, on: fn(u64) -> State, then: State) -> usize {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.state = match left - now as u64 {
            0 => then,
            left => on(left),
        };
        if self.state == State::Head {
            self.ended();
        }
        now
    }

    fn line(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let chunk = self.state == State::ChunkLine;
        if chunk && self.size > MAX_CHUNK_LINE {
            return Err("a chunk's size line is too long");
        }
        let mut line = std::mem::take(&mut self.line);
        let next = line.next(bytes, |line| self.whole(line));
        self.line = line;
        match next {
            Ok(Some((seen, taken))) => {
                seen?;
                Ok(taken)
            }
            Ok(None) => {
                self.size += bytes.len();
                if !chunk && self.size > MAX_HEAD {
                    return self.too_large(bytes.len());
                }
                Ok(bytes.len())
            }
            Err(_) if self.state == State::Head => self.too_large(bytes.len()),
            Err(why) => Err(why),
        }
    }

    /// hyper reads no more of a head than we do, and answers 431.
    fn too_large(&mut self, taken: usize) -> Result<usize, &'static str> {
        match self.state {
            State::Head => self.state = State::Unread,
            _ => return Err("trailers are too long"),
        }
        Ok(taken)
    }

    fn whole(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.size += line.len();
        let line = strictly(line)?;
        match self.state {
            State::ChunkLine => {
                let size = chunk_size(line)?;
                self.size = 0;
                self.state = match size {
                    0 => State::Trailers,
                    size => State::Chunk(size),
                };
            }
            State::Trailers if line.is_empty() => self.ended(),
            State::Trailers => {}
            // An empty line before a request is skipped (RFC 9112 section 2.2).
            _ if line.is_empty() && !self.framing.begun => {}
            _ if line.is_empty() => self.head_ended()?,
            _ if !self.framing.begun => {
                self.framing.begun = true;
                self.connect = line.starts_with(b"CONNECT ");
            }
            _ => {
                if let Some(field) = Field::of(line) {
                    self.framing.note(&field)?;
                }
            }
        }
        if self.size > MAX_HEAD {
            self.too_large(0)?;
        }
        Ok(())
    }

    fn head_ended(&mut self) -> Result<(), &'static str> {
        let framed = self.framing.chunked || self.framing.length.is_some();
        if self.connect && framed {
            return Err("a CONNECT with a body");
        }
        self.heads += 1;
        self.size = 0;
        match (self.framing.chunked, self.framing.length) {
            (true, _) => self.state = State::ChunkLine,
            (false, Some(length @ 1..)) => self.state = State::Body(length),
            (false, _) => self.ended(),
        }
        Ok(())
    }

    fn ended(&mut self) {
        self.state = State::Head;
        self.framing = Framing::default();
        self.size = 0;
    }
}

/// The size that a chunk's first line says; an extension is skipped (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("a chunk's size is no number");
    }
    if line.len() > MAX_CHUNK_LINE {
        return Err("a chunk's size line is too long");
    }
    let digits = std::str::from_utf8(digits).map_err(|_| "a chunk's size is no number")?;
    u64::from_str_radix(digits, 16).map_err(|_| "a chunk's size is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in pieces of each size; the reason must not depend on how the bytes are cut.
    fn refused(bytes: &[u8]) -> Option<&'static str> {
        let reasons = [1, 3, 17, usize::MAX].map(|size| {
            let mut requests = Requests::new(Arc::default());
            let mut pieces = bytes.chunks(size.min(bytes.len()));
            pieces.find_map(|piece| requests.read(piece).err().map(|refused| refused.why))
        });
        assert!(
            reasons.iter().all(|reason| *reason == reasons[0]),
            "{reasons:?}"
        );
        reasons[0]
    }

    fn head(lines: &str) -> Option<&'static str> {
        refused(format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n").as_bytes())
    }

    fn chunked(body: &str) -> Option<&'static str> {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        refused(format!("{head}{body}").as_bytes())
    }

    #[test]
    fn lengths_that_can_be_read_in_two_ways_are_refused() {
        for lines in [
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 5\r\ncontent-length: 5",
            "content-length: 5, 5",
            "content-length: 5,6",
            "content-length: +5",
            "content-length: 0x5",
            "content-length:",
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            "transfer-encoding: chunked\r\nContent-Length: 0",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: xchunked",
            "transfer-encoding: chunked, chunked",
            "transfer-encoding: chunked;x",
            "transfer-encoding: identity",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: \"chunked\"",
            "transfer-encoding:",
        ] {
            assert!(head(lines).is_some(), "{lines:?}");
        }
        for lines in [
            "content-length: 0",
            "Content-Length:5",
            "Transfer-Encoding:\tChunked ",
        ] {
            assert_eq!(head(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn line_ends_are_crlf_and_nothing_else() {
        for bytes in [
            "GET / HTTP/1.1\nhost: a\n\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\rx: y\r\n\r\n",
            "GET / HTTP/1.1\r\r\nhost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(refused(bytes.as_bytes()).is_some(), "{bytes:?}");
        }
        assert_eq!(refused(b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"), None);
    }

    #[test]
    fn chunks_are_as_long_as_they_say_in_hexadecimal() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MAX_CHUNK_LINE));
        for body in [
            "-5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            "00000000000000005\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "0\r\nx: 1\n\r\n",
            &long,
        ] {
            assert!(chunked(body).is_some(), "{body:?}");
        }
        for body in [
            "5\r\nhello\r\n0\r\n\r\n",
            "005;name=value\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
            "A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n",
        ] {
            assert_eq!(chunked(body), None, "{body:?}");
        }
    }

    #[test]
    fn the_next_request_is_looked_at_wherever_the_last_one_ends() {
        for first in [
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
            "POST /1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: 1\r\n\r\n",
        ] {
            let good = format!("{first}GET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(refused(good.as_bytes()), None, "{first:?}");
            let bad = format!("{first}GET /2 HTTP/1.1\nhost: a\r\n\r\n");
            assert!(refused(bad.as_bytes()).is_some(), "{first:?}");
        }
    }

    #[test]
    fn another_protocol_is_not_read_once_it_is_agreed_to_and_refused_before() {
        let ask = b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        let frames = b"\x81\x03abc\n";
        let world = || {
            let answered = Arc::new(Answered::default());
            let mut requests = Requests::new(answered.clone());
            requests.read(ask).unwrap();
            (requests, answered)
        };
        let (mut requests, answered) = world();
        answered.switched();
        assert!(requests.read(frames).is_ok());
        assert_eq!(requests.open_head(), None);

        let (mut requests, _) = world();
        assert!(requests.read(b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n").is_ok());
        assert!(requests.read(b"GET /3 HTTP/1.1\nhost: a\r\n\r\n").is_err());

        let (mut requests, _) = world();
        assert!(requests.read(frames).is_err());
    }

    #[test]
    fn a_connect_has_no_body() {
        assert!(refused(b"CONNECT a:80 HTTP/1.1\r\ncontent-length: 0\r\n\r\n").is_some());
        assert_eq!(
            refused(b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"),
            None
        );
    }
}
