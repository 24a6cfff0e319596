//! How a sidecar comes back. The clock is paused.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::transport::Channel;
use wire::{
    client::{
        self, BACKOFF_MAX, BACKOFF_MAX_INCOMPLETE, BACKOFF_MIN, CONNECT_TIMEOUT, HEALTHY, State,
    },
    delta::Held,
};

use crate::{
    operator::{Operator, nothing_asked},
    snapshot::{Enforced, Snapshot, sidecar_with},
};

/// The times between so many failing attempts to connect.
async fn waits(held: Held, attempts: usize) -> Vec<Duration> {
    let times = Mutex::new(Vec::new());
    let (enough, mut counted) = watch::channel(0);
    let connect = || {
        times.lock().unwrap().push(Instant::now());
        enough.send_modify(|count| *count += 1);
        async { Err::<Channel, _>("no route to host") }
    };
    let (state, _) = watch::channel(State::default());
    tokio::select! {
        never = client::run(connect, held, Enforced::default(), |_: &mut Held| {}, &state, nothing_asked().into()) => match never {},
        _ = counted.wait_for(|count| *count == attempts) => {}
    }
    assert_eq!(
        state.borrow().error.as_deref(),
        Some("can't connect: no route to host")
    );
    let times = times.lock().unwrap();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn waits_grow_exponentially_with_full_jitter_up_to_a_bound() {
    let (held, _) = sidecar_with(&Snapshot::at(1));
    let waits = waits(held, 1000).await;

    for (failures, wait) in waits.iter().enumerate() {
        let ceiling = BACKOFF_MIN.saturating_mul(2u32.saturating_pow(failures as u32));
        // The clock of the runtime has a granularity of 1 ms.
        let ceiling = ceiling.min(BACKOFF_MAX) + Duration::from_millis(1);
        assert!(*wait <= ceiling, "wait {failures} is {wait:?}");
    }
    // Full jitter: anything from nothing to the bound, half of it on average.
    let mean = waits.iter().sum::<Duration>() / waits.len() as u32;
    assert!(
        mean > BACKOFF_MAX.mul_f64(0.4) && mean < BACKOFF_MAX.mul_f64(0.6),
        "{mean:?}"
    );
    assert!(waits.iter().any(|wait| *wait < BACKOFF_MAX / 20));
    assert!(waits.iter().any(|wait| *wait > BACKOFF_MAX * 19 / 20));
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_has_nothing_yet_asks_more_often() {
    let waits = waits(Held::default(), 200).await;
    let longest = waits.iter().max().unwrap();
    assert!(*longest <= BACKOFF_MAX_INCOMPLETE + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_is_given_up() {
    let (state, mut watched) = watch::channel(State::default());
    let connect = || pending::<Result<Channel, Infallible>>();
    let started = Instant::now();
    tokio::select! {
        never = client::run(connect, Held::default(), Enforced::default(), |_: &mut Held| {}, &state, nothing_asked().into()) => match never {},
        _ = watched.wait_for(|state| state.error.is_some()) => {}
    }
    assert!(started.elapsed() <= CONNECT_TIMEOUT + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_on_the_volume_is_enforced_before_any_operator_answers() {
    let view = Snapshot::at(1).with("route/shop/orders", "v1");
    let (held, _) = sidecar_with(&view);
    let mut enforced = Enforced::default();
    let shared = Arc::new(Mutex::new(Vec::new()));
    let (state, mut watched) = watch::channel(State::default());
    struct Recorder<'a>(&'a mut Enforced, Arc<Mutex<Vec<usize>>>);
    impl wire::delta::Apply for Recorder<'_> {
        fn apply(&mut self, changes: Vec<wire::delta::Change>) -> Vec<wire::delta::Rejected> {
            self.1.lock().unwrap().push(changes.len());
            self.0.apply(changes)
        }
    }
    let apply = Recorder(&mut enforced, shared.clone());
    let connect = || pending::<Result<Channel, Infallible>>();
    tokio::select! {
        never = client::run(connect, held, apply, |_: &mut Held| {}, &state, nothing_asked().into()) => match never {},
        _ = watched.wait_for(|state| state.complete) => {}
    }
    assert_eq!(*shared.lock().unwrap(), [1]);
    assert_eq!(enforced.resources, view.hashes());
}

#[tokio::test(start_paused = true)]
async fn after_a_healthy_stream_the_first_wait_is_short_again() {
    let operator = Operator::start(Snapshot::at(1));
    let up = Mutex::new(false);
    let attempts = Mutex::new(Vec::new());
    let connect = || {
        attempts.lock().unwrap().push(Instant::now());
        let (operator, up) = (operator.clone(), *up.lock().unwrap());
        async move {
            match up {
                true => operator.connect().await.map_err(|why| why.to_string()),
                false => Err("down".to_owned()),
            }
        }
    };
    let (held, _) = sidecar_with(&Snapshot::at(1));
    let (state, mut watched) = watch::channel(State::default());
    let test = async {
        // Long enough for the waits to have grown to their bound.
        tokio::time::sleep(Duration::from_secs(300)).await;
        *up.lock().unwrap() = true;
        watched.wait_for(|state| state.connected).await.unwrap();
        operator.streams(1).await;
        tokio::time::sleep(HEALTHY).await;
        *up.lock().unwrap() = false;
        attempts.lock().unwrap().clear();
        let lost = Instant::now();
        operator.hang_up();
        watched.wait_for(|state| !state.connected).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        (lost, attempts.lock().unwrap().clone())
    };

    let (lost, attempts) = tokio::select! {
        never = client::run(connect, held, Enforced::default(), |_: &mut Held| {}, &state, nothing_asked().into()) => match never {},
        result = test => result,
    };

    for (failures, at) in attempts.iter().take(4).enumerate() {
        let sum: u32 = (0..=failures as u32).map(|n| 2u32.pow(n)).sum();
        let latest = BACKOFF_MIN * sum + Duration::from_millis(10);
        assert!(
            *at - lost <= latest,
            "attempt {failures} after {:?}",
            *at - lost
        );
    }
}
