//! TLS to a NATS, for whatever leads to it.
//!
//! A NATS first says in plain text what it is, and is then shown who may speak to it. The crate would
//! verify the name that it dials, which here is the near end of what leads there. So the far end
//! brings TLS, and the near end is told that none is needed.

use std::io;

use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::guard::MAX_LINE;

/// Brings TLS to a connection to a NATS on which nothing was read. Returns the first line with it,
/// which is to be said to the near end before anything else.
///
/// # Errors
/// That it is no NATS, or not the one of this name.
pub async fn upgrade<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
    tls: &TlsConnector,
    name: ServerName<'static>,
) -> io::Result<(TlsStream<T>, Vec<u8>)> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if io.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // It waits for us after its first line. What comes with it may be from anybody in between, and
    // must not be taken for what is said over TLS.
    let first = line
        .strip_suffix(b"\r\n")
        .filter(|line| !line.contains(&b'\n'));
    let said = first.and_then(|line| line.strip_prefix(b"INFO "));
    let said = said.ok_or(io::ErrorKind::InvalidData)?;
    let mut info: Map<String, Value> = serde_json::from_slice(said)?;
    for of_tls in ["tls_required", "tls_verify", "tls_available"] {
        info.remove(of_tls);
    }
    let line = format!("INFO {}\r\n", Value::Object(info)).into_bytes();
    Ok((tls.connect(name, io).await?, line))
}
