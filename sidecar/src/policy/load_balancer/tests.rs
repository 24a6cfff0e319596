use super::*;
use crate::config::retry_policy::{HashOn, HealthCheck};
use crate::config::service::ServiceKey;
use crate::policy::circuit_breaker::{CircuitBreaker, Fault};
use std::collections::BTreeMap;
use std::net::SocketAddr;

#[derive(Debug)]
struct Fake {
    number: usize,
    in_flight: Cell<u32>,
    answer_time: Cell<Option<f64>>,
}

impl Candidate for Fake {
    fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }
    fn answer_time(&self, _: Instant) -> Option<f64> {
        self.answer_time.get()
    }
}

fn fakes(in_flight: &[u32]) -> Vec<Rc<Fake>> {
    let fake = |(number, in_flight): (usize, &u32)| {
        Rc::new(Fake {
            number,
            in_flight: Cell::new(*in_flight),
            answer_time: Cell::new(None),
        })
    };
    in_flight.iter().enumerate().map(fake).collect()
}

fn balancer(in_flight: &[u32]) -> LoadBalancer<Fake> {
    LoadBalancer::new(fakes(in_flight))
}

fn offered<'a>(fakes: &[Rc<Fake>], for_zones: &[&'a [String]]) -> Vec<Offered<'a, Fake>> {
    let offer = |fake: &Rc<Fake>| Offered {
        endpoint: fake.clone(),
        address: SocketAddr::from(([10, 0, 0, fake.number as u8], 8080)),
        for_zones: for_zones.get(fake.number).copied().unwrap_or_default(),
        health: None,
    };
    fakes.iter().map(offer).collect()
}

fn built(algorithm: Algorithm, fakes: &[Rc<Fake>]) -> LoadBalancer<Fake> {
    let balancing = Balancing {
        algorithm,
        slow_start: None,
    };
    LoadBalancer::build(offered(fakes, &[]), balancing, Caller::default(), None)
}

/// How often each is picked.
fn picked(balancer: &LoadBalancer<Fake>, times: usize) -> Vec<usize> {
    let mut picked = vec![0; balancer.len()];
    for _ in 0..times {
        picked[balancer.pick(None, &[]).unwrap().number] += 1;
    }
    picked
}

#[tokio::test]
async fn of_two_endpoints_the_less_busy_one_is_always_picked() {
    assert_eq!(picked(&balancer(&[5, 2]), 100), [0, 100]);
}

#[tokio::test]
async fn the_busiest_of_many_is_never_picked() {
    assert_eq!(picked(&balancer(&[1, 1, 1, 9]), 200)[3], 0);
}

#[tokio::test]
async fn of_equally_busy_ones_the_one_that_answers_sooner_is_picked() {
    let fakes = fakes(&[1, 1]);
    let balancer = built(Algorithm::LeastRequest, &fakes);
    fakes[0].answer_time.set(Some(0.010));
    fakes[1].answer_time.set(Some(0.005));
    assert_eq!(picked(&balancer, 100), [0, 100]);
    // Until it has so much to do that the other one would still be sooner.
    fakes[1].in_flight.set(4);
    assert_eq!(picked(&balancer, 100), [100, 0]);
    // One that has not answered yet is not held against one that has.
    fakes[1].answer_time.set(None);
    fakes[1].in_flight.set(0);
    assert_eq!(picked(&balancer, 100), [0, 100]);
}

#[tokio::test]
async fn equally_busy_endpoints_share_evenly() {
    // Five standard deviations of a fair draw are 130.
    let picked = picked(&balancer(&[0, 0, 0]), 3000);
    assert!(picked.iter().all(|n| (850..1150).contains(n)), "{picked:?}");
}

#[tokio::test]
async fn a_second_try_goes_to_another_endpoint() {
    for algorithm in [
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::ConsistentHash(HashOn::Source),
    ] {
        let balancer = built(algorithm, &fakes(&[0, 9]));
        let first = balancer.pick(Some(1), &[]).unwrap();
        let second = balancer.pick(Some(1), std::slice::from_ref(&first));
        assert!(!Rc::ptr_eq(&first, &second.unwrap()));
    }
}

