//! What a NATS says, made such that the crate can read it.
//!
//! The crate panics at a header with a lone carriage return, and ends the connection at one that has
//! no name (async-nats 0.51, nats-io/nats.rs#1612). A NATS hands on headers as they are, so anybody
//! who may publish could write one; and as nobody acknowledges such a message, it comes again. So
//! whatever leads to the broker lets what comes from there pass through here: a message with headers
//! that can't be read goes on without any.

use bytes::BytesMut;

/// The longest line, in bytes: what a broker says of itself has the addresses of all of its like.
pub(super) const MAX_LINE: usize = 64 * 1024;
/// The longest message, in bytes: more than 64 MiB no NATS takes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// How many words the line of a message has at most: what it is, where it goes, to which subscription, where an answer
/// goes, and two lengths.
const WORDS: usize = 6;
/// What ends a line.
const END: &[u8] = b"\r\n";

/// Follows one connection, in the direction from the broker.
#[derive(Debug, Default)]
pub struct Guard {
    /// What is not complete: a line, or one and the headers after it.
    held: Vec<u8>,
    /// How many bytes of a message are still to come, with the end of its line.
    left: usize,
}

/// It is no NATS that says this. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak as a NATS does")]
pub struct Malformed;

/// A line with what belongs to it.
struct Frame {
    /// How many bytes it has.
    length: usize,
    /// What is said instead, if it can't be read.
    instead: Option<Vec<u8>>,
    /// How many bytes come after it that nobody looks at.
    left: usize,
}

// === impl Guard ===

impl Guard {
    /// Appends to `passed` as much as can be passed on of what was read, and keeps the rest.
    ///
    /// # Errors
    /// That it is not from a NATS.
    pub fn pass(&mut self, read: &[u8], passed: &mut BytesMut) -> Result<(), Malformed> {
        let (whole, read) = read.split_at(self.left.min(read.len()));
        passed.extend_from_slice(whole);
        self.left -= whole.len();
        self.held.extend_from_slice(read);
        let mut at = 0;
        while let Some(rest) = self.held.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(frame) = frame(rest)? else {
                break;
            };
            let (said, after) = rest.split_at(frame.length);
            passed.extend_from_slice(frame.instead.as_deref().unwrap_or(said));
            let whole = &after[..frame.left.min(after.len())];
            passed.extend_from_slice(whole);
            at += frame.length + whole.len();
            self.left = frame.left - whole.len();
        }
        self.held.drain(..at);
        Ok(())
    }
}

/// Where the line ends that begins there.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|byte| *byte == END[1])?;
        match at.checked_sub(1).filter(|before| bytes[*before] == END[0]) {
            Some(end) => return Some(end),
            None => from = at + 1,
        }
    }
}

/// The first of these bytes that belong together; `None` when some are missing.
fn frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    let within = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = end_of(within) else {
        return match bytes.len() >= MAX_LINE {
            true => Err(Malformed),
            false => Ok(None),
        };
    };
    let length = end + END.len();
    let line = str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    // A line of a message has no more, and of another one nobody looks at more.
    let mut words = [""; WORDS + 1];
    let mut count = 0;
    for (to, word) in words.iter_mut().zip(line.split_ascii_whitespace()) {
        (*to, count) = (word, count + 1);
    }
    let words = &words[..count];
    let number = |word: &str| word.parse::<usize>().ok().filter(|it| *it <= MAX_MESSAGE);
    match words {
        ["MSG", .., whole] if (4..=WORDS).contains(&count) => Ok(Some(Frame {
            length,
            instead: None,
            left: number(whole).ok_or(Malformed)? + END.len(),
        })),
        ["HMSG", to @ .., headers, whole] if to.len() >= 2 && count <= WORDS => {
            let (headers, whole) = (number(headers), number(whole));
            let (headers, whole) = headers.zip(whole).ok_or(Malformed)?;
            let left = whole.checked_sub(headers).ok_or(Malformed)?;
            let Some(block) = bytes.get(length..length + headers) else {
                return Ok(None);
            };
            let instead = match is_readable(block) {
                true => None,
                false => Some(without_headers(&to.join(" "), block, left)),
            };
            Ok(Some(Frame {
                length: length + headers,
                instead,
                left: left + END.len(),
            }))
        }
        // It would be read as a message, or panicked at.
        ["MSG" | "HMSG", ..] | ["-ERR"] => Err(Malformed),
        _ => Ok(Some(Frame {
            length,
            instead: None,
            left: 0,
        })),
    }
}

/// A message whose headers nobody can read, without them: but for what the broker adds to them at their end, by which
/// members know whether they are the one that is delivered to.
fn without_headers(to: &str, block: &[u8], left: usize) -> Vec<u8> {
    let pin = block
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"Nats-Pin-Id: ")?.strip_suffix(b"\r"))
        .rfind(|id| (1..=64).contains(&id.len()) && id.iter().all(u8::is_ascii_alphanumeric));
    let Some(pin) = pin else {
        return format!("MSG {to} {left}\r\n").into_bytes();
    };
    let headers = [b"NATS/1.0\r\nNats-Pin-Id: ", pin, b"\r\n\r\n"].concat();
    let (length, whole) = (headers.len(), headers.len() + left);
    [
        format!("HMSG {to} {length} {whole}\r\n").as_bytes(),
        &headers,
    ]
    .concat()
}

