//! What a store is told and says: the second version of Redis' protocol, as much of it as is needed.
//!
//! Why not the crate `redis`: scripts and a login are all that is said, on a connection that the mesh
//! opens itself (mutual TLS to a pod of the store's Service), and what comes back is bounded in size, number
//! and depth before it is kept.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The longest part that says how long it is, in bytes: an answer of an application, with its headers.
const MAX_BULK: usize = (1024 + 64) * 1024;
/// The longest of any other.
const MAX_LINE: usize = 64 * 1024;
/// The most parts.
const MAX_PARTS: usize = 1_024;
/// The longest answer with all of its parts, in bytes.
const MAX_ANSWER: usize = 2 * MAX_BULK;
/// The deepest.
const MAX_DEPTH: usize = 4;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// That something is done.
    Status(String),
    /// That it can't be.
    Error(String),
    /// A number.
    Integer(i64),
    /// A text, or none.
    Bulk(Option<Vec<u8>>),
    /// Several.
    Array(Vec<Reply>),
}

/// What is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a store runs: known to it by its hash, once it has been told.
#[derive(Clone, Debug)]
pub struct Script {
    text: &'static str,
    sha: String,
}

// === impl Script ===

impl Script {
    /// Of this text.
    pub fn new(text: &'static str) -> Self {
        let mut sha = String::new();
        for byte in digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref() {
            let _ = write!(sha, "{byte:02x}");
        }
        Self { text, sha }
    }

    /// As it is written.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The name by which the store knows it.
    pub fn sha(&self) -> &str {
        &self.sha
    }

    /// The command that tells the store.
    pub fn loads(&self) -> Vec<u8> {
        let words = [b"SCRIPT".as_slice(), b"LOAD", self.text.as_bytes()];
        command(&words.map(<[u8]>::to_vec))
    }
}

/// A command of these words.
pub fn command(words: &[Vec<u8>]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(format!("${}\r\n", word.len()).into_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

/// The first answer of these bytes, and how many bytes it has; `None` when some are missing.
///
/// # Errors
/// That they are no answer.
pub fn read(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    match read_at(bytes, MAX_DEPTH)? {
        // Nobody keeps the beginning of something that has no end.
        None if bytes.len() > MAX_ANSWER => Err(Malformed),
        found => Ok(found),
    }
}

fn read_at(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return match bytes.len() > MAX_LINE {
            true => Err(Malformed),
            false => Ok(None),
        };
    };
    let (Some((kind, text)), after) = (bytes[..end].split_first(), end + 2) else {
        return Err(Malformed);
    };
    let text = str::from_utf8(text).map_err(|_| Malformed)?;
    let number = || text.parse::<i64>().map_err(|_| Malformed);
    let one = |reply| Ok(Some((reply, after)));
    match kind {
        b'+' => one(Reply::Status(text.to_owned())),
        b'-' => one(Reply::Error(text.to_owned())),
        b':' => one(Reply::Integer(number()?)),
        b'$' => match number()? {
            -1 => one(Reply::Bulk(None)),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                if length > MAX_BULK {
                    return Err(Malformed);
                }
                let Some(rest) = bytes.get(after..after + length + 2) else {
                    return Ok(None);
                };
                match rest.split_at(length) {
                    (text, b"\r\n") => {
                        Ok(Some((Reply::Bulk(Some(text.to_vec())), after + length + 2)))
                    }
                    _ => Err(Malformed),
                }
            }
        },
        b'*' => {
            let count = usize::try_from(number()?).map_err(|_| Malformed)?;
            if count > MAX_PARTS || depth == 0 {
                return Err(Malformed);
            }
            let (mut parts, mut place) = (Vec::new(), after);
            for _ in 0..count {
                let rest = bytes.get(place..).unwrap_or_default();
                let Some((part, length)) = read_at(rest, depth - 1)? else {
                    return Ok(None);
                };
                parts.push(part);
                place += length;
            }
            Ok(Some((Reply::Array(parts), place)))
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let text = b"*4\r\n:1\r\n$3\r\nab\n\r\n$-1\r\n+OK\r\n-NOSCRIPT no\r\n";
        let first = Reply::Array(vec![
            Reply::Integer(1),
            Reply::Bulk(Some(b"ab\n".to_vec())),
            Reply::Bulk(None),
            Reply::Status("OK".into()),
        ]);
        let length = text.len() - b"-NOSCRIPT no\r\n".len();
        for cut in 0..length {
            assert_eq!(read(&text[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(read(text), Ok(Some((first, length))));
        let error = Reply::Error("NOSCRIPT no".into());
        assert_eq!(read(&text[length..]), Ok(Some((error, 14))));
    }

    #[test]
    fn what_is_no_answer_is_not_waited_for() {
        for text in [
            "HTTP/1.1 200 OK\r\n",
            ":a\r\n",
            "$1114113\r\n",
            "*1025\r\n",
            "$1\r\nabc\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n",
            "\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Err(Malformed), "{text}");
        }
        // Parts that are short enough, of an answer that goes on and on.
        let part = format!("$10000\r\n{}\r\n", "a".repeat(10_000));
        let begun = |parts: usize| format!("*1024\r\n{}", part.repeat(parts));
        assert_eq!(read(begun(200).as_bytes()), Ok(None));
        assert_eq!(read(begun(300).as_bytes()), Err(Malformed));
        let line = |length: usize| format!("+{}", "a".repeat(length));
        assert_eq!(read(line(60_000).as_bytes()), Ok(None));
        assert_eq!(read(line(70_000).as_bytes()), Err(Malformed));
    }

    #[test]
    fn a_command_says_how_long_each_word_is() {
        let words = [b"SELECT".to_vec(), b"1".to_vec()];
        assert_eq!(command(&words), b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
    }
}
