//! HTTP/2 frame by frame (RFC 9113), header by header (RFC 7541, literals only): what no library
//! lets a client send.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::mesh::SOON;

/// A piece of a body.
pub const DATA: u8 = 0;
/// The beginning of a head.
pub const HEADERS: u8 = 1;
/// Of no use (RFC 9113 section 5.3.2).
pub const PRIORITY: u8 = 2;
/// The end of a stream.
pub const RST_STREAM: u8 = 3;
/// What a side can take.
pub const SETTINGS: u8 = 4;
/// A question for life.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// Room for more.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

/// END_STREAM of HEADERS and DATA, ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// END_HEADERS of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// A connection that says what it is told to.
#[derive(Debug)]
pub struct Frames<I> {
    io: I,
}

/// A frame that came back.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, with this status as HPACK has it: `b"200"`, or an entry of the static table.
    Answered(u16),
    /// The stream was reset.
    Reset,
    /// The connection was ended.
    Ended,
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals without indexing (RFC 7541 section 6.2.2), in this order, unchecked.
pub fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    fn text(into: &mut Vec<u8>, text: &[u8]) {
        match text.len() {
            length @ ..127 => into.push(length as u8),
            mut length => {
                into.push(127);
                length -= 127;
                while length >= 128 {
                    into.push((length % 128 + 128) as u8);
                    length /= 128;
                }
                into.push(length as u8);
            }
        }
        into.extend_from_slice(text);
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name.as_bytes());
        text(&mut block, value);
    }
    block
}

// === impl Frames ===

impl<I: AsyncRead + AsyncWrite + Unpin> Frames<I> {
    /// Says the preface and empty SETTINGS.
    pub async fn client(mut io: I) -> Result<Self> {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        let mut frames = Self { io };
        frames.send(&frame(SETTINGS, 0, 0, &[])).await?;
        Ok(frames)
    }

    /// Says nothing by itself; who is at the other end has said the preface.
    pub fn server(io: I) -> Self {
        Self { io }
    }

    /// Bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.io.write_all(bytes).await?)
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, s @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(s),
            payload,
        })
    }

    /// Reads until it is known what became of a stream.
    pub async fn outcome(&mut self, stream: u32) -> Result<Outcome> {
        let reading = async {
            loop {
                let Some(frame) = self.next().await else {
                    return Ok(Outcome::Ended);
                };
                match frame.kind {
                    GOAWAY => return Ok(Outcome::Ended),
                    RST_STREAM if frame.stream == stream => return Ok(Outcome::Reset),
                    HEADERS if frame.stream == stream => {
                        return Ok(Outcome::Answered(status(&frame.payload)?));
                    }
                    _ => {}
                }
            }
        };
        timeout(SOON, reading).await?
    }

    /// Whether the connection ends, other than by what we do, within a time.
    pub async fn ends_within(&mut self, limit: Duration) -> bool {
        let reading = async {
            while let Some(frame) = self.next().await {
                if frame.kind == GOAWAY {
                    return;
                }
            }
        };
        timeout(limit, reading).await.is_ok()
    }
}

/// The status at the beginning of a header block: an entry of the static table, or a literal with
/// its name in it (RFC 7541 appendix A).
fn status(block: &[u8]) -> Result<u16> {
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            Ok([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)])
        }
        // A literal, its digits as they are or in Huffman code, where a digit is five or six bits.
        [0x48 | 0x08 | 0x18, length, rest @ ..] => match length {
            3 => Ok(std::str::from_utf8(&rest[..3])?.parse()?),
            _ => huffman_digits(&rest[..usize::from(length & 0x7f)]),
        },
        other => bail!("no status in {other:?}"),
    }
}

/// Digits in the code of RFC 7541 appendix B: `0` to `2` are five bits, `3` to `9` six.
fn huffman_digits(bytes: &[u8]) -> Result<u16> {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1));
    let mut number = 0;
    for _ in 0..3 {
        let five = bits
            .by_ref()
            .take(5)
            .fold(0u16, |code, bit| code << 1 | u16::from(bit));
        let digit = match five {
            0..=2 => five,
            _ => {
                let six = five << 1 | u16::from(bits.next().unwrap_or_default());
                // 3 is 011001, and so on up to 9 as 011111.
                match six.checked_sub(0b01_1001) {
                    Some(more @ 0..=6) => 3 + more,
                    _ => bail!("no digit: {bytes:?}"),
                }
            }
        };
        number = number * 10 + digit;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_form() -> Result<()> {
        assert_eq!(status(&[0x88])?, 200);
        assert_eq!(status(b"\x08\x03431")?, 431);
        // 403 and 503 as Huffman code: 011010 00000 011001, 011011 00000 011001.
        assert_eq!(
            status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111])?,
            403
        );
        assert_eq!(
            status(&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111])?,
            503
        );
        Ok(())
    }
}
