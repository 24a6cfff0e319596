//! What a connection's first bytes say it is.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How long a port whose protocol is not declared is waited for before we listen to its server too.
/// What is said first decides then, so that nothing is lost but this time, which every connection
/// of a protocol whose server speaks first waits for.
pub const DETECT_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a stranger may stay silent before we stop waiting to learn what it is. Long enough for
/// any client that means to send something, short enough that silent sockets do not pile up.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// A TLS record of type handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most bytes of a first line that are looked at. What has not told by then that it is none is a
/// request line.
const FIRST_LINE: usize = 256;

/// What the first bytes look like. Nothing is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// A TLS ClientHello.
    Tls,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A letter first: a request line of HTTP/1, most likely.
    Http1,
    /// None of these.
    Other,
    /// The peer closed without sending anything.
    Closed,
}

/// Looks at the first bytes without consuming them.
///
/// # Errors
/// `TimedOut` when nothing arrives within [`FIRST_BYTES_TIMEOUT`]; otherwise what the socket says.
pub async fn first_bytes(stream: &TcpStream) -> io::Result<FirstBytes> {
    tokio::time::timeout(FIRST_BYTES_TIMEOUT, whenever_they_come(stream)).await?
}

/// As [`first_bytes`], however long it takes.
///
/// # Errors
/// What the socket says.
pub async fn whenever_they_come(stream: &TcpStream) -> io::Result<FirstBytes> {
    let mut seen = [0; HTTP2_PREFACE.len()];
    let read = stream.peek(&mut seen).await?;
    Ok(classify(&seen[..read]))
}

/// As [`whenever_they_come`], where other protocols are as likely as HTTP: their commands, too, may
/// begin with a letter (`PING`). What is not told by what has come is waited for as long as
/// [`DETECT_TIMEOUT`], and is HTTP then: so it began.
///
/// # Errors
/// What the socket says.
pub async fn line_of_any_protocol(stream: &TcpStream) -> io::Result<FirstBytes> {
    let mut seen = [0; FIRST_LINE];
    let look = peeked(stream, &mut seen, classify_any);
    match tokio::time::timeout(DETECT_TIMEOUT, look).await {
        Ok(looked) => looked,
        Err(_) => Ok(FirstBytes::Http1),
    }
}

