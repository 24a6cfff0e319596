//! An order to a sidecar, and the lines of its answer.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::sidecar::Reached;

/// Longer than a line is, in bytes: an event with its data.
const LONGEST: usize = 64 * 1024 * 1024;
/// Longer than a refusal is, in bytes.
const REFUSAL: usize = 64 * 1024;

/// Gives an order, in the words that `PUT /events` takes, and shows each line; returns the last one.
///
/// # Errors
/// When the sidecar can't be asked, or refuses.
pub(super) async fn order(
    sidecar: &Reached,
    words: &str,
    mut show: impl FnMut(&Value),
) -> anyhow::Result<Value> {
    let stream = sidecar.sidecar().await.context("asking the sidecar")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its other half.
    let connection = tokio::spawn(connection);
    let request = http::Request::put("/events")
        .header(http::header::HOST, "localhost")
        .body(Full::new(Bytes::from(words.to_owned())))?;
    let asked = sender.send_request(request).await;
    let response = asked.context("asking the sidecar")?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    if status != 200 {
        let why = Limited::new(body, REFUSAL).collect().await;
        let why = why.map_err(anyhow::Error::from_boxed)?.to_bytes();
        bail!("{}", String::from_utf8_lossy(&why).trim());
    }
    let (mut read, mut last) = (Vec::new(), Value::Null);
    while let Some(frame) = body.frame().await {
        // However it breaks off, what was said last tells how far it is.
        let Ok(Ok(data)) = frame.map(|frame| frame.into_data()) else {
            break;
        };
        read.extend_from_slice(&data);
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line = Vec::from_iter(read.drain(..=end));
            last = serde_json::from_slice(&line).context("the sidecar sends what is no line")?;
            show(&last);
        }
        if read.len() > LONGEST {
            bail!("the sidecar sends what is no line");
        }
    }
    connection.abort();
    Ok(last)
}
