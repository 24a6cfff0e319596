//! The name that a TLS client asks for (SNI, RFC 6066 section 3), read from the ClientHello that
//! begins its connection. rustls reads it; what has been read is passed on as it came.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long a client may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// The most bytes of a ClientHello that are looked at: some hundreds are usual, and two thousand with
/// the keys of post-quantum algorithms.
const MAX_HELLO: usize = 16 * 1024;

/// How a connection begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// In lower case; `None` for a client that asks for none, and for what is no TLS.
    pub server_name: Option<String>,
    /// All that has been read, to be passed on.
    pub read: Vec<u8>,
}

/// Reads until the name is known, or that there is none.
///
/// # Errors
/// The client says nothing more before its hello is complete; otherwise what the stream says.
pub async fn read<S>(stream: &mut S) -> io::Result<Hello>
where
    S: AsyncRead + Unpin,
{
    let read = async {
        let mut hello = Hello::default();
        let mut acceptor = Acceptor::default();
        let mut bytes = [0; 4096];
        while hello.read.len() < MAX_HELLO {
            let read = stream.read(&mut bytes).await?;
            let read = &bytes[..read];
            hello.read.extend_from_slice(read);
            if read.is_empty() {
                break;
            }
            let mut rest = read;
            while !rest.is_empty() {
                match acceptor.read_tls(&mut rest) {
                    Ok(0) | Err(_) => return Ok(hello),
                    Ok(_) => {}
                }
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(accepted)) => {
                        let hers = accepted.client_hello();
                        hello.server_name = hers.server_name().map(str::to_ascii_lowercase);
                        return Ok(hello);
                    }
                    Err(_) => return Ok(hello),
                }
            }
        }
        Ok(hello)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client said no hello in time");
    tokio::time::timeout(HELLO_TIME, read).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::AsyncWriteExt;

    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(crate::net::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// What is read of `bytes`, which come in pieces.
    async fn read_of(bytes: &[u8], piece: usize) -> Hello {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let write = async {
            for piece in bytes.chunks(piece) {
                near.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(near);
        };
        tokio::join!(write, read(&mut far)).1.unwrap()
    }

    #[tokio::test]
    async fn the_name_is_read_from_pieces_of_any_size_and_nothing_is_lost() {
        let bytes = hello("DB.Example.com");
        for piece in [1, 7, 5000] {
            let hello = read_of(&bytes, piece).await;
            assert_eq!(hello.server_name.as_deref(), Some("db.example.com"));
            assert_eq!(hello.read, bytes);
        }
    }

    #[tokio::test]
    async fn who_asks_for_no_name_or_speaks_no_tls_has_none_and_loses_nothing() {
        let nameless = hello("10.0.0.1");
        for bytes in [&nameless[..], b"GET / HTTP/1.1\r\n\r\n", b"", &[0x16, 3, 1]] {
            let hello = read_of(bytes, 5000).await;
            assert_eq!(hello.server_name, None);
            assert_eq!(hello.read, bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_in_its_hello_is_waited_for_ten_seconds() {
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&[0x16, 3, 1]).await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = read(&mut far).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), HELLO_TIME);
    }

    #[tokio::test]
    async fn a_hello_without_end_is_not_read_to_it() {
        // A handshake record that promises more than it brings, again and again.
        let mut bytes = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        bytes.resize(60_000, 0);
        let hello = read_of(&bytes, 4096).await;
        assert_eq!(hello.server_name, None);
        assert!(hello.read.len() <= MAX_HELLO + 4096);
    }
}
