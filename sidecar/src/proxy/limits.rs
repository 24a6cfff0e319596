//! What untrusted bytes meet before they meet code: the bounds of every HTTP connection, in one
//! place, each set explicitly (hyper takes `None` for "no limit", see its documentation).

use std::time::Duration;

use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper_util::rt::TokioTimer;

use super::load::Bounds;
use crate::worker::LocalExecutor;

/// Header lines of one message; more is 431. As hyper, Envoy and nginx-ingress have it.
pub const MAX_HEADERS: usize = 100;

/// Bytes of one HTTP/1.1 head, of its trailers, and of the read buffer; more is 431. Envoy reads
/// 60 KiB, Go 1 MiB, nginx 32 KiB: large tokens and cookies fit.
pub const MAX_HEAD: usize = 64 * 1024;

/// From the first byte of a head to its last; of HTTP/2 also from accept to the first SETTINGS. A
/// head is some packets: Apache's mod_reqtimeout gives 20 s at first, nginx 60 s. Longer than any
/// stall that TCP mends soon (three retransmissions are 7 s).
pub const HEAD_TIME: Duration = Duration::from_secs(20);

/// Bytes of a chunk's size line, extension included. Nobody uses extensions; Go allows 4 KiB.
pub const MAX_CHUNK_LINE: usize = 4096;

/// Interim answers (1xx) to one request. 100 and a few 103 are real; Go's client reads 5.
pub const MAX_INTERIM: usize = 32;

/// Frames of HTTP/2 in a row that bring nothing forward (PING, SETTINGS, PRIORITY, RST_STREAM,
/// WINDOW_UPDATE, CONTINUATION, empty DATA, requests that get no answer): more end the connection.
/// nghttp2 and Envoy bound what they queue in answer by the same number.
pub const CONTROL_FRAMES: u32 = 1000;

/// And so many each second for ever: what costs a thousandth of a core harms nobody, and a caller
/// whose deadlines pass one after another sends as many RST_STREAM.
pub const CONTROL_FRAMES_EACH_SECOND: u32 = 100;

/// Bytes of one HTTP/2 header list, uncompressed (RFC 9113 section 6.5.2).
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// An application may keep a connection to its sidecar this long without a request. It is our own
/// application: the bound only collects what was forgotten.
pub const IDLE: Duration = Duration::from_secs(3600);

/// A request may go on this long while no byte of it moves, in either direction: then it is answered
/// 504, or its answer is cut off. Envoy gives a stream 5 minutes, which ends long polls and silent
/// subscriptions; an hour only collects what was forgotten.
pub const BODY_IDLE: Duration = Duration::from_secs(3600);

/// Requests at a time that we accept on one HTTP/2 connection. Envoy accepts 100 at the edge, ztunnel
/// and hyper 200.
const MAX_STREAMS: u32 = 250;

/// Requests at a time that we send on one HTTP/2 connection before opening another. As ztunnel's pool.
pub const STREAMS_PER_CONNECTION: usize = 100;

/// Flow-control window of a stream: what one slow reader can make us hold. 256 KiB are 10 Gbit/s at a
/// round trip of 0.2 ms; 64 KiB halve what bulk does.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Flow-control windows of connections: of those that we open, and of those that are opened to us. Each
/// holds those of all its streams. Streams that nobody reads take nothing from the others then; with
/// less, five of 1 MiB stopped a connection of 5 MiB. h2 allows small messages that are not read yet
/// by the same measure.
const CLIENT_WINDOW: u32 = STREAMS_PER_CONNECTION as u32 * STREAM_WINDOW;
const SERVER_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// Streams that were reset before we accepted them (CVE-2023-44487, "rapid reset").
const MAX_PENDING_RESETS: usize = 20;

/// Streams that we reset because the peer broke the protocol (RUSTSEC-2024-0003).
const MAX_LOCAL_RESETS: usize = 1024;

/// Inbound connections at a time, for each worker, whose peer has not proved who it is; for one more
/// the oldest is closed. An honest peer needs a place for one handshake. As many as the kernel holds
/// for us before we accept them.
pub const STRANGERS: usize = 1024;

/// A peer's HTTP/1.1 connection, and a plaintext one, may stay this long without a request. As nginx
/// keeps one (`keepalive_timeout`).
const IDLE_STRANGER: Duration = Duration::from_secs(75);

/// What one worker takes on in one direction. Measured (tests/mesh/overload.rs): a connection that
/// rests has 20 KiB, a request in flight with a small head as much; all taken, some 80 MiB. Linkerd
/// admits 10 000 requests a proxy, Envoy 1024 a cluster by default.
pub const LOAD: Bounds = Bounds {
    connections: 4096,
    connections_each: 2048,
    requests: 4096,
    requests_each: 2048,
};

/// The own application shares with nobody.
pub const LOAD_OF_APPLICATION: Bounds = Bounds {
    connections_each: LOAD.connections,
    requests_each: LOAD.requests,
    ..LOAD
};

/// Requests of one worker that wait for a connection to be opened; one more is turned away. Each
/// waits for as long as connecting may take, and what cannot be reached gets more of them meanwhile.
pub const WAITING: usize = 1024;

/// Bytes of requests' bodies that one worker keeps to send them again; what has no room is not sent again.
/// 256 requests at once with 64 KiB each.
pub const REPLAY: usize = 16 * 1024 * 1024;

/// How long a connection whose seat was given to another has to end in peace.
pub const GIVE_WAY: Duration = Duration::from_secs(5);

/// How long a connection of HTTP/1.1 that was opened while we drain may take to its first request:
/// whoever opens one has that at hand.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// PING on a connection with nothing else to say, and the time for its answer: a peer that
/// vanished without a word is noticed within both. Linkerd and ztunnel ask as often, and wait 3 s and
/// 20 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// From an application.
pub fn h1_server() -> server1::Builder {
    let mut builder = server1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        // A caller that hangs up ends its request; waiting for its half of a connection would hide it.
        .half_close(false)
        .auto_date_header(false)
        // One write of a copied small message is cheaper than a gathered one.
        .writev(false);
    builder
}

/// From a peer: a request that is to become another protocol.
pub fn h1_server_for_peers() -> server1::Builder {
    let mut builder = h1_server();
    builder.header_read_timeout(IDLE_STRANGER);
    builder
}

/// From a peer, or from an application with prior knowledge.
pub fn h2_server() -> server2::Builder<LocalExecutor> {
    let mut builder = server2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SERVER_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .auto_date_header(false);
    builder
}

/// To an application, or outside the mesh.
pub fn h1_client() -> client1::Builder {
    let mut builder = client1::Builder::new();
    builder
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        .writev(false);
    builder
}

/// To a peer.
pub fn h2_client(executor: LocalExecutor) -> client2::Builder<LocalExecutor> {
    let mut builder = client2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .initial_max_send_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    builder
}

/// To an application, or outside the mesh. No PING: gRPC servers take more than one in five minutes
/// for abuse and end the connection (gRFC A8).
pub fn h2_client_in_plaintext(executor: LocalExecutor) -> client2::Builder<LocalExecutor> {
    let mut builder = h2_client(executor);
    builder
        .keep_alive_interval(None)
        .keep_alive_while_idle(false);
    builder
}
