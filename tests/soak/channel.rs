//! A body that is sent piece by piece. Not `http_body_util::Channel`, which now and then loses what
//! was sent just before its sender is dropped, when the two are on different threads.

use std::io;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

type Sent = Result<Frame<Bytes>, io::Error>;

/// What is sent.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// Who sends it; the body ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sender(mpsc::Sender<Sent>);

/// A body, and who sends it: a piece or two are under way at a time.
pub(crate) fn channel() -> (Sender, Body) {
    let (sender, receiver) = mpsc::channel(0);
    (
        Sender(sender),
        StreamBody::new(receiver.fuse()).boxed_unsync(),
    )
}

// === impl Sender ===

impl Sender {
    /// The next piece.
    ///
    /// # Errors
    /// Nobody takes it.
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<()> {
        self.sends(Ok(Frame::data(data))).await
    }

    /// The end.
    ///
    /// # Errors
    /// Nobody takes it.
    pub(crate) async fn trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.sends(Ok(Frame::trailers(trailers))).await
    }

    /// No more comes, although it is not the end.
    ///
    /// # Errors
    /// Nobody takes it.
    pub(crate) async fn breaks_off(mut self) -> Result<()> {
        self.sends(Err(io::Error::other("broke off"))).await
    }

    async fn sends(&mut self, sent: Sent) -> Result<()> {
        self.0
            .send(sent)
            .await
            .map_err(|_| anyhow!("nobody takes what is sent"))
    }
}
