//! The one call of [`Discovery`] as gRPC frames it, without buffers that stay.
//!
//! A generated server keeps, for as long as a call lasts, as much memory as its largest message took. A
//! stream lasts for hours, begins with all that a sidecar holds, and is one of thousands: here a delta
//! takes what it is long, and only until it is sent.

mod messages;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use prost::Message;
use tonic::Status;
use tonic::codegen::Service;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use wire::discovery::{Delta, discovery_server};
use wire::server::Deltas;

use self::messages::Messages;
use super::Discovery;
use crate::tls::Peer;

/// The call that there is.
const PATH: &str = "/meshwright.discovery.v1.Discovery/Stream";

/// gRPC's five bytes before each message: not compressed, and its length.
const HEADER_BYTES: usize = 5;

/// [`Discovery`] for a server of gRPC.
#[derive(Clone, Debug)]
pub struct Grpc(pub Discovery);

// === impl Grpc ===

impl NamedService for Grpc {
    const NAME: &'static str = discovery_server::SERVICE_NAME;
}

impl Service<http::Request<Incoming>> for Grpc {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let discovery = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("there is no such call").into_http());
            }
            let (head, body) = request.into_parts();
            let peer = head.extensions.get::<Arc<Peer>>();
            let begun = discovery.stream(peer.map(|peer| &**peer), Messages::new(body));
            Ok(match begun.await {
                Ok(deltas) => answer(deltas),
                Err(status) => status.into_http(),
            })
        })
    }
}

/// The deltas, and after them how the stream ended.
fn answer(deltas: Deltas) -> http::Response<tonic::body::Body> {
    let body = tonic::body::Body::new(StreamBody::new(frames(deltas)));
    let mut response = http::Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

fn frames(
    deltas: impl Stream<Item = Result<Delta, Status>> + Unpin + Send,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    stream::unfold(Some(deltas), async |deltas| {
        let mut deltas = deltas?;
        let status = match deltas.next().await {
            Some(Ok(delta)) => match framed(&delta) {
                Ok(message) => return Some((Ok(Frame::data(message)), Some(deltas))),
                Err(status) => status,
            },
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Some((added.map(|()| Frame::trailers(trailers)), None))
    })
}

/// As it is sent, in as many bytes as that takes.
fn framed(delta: &Delta) -> Result<Bytes, Status> {
    let length = delta.encoded_len();
    let told = u32::try_from(length).map_err(|_| Status::internal("a delta beyond all bounds"))?;
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(told);
    let encoded = delta.encode(&mut bytes);
    encoded.map_err(|why| Status::internal(why.to_string()))?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream of these becomes.
    async fn sent(deltas: Vec<Result<Delta, Status>>) -> Vec<Frame<Bytes>> {
        let frames: Vec<_> = frames(stream::iter(deltas)).collect().await;
        frames.into_iter().map(Result::unwrap).collect()
    }

    fn status_of(trailers: &Frame<Bytes>) -> Status {
        Status::from_header_map(trailers.trailers_ref().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_delta_is_framed_as_long_as_it_is_and_trailers_say_how_the_stream_ended() {
        let delta = Delta {
            nonce: 7,
            complete: true,
            ..Delta::default()
        };
        let frames = sent(vec![Ok(delta.clone())]).await;
        let [message, trailers] = &frames[..] else {
            panic!("{frames:?}")
        };
        let message = message.data_ref().unwrap();
        assert_eq!(message[..5], [0, 0, 0, 0, message[5..].len() as u8]);
        assert_eq!(Delta::decode(&message[5..]).unwrap(), delta);
        assert_eq!(status_of(trailers).code(), tonic::Code::Ok);

        let frames = sent(vec![Err(Status::unavailable("away"))]).await;
        let [trailers] = &frames[..] else {
            panic!("{frames:?}")
        };
        let status = status_of(trailers);
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unavailable, "away")
        );
    }
}