/// Whether the crate can read these headers.
fn is_readable(block: &[u8]) -> bool {
    let text = str::from_utf8(block).ok();
    let Some(text) = text.filter(|text| text.ends_with("\r\n")) else {
        return false;
    };
    // Both ends of a line, and neither of them alone.
    let mut lines = text.split_terminator('\n').map(|line| {
        let line = line.strip_suffix('\r')?;
        (!line.contains('\r')).then_some(line)
    });
    let first = lines.next().flatten();
    let Some(first) = first.and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return false;
    };
    // A status, if there is one, has three digits behind one space, and ends or is described behind another.
    let (status, described) = match first.strip_prefix(' ') {
        Some(rest) => rest.split_at_checked(3).unwrap_or((rest, "?")),
        None if first.is_empty() => ("100", ""),
        None => ("", ""),
    };
    let has_status = status.len() == 3
        && status.bytes().all(|byte| byte.is_ascii_digit())
        && (described.is_empty() || described.starts_with(' '));
    let is_named = |line: &str| {
        let name = line.split_once(':').map(|(name, _)| name);
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()))
    };
    has_status
        && !status.starts_with('0')
        && lines.all(|line| line.is_some_and(|line| line.is_empty() || is_named(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hmsg(headers: &str, data: &str) -> String {
        let (of_headers, whole) = (headers.len(), headers.len() + data.len());
        format!("HMSG a 1 b {of_headers} {whole}\r\n{headers}{data}\r\n")
    }

    #[test]
    fn what_can_be_read_passes_as_it_is_however_it_is_cut() {
        let said = [
            "INFO {\"version\":\"2.10.0\"}\r\nPING\r\n-ERR 'no'\r\nMSG a 1 4\r\n\r\n\r\n\r\n"
                .to_owned(),
            hmsg("NATS/1.0\r\nce-id: a: b\r\nempty:\r\n\r\n", "HMSG\r\n"),
            hmsg(
                "NATS/1.0 408 Request Timeout\r\nä\r\n"
                    .replace("ä", "a: ä")
                    .as_str(),
                "",
            ),
            hmsg("NATS/1.0 503\r\n\r\n", ""),
            "MSG a 1 b 0\r\n\r\n+OK\r\n".to_owned(),
        ]
        .concat();
        for size in 1..said.len() {
            let (mut guard, mut passed) = (Guard::default(), BytesMut::new());
            for part in said.as_bytes().chunks(size) {
                guard.pass(part, &mut passed).unwrap();
            }
            assert_eq!(str::from_utf8(&passed).unwrap(), said, "{size}");
        }
    }

    #[test]
    fn headers_that_cannot_be_read_are_left_out_and_what_follows_is_not() {
        let after = "PING\r\n";
        for headers in [
            "NATS/1.0\r\na: b\rc\r\n\r\n",
            "NATS/1.0\r\na: b\nc: d\r\n\r\n",
            "NATS/1.0\r\na: b\r",
            "NATS/1.0\r\na b: c\r\n\r\n",
            "NATS/1.0\r\nno name\r\n\r\n",
            "NATS/1.0\r\na: b\r\n folded\r\n\r\n",
            "NATS/1.0 many\r\n\r\n",
            "NATS/1.0 42\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "\r\n",
            "",
        ] {
            let said = hmsg(headers, "data") + after;
            let wanted = "MSG a 1 b 4\r\ndata\r\n".to_owned() + after;
            for size in [1, 7, said.len()] {
                let (mut guard, mut passed) = (Guard::default(), BytesMut::new());
                for part in said.as_bytes().chunks(size) {
                    guard.pass(part, &mut passed).unwrap();
                }
                assert_eq!(str::from_utf8(&passed).unwrap(), wanted, "{headers:?}");
            }
        }
        let (mut guard, mut passed) = (Guard::default(), BytesMut::new());
        let headers = "NATS/1.0\r\na b: c\r\nNats-Pin-Id: anybody's\r\nNats-Pin-Id: abc\r\n\r\n";
        guard
            .pass(hmsg(headers, "data").as_bytes(), &mut passed)
            .unwrap();
        let wanted = hmsg("NATS/1.0\r\nNats-Pin-Id: abc\r\n\r\n", "data");
        assert_eq!(str::from_utf8(&passed).unwrap(), wanted);
        let (mut guard, mut passed) = (Guard::default(), BytesMut::new());
        let said = b"HMSG a 1 14 14\r\nNATS/1.0\r\na:\xff\r\n\r\n";
        guard.pass(said, &mut passed).unwrap();
        assert!(passed.starts_with(b"MSG a 1 0\r\n"));
    }

    #[test]
    fn what_is_no_nats_is_told() {
        for said in [
            "MSG a 1 18446744073709551615\r\n",
            "MSG a 1 x\r\n",
            "MSG 1\r\n",
            "HMSG a 1 5 4\r\n",
            "HMSG a 1 18446744073709551615 18446744073709551615\r\n",
            "-ERR\r\n",
            &"a".repeat(MAX_LINE),
        ] {
            let mut guard = Guard::default();
            let told = guard.pass(said.as_bytes(), &mut BytesMut::new());
            assert_eq!(told, Err(Malformed), "{said}");
        }
    }
}
