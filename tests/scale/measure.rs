//! One world, one operator, and as many streams as there are pods: what each of a life's moments costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::mesh::Mesh;
use tests::wait_until;
use tokio::time::{interval, sleep};
use wire::Kind;

use crate::board::Told;
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::world::World;

/// How long all streams together may take for anything.
const LIMIT: Duration = Duration::from_secs(300);

/// Between one edit and the next: clear of what the operator waits for more of the first.
const APART: Duration = Duration::from_millis(250);

/// How long memory and the like are let settle.
const SETTLE: Duration = Duration::from_secs(1);

/// The most callers of the Service whose endpoints roll.
const MOST_CALLERS: usize = 1000;

/// Edits that everybody is told.
const WIDE_EDITS: usize = 5;

/// What was measured with so many streams. Bytes of streams are those within TLS, of HTTP/2 and all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) streams: usize,
    pub(crate) services: usize,
    /// The operator's memory without a stream, in bytes.
    pub(crate) world: u64,
    /// The same with all streams, when nothing has happened for a while.
    pub(crate) with_streams: u64,
    /// From the first connection to the last complete set.
    pub(crate) storm: Work,
    /// The same until 99 of 100 streams had theirs.
    pub(crate) storm_most: Duration,
    /// How often a sidecar called until it had its stream.
    pub(crate) storm_attempts: f64,
    /// What a stream is sent at first, in bytes.
    pub(crate) first_bytes: f64,
    /// While nothing happens.
    pub(crate) steady: Work,
    /// From the file to the moment when the operator counts the last Ack, least first.
    pub(crate) edits: Vec<Duration>,
    /// Streams that each of them concerned.
    pub(crate) affected: usize,
    /// What each of these was sent for an edit, in bytes.
    pub(crate) edit_bytes: f64,
    /// Resources that others were sent meanwhile.
    pub(crate) others_changes: u64,
    /// The same of edits that concern every stream, least first.
    pub(crate) wide_edits: Vec<Duration>,
    pub(crate) wide_bytes: f64,
    /// Streams that call the Service whose endpoints roll, and how often one was replaced.
    pub(crate) callers: usize,
    pub(crate) steps: usize,
    /// From the first step to the last Ack of the last.
    pub(crate) rolling: Work,
    /// From the last step to its last Ack.
    pub(crate) rolled: Duration,
    /// What a caller was sent for each step, in bytes.
    pub(crate) step_bytes: f64,
    /// From the start of another operator to the last stream that has been told that it holds everything.
    pub(crate) restart: Work,
    /// How often a sidecar called meanwhile.
    pub(crate) restart_attempts: f64,
    /// What a stream was sent meanwhile, in bytes.
    pub(crate) restart_bytes: f64,
    /// Resources that were sent meanwhile, to all streams together.
    pub(crate) restart_changes: u64,
}

/// How long something took, and the operator's CPU time meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
}

/// A moment, and the operator's CPU time until then.
struct Start {
    at: Instant,
    cpu: Duration,
}

/// What is done to one mesh.
struct Measurement<'a> {
    mesh: Mesh,
    world: World,
    fleet: Fleet,
    plan: &'a Plan,
    row: Row,
}

/// Measures with so many streams.
pub(crate) async fn measure(streams: usize, plan: &Plan) -> Result<Row> {
    let world = World { pods: streams };
    let mesh = Mesh::prepare()?;
    world.write(&mesh)?;
    mesh.start_operator().await?;
    let problems = mesh.problems().await?;
    ensure!(problems.is_empty(), "the world can't be read: {problems:?}");
    sleep(SETTLE).await;
    let row = Row {
        streams,
        services: world.services(),
        affected: world.affected(),
        world: mesh.operator_usage()?.resident,
        ..Row::default()
    };
    let mut measurement = Measurement {
        fleet: Fleet::enrol(&mesh, world).await?,
        mesh,
        world,
        plan,
        row,
    };
    measurement.storm().await.context("the storm")?;
    measurement.steady().await.context("the steady state")?;
    measurement.edits().await.context("the edits")?;
    measurement
        .wide_edits()
        .await
        .context("the mesh-wide edits")?;
    measurement
        .rolling()
        .await
        .context("the rolling endpoints")?;
    measurement.restart().await.context("the restart")?;
    Ok(measurement.row)
}

