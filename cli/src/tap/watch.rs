//! One sidecar's requests.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use crate::sidecar::Reached;

/// Longer than a line of an access log can be, in bytes.
const LONGEST: usize = 64 * 1024;

/// How long a tap must have been open to be opened anew when the sidecar ends it, as it does with every
/// connection after some minutes.
const OPEN: Duration = Duration::from_secs(10);

/// When a tap that was ended is opened anew.
const AGAIN: Duration = Duration::from_millis(100);

/// What a watcher has seen, and of which pod.
#[derive(Debug)]
pub(super) enum Seen {
    /// The sidecar shows its requests from now on.
    Open(String),
    /// A request, as a JSON object.
    Request(String, String),
    /// So many requests were not shown.
    Lost(String, u64),
    /// Nothing more will be seen.
    Gone(String, anyhow::Error),
}

#[derive(Deserialize)]
struct Lost {
    lost: u64,
}

/// Tells what a sidecar shows at `path` until that ends, or nobody listens.
pub(super) async fn watch(reached: Reached, path: String, seen: Sender<Seen>) {
    loop {
        let begun = Instant::now();
        let ended = once(&reached, &path, &seen).await;
        if seen.is_closed() {
            return;
        }
        match ended {
            Ok(()) if begun.elapsed() >= OPEN => sleep(AGAIN).await,
            Ok(()) => {
                let why = anyhow::anyhow!("the sidecar has ended");
                let _ = seen.send(Seen::Gone(reached.pod.clone(), why)).await;
                return;
            }
            Err(error) => {
                let _ = seen.send(Seen::Gone(reached.pod.clone(), error)).await;
                return;
            }
        }
    }
}

/// From connecting to the end of the answer.
async fn once(reached: &Reached, path: &str, seen: &Sender<Seen>) -> anyhow::Result<()> {
    let stream = reached.sidecar().await.context("asking the sidecar")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its other half.
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let response = sender
        .send_request(request)
        .await
        .context("asking the sidecar")?;
    let status = response.status().as_u16();
    let body = response.into_body();
    let ended = match status {
        200 => lines(body, &reached.pod, seen).await,
        404 => bail!("this sidecar is of a version that shows no requests"),
        _ => {
            let why = Limited::new(body, LONGEST).collect().await;
            let why = why.map_err(anyhow::Error::from_boxed)?.to_bytes();
            bail!("{}", String::from_utf8_lossy(&why).trim())
        }
    };
    connection.abort();
    ended
}

async fn lines(mut body: Incoming, pod: &str, seen: &Sender<Seen>) -> anyhow::Result<()> {
    let pod = pod.to_owned();
    if seen.send(Seen::Open(pod.clone())).await.is_err() {
        return Ok(());
    }
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        // However it breaks off, it has ended.
        let Ok(Ok(data)) = frame.map(|frame| frame.into_data()) else {
            return Ok(());
        };
        read.extend_from_slice(&data);
        let mut rest = read.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.strip_prefix(b"\n").unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            let told = match serde_json::from_str::<Lost>(&line) {
                Ok(Lost { lost }) => Seen::Lost(pod.clone(), lost),
                Err(_) => Seen::Request(pod.clone(), line),
            };
            if seen.send(told).await.is_err() {
                return Ok(());
            }
        }
        read = rest.to_vec();
        if read.len() > LONGEST {
            bail!("the sidecar sends what is no line");
        }
    }
    Ok(())
}
