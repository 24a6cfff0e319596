//! HTTP/1.1 answers of upstreams: hyper skips interim answers without counting them, and takes
//! `Transfer-Encoding` where a `Content-Length` says otherwise.
//!
//! Line ends are hyper's to judge here: old applications end lines with a bare LF, which nobody
//! behind us sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::limits::{MAX_HEAD, MAX_INTERIM};
use super::Refused;
use super::lines::{Field, Framing, Line};

/// Answers of one connection, as they come.
#[derive(Debug)]
pub struct Answers {
    asked: Arc<Asked>,
    /// Final answers whose head has ended.
    answers: u64,
    interim: usize,
    head: bool,
    line: Line,
    size: usize,
    framing: Framing,
    is_interim: bool,
}

/// How many requests were sent; hyper wants sockets that may move between threads, so this can.
#[derive(Debug, Default)]
pub struct Asked(AtomicU64);

// === impl Asked ===

impl Asked {
    /// One more request is sent; the answer before it has ended.
    pub fn one(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

// === impl Answers ===

impl Answers {
    /// Before the first one.
    pub fn new(asked: Arc<Asked>) -> Self {
        Self {
            asked,
            answers: 0,
            interim: 0,
            head: false,
            line: Line::default(),
            size: 0,
            framing: Framing::default(),
            is_interim: false,
        }
    }

    /// The head that has begun and not ended.
    pub fn open_head(&self) -> Option<u64> {
        let begun = self.head && (self.framing.begun || self.line.is_begun());
        begun.then_some(self.answers + self.interim as u64)
    }

    /// Looks at what has come.
    ///
    /// # Errors
    /// It must not be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if !self.head && self.asked.0.load(Ordering::Acquire) > self.answers {
            self.head = true;
            self.interim = 0;
        }
        let mut at = 0;
        while self.head && at < bytes.len() {
            let mut line = std::mem::take(&mut self.line);
            let next = line.next(&bytes[at..], |line| self.whole(line));
            self.line = line;
            let refused = |why| Refused {
                head_at: Some(at),
                why,
            };
            match next.map_err(refused)? {
                Some((seen, taken)) => {
                    seen.map_err(refused)?;
                    at += taken;
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn whole(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.size += line.len();
        if self.size > MAX_HEAD {
            return Err("an answer's head is too long");
        }
        let line = line.trim_ascii_end();
        match (self.framing.begun, line.is_empty()) {
            (false, true) => {}
            (false, false) => {
                self.framing.begun = true;
                let code = line.get(9..12).unwrap_or_default();
                self.is_interim = code.starts_with(b"1") && code != b"101";
            }
            (true, false) => {
                if let Some(field) = Field::of(line) {
                    self.framing.note(&field)?;
                }
            }
            (true, true) => {
                self.framing = Framing::default();
                self.size = 0;
                if !self.is_interim {
                    self.head = false;
                    self.answers += 1;
                    return Ok(());
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Err("too many interim answers");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> Option<&'static str> {
        let asked = Arc::new(Asked::default());
        let mut answers = Answers::new(asked.clone());
        asked.one();
        answers.read(bytes).err().map(|refused| refused.why)
    }

    #[test]
    fn an_answer_with_two_lengths_is_refused() {
        for lines in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 5, 6",
            "transfer-encoding: chunked, identity",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
            assert!(refused(head.as_bytes()).is_some(), "{lines}");
        }
        assert_eq!(refused(b"HTTP/1.1 200 OK\ncontent-length: 1\n\na"), None);
    }

    #[test]
    fn interim_answers_come_to_an_end() {
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let some = interim.repeat(MAX_INTERIM) + answer;
        assert_eq!(refused(some.as_bytes()), None);
        let more = interim.repeat(MAX_INTERIM + 1) + answer;
        assert!(refused(more.as_bytes()).is_some());
    }

    #[test]
    fn a_body_is_not_looked_at_and_the_next_answer_is() {
        let asked = Arc::new(Asked::default());
        let mut answers = Answers::new(asked.clone());
        let bad = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
        asked.one();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bad.len());
        answers.read(head.as_bytes()).unwrap();
        answers.read(bad).unwrap();
        assert_eq!(answers.open_head(), None);
        asked.one();
        assert!(answers.read(bad).is_err());
    }
}