#[tokio::test]
async fn nobody_to_pick_is_an_error_with_a_reason() {
    let error = balancer(&[]).pick(None, &[]).unwrap_err();
    assert_eq!(error.reason, Reason::NoEndpoints);
}

#[tokio::test]
async fn round_robin_takes_one_after_the_other_however_busy() {
    let balancer = built(Algorithm::RoundRobin, &fakes(&[9, 0, 4]));
    assert_eq!(picked(&balancer, 300), [100, 100, 100]);
}

#[tokio::test]
async fn a_value_keeps_its_endpoint_and_only_those_of_a_lost_one_move() {
    let fakes = fakes(&[0; 10]);
    let on = Algorithm::ConsistentHash(HashOn::Header("x-user".parse().unwrap()));
    let before = built(on.clone(), &fakes);
    let after = built(on, &fakes[..9]);
    let of = |balancer: &LoadBalancer<Fake>, user: u32| {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", user.into());
        let key = balancer.key(Some(&headers));
        assert!(key.is_some());
        balancer.pick(key, &[]).unwrap().number
    };
    let mut shares = BTreeMap::<usize, usize>::new();
    for user in 0..10_000 {
        let (was, is) = (of(&before, user), of(&after, user));
        assert_eq!(was, of(&before, user));
        if was != 9 {
            assert_eq!(was, is);
        }
        *shares.entry(was).or_default() += 1;
    }
    // Six standard deviations of a fair draw are 180.
    assert!(
        shares.values().all(|n| (820..1180).contains(n)),
        "{shares:?}"
    );
    // A request without the header goes anywhere.
    assert_eq!(before.key(Some(&HeaderMap::new())), None);
    let anywhere = picked(&before, 1000);
    assert!(anywhere.iter().all(|n| *n > 0), "{anywhere:?}");
}

#[tokio::test]
async fn the_callers_zone_is_preferred_where_all_have_hints_and_some_are_for_it() {
    let (a, b) = (["a".to_owned()], ["b".to_owned()]);
    let fakes = fakes(&[0; 4]);
    let of = |zone: &str, for_zones: &[&[String]]| {
        let caller = Caller {
            workload: "shop/web",
            zone,
        };
        let offered = offered(&fakes, for_zones);
        LoadBalancer::build(offered, Balancing::default(), caller, None)
    };
    let hints: [&[String]; 4] = [&a, &b, &a, &b];
    let balancer = of("b", &hints);
    let shares = picked(&balancer, 100);
    let place = |n: usize| &balancer.places()[n].endpoint;
    assert_eq!((place(0).number, place(1).number), (1, 3));
    assert_eq!(shares[1] + shares[3], 100);
    // A second try that finds nobody left in the zone leaves it.
    let tried = [fakes[1].clone(), fakes[3].clone()];
    assert_eq!(balancer.pick(None, &tried).unwrap().number % 2, 0);
    for (zone, hints) in [("c", hints), ("", hints), ("b", [&a, &b, &a, &[]])] {
        let shares = picked(&of(zone, &hints), 400);
        assert!(shares.iter().all(|n| *n > 0), "{zone} {shares:?}");
    }
}

