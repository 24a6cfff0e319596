//! A topic by WebSocket (RFC 6455): each event is one message of text, in the JSON format of CloudEvents, as their
//! binding for WebSocket says.
//!
//! A message of WebSocket has nothing beside its content, where the place of an event could stand as the id of a
//! server-sent one does: it stands in the event, as the extension [`PLACE`]. The first message is an event of our
//! own, which says where the listener begins, so that it misses nothing if it has to come back before the first
//! one of the topic.
//!
//! The listener says nothing but that it is there, and that it goes. What it sends is read a frame at a time, and
//! no frame is longer than [`HEARD`]; a message is refused.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::cloud_event::Event;
use super::super::publish::new_id;
use super::{Feed, Over, event_of};
use crate::net::opaque::Counted;
use crate::proxy::upgrade::Answered;

/// The extension that says where an event stands: what one who comes back brings.
const PLACE: &str = "lasteventid";
/// The type of the first event, which says where a listener begins.
const LISTENING: &str = "dev.meshwright.listening";

/// The payload of a frame that we send: longer messages are of several, so that no more than that is copied at a
/// time, and none of it for long.
const FRAME: usize = 64 * 1024;
/// The payload of a frame that we are sent. Those of control have 125 at most.
const HEARD: usize = 1024;
/// How many frames we are sent between two beats: one is usual.
const FRAMES: u32 = 1000;
/// How long a listener takes to read a frame, or to answer a ping, that is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long we wait for the answer to our close.
const LINGER: Duration = Duration::from_secs(2);

/// One who listens, by its connection.
struct Session<S> {
    socket: WebSocketStream<S>,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There is no more to tell it.
    Over(Over),
    /// It has sent a message.
    Message,
    /// It has sent too much that is none.
    Frames,
    /// What it has sent is not WebSocket.
    Protocol,
    /// It has closed the session.
    Closed,
    /// It is gone, or does not read, or does not answer.
    Gone,
}

/// Tells the topic by a connection, until it ends.
pub(super) async fn tell(mut feed: Feed, mut near: TokioIo<Upgraded>) -> Answered {
    let moved = (Cell::new(0), Cell::new(0));
    let mut session = Session::new(Counted::new(&mut near, &moved)).await;
    let over = feed.over();
    let beat = feed.beat;
    let mut first = Some(beginning(&feed.from.object, &feed.reader.place()));
    let texts = async || match first.take() {
        Some(first) => Ok(vec![first]),
        None => {
            let read = feed.next().await?;
            let texts = read.iter().map(|read| {
                let event = event_of(&feed.from.topic, read);
                text(event, &read.place)
            });
            Ok(texts.collect())
        }
    };
    let end = tokio::select! {
        biased;
        over = over => End::Over(over),
        end = session.tell(beat, texts) => end,
    };
    let whole = session.end(end).await;
    Answered {
        there: moved.0.get(),
        back: moved.1.get(),
        whole,
    }
}

/// The message that says where one begins.
fn beginning(object: &str, place: &str) -> Bytes {
    let source = format!("/apiroutes/{object}");
    text(
        Event::trusted(&new_id(SystemTime::now()), &source, LISTENING),
        place,
    )
}

/// The message that an event is.
fn text(mut event: Event, place: &str) -> Bytes {
    event.set_trusted(PLACE, place);
    event.to_json().into()
}

