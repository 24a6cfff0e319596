//! What a connection's first bytes say it is.

use std::io;
use std::time::Duration;

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
}
