//! For which host a connection's first request of HTTP/1 is, looked at without consuming it.

use std::io;

use tokio::net::TcpStream;

use super::detect::{DETECT_TIMEOUT, come_by_now, peeked};

/// The most bytes of a head that are looked at for its host.
const MAX_HEAD: usize = 16 * 1024;

/// For whom the first request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstHost {
    /// For the host that it names, without the port, and goes to it.
    Named(String),
    /// It names somebody in its first line, as requests to a proxy do.
    ThroughProxy,
    /// It names nobody: no host, in a head that has ended, or no line that has ended in time, as of
    /// protocols that are none of requests.
    Nobody,
    /// It is a request that has not said so in time, or not so that it is clear.
    Untold,
}

/// Waits until the first request says for whom it is, no longer than [`DETECT_TIMEOUT`].
///
/// # Errors
/// What the socket says.
pub async fn first_host(stream: &TcpStream) -> io::Result<FirstHost> {
    let mut head = vec![0; MAX_HEAD];
    let told = peeked(stream, &mut head, read);
    match tokio::time::timeout(DETECT_TIMEOUT, told).await {
        Ok(told) => told,
        Err(_) => {
            let read = come_by_now(stream, &mut head)?;
            let begun = head[..read].trim_ascii_start();
            Ok(match begun.contains(&b'\n') {
                true => FirstHost::Untold,
                false => FirstHost::Nobody,
            })
        }
    }
}

/// What the beginning of a head tells; nothing when more bytes are needed.
pub fn read(bytes: &[u8]) -> Option<FirstHost> {
    // Empty lines before a request line are skipped (RFC 9112 section 2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut lines = bytes[start.unwrap_or(bytes.len())..].split_inclusive(|byte| *byte == b'\n');
    let whole = |line: &&[u8]| line.ends_with(b"\n");
    let otherwise = (bytes.len() >= MAX_HEAD).then_some(FirstHost::Untold);
    let Some(first) = lines.next().filter(whole) else {
        return otherwise;
    };
    let mut words = first
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let target = words.nth(1).unwrap_or_default();
    if !target.starts_with(b"/") && target != b"*" {
        return Some(FirstHost::ThroughProxy);
    }
    for line in lines {
        if !whole(&line) {
            return otherwise;
        }
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return Some(FirstHost::Nobody);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        if name.eq_ignore_ascii_case(b"host") {
            let value = str::from_utf8(value).unwrap_or_default();
            let authority = value.trim_start_matches(':').trim();
            let host = match authority.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                _ => authority,
            };
            return Some(FirstHost::Named(host.to_owned()));
        }
    }
    otherwise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_as_soon_as_its_line_has_come() {
        let named = |host: &str| Some(FirstHost::Named(host.to_owned()));
        for (head, host) in [
            (
                "GET / HTTP/1.1\r\nHost: api.example.com\r\n",
                named("api.example.com"),
            ),
            (
                "GET / HTTP/1.1\nA: b\nhOST:API.example.com:8080\n",
                named("API.example.com"),
            ),
            ("\r\nGET / HTTP/1.1\r\nhost: [::1]:80\r\n", named("[::1]")),
            ("OPTIONS * HTTP/1.1\r\nhost:\r\n\r\n", named("")),
            ("GET / HTTP/1.1\r\nhost: api.example.com", None),
            ("GET / HTT", None),
            ("", None),
            ("GET / HTTP/1.0\r\na: b\r\n\r\n", Some(FirstHost::Nobody)),
        ] {
            assert_eq!(read(head.as_bytes()), host, "{head:?}");
        }
        for proxied in [
            "GET http://api.example.com/ HTTP/1.1\r\n",
            "CONNECT a:443 HTTP/1.1\r\n",
        ] {
            assert_eq!(read(proxied.as_bytes()), Some(FirstHost::ThroughProxy));
        }
        let long = [b"GET / HTTP/1.1\r\na: ".to_vec(), vec![b'b'; MAX_HEAD]].concat();
        assert_eq!(read(&long), Some(FirstHost::Untold));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_line_in_time_is_no_request_and_what_goes_on_slowly_is_one() {
        let told = async |bytes: &'static [u8]| {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap());
            let (near, far) = tokio::join!(near, listener.accept());
            let (mut near, (far, _)) = (near.unwrap(), far.unwrap());
            tokio::io::AsyncWriteExt::write_all(&mut near, bytes)
                .await
                .unwrap();
            far.readable().await.unwrap();
            first_host(&far).await.unwrap()
        };
        assert_eq!(told(b"LOGIN001USERPASS").await, FirstHost::Nobody);
        assert_eq!(
            told(b"GET / HTTP/1.1\r\naccept: a").await,
            FirstHost::Untold
        );
        let named = FirstHost::Named("a".to_owned());
        assert_eq!(told(b"GET / HTTP/1.1\r\nhost: a\r\n").await, named);
    }
}