#[tokio::test]
async fn who_is_not_well_is_avoided_unless_nobody_is() {
    let check = HealthCheck {
        path: "/".parse().unwrap(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    };
    let fakes = fakes(&[0; 3]);
    for algorithm in [
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::ConsistentHash(HashOn::Source),
    ] {
        let health: Vec<_> = fakes.iter().map(|_| Arc::new(Health::default())).collect();
        let mut offered = offered(&fakes, &[]);
        for (one, health) in offered.iter_mut().zip(&health) {
            one.health = Some(health.clone());
        }
        let balancing = Balancing {
            algorithm,
            slow_start: None,
        };
        let balancer = LoadBalancer::build(offered, balancing, Caller::default(), None);
        health[0].observe(false, &check);
        health[1].observe(false, &check);
        assert_eq!(picked(&balancer, 50), [0, 0, 50]);
        // Whoever is well and was tried is tried no more than whoever is not.
        let another = balancer.pick(Some(7), &fakes[2..]).unwrap();
        assert_ne!(another.number, 2);
        health[2].observe(false, &check);
        let shares = picked(&balancer, 300);
        assert_eq!(shares.iter().sum::<usize>(), 300);
        health[0].observe(true, &check);
        assert_eq!(picked(&balancer, 50), [50, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_picked_whose_circuit_is_open_and_who_is_half_open_is_tried_by_one() {
    let sent = wire::mesh::CircuitBreaker {
        consecutive_failures: 1,
        error_percent: 100,
        min_requests: 100,
        window_ms: 10_000,
        on_5xx: true,
        open_for_ms: 1000,
        max_open_for_ms: 1000,
        half_open_requests: 1,
        max_ejected_percent: 100,
        ..Default::default()
    };
    let fakes = fakes(&[0; 3]);
    let health: Vec<_> = fakes.iter().map(|_| Arc::new(Health::default())).collect();
    let mut offered = offered(&fakes, &[]);
    for (one, health) in offered.iter_mut().zip(&health) {
        one.health = Some(health.clone());
    }
    let breaker = CircuitBreaker::build(&sent).unwrap();
    let key = ServiceKey::new("shop", "orders");
    let circuits = Circuits::new(breaker, key, health.clone(), Arc::default());
    let balancing = Balancing {
        algorithm: Algorithm::RoundRobin,
        slow_start: None,
    };
    let balancer = LoadBalancer::build(offered, balancing, Caller::default(), None);
    let balancer = balancer.with_circuits(Some(circuits.clone()));
    let fail = |place: usize| {
        let trial = circuits.enter(&health[place], None).unwrap();
        trial.failed(Fault::ServerError);
    };
    fail(0);
    assert_eq!(picked(&balancer, 100), [0, 50, 50]);
    // Not even when all others were tried.
    let another = balancer.pick(None, &fakes[1..]).unwrap();
    assert_ne!(another.number, 0);
    assert!(!balancer.has_another(&fakes[1..]) && balancer.has_another(&fakes[2..]));
    fail(1);
    fail(2);
    let refused = balancer.pick(None, &[]).unwrap_err();
    assert_eq!(refused.reason, Reason::CircuitOpen);
    assert_eq!(
        balancer.enter(None, &[], None).unwrap_err().reason,
        Reason::CircuitOpen
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    let entered: Vec<_> = (0..3)
        .map(|_| balancer.enter(None, &[], None).unwrap())
        .collect();
    let mut tried: Vec<_> = entered.iter().map(|(one, _)| one.number).collect();
    tried.sort_unstable();
    assert_eq!(tried, [0, 1, 2], "each is tried once");
    assert_eq!(
        balancer.enter(None, &[], None).unwrap_err().reason,
        Reason::CircuitOpen
    );
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_new_endpoint_grows_and_that_of_the_first_ones_does_not() {
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin] {
        let balancing = Balancing {
            algorithm,
            slow_start: Some(Duration::from_secs(100)),
        };
        let fakes = fakes(&[0; 3]);
        let build = |count: usize, old: Option<&LoadBalancer<Fake>>| {
            let offered = offered(&fakes[..count], &[]);
            LoadBalancer::build(offered, balancing.clone(), Caller::default(), old)
        };
        let first = build(2, None);
        let shares = picked(&first, 1000);
        assert!(shares.iter().all(|n| *n > 350), "{shares:?}");
        let second = build(3, Some(&first));
        // Least request compares shares, so a new one that is idle waits for the others to be busy.
        let busy = |n| fakes[..2].iter().for_each(|fake| fake.in_flight.set(n));
        busy(8);
        // In turn, a tenth of its turns: some 48, and with six standard deviations 90.
        assert!(picked(&second, 1000)[2] <= 90);
        // It is still new for a balancer that is made meanwhile, and then no more.
        tokio::time::advance(Duration::from_secs(50)).await;
        let third = build(3, Some(&second));
        busy(0);
        let half = picked(&third, 1000)[2];
        assert!(half <= 290, "{half}");
        tokio::time::advance(Duration::from_secs(51)).await;
        let whole = picked(&third, 1000)[2];
        assert!((230..440).contains(&whole), "{whole}");
    }
}
