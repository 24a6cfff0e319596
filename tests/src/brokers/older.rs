//! Brokers that say that they are of another version: real ones, whose first words are changed on their way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// The longest that is looked for a version in, in bytes.
const FIRST_WORDS: usize = 64 * 1024;

/// An address at which a broker says what `changed` makes of its first words; nothing as long as the version is not among them.
///
/// # Panics
/// When there is no address.
pub async fn that_says(
    broker: SocketAddr,
    changed: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(says(listener, broker, changed));
    address
}

/// The same, at a listener, as long as it is waited for.
pub async fn says(
    listener: TcpListener,
    broker: SocketAddr,
    changed: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(led(client, broker, changed.clone()));
    }
}

/// The first words of a NATS that is of another version, as long as there is one.
pub fn nats(said: &[u8], version: Option<&str>) -> Option<Vec<u8>> {
    let place = behind(said, b"\"version\":\"", b'"')?;
    // All of INFO, which is a line.
    said.contains(&b'\n').then(|| {
        let (before, after) = (&said[..place.start], &said[place.end..]);
        let version = version.map_or(&said[place], str::as_bytes);
        [before, version, after].concat()
    })
}

async fn led(
    mut client: TcpStream,
    broker: SocketAddr,
    changed: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(broker).await?;
    let (mut said, mut asked) = (Vec::new(), vec![0; 4096]);
    let first = loop {
        tokio::select! {
            read = server.read_buf(&mut said) => if read? == 0 || said.len() > FIRST_WORDS {
                return Ok(());
            },
            read = client.read(&mut asked) => match read? {
                0 => return Ok(()),
                read => server.write_all(&asked[..read]).await?,
            },
        }
        if let Some(first) = changed(&said) {
            break first;
        }
    };
    client.write_all(&first).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Where something stands behind `mark`, up to `end`.
pub fn behind(said: &[u8], mark: &[u8], end: u8) -> Option<std::ops::Range<usize>> {
    let at = said.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let length = said[at..].iter().position(|byte| *byte == end)?;
    Some(at..at + length)
}
