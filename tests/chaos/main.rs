//! Events under faults: real brokers, whole sidecars, and `kill -9` and cuts at random moments under load. Whatever is
//! struck, what was answered 202 is delivered or a dead letter, little comes twice, and order is kept where it is promised.
//!
//! In `make test` each broker is struck for some seconds, in another way each time. `make chaos` strikes each for minutes.
//! What is printed first says how it is done once more: by the variables [`SEED`] and [`SECONDS`].

mod application;
mod broker;
mod history;
mod network;
mod oracle;
mod producer;
mod schedule;
mod world;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::mesh::SOON;
use tests::wait_until;
use tokio::time::Instant;

use crate::broker::Kind;
use crate::history::Journal;
use crate::oracle::{HEARS, Promise, judge, missing};
use crate::producer::Producers;
use crate::schedule::{FAULTS, Schedule};
use crate::world::{REPLICAS, World};

/// The variable that says what is struck when.
const SEED: &str = "MESHWRIGHT_CHAOS_SEED";

/// The variable that says for how many seconds something is struck.
const SECONDS: &str = "MESHWRIGHT_CHAOS_SECONDS";

/// How many events a sidecar may have in hand.
const IN_FLIGHT: usize = 8;

/// For how long events are done before anything is struck.
const CALM: Duration = Duration::from_secs(HEARS.as_secs() + 1);

/// How long it may take until all is done once nothing is struck any more: what dead sidecars had comes again after 30 s,
/// what was struck may have to connect first, and what has waited has to be delivered.
const SETTLES: Duration = Duration::from_secs(180);

/// A run.
struct Run {
    name: &'static str,
    kind: Kind,
    in_order: bool,
    /// How many publish, and how often each.
    producers: (u32, Duration),
    /// For how long something is struck, where nobody says.
    length: Duration,
    /// How often something is struck, at the least and where there is time.
    each: (Duration, Duration),
    retries: u32,
    /// From one delivery of an event that fails to the next, at first and at most.
    backoff: (Duration, Duration),
}

fn number(variable: &str) -> Option<u64> {
    let said = std::env::var(variable).ok()?;
    let number = said.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {said:?}, which is no number")))
}

// === impl Run ===

impl Run {
    /// Events in no order.
    fn of(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            in_order: false,
            producers: (6, Duration::from_millis(40)),
            length: Duration::from_secs(15),
            each: (Duration::from_millis(1000), Duration::from_secs(3)),
            retries: 2,
            // RabbitMQ's sidecars hold what comes again at once, and leave to the broker what comes later.
            backoff: (Duration::from_millis(300), Duration::from_secs(1)),
        }
    }

    async fn go(self) -> Result<()> {
        let seed = number(SEED).unwrap_or_else(rand::random);
        let length = number(SECONDS).map_or(self.length, Duration::from_secs);
        let each = (length / 14).clamp(self.each.0, self.each.1);
        let schedule = Schedule::draw(seed, &FAULTS, length, each);
        eprintln!(
            "{}: {SEED}={seed} {SECONDS}={}\n{schedule}",
            self.name,
            length.as_secs()
        );
        let told = || {
            format!(
                "{}, with {SEED}={seed} {SECONDS}={}",
                self.name,
                length.as_secs()
            )
        };
        self.strikes(seed, &schedule).await.with_context(told)
    }

    async fn strikes(&self, seed: u64, schedule: &Schedule) -> Result<()> {
        let journal = Journal::default();
        let began = Instant::now();
        let mut world = World::start(self.kind, &self.delivery(), seed, &journal).await?;
        let up = began.elapsed();
        let (count, pace) = self.producers;
        let producers = Producers::start(count, pace, world.publishes_at(), &journal);
        // What comes again before anything is struck comes again for no reason.
        wait_until(
            "some were done before anything is struck",
            SOON,
            async || {
                let since = journal.so_far().first_taken().context("none is taken")?;
                ensure!(since.elapsed()? > CALM, "the first was taken at {since:?}");
                Ok(())
            },
        )
        .await?;
        world.strike(schedule).await?;
        producers.end().await;
        let struck = began.elapsed();
        let settled = wait_until("all that was accepted is done", SETTLES, async || {
            journal.letters(world.broker.letters().await?);
            let missing = missing(&journal.so_far());
            let first = missing.first().map(ToString::to_string);
            ensure!(
                missing.is_empty(),
                "{} are missing: {}",
                missing.len(),
                first.unwrap_or_default()
            );
            world.broker.is_done().await
        })
        .await;
        // What became a dead letter last.
        journal.letters(world.broker.letters().await?);
        let history = journal.so_far();
        let report = judge(&history, self.promise());
        let report = report.map_err(|violations| anyhow::anyhow!("{violations}"));
        eprintln!(
            "{}: up after {up:.1?}, struck until {struck:.1?}, done after {:.1?}, {} connections",
            self.name,
            began.elapsed(),
            world.connections(),
        );
        let report = report?;
        settled?;
        eprintln!("{}: {report}", self.name);
        ensure!(
            report.taken > 0 && report.dead > 0,
            "nothing was tried: {report}"
        );
        Ok(())
    }

    /// What stands in the subscription's delivery.
    fn delivery(&self) -> String {
        let ordering = if self.in_order { "Key" } else { "None" };
        let (initial, most) = (self.backoff.0.as_millis(), self.backoff.1.as_millis());
        format!(
            "ordering: {ordering}, maxInFlight: {IN_FLIGHT}, retries: {{ maxRetries: {}, \
             backoff: {{ initial: {initial}ms, max: {most}ms, jitter: None }} }}",
            self.retries
        )
    }

    fn promise(&self) -> Promise {
        Promise {
            replicas: REPLICAS,
            in_flight: IN_FLIGHT,
            most_deliveries: self.retries + 1,
            tells_duplicates: self.kind.tells_duplicates(),
            forgets: self.kind.forgets(),
            in_order: self.in_order,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_struck_what_nats_holds_is_delivered_or_a_dead_letter() -> Result<()> {
    Run::of("NATS", Kind::Nats).go().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_struck_what_rabbitmq_holds_is_delivered_or_a_dead_letter() -> Result<()> {
    Run::of("RabbitMQ", Kind::RabbitMq).go().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_struck_what_redis_holds_is_delivered_or_a_dead_letter() -> Result<()> {
    Run::of("Redis", Kind::Redis).go().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_struck_events_of_a_key_are_delivered_in_their_order() -> Result<()> {
    let run = Run {
        in_order: true,
        producers: (6, Duration::from_millis(200)),
        each: (Duration::from_millis(1000), Duration::from_secs(15)),
        backoff: (Duration::from_millis(50), Duration::from_millis(100)),
        ..Run::of("NATS, in order", Kind::Nats)
    };
    run.go().await
}