/// Looks at what has come, as much as `seen` holds, until it tells something.
///
/// # Errors
/// What the socket says.
pub(super) async fn peeked<T>(
    stream: &TcpStream,
    seen: &mut [u8],
    tells: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    loop {
        stream.readable().await?;
        let looked = stream.try_io(Interest::READABLE, || {
            let read = recv(stream.as_raw_fd(), seen, MsgFlags::MSG_PEEK)?;
            // Not before there is more than this: asking again would tell the same.
            tells(&seen[..read]).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

/// What has come by now, as much as `seen` holds; nobody waits for it.
///
/// # Errors
/// What the socket says.
pub(super) fn come_by_now(stream: &TcpStream, seen: &mut [u8]) -> io::Result<usize> {
    match recv(stream.as_raw_fd(), seen, MsgFlags::MSG_PEEK) {
        Ok(read) => Ok(read),
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// As [`classify`], where other protocols are as likely as HTTP; nothing when more bytes are needed.
///
/// A letter is not enough there. What no reader of HTTP, be it ever so lenient, could take for a
/// request line is none: one that has no target, or whose target is neither a path nor an absolute
/// URI while no version follows it. So what is carried as opaque bytes is no request.
pub fn classify_any(bytes: &[u8]) -> Option<FirstBytes> {
    let seen = classify(bytes);
    if seen != FirstBytes::Http1 {
        return Some(seen);
    }
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let line = &bytes[start.unwrap_or(bytes.len())..];
    let end = line.iter().position(|byte| *byte == b'\n');
    // Of a line that has ended all is known; one that is too long is what it began as.
    let otherwise = match end {
        Some(_) => Some(FirstBytes::Other),
        None if bytes.len() >= FIRST_LINE => Some(FirstBytes::Http1),
        None => None,
    };
    let line = &line[..end.unwrap_or(line.len())];
    let method = line.iter().position(|byte| !is_token(*byte));
    let Some(method) = method.filter(|at| line[*at] != b'\r' || *at + 1 < line.len()) else {
        // A word, which may go on.
        return otherwise;
    };
    if !line[method].is_ascii_whitespace() {
        return Some(FirstBytes::Other);
    }
    let target = line[method..].trim_ascii_start();
    let request = target.starts_with(b"/")
        || target.starts_with(b"*")
        || contains(target, b"://")
        || contains(target, b"HTTP/");
    match request {
        true => Some(FirstBytes::Http1),
        false => otherwise,
    }
}

/// A byte of a method (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What bytes at the beginning of a connection look like.
pub fn classify(bytes: &[u8]) -> FirstBytes {
    match bytes.first() {
        None => FirstBytes::Closed,
        Some(&TLS_HANDSHAKE) => FirstBytes::Tls,
        // Three letters tell "PRI" from every method that HTTP/1 has ("PROPFIND" differs at the
        // third); a preface that arrives in smaller pieces than that is read as HTTP/1 and refused.
        Some(_) if bytes.len() >= 3 && HTTP2_PREFACE.starts_with(bytes) => FirstBytes::Http2,
        // Servers skip empty lines before a request line (RFC 9112 section 2.2), so these begin one.
        Some(b'\r' | b'\n') => FirstBytes::Http1,
        Some(letter) if letter.is_ascii_uppercase() => FirstBytes::Http1,
        Some(_) => FirstBytes::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_tls_http1_and_http2_apart() {
        assert_eq!(classify(&[0x16, 3, 1]), FirstBytes::Tls);
        assert_eq!(classify(b"GET / HTTP/1.1\r\n"), FirstBytes::Http1);
        assert_eq!(classify(b"PROPFIND / HTTP/1.1\r\n"), FirstBytes::Http1);
        assert_eq!(classify(HTTP2_PREFACE), FirstBytes::Http2);
        assert_eq!(classify(b"PRI"), FirstBytes::Http2);
        assert_eq!(classify(b"\r\nGET / HTTP/1.1\r\n"), FirstBytes::Http1);
        assert_eq!(classify(b"\0\0\0\0"), FirstBytes::Other);
        assert_eq!(classify(b""), FirstBytes::Closed);
    }

    #[test]
    fn commands_of_other_protocols_are_not_taken_for_requests() {
        for other in [
            "PING\r\n",
            "PING\n",
            "SET key value\r\n",
            "EHLO client.example\r\n",
            "CONNECT {\"verbose\":true}\r\n",
            "USER a 0 * :name\r\n",
            "LOGIN\0",
        ] {
            assert_eq!(
                classify_any(other.as_bytes()),
                Some(FirstBytes::Other),
                "{other:?}"
            );
        }
        for undecided in ["P", "PING", "PING\r", "SET key", "GET ", "\r\n", ""] {
            let told = classify_any(undecided.as_bytes());
            assert!(
                told.is_none() || undecided.is_empty(),
                "{undecided:?} {told:?}"
            );
        }
    }

    #[test]
    fn whatever_a_lenient_reader_takes_for_a_request_is_one() {
        for request in [
            "GET /",
            "GET / HTTP/1.1\r\n",
            "GET  /a HTTP/1.1\r\n",
            "GET\t/ HTTP/1.1\r\n",
            "GET\r/ HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://orders/",
            "CONNECT orders:80 HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "GET relative HTTP/1.1\r\n",
        ] {
            assert_eq!(
                classify_any(request.as_bytes()),
                Some(FirstBytes::Http1),
                "{request:?}"
            );
        }
        assert_eq!(classify_any(HTTP2_PREFACE), Some(FirstBytes::Http2));
        assert_eq!(classify_any(&[0x16, 3, 1]), Some(FirstBytes::Tls));
        // What would go on for ever is decided.
        for long in [
            vec![b'A'; FIRST_LINE],
            [b"GET ", &[b'a'; FIRST_LINE][..]].concat(),
        ] {
            assert_eq!(classify_any(&long), Some(FirstBytes::Http1));
        }
    }
}
