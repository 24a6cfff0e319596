use super::*;
use tokio::time::advance;

fn sent() -> mesh::CircuitBreaker {
    mesh::CircuitBreaker {
        consecutive_failures: 3,
        error_percent: 50,
        min_requests: 10,
        window_ms: 10_000,
        on_5xx: true,
        on_timeout: true,
        on_connect: true,
        on_reset: false,
        open_for_ms: 1000,
        max_open_for_ms: 4000,
        half_open_requests: 2,
        max_ejected_percent: 50,
    }
}

fn circuits(count: usize, change: impl FnOnce(&mut mesh::CircuitBreaker)) -> Rc<Circuits> {
    let mut sent = sent();
    change(&mut sent);
    let all = (0..count).map(|_| Arc::<Health>::default()).collect();
    let breaker = CircuitBreaker::build(&sent).unwrap();
    let service = ServiceKey::new("shop", "orders");
    Circuits::new(breaker, service, all, Arc::default())
}

fn one(circuits: &Rc<Circuits>, place: usize) -> Trial {
    circuits.enter(&circuits.all[place], None).unwrap()
}

fn good(circuits: &Rc<Circuits>, place: usize) {
    one(circuits, place).answered();
}

fn bad(circuits: &Rc<Circuits>, place: usize, times: usize) {
    for _ in 0..times {
        one(circuits, place).failed(Fault::ServerError);
    }
}

fn state(circuits: &Circuits, place: usize) -> CircuitState {
    circuits.all[place].circuit.state()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn so_many_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let circuits = circuits(2, |_| {});
    bad(&circuits, 0, 2);
    good(&circuits, 0);
    bad(&circuits, 0, 2);
    assert_eq!(state(&circuits, 0), CircuitState::Closed);
    bad(&circuits, 0, 1);
    assert_eq!(state(&circuits, 0), CircuitState::Open);
    assert_eq!(state(&circuits, 1), CircuitState::Closed);
    assert!(circuits.enter(&circuits.all[0], None).is_none());
    assert!(circuits.admit(&circuits.all[1]));
}

#[tokio::test(start_paused = true)]
async fn the_share_of_failures_opens_it_when_there_were_enough_answers_in_the_window() {
    let seldom = |circuits: &Rc<Circuits>| {
        good(circuits, 0);
        bad(circuits, 0, 1);
    };
    let circuits = circuits(1, |sent| sent.consecutive_failures = 1000);
    (0..4).for_each(|_| seldom(&circuits));
    assert_eq!(state(&circuits, 0), CircuitState::Closed, "8 are too few");
    advance(11 * SECOND).await;
    (0..4).for_each(|_| seldom(&circuits));
    assert_eq!(
        state(&circuits, 0),
        CircuitState::Closed,
        "the first are forgotten"
    );
    advance(8 * SECOND).await;
    seldom(&circuits);
    assert_eq!(
        state(&circuits, 0),
        CircuitState::Open,
        "10 within the window"
    );
}

#[tokio::test(start_paused = true)]
async fn while_it_is_open_nobody_calls_and_then_so_many_try_it_and_close_it() {
    let circuits = circuits(1, |_| {});
    bad(&circuits, 0, 3);
    let refused = circuits.all_open();
    assert_eq!(refused.reason, Reason::CircuitOpen);
    advance(999 * SECOND / 1000).await;
    assert!(!circuits.admit(&circuits.all[0]));
    advance(SECOND / 3).await;
    assert_eq!(state(&circuits, 0), CircuitState::HalfOpen);
    let (mut first, mut second) = (one(&circuits, 0), one(&circuits, 0));
    assert!(
        circuits.enter(&circuits.all[0], None).is_none(),
        "two try it"
    );
    first.answered();
    assert_eq!(state(&circuits, 0), CircuitState::HalfOpen);
    second.answered();
    assert_eq!(state(&circuits, 0), CircuitState::Closed);
    bad(&circuits, 0, 2);
    assert_eq!(state(&circuits, 0), CircuitState::Closed, "it counts anew");
}

