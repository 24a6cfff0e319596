//! What a sidecar says, read from the frames of its request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::Stream;
use hyper::body::Body;
use prost::Message as _;
use tonic::Status;
use wire::discovery::FromSidecar;
use wire::server::MAX_MESSAGE_BYTES;

use super::HEADER_BYTES;

/// The messages of a call, which keep nothing between one and the next.
pub(super) struct Messages<B> {
    body: B,
    /// What has come of a message that is not there as a whole.
    begun: Vec<u8>,
    /// What has come and is not looked at.
    unread: Bytes,
    ended: bool,
}

// === impl Messages ===

impl<B> Messages<B> {
    pub(super) fn new(body: B) -> Messages<B> {
        Messages {
            body,
            begun: Vec::new(),
            unread: Bytes::new(),
            ended: false,
        }
    }

    /// The next message, if it is there as a whole.
    fn next_message(&mut self) -> Result<Option<FromSidecar>, Status> {
        if !self.fill(HEADER_BYTES) {
            return Ok(None);
        }
        let length = announced(&self.begun)?;
        if !self.fill(HEADER_BYTES + length) {
            return Ok(None);
        }
        // What it says is a part of these bytes, and no copy.
        let mut bytes = Bytes::from(std::mem::take(&mut self.begun));
        bytes.advance(HEADER_BYTES);
        FromSidecar::decode(bytes)
            .map(Some)
            .map_err(|why| Status::invalid_argument(format!("a message can't be read: {why}")))
    }

    /// Moves what is unread into what has begun, until that has `length` bytes.
    fn fill(&mut self, length: usize) -> bool {
        let missing = length.saturating_sub(self.begun.len());
        let taken = missing.min(self.unread.len());
        self.begun.extend_from_slice(&self.unread[..taken]);
        self.unread.advance(taken);
        if self.unread.is_empty() {
            // It would hold what the connection was read into.
            self.unread = Bytes::new();
        }
        taken == missing
    }
}

impl<B> Stream for Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Item = Result<FromSidecar, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            match this.next_message() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.unread = data;
                    }
                }
                Some(Err(why)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(Status::unavailable(why.to_string()))));
                }
                None => {
                    this.ended = true;
                    if !this.begun.is_empty() {
                        let status = Status::invalid_argument("the call ended within a message");
                        return Poll::Ready(Some(Err(status)));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

/// How long a message is, as its first bytes say.
fn announced(begun: &[u8]) -> Result<usize, Status> {
    let Some((&[compressed, ref length @ ..], _)) = begun.split_first_chunk::<HEADER_BYTES>()
    else {
        return Ok(0);
    };
    if compressed != 0 {
        return Err(Status::unimplemented(
            "messages are not read compressed; send them as they are",
        ));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(Status::out_of_range(format!(
            "a message of {length} bytes is longer than one may be: {MAX_MESSAGE_BYTES}"
        )));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use wire::discovery::Ack;

    use super::*;

    fn ack(nonce: u64) -> FromSidecar {
        let ack = Ack {
            nonce,
            ..Ack::default()
        };
        ack.into()
    }

    fn framed(message: &FromSidecar) -> Vec<u8> {
        let encoded = message.encode_to_vec();
        let length = u32::try_from(encoded.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], &encoded].concat()
    }

    /// What is read of a request that comes in these pieces.
    async fn read(pieces: Vec<Vec<u8>>) -> Vec<Result<FromSidecar, Status>> {
        let frames = pieces.into_iter().map(Bytes::from).map(Frame::data);
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        Messages::new(body).collect().await
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut() {
        let sent = [ack(1), ack(u64::MAX), ack(3)];
        let bytes = sent.iter().flat_map(framed).collect::<Vec<u8>>();
        for size in 1..=bytes.len() {
            let pieces = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            let messages = read(pieces).await;
            let messages = messages.into_iter().map(Result::unwrap);
            assert_eq!(messages.collect::<Vec<_>>(), sent, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_call_with_a_reason() {
        let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
        let too_long = [&[0], &(longest + 1).to_be_bytes()[..]].concat();
        let compressed = vec![1, 0, 0, 0, 0];
        let garbage = vec![0, 0, 0, 0, 2, 0xff, 0xff];
        for (bytes, said) in [
            (too_long, "longer than one may be"),
            (compressed, "not read compressed"),
            (garbage, "can't be read"),
        ] {
            let messages = read(vec![framed(&ack(7)), bytes, framed(&ack(8))]).await;
            let [Ok(_), Err(status)] = &messages[..] else {
                panic!("{said}: {messages:?}")
            };
            assert!(status.message().contains(said), "{status:?}");
        }
        let cut = read(vec![framed(&ack(1))[..7].to_vec()]).await;
        let [Err(status)] = &cut[..] else {
            panic!("{cut:?}")
        };
        assert!(status.message().contains("ended within"), "{status:?}");
    }
}
