//! The lines of a head of HTTP/1, as far as they say where the message ends.

use super::super::limits::MAX_HEAD;

/// The line being read, of which a part may have come with an earlier read.
#[derive(Debug, Default)]
pub(super) struct Line {
    begun: Vec<u8>,
}

/// How one head frames its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    /// The first line has been read.
    pub begun: bool,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub chunked: bool,
}

/// A header line.
pub(super) struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

// === impl Line ===

impl Line {
    /// The next whole line with its LF, as `with` sees it, and how many of `bytes` belong to it;
    /// `None` when it has not ended, and the bytes are kept. `Err` when it is longer than a head.
    pub(super) fn next<T>(
        &mut self,
        bytes: &[u8],
        with: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<(T, usize)>, &'static str> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if self.begun.len() + taken > MAX_HEAD {
            return Err("a line is longer than a head may be");
        }
        if end.is_some() && self.begun.is_empty() {
            return Ok(Some((with(&bytes[..taken]), taken)));
        }
        self.begun.extend_from_slice(&bytes[..taken]);
        if end.is_none() {
            return Ok(None);
        }
        let seen = with(&self.begun);
        self.begun.clear();
        Ok(Some((seen, taken)))
    }

    /// Whether a part of a line has been read.
    pub(super) fn is_begun(&self) -> bool {
        !self.begun.is_empty()
    }
}

/// The line without its end, which must be CRLF and the only CR and LF in it (RFC 9112 section 2.2).
pub(super) fn strictly(line: &[u8]) -> Result<&[u8], &'static str> {
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or("a line ends in a bare LF")?;
    match line.contains(&b'\r') {
        true => Err("a bare CR"),
        false => Ok(line),
    }
}

// === impl Field ===

impl<'a> Field<'a> {
    /// A header line without its end; `None` when it is none, which hyper refuses.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some(Self {
            name: &line[..colon],
            value: line[colon + 1..].trim_ascii(),
        })
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

// === impl Framing ===

impl Framing {
    /// Notes a header; refuses one with which the message could be read in two ways (RFC 9112
    /// section 6.3, without what it permits out of kindness).
    pub(super) fn note(&mut self, field: &Field<'_>) -> Result<(), &'static str> {
        if field.is("content-length") {
            if self.length.is_some() {
                return Err("more than one Content-Length");
            }
            self.length = Some(length(field.value).ok_or("Content-Length is no number")?);
        } else if field.is("transfer-encoding") {
            if self.chunked {
                return Err("more than one Transfer-Encoding");
            }
            if !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err("a Transfer-Encoding other than chunked");
            }
            self.chunked = true;
        }
        match self.chunked && self.length.is_some() {
            true => Err("both Content-Length and Transfer-Encoding"),
            false => Ok(()),
        }
    }
}

/// Digits only, and not more than any length has.
pub(super) fn length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_only() {
        assert_eq!(length(b"0"), Some(0));
        assert_eq!(
            length(b"9999999999999999999"),
            Some(9_999_999_999_999_999_999)
        );
        for wrong in [
            "",
            "+5",
            "-5",
            "0x5",
            "5, 5",
            "5,6",
            "5 ",
            "99999999999999999999",
            "5.0",
        ] {
            assert_eq!(length(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
