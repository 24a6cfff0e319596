//! What costs its sender nothing and us something: it has an end, from an application and from a
//! peer alike, and others notice nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use sidecar::net::tls::{ALPN_H1, ALPN_H2};
use sidecar::proxy::limits::{CONTROL_FRAMES, HEAD_TIME};
use tests::client::Client;
use tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use tests::mesh::{Mesh, SOON, Workload};
use tests::raw::{connect, h2, peer};
use tests::wait_until;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::routing::services;

async fn world() -> Result<(Mesh, Workload, Client)> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    Ok((mesh, orders, client))
}

fn request(stream: u32) -> Vec<u8> {
    let fields: &[(&str, &[u8])] = &[
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"orders"),
        (":path", b"/"),
    ];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// Floods of frames, each more than there is a budget for, and never an answer.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let many = 3 * CONTROL_FRAMES as usize;
    let open = {
        let fields: &[(&str, &[u8])] = &[
            (":method", b"POST"),
            (":scheme", b"http"),
            (":authority", b"orders"),
            (":path", b"/"),
        ];
        frame(HEADERS, END_HEADERS, 1, &block(fields))
    };
    let streams = |each: &dyn Fn(u32) -> Vec<u8>| {
        (0..many as u32)
            .flat_map(|n| each(2 * n + 1))
            .collect::<Vec<u8>>()
    };
    vec![
        ("PING", frame(PING, 0, 0, &[0; 8]).repeat(many)),
        (
            "answers to no PING",
            frame(PING, 1, 0, &[0; 8]).repeat(many),
        ),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[]).repeat(many)),
        (
            "large SETTINGS",
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100].repeat(100)).repeat(many),
        ),
        (
            "PRIORITY",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(many),
        ),
        (
            "WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(many),
        ),
        ("unknown frames", frame(0xfa, 0, 0, &[1]).repeat(many)),
        (
            "empty DATA",
            [open.clone(), frame(DATA, 0, 1, &[]).repeat(many)].concat(),
        ),
        (
            "WINDOW_UPDATE of a stream",
            [
                open.clone(),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(many),
            ]
            .concat(),
        ),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2),
        ),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "RST_STREAM",
            streams(&|n| [request(n), frame(RST_STREAM, 0, n, &[0, 0, 0, 8])].concat()),
        ),
        (
            "RST_STREAM of no stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(many),
        ),
        (
            "requests on themselves",
            streams(&|n| {
                let on_itself = [&n.to_be_bytes()[..], &[1]].concat();
                frame(HEADERS, END_HEADERS | END_STREAM | 0x20, n, &on_itself)
            }),
        ),
        (
            "CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &[]),
                frame(CONTINUATION, 0, 1, &[0x40]).repeat(many),
            ]
            .concat(),
        ),
        (
            "empty CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &[]),
                frame(CONTINUATION, 0, 1, &[]).repeat(many),
            ]
            .concat(),
        ),
        ("a table that is read again and again", {
            // One large entry, and then its index, one byte each: 4 KiB of header each byte.
            let mut bomb = vec![
                0x40,
                1,
                b'a',
                0x7f,
                0x80 | (4000 - 127) as u8 & 0x7f,
                ((4000 - 127) >> 7) as u8,
            ];
            bomb.extend(vec![b'b'; 4000]);
            bomb.extend(vec![0xbe; 12_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)
        }),
        (
            "a frame that is too large",
            frame(DATA, 0, 1, &vec![0; 20_000]),
        ),
        ("DATA of no stream", frame(DATA, 0, 1, b"x")),
        ("HEADERS of an even stream", request(2)),
    ]
}

/// Sends a flood; the connection must end, and neither because we stopped nor because we seem to be
/// gone: what is asked for by PING is answered.
async fn ends<I: AsyncRead + AsyncWrite + Unpin>(io: I, flood: &[u8]) -> Result<bool> {
    let (mut read, mut write) = tokio::io::split(io);
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let (asked, mut answers) = mpsc::unbounded_channel::<Vec<u8>>();
    let sending = async {
        // Who ends the connection does not read the rest.
        let _ = write.write_all(flood).await;
        while let Some(answer) = answers.recv().await {
            let _ = write.write_all(&answer).await;
        }
    };
    let reading = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return;
            }
            if head[3] == PING && head[4] == 0 {
                let _ = asked.send(frame(PING, 1, 0, &payload));
            }
        }
    };
    tokio::select! {
        () = sending => Ok(false),
        ended = timeout(SOON, reading) => Ok(ended.is_ok()),
    }
}

