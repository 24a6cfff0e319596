//! No stream waits for ever. The clock is paused: time passes when everyone waits.

use std::time::Duration;

use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wire::{
    delta::Held,
    discovery::{Ack, FromSidecar, Lookup},
    server::{
        self, ACK_TIMEOUT, Deltas, HELLO_TIMEOUT, LOOKUPS_AT_ONCE, LOOKUPS_EVERY, Mailbox, REFRESH,
    },
};

use crate::{
    operator::Operator,
    snapshot::{Snapshot, id},
};

type Messages = mpsc::Sender<Result<FromSidecar, Status>>;

/// One stream without gRPC.
fn stream(operator: &Operator) -> (Messages, Deltas) {
    let (messages, incoming) = mpsc::channel(4);
    let incoming = ReceiverStream::new(incoming);
    let mailbox = operator.mailbox();
    let subscriber = operator.subscriber(&mailbox);
    let deltas = server::serve(incoming, mailbox, subscriber);
    (messages, deltas)
}

async fn say(messages: &Messages, message: impl Into<FromSidecar>) {
    messages.send(Ok(message.into())).await.unwrap();
}

async fn acknowledge(messages: &Messages, nonce: u64) {
    let ack = Ack {
        nonce,
        ..Default::default()
    };
    say(messages, ack).await;
}

async fn end(deltas: &mut Deltas) -> Code {
    loop {
        if let Err(status) = deltas.next().await.unwrap() {
            assert!(deltas.next().await.is_none());
            return status.code();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_hello_is_ended() {
    let operator = Operator::start(Snapshot::at(1));
    let (_messages, mut deltas) = stream(&operator);
    let started = Instant::now();

    assert_eq!(end(&mut deltas).await, Code::DeadlineExceeded);

    assert!(started.elapsed() >= HELLO_TIMEOUT);
    assert!(started.elapsed() < HELLO_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_closed_before_its_hello_ends_at_once() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    let started = Instant::now();
    operator.hang_up();

    assert_eq!(end(&mut deltas).await, Code::Unavailable);
    messages.closed().await;

    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_sidecar_has_left_before_its_hello_ends_at_once() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, deltas) = stream(&operator);
    let started = Instant::now();
    drop(deltas);

    // The other end of the messages is the task's: it goes with the task.
    messages.closed().await;

    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_an_ack_is_ended_although_its_configuration_changes() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    deltas.next().await.unwrap().unwrap();
    let started = Instant::now();
    let busy = async {
        for version in 2.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            operator.publish(|view| view.put("route/shop/orders", &format!("v{version}")));
        }
    };

    tokio::select! {
        code = end(&mut deltas) => assert_eq!(code, Code::DeadlineExceeded),
        () = busy => unreachable!(),
    }

    assert!(started.elapsed() >= ACK_TIMEOUT);
    assert!(started.elapsed() < ACK_TIMEOUT + Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_is_kept_for_days_and_its_floor_is_kept_up_to_date() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    let first = deltas.next().await.unwrap().unwrap();
    acknowledge(&messages, first.nonce).await;
    let days = tokio::time::sleep(Duration::from_secs(3 * 24 * 3600));
    tokio::select! {
        delta = deltas.next() => panic!("{delta:?}"),
        () = days => {}
    }

    let started = Instant::now();
    operator.publish(|view| view.advance(2));
    let refreshed = deltas.next().await.unwrap().unwrap();

    assert!(started.elapsed() <= REFRESH);
    assert!(refreshed.resources.is_empty());
    let every_place = wire::generation::Input::ALL.len();
    assert_eq!(refreshed.seen.unwrap().seen, vec![2; every_place]);
}

#[tokio::test(start_paused = true)]
async fn who_says_anything_else_than_hello_first_or_hello_twice_is_refused() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    acknowledge(&messages, 1).await;
    assert_eq!(end(&mut deltas).await, Code::InvalidArgument);

    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    say(&messages, Held::default().hello()).await;
    assert_eq!(end(&mut deltas).await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_goes_away_says_so_even_while_it_waits_for_an_ack() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    deltas.next().await.unwrap().unwrap();

    let started = Instant::now();
    operator.hang_up();

    assert_eq!(end(&mut deltas).await, Code::Unavailable);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_was_told_that_anything_may_have_changed_has_the_view_compared() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let (messages, incoming) = mpsc::channel(4);
    let mailbox = Mailbox::new();
    let incoming = ReceiverStream::new(incoming);
    let mut deltas = server::serve(incoming, mailbox.clone(), operator.subscriber(&mailbox));
    say(&messages, Held::default().hello()).await;
    let first = deltas.next().await.unwrap().unwrap();
    acknowledge(&messages, first.nonce).await;

    // Published, but not into this mailbox.
    operator.publish(|view| {
        view.advance(2);
        view.remove("route/shop/orders");
        view.put("route/shop/carts", "v1");
    });
    mailbox.changed([id("route/shop/unknown")]);
    mailbox.everything_changed();
    let second = deltas.next().await.unwrap().unwrap();

    assert_eq!(second.resources[0].id, "route/shop/carts");
    assert_eq!(second.removed[0].id, "route/shop/orders");
}

#[tokio::test(start_paused = true)]
async fn who_asks_without_end_is_read_ever_so_often_and_its_ack_is_not_late_for_that() {
    const MANY: u32 = 500;
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    let delta = deltas.next().await.unwrap().unwrap();
    let started = Instant::now();
    let asking = async {
        for number in 0..MANY {
            let asked = format!("lookup/address/10.96.{}.{}", number / 256, number % 256);
            let lookup = Lookup {
                wanted: vec![asked],
                unwanted: Vec::new(),
            };
            say(&messages, lookup).await;
        }
        acknowledge(&messages, delta.nonce).await;
    };
    let at_once = async {
        operator.asked(LOOKUPS_AT_ONCE as usize).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        operator.asked(LOOKUPS_AT_ONCE as usize + 1).await;
        assert!(started.elapsed() >= LOOKUPS_EVERY);
    };
    tokio::join!(asking, at_once);
    let asked = operator.asked(MANY as usize).await;
    assert_eq!(asked.len(), MANY as usize, "nothing is lost");
    let took = LOOKUPS_EVERY * (MANY - LOOKUPS_AT_ONCE);
    assert!(took > ACK_TIMEOUT, "the Ack comes later than it else might");
    assert!(started.elapsed() >= took && started.elapsed() < took + LOOKUPS_EVERY * 2);
    // The stream goes on.
    operator.publish(|view| view.put("route/shop/orders", "v1"));
    deltas.next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_asks_without_end_and_acknowledges_nothing_is_not_waited_for_for_ever() {
    let operator = Operator::start(Snapshot::at(1));
    let (messages, mut deltas) = stream(&operator);
    say(&messages, Held::default().hello()).await;
    let started = Instant::now();
    let asking = async {
        loop {
            let lookup = Lookup {
                wanted: vec!["lookup/address/10.96.0.7".to_owned()],
                unwanted: Vec::new(),
            };
            if messages.send(Ok(lookup.into())).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        code = end(&mut deltas) => assert_eq!(code, Code::DeadlineExceeded),
        () = asking => unreachable!(),
    }
    assert!(started.elapsed() < ACK_TIMEOUT * 5);
}