#[tokio::test(start_paused = true)]
async fn one_that_still_fails_is_open_for_twice_as_long_up_to_a_bound_and_a_quarter_more() {
    let circuits = circuits(1, |_| {});
    bad(&circuits, 0, 3);
    for seconds in [1, 2, 4, 4] {
        let until = circuits.all[0].circuit.turn().until - Instant::now();
        assert!(
            (SECOND * seconds..=SECOND * seconds * 5 / 4).contains(&until),
            "{until:?}"
        );
        advance(until).await;
        bad(&circuits, 0, 1);
        assert_eq!(state(&circuits, 0), CircuitState::Open);
    }
    advance(10 * SECOND).await;
    good(&circuits, 0);
    good(&circuits, 0);
    bad(&circuits, 0, 3);
    let until = circuits.all[0].circuit.turn().until - Instant::now();
    assert!(until <= SECOND * 5 / 4, "it was well meanwhile: {until:?}");
}

#[tokio::test(start_paused = true)]
async fn who_tries_it_and_goes_away_leaves_the_turn_to_another() {
    let circuits = circuits(1, |sent| sent.half_open_requests = 1);
    bad(&circuits, 0, 3);
    advance(2 * SECOND).await;
    let trial = one(&circuits, 0);
    assert!(!circuits.admit(&circuits.all[0]));
    drop(trial);
    assert!(circuits.admit(&circuits.all[0]));
    // Who was sent before it opened has no say in this.
    assert_eq!(state(&circuits, 0), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_asks_for_fewer_trials_than_went_well_already_leaves_a_way_out() {
    let before = circuits(1, |sent| sent.half_open_requests = 5);
    bad(&before, 0, 3);
    advance(2 * SECOND).await;
    for _ in 0..3 {
        good(&before, 0);
    }
    assert_eq!(state(&before, 0), CircuitState::HalfOpen);
    let breaker = CircuitBreaker::build(&mesh::CircuitBreaker {
        half_open_requests: 2,
        ..sent()
    });
    let service = ServiceKey::new("shop", "orders");
    let after = Circuits::new(
        breaker.unwrap(),
        service,
        before.all.clone(),
        Arc::default(),
    );
    assert!(after.admit(&after.all[0]));
    good(&after, 0);
    assert_eq!(state(&after, 0), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_share_that_may_be_open_is_held_when_endpoints_go() {
    let before = circuits(4, |_| {});
    bad(&before, 0, 3);
    // More than what is drawn of how long each is open: the first ends first.
    advance(SECOND / 3).await;
    bad(&before, 1, 3);
    let states = |circuits: &Circuits| {
        let states = circuits.all.iter().map(|health| health.circuit.state());
        Vec::from_iter(states)
    };
    use CircuitState::{Closed, HalfOpen, Open};
    assert_eq!(states(&before), [Open, Open, Closed, Closed]);
    let of = |all: &[Arc<Health>]| {
        let service = ServiceKey::new("shop", "orders");
        Circuits::new(
            before.breaker.clone(),
            service,
            all.to_vec(),
            Arc::default(),
        )
    };
    // As many as may be are left alone.
    assert_eq!(states(&of(&before.all)), [Open, Open, Closed, Closed]);
    // Those that were well have gone: one of two may be open.
    let after = of(&before.all[..2]);
    assert_eq!(states(&after), [HalfOpen, Open]);
    assert!(after.admit(&after.all[0]) && !after.admit(&after.all[1]));
    // One always may.
    assert_eq!(states(&of(&before.all[1..2])), [Open]);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_it_opened_changes_nothing_afterwards() {
    let circuits = circuits(1, |sent| sent.half_open_requests = 1);
    let (early, mut earlier) = (one(&circuits, 0), one(&circuits, 0));
    bad(&circuits, 0, 3);
    let until = circuits.all[0].circuit.turn().until;
    early.failed(Fault::ServerError);
    earlier.answered();
    drop(earlier);
    assert_eq!(circuits.all[0].circuit.turn().until, until);
    assert_eq!(state(&circuits, 0), CircuitState::Open);
    advance(2 * SECOND).await;
    let stale = one(&circuits, 0);
    one_fails_after_reopening(&circuits, stale);
}

fn one_fails_after_reopening(circuits: &Rc<Circuits>, stale: Trial) {
    drop(stale);
    let again = one(circuits, 0);
    again.failed(Fault::Timeout);
    assert_eq!(state(circuits, 0), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_open_than_the_share_and_one_always_can_be() {
    for (count, percent, open) in [(1, 1, 1), (2, 50, 1), (3, 50, 1), (4, 50, 2), (4, 100, 4)] {
        let circuits = circuits(count, |sent| sent.max_ejected_percent = percent);
        for place in 0..count {
            let calls = (0..10).filter_map(|_| circuits.enter(&circuits.all[place], None));
            calls.for_each(|trial| trial.failed(Fault::ServerError));
        }
        let is_open = |place: &usize| state(&circuits, *place) == CircuitState::Open;
        assert_eq!(
            (0..count).filter(is_open).count(),
            open,
            "{count} {percent}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_named_counts_and_what_does_not_is_no_failure() {
    let circuits = circuits(1, |_| {});
    for _ in 0..100 {
        one(&circuits, 0).failed(Fault::Reset);
    }
    assert_eq!(state(&circuits, 0), CircuitState::Closed);
    for fault in [Fault::Connect, Fault::Timeout, Fault::ServerError] {
        one(&circuits, 0).failed(fault);
    }
    assert_eq!(state(&circuits, 0), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_given_up_counts_when_its_time_was_up_and_not_when_its_caller_left() {
    let circuits = circuits(1, |_| {});
    let deadline = Some(Instant::now() + SECOND);
    let given_up = || circuits.enter(&circuits.all[0], deadline).unwrap();
    for _ in 0..10 {
        drop(given_up());
    }
    assert_eq!(state(&circuits, 0), CircuitState::Closed);
    let late = [(); 3].map(|()| given_up());
    advance(SECOND).await;
    drop(late);
    assert_eq!(state(&circuits, 0), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_window_counts_anew_and_keeps_what_is_open() {
    let before = circuits(1, |sent| sent.consecutive_failures = 1000);
    let edited = |window_ms| {
        let mut sent = sent();
        sent.window_ms = window_ms;
        sent.consecutive_failures = 1000;
        let breaker = CircuitBreaker::build(&sent).unwrap();
        Circuits::new(
            breaker,
            before.service.clone(),
            before.all.clone(),
            Arc::default(),
        )
    };
    bad(&before, 0, 9);
    let same = edited(10_000);
    assert_eq!(
        same.all[0].circuit.counts.recent(same.breaker.bucket_ms),
        (9, 9)
    );
    let other = edited(20_000);
    bad(&other, 0, 1);
    assert_eq!(
        other.all[0].circuit.counts.recent(other.breaker.bucket_ms),
        (1, 1)
    );
    bad(&other, 0, 9);
    assert_eq!(state(&edited(30_000), 0), CircuitState::Open);
}

#[test]
fn what_means_nothing_is_rejected() {
    let rejected = |change: fn(&mut mesh::CircuitBreaker)| {
        let mut sent = sent();
        change(&mut sent);
        CircuitBreaker::build(&sent).is_err()
    };
    assert!(rejected(|sent| sent.error_percent = 0));
    assert!(rejected(|sent| sent.max_ejected_percent = 101));
    assert!(rejected(|sent| sent.window_ms = 9));
    assert!(rejected(|sent| sent.window_ms = u64::MAX));
    assert!(rejected(|sent| sent.open_for_ms = 0));
    assert!(!rejected(|_| {}));
}