fn bytes<'a>(ends: impl Iterator<Item = &'a Told>) -> u64 {
    ends.map(Told::bytes).sum()
}

fn changes<'a>(ends: impl Iterator<Item = &'a Told>) -> u64 {
    ends.map(Told::changes).sum()
}

fn attempts(fleet: &Fleet) -> u64 {
    fleet.all().map(Told::attempts).sum()
}

// === impl Measurement ===

impl Measurement<'_> {
    fn begin(&self) -> Result<Start> {
        let cpu = self.mesh.operator_cpu()?;
        Ok(Start {
            at: Instant::now(),
            cpu,
        })
    }

    fn end(&self, start: &Start) -> Result<Work> {
        let took = start.at.elapsed();
        let cpu = self.mesh.operator_cpu()?.saturating_sub(start.cpu);
        Ok(Work { took, cpu })
    }

    /// Waits until so many ends are there.
    async fn until(&self, count: usize) -> Result<()> {
        let there = self.fleet.board.until(count, LIMIT).await;
        there.with_context(|| format!("one without a stream: {:?}", self.fleet.trouble()))
    }

    async fn storm(&mut self) -> Result<()> {
        let start = self.begin()?;
        self.fleet.storm();
        let streams = self.fleet.len();
        self.until((streams * 99).div_ceil(100)).await?;
        self.row.storm_most = start.at.elapsed();
        self.until(streams).await?;
        self.row.storm = self.end(&start)?;
        self.row.storm_attempts = attempts(&self.fleet) as f64 / streams as f64;
        self.row.first_bytes = bytes(self.fleet.all()) as f64 / streams as f64;
        let text = self.mesh.operator_metrics().await?;
        let line = format!("meshwright_operator_streams {}", self.fleet.len());
        ensure!(text.lines().any(|one| one == line), "not {line}: {text}");
        Ok(())
    }

    async fn steady(&mut self) -> Result<()> {
        sleep(SETTLE).await;
        let start = self.begin()?;
        sleep(self.plan.steady).await;
        self.row.steady = self.end(&start)?;
        self.row.with_streams = self.mesh.operator_usage()?.resident;
        Ok(())
    }

    async fn edits(&mut self) -> Result<()> {
        let affected = self.row.affected;
        let before = bytes(self.fleet.first(affected));
        let others_before = changes(self.fleet.beyond(affected));
        for edit in 1..=self.plan.edits {
            sleep(APART).await;
            let affects = self.fleet.first(affected);
            let edited = move |resource: &_| World::is_edited(resource, edit);
            self.fleet.board.await_resource(affects, edited);
            let start = Instant::now();
            self.world.edit(&self.mesh, edit)?;
            self.until(affected).await?;
            self.counted(affected).await?;
            self.row.edits.push(start.elapsed());
        }
        self.row.edits.sort();
        let sent = (bytes(self.fleet.first(affected)) - before) as f64;
        self.row.edit_bytes = sent / (affected * self.plan.edits) as f64;
        self.row.others_changes = changes(self.fleet.beyond(affected)) - others_before;
        Ok(())
    }

    /// Waits until the operator says itself that all enforce the ApiRoute. Every Ack has been written, so
    /// that this is a matter of milliseconds.
    async fn counted(&self, affected: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let verdict = self.mesh.verdict(&World::namespace(0)).await?;
            let count = |one: &str| verdict["programmed"][one].as_u64();
            let all = Some(affected as u64);
            if (count("n"), count("m")) == (all, all) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not all of {affected}: {verdict}"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn wide_edits(&mut self) -> Result<()> {
        let first = self.row.affected;
        // Those of the first namespace are told of the Service too.
        let others = self.fleet.len() - first;
        let counted = if others == 0 { 0 } else { first };
        let before = bytes(self.fleet.beyond(counted));
        for edit in 1..=WIDE_EDITS {
            sleep(APART).await;
            let widened = move |resource: &_| World::is_widened(resource, edit);
            self.fleet.board.await_resource(self.fleet.all(), widened);
            let start = Instant::now();
            self.world.widen(&self.mesh, edit)?;
            self.until(self.fleet.len()).await?;
            self.row.wide_edits.push(start.elapsed());
        }
        self.row.wide_edits.sort();
        let sent = (bytes(self.fleet.beyond(counted)) - before) as f64;
        self.row.wide_bytes = sent / ((self.fleet.len() - counted) * WIDE_EDITS) as f64;
        Ok(())
    }

    async fn rolling(&mut self) -> Result<()> {
        let callers = self.fleet.len().min(MOST_CALLERS);
        let answered = |resource: &wire::Resource| resource.id.kind == Kind::Lookup;
        self.fleet
            .board
            .await_resource(self.fleet.first(callers), answered);
        self.fleet.ask(callers, &World::front()).await?;
        self.until(callers).await?;
        sleep(APART).await;

        let steps = self.plan.steps;
        let before = bytes(self.fleet.first(callers));
        let rolled = move |resource: &_| World::is_rolled(resource, steps);
        self.fleet
            .board
            .await_resource(self.fleet.first(callers), rolled);
        let start = self.begin()?;
        let mut pace = interval(APART);
        for step in 1..=steps {
            pace.tick().await;
            self.world.roll(&self.mesh, step)?;
        }
        let last = Instant::now();
        self.until(callers).await?;
        self.row.rolled = last.elapsed();
        self.row.rolling = self.end(&start)?;
        (self.row.callers, self.row.steps) = (callers, steps);
        let sent = (bytes(self.fleet.first(callers)) - before) as f64;
        self.row.step_bytes = sent / (callers * steps) as f64;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        sleep(SETTLE).await;
        self.mesh.kill_operator().await?;
        self.fleet.all_cut_off().await?;
        let sent_before = bytes(self.fleet.all());
        let changes_before = changes(self.fleet.all());
        let attempts_before = attempts(&self.fleet);
        self.fleet.board.await_complete(self.fleet.all());
        let start = Start {
            at: Instant::now(),
            cpu: Duration::ZERO,
        };
        self.mesh.start_operator().await?;
        self.until(self.fleet.len()).await?;
        self.row.restart = self.end(&start)?;
        let attempts = attempts(&self.fleet) - attempts_before;
        self.row.restart_attempts = attempts as f64 / self.fleet.len() as f64;
        // What is sent again after all would come now.
        let all = format!("meshwright_operator_streams {}", self.fleet.len());
        wait_until("every stream is there", LIMIT, async || {
            let text = self.mesh.operator_metrics().await?;
            ensure!(text.lines().any(|line| line == all), "not {all}");
            Ok(())
        })
        .await?;
        sleep(SETTLE).await;
        let sent = (bytes(self.fleet.all()) - sent_before) as f64;
        self.row.restart_bytes = sent / self.fleet.len() as f64;
        self.row.restart_changes = changes(self.fleet.all()) - changes_before;
        Ok(())
    }
}

// === impl Row ===

impl Row {
    /// What the operator's memory grew by for each stream, in bytes.
    pub(crate) fn per_stream(&self) -> f64 {
        (self.with_streams as f64 - self.world as f64) / self.streams as f64
    }

    /// An edit that as many in a hundred are not slower than, the nearest that was measured.
    pub(crate) fn edit(&self, percent: usize) -> Duration {
        let rank = (self.edits.len() * percent).div_ceil(100);
        let found = self.edits.get(rank.saturating_sub(1));
        found.copied().unwrap_or_default()
    }

    /// The edit in the middle of those that concern every stream.
    pub(crate) fn wide_edit(&self) -> Duration {
        let found = self.wide_edits.get(self.wide_edits.len() / 2);
        found.copied().unwrap_or_default()
    }
}

// === impl Work ===

impl Work {
    /// The share of one CPU.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