#[tokio::test]
async fn a_flood_of_frames_ends_its_connection_and_no_other() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    for (case, flood) in floods() {
        ensure!(
            ends(connect(&client).await?, &flood).await?,
            "{case}: from the application"
        );
        let io = peer(client.sidecar(), &orders.sidecar, ALPN_H2).await?;
        ensure!(ends(io, &flood).await?, "{case}: from a peer");
        assert_eq!(client.get("http://orders/").await?.status, 200, "{case}");
    }
    for sidecar in [client.sidecar(), &orders.sidecar] {
        let resident = sidecar.resident_bytes()?;
        assert!(resident < 64 << 20, "{resident} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn no_more_streams_at_a_time_than_we_said() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    orders.upstream.takes(Duration::from_secs(60));
    for from_peer in [false, true] {
        let flood: Vec<u8> = (0..300).flat_map(|n| request(2 * n + 1)).collect();
        let refused = match from_peer {
            false => refused_of(Frames::client(connect(&client).await?).await?, &flood).await?,
            true => {
                let io = peer(client.sidecar(), &orders.sidecar, ALPN_H2).await?;
                refused_of(Frames::client(io).await?, &flood).await?
            }
        };
        // The last of them: those before were within what we take.
        assert_eq!(refused, Outcome::Reset);
    }
    Ok(())
}

async fn refused_of<I>(mut frames: Frames<I>, flood: &[u8]) -> Result<Outcome>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    frames.send(flood).await?;
    frames.outcome(2 * 299 + 1).await
}

#[tokio::test]
async fn many_requests_with_their_answers_are_no_flood() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    let io = peer(client.sidecar(), &orders.sidecar, ALPN_H2).await?;
    let mut frames = Frames::client(io).await?;
    // More than the budget, one after the other, with what clients send beside them.
    for n in 0..CONTROL_FRAMES {
        let stream = 2 * n + 1;
        let beside = [
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
            frame(PING, 0, 0, &[1; 8]),
        ];
        frames
            .send(&[request(stream), beside.concat()].concat())
            .await?;
        assert_eq!(
            frames.outcome(stream).await?,
            Outcome::Answered(200),
            "{stream}"
        );
    }
    Ok(())
}

/// Whether a connection on which this was sent is closed in about the time that a head may take,
/// though a byte more of it comes now and then.
async fn closed_in_time<I>(io: I, begun: &[u8], more: &[u8]) -> Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(io);
    write.write_all(begun).await?;
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if more.is_empty() || write.write_all(more).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let closed = async {
        let mut answer = vec![0; 4096];
        while matches!(read.read(&mut answer).await, Ok(1..)) {}
    };
    tokio::select! {
        () = trickle => unreachable!("it never ends"),
        closed = timeout(HEAD_TIME + SOON, closed) => Ok(closed?),
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_not_waited_for() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    let open = frame(HEADERS, END_STREAM, 1, &block(&[(":method", b"GET")]));
    let http2 = |more: &[u8]| {
        let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        [preface, &frame(SETTINGS, 0, 0, &[]), more].concat()
    };
    let sidecars = (client.sidecar(), &orders.sidecar);
    let tls = |alpn| peer(sidecars.0, sidecars.1, alpn);
    let (none, opened) = (Vec::new(), http2(&open));
    let preface = http2(&[])[..20].to_vec();
    let half_a_frame = http2(&frame(PING, 0, 0, &[0; 8])[..12]);
    let head = b"GET / HTTP/1.1\r\nhost: orders\r\nx: ";
    let app = || connect(&client);
    let mut resting = h2::<Empty<Bytes>>(&client).await?;
    // All at once: each takes as long as a head may.
    tokio::try_join!(
        async { closed_in_time(app().await?, head, b"a").await },
        async { closed_in_time(app().await?, b"\r\n", b"\r\n").await },
        async { closed_in_time(tls(ALPN_H1).await?, head, b"a").await },
        async { closed_in_time(tls(ALPN_H1).await?, b"GET / HTTP/1.1\r\n", b"").await },
        async { closed_in_time(app().await?, &preface, b"").await },
        async { closed_in_time(tls(ALPN_H2).await?, &none, b"").await },
        async { closed_in_time(tls(ALPN_H2).await?, &preface, b"").await },
        async { closed_in_time(tls(ALPN_H2).await?, &opened, b"").await },
        async { closed_in_time(tls(ALPN_H2).await?, &half_a_frame, b"").await },
    )?;
    // Resting is something else.
    let request = Request::get("http://orders/").body(Empty::new())?;
    assert_eq!(resting.send_request(request).await?.status(), 200);
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn who_begins_many_connections_locks_nobody_out_and_costs_little() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut io = connect(&client).await?;
        io.write_all(b"GET / HTTP/1.1\r\nx: ").await?;
        held.push(io);
        let mut io = peer(client.sidecar(), &orders.sidecar, ALPN_H2).await?;
        io.write_all(b"PRI * HTTP/2.0\r\n").await?;
    }
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let sidecar = client.sidecar();
    wait_until("the connections are closed", HEAD_TIME + SOON, async || {
        let open = sidecar
            .metric("meshwright_connections_open{direction=\"outbound\"}")
            .await?;
        ensure!(open.is_some_and(|open| open <= 1.0), "{open:?} are open");
        Ok(())
    })
    .await?;
    drop(held);
    Ok(())
}