// === impl Session ===

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn new(connection: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(HEARD)
            // Written at once, and no more than a frame at a time.
            .write_buffer_size(0)
            .max_message_size(Some(HEARD))
            .max_frame_size(Some(HEARD));
        let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config));
        Self {
            socket: socket.await,
        }
    }

    /// Tells what there is, as it comes.
    async fn tell(
        &mut self,
        beat: Duration,
        mut texts: impl AsyncFnMut() -> Result<Vec<Bytes>, Over>,
    ) -> End {
        let mut beats = interval_at(Instant::now() + beat, beat);
        let mut there = Instant::now();
        let mut frames = 0;
        loop {
            let texts = tokio::select! {
                heard = self.socket.next() => {
                    there = Instant::now();
                    frames += 1;
                    match meant(heard) {
                        None if frames <= FRAMES => continue,
                        None => return End::Frames,
                        Some(end) => return end,
                    }
                }
                _ = beats.tick() => {
                    if there.elapsed() > PATIENCE {
                        return End::Gone;
                    }
                    frames = 0;
                    match self.send(Message::Ping(Bytes::new())).await {
                        true => continue,
                        false => return End::Gone,
                    }
                }
                texts = texts() => texts,
            };
            let texts = match texts {
                Ok(texts) => texts,
                Err(over) => return End::Over(over),
            };
            for text in texts {
                if !self.say(&text).await {
                    return End::Gone;
                }
            }
            // What it does not read would stop this.
            there = Instant::now();
        }
    }

    /// Sends one message; whether it was taken.
    async fn say(&mut self, text: &Bytes) -> bool {
        let mut kind = OpCode::Data(Data::Text);
        let mut from = 0;
        loop {
            let to = text.len().min(from + FRAME);
            let is_last = to == text.len();
            let frame = Frame::message(text.slice(from..to), kind, is_last);
            if !self.send(Message::Frame(frame)).await {
                return false;
            }
            if is_last {
                return true;
            }
            (from, kind) = (to, OpCode::Data(Data::Continue));
        }
    }

    async fn send(&mut self, message: Message) -> bool {
        let sent = timeout(PATIENCE, self.socket.send(message)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Says why, and waits a moment for the other side's word; whether that was said, or nothing had to be.
    async fn end(mut self, end: End) -> bool {
        if end == End::Gone {
            // Whoever stands between learns that it was not us who broke it off.
            let _ = timeout(LINGER, self.socket.get_mut().shutdown()).await;
            return false;
        }
        let is_said = Cell::new(false);
        let ending = async {
            if let Some((code, reason)) = end.said() {
                let reason = Utf8Bytes::from_static(reason);
                let said = self.socket.close(Some(CloseFrame { code, reason })).await;
                said.ok()?;
            }
            is_said.set(true);
            // Until it has answered ours, or ours to its own is sent.
            while let Some(Ok(_)) = self.socket.next().await {}
            // Closed while something is unread, a connection may be lost before the other side has read our word.
            let connection = self.socket.get_mut();
            connection.shutdown().await.ok()?;
            let mut rest = [0; 256];
            while connection.read(&mut rest).await.ok()? > 0 {}
            Some(())
        };
        let _ = timeout(LINGER, ending).await;
        is_said.get()
    }
}

/// What ends a session of what was heard.
fn meant(heard: Option<Result<Message, Error>>) -> Option<End> {
    match heard {
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
        Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Frame(_))) => Some(End::Message),
        Some(Ok(Message::Close(_))) => Some(End::Closed),
        // A message that is too long, or whose text is none.
        Some(Err(Error::Capacity(_) | Error::Utf8(_))) => Some(End::Message),
        Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => Some(End::Gone),
        Some(Err(Error::Protocol(_))) => Some(End::Protocol),
        Some(Err(_)) | None => Some(End::Gone),
    }
}

// === impl End ===

impl End {
    /// The code and the reason that it is told; nothing when it has said the first word.
    fn said(self) -> Option<(CloseCode, &'static str)> {
        Some(match self {
            Self::Over(Over::Drained) => (CloseCode::Away, "this sidecar ends: come back"),
            Self::Over(Over::Aged) => (
                CloseCode::Policy,
                "an hour has passed: come back, and show who you are",
            ),
            Self::Over(Over::Changed) => (
                CloseCode::Policy,
                "the rule has changed: come back, and show who you are",
            ),
            Self::Over(Over::Lost) => (CloseCode::Again, "the broker is away: come back"),
            Self::Message => (
                CloseCode::Unsupported,
                "events are sent here, and none taken",
            ),
            Self::Frames => (CloseCode::Policy, "too many pings"),
            Self::Protocol => (CloseCode::Protocol, "this is not WebSocket"),
            Self::Closed | Self::Gone => return None,
        })
    }
}

#[cfg(test)]
mod tests;
