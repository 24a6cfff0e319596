use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::*;

type Client = WebSocketStream<DuplexStream>;

const BEAT: Duration = Duration::from_secs(15);

/// A session that is told what is sent here, and its listener; `room` is what lies between them.
async fn session(room: usize) -> (Client, mpsc::Sender<Bytes>, JoinHandle<(End, bool)>) {
    let (near, far) = duplex(room);
    let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let (texts, mut given) = mpsc::channel::<Bytes>(1);
    let told = tokio::task::spawn_local(async move {
        let mut session = Session::new(near).await;
        let texts = async || match given.recv().await {
            Some(text) => Ok(vec![text]),
            None => Err(Over::Drained),
        };
        let end = session.tell(BEAT, texts).await;
        (end, session.end(end).await)
    });
    (client, texts, told)
}

/// The close that is heard, after whatever else.
async fn closed(client: &mut Client) -> (u16, String) {
    while let Some(heard) = client.next().await {
        if let Message::Close(Some(frame)) = heard.unwrap() {
            return (frame.code.into(), frame.reason.as_str().to_owned());
        }
    }
    panic!("it ended without a word");
}

#[tokio::test(start_paused = true)]
async fn each_event_is_one_message_however_long_it_is() {
    let test = async {
        let (mut client, texts, told) = session(1 << 20).await;
        for length in [0, 1, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME + 7] {
            // Frames end within letters.
            let text = "ä".repeat(length);
            texts.send(text.clone().into()).await.unwrap();
            let heard = client.next().await.unwrap().unwrap();
            assert_eq!(heard, Message::text(text));
        }
        drop(texts);
        assert_eq!(closed(&mut client).await.0, 1001);
        assert!(client.next().await.is_none());
        drop(client);
        assert_eq!(told.await.unwrap(), (End::Over(Over::Drained), true));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_message_is_told_that_none_is_taken_however_long_it_is() {
    let test = async {
        for message in [
            Message::text("{}"),
            Message::text(""),
            Message::binary(vec![0; HEARD]),
            Message::text("x".repeat(HEARD + 1)),
            Message::binary(vec![0; 1 << 20]),
        ] {
            let (client, _texts, told) = session(4096).await;
            let (mut write, mut read) = client.split();
            // What is too long is not read to its end: who sends it is stopped.
            let sending = tokio::spawn(async move { write.send(message).await });
            let heard = loop {
                match read.next().await.unwrap().unwrap() {
                    Message::Close(frame) => break frame.unwrap(),
                    other => assert!(other.is_ping(), "{other:?}"),
                }
            };
            assert_eq!(u16::from(heard.code), 1003);
            assert_eq!(told.await.unwrap().0, End::Message);
            let _ = sending.await;
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_in_pieces_without_end_is_refused() {
    let test = async {
        let (mut client, _texts, told) = session(4096).await;
        let mut kind = Data::Text;
        for _ in 0..=HEARD / 100 {
            let piece = Frame::message(vec![b'x'; 100], OpCode::Data(kind), false);
            client.send(Message::Frame(piece)).await.unwrap();
            kind = Data::Continue;
        }
        assert_eq!(closed(&mut client).await.0, 1003);
        drop(client);
        assert_eq!(told.await.unwrap().0, End::Message);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn who_answers_pings_is_told_on_and_who_does_not_is_given_up() {
    let test = async {
        let (mut client, texts, told) = session(4096).await;
        let begun = Instant::now();
        for _ in 0..100 {
            let heard = client.next().await.unwrap().unwrap();
            assert!(heard.is_ping(), "{heard:?}");
        }
        assert_eq!(begun.elapsed(), 100 * BEAT);
        texts.send("still here".into()).await.unwrap();
        let heard = client.next().await.unwrap().unwrap();
        assert_eq!(heard, Message::text("still here"));

        let silent = Instant::now();
        assert_eq!(told.await.unwrap(), (End::Gone, false));
        let silence = silent.elapsed();
        assert!(
            silence > PATIENCE && silence <= PATIENCE + 2 * BEAT,
            "{silence:?}"
        );
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_for_a_minute_is_given_up_and_who_reads_slowly_is_not() {
    let test = async {
        let (mut client, texts, told) = session(1024).await;
        // Fifty seconds for each frame.
        texts.send(vec![b'x'; 20 * FRAME].into()).await.unwrap();
        let mut read = 0;
        while read < 20 * FRAME {
            tokio::time::sleep(Duration::from_millis(800)).await;
            let mut bytes = [0; 1024];
            read += client.get_mut().read(&mut bytes).await.unwrap();
        }
        texts.send(vec![b'x'; 20 * FRAME].into()).await.unwrap();
        let stopped = Instant::now();
        assert_eq!(told.await.unwrap(), (End::Gone, false));
        assert!(stopped.elapsed() <= 2 * PATIENCE, "{:?}", stopped.elapsed());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_and_a_ping_too() {
    let test = async {
        let (mut client, _texts, told) = session(4096).await;
        client
            .send(Message::Ping("are you there?".into()))
            .await
            .unwrap();
        let heard = client.next().await.unwrap().unwrap();
        assert_eq!(heard, Message::Pong("are you there?".into()));
        let close = CloseFrame {
            code: CloseCode::Library(4001),
            reason: "done".into(),
        };
        client.close(Some(close)).await.unwrap();
        assert_eq!(closed(&mut client).await, (4001, "done".to_owned()));
        drop(client);
        assert_eq!(told.await.unwrap(), (End::Closed, true));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn who_sends_pings_without_end_or_what_is_no_websocket_is_closed() {
    let test = async {
        let (mut client, _texts, told) = session(1 << 16).await;
        for _ in 0..=FRAMES {
            client.feed(Message::Ping(Bytes::new())).await.unwrap();
        }
        client.flush().await.unwrap();
        assert_eq!(closed(&mut client).await.0, 1008);
        drop(client);
        assert_eq!(told.await.unwrap().0, End::Frames);

        for bytes in [
            // Not masked; a reserved bit; a kind that there is not; a ping in two frames.
            &b"\x81\x02{}"[..],
            b"\xc9\x80\0\0\0\0",
            b"\x8b\x80\0\0\0\0",
            b"\x09\x80\0\0\0\0",
        ] {
            let (mut client, _texts, told) = session(4096).await;
            client.get_mut().write_all(bytes).await.unwrap();
            assert_eq!(closed(&mut client).await.0, 1002, "{bytes:?}");
            drop(client);
            assert_eq!(told.await.unwrap().0, End::Protocol, "{bytes:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// Frames as nobody should send them: any kind, length, mask and bits, cut off anywhere.
fn spoilt(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..8) {
        const KINDS: [u8; 12] = [0, 1, 2, 8, 8, 9, 9, 10, 10, 3, 11, 15];
        let bits = match random.random_range(0..4) {
            0 => random.random::<u8>() & 0xf0,
            _ => 0x80,
        };
        bytes.push(bits | KINDS[random.random_range(0..KINDS.len())]);
        let mask = if random.random_range(0..8) == 0 {
            0
        } else {
            0x80
        };
        let length = random.random_range(0..128_u8);
        bytes.push(mask | length);
        match length {
            126 => bytes.extend(random.random::<[u8; 2]>()),
            127 => bytes.extend(random.random::<[u8; 8]>()),
            _ => {}
        }
        bytes.extend(random.random::<[u8; 4]>());
        bytes.extend((0..length.min(125)).map(|_| random.random::<u8>()));
    }
    bytes.truncate(random.random_range(1..=bytes.len()));
    bytes
}

#[tokio::test(start_paused = true)]
async fn whatever_is_sent_a_session_ends_with_its_listener() {
    let test = async {
        for seed in 0..1000 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut client, texts, told) = session(1 << 16).await;
            let bytes = spoilt(&mut random);
            client.get_mut().write_all(&bytes).await.unwrap();
            // It may have ended by now.
            let _ = texts.send("told meanwhile".into()).await;
            client.get_mut().shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.get_mut().read_to_end(&mut heard).await.unwrap();
            drop(client);
            let (end, _) = told.await.unwrap();
            assert!(!matches!(end, End::Over(_)), "{seed}: {end:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_the_answer_to_a_close() {
    let test = async {
        let (client, texts, told) = session(4096).await;
        let begun = Instant::now();
        drop(texts);
        assert_eq!(told.await.unwrap(), (End::Over(Over::Drained), true));
        assert_eq!(begun.elapsed(), LINGER);
        drop(client);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn who_goes_without_a_word_is_gone() {
    let test = async {
        let (client, _texts, told) = session(4096).await;
        drop(client);
        assert_eq!(told.await.unwrap(), (End::Gone, false));
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn a_reason_fits_into_its_frame() {
    for end in [
        End::Over(Over::Drained),
        End::Over(Over::Aged),
        End::Over(Over::Changed),
        End::Over(Over::Lost),
        End::Message,
        End::Frames,
        End::Protocol,
    ] {
        let (code, reason) = end.said().unwrap();
        assert!(code.is_allowed() && reason.len() <= 123, "{end:?}");
    }
}

#[test]
fn a_message_is_the_event_with_its_place_whatever_it_says_of_one_itself() {
    let mut event = Event::trusted("1", "/s", "t");
    event.set(PLACE, "made up").unwrap();
    event.data = Bytes::from_static(b"{\"a\":1}");
    let text = text(event, "17");
    let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(text[PLACE], "17");
    assert_eq!((&text["id"], &text["type"]), (&"1".into(), &"t".into()));
    assert_eq!(text["data"]["a"], 1);
    let begun: serde_json::Value = serde_json::from_slice(&beginning("shop/live", "3")).unwrap();
    assert_eq!(begun[PLACE], "3");
    assert_eq!(begun["type"], LISTENING);
    assert_eq!(begun["source"], "/apiroutes/shop/live");
    assert!(begun.get("data").is_none());
}
