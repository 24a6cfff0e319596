//! What an event costs that is published or delivered.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process;
use tokio::time::sleep;

use crate::Plan;
use crate::bare::{ROLE, TOPIC};
use crate::broker::Kind;
use crate::child::{Proxy, free_address};
use crate::load::{Application, Producer};
use crate::measure::Cpus;
use crate::sample::{self, Sample};
use crate::world::{World, moves, process as process_of, still};

/// How long `profile` keeps a load up.
const PROFILE: Duration = Duration::from_secs(30);
/// What a sidecar may cost, against the loop.
const AIM: f64 = 1.5;

/// The samples of one broker.
#[derive(Default)]
struct Samples {
    publish: Vec<Sample>,
    serve: Vec<Sample>,
    without_http: Vec<Sample>,
    deliver: Vec<Sample>,
    bare_deliver: Vec<Sample>,
}

/// Of the table.
pub(crate) fn heading() -> String {
    line([
        "broker",
        "",
        "",
        "CPU us/event (min..max)",
        "events/s",
        "x bare",
        "at most 1.5",
    ])
}

fn line(cells: [&str; 7]) -> String {
    let [broker, way, who, cpu, rate, ratio, within] = cells;
    format!("{broker:<9} {way:<8} {who:<18} {cpu:>24} {rate:>9} {ratio:>7} {within:>12}")
}

/// Measures a broker; returns its lines of the table.
pub(crate) async fn of(kind: Kind, plan: &Plan, cpus: &Cpus) -> Result<String> {
    let (world, listener) = World::start(kind, cpus).await?;
    let application = Application::start(listener)?;
    let mut samples = Samples::default();
    // Its group is there from now on, and holds what is published.
    world.subscribe(false)?;
    world.joined(1, tests::mesh::SOON).await?;
    world.subscribe(true)?;
    world.mesh.programmed("billing").await?;
    for repetition in 0..plan.repetitions {
        eprintln!(
            "{}: publish, {} of {}",
            kind.name(),
            repetition + 1,
            plan.repetitions
        );
        samples.publish.push(published(&world, plan).await?);
        samples.serve.push(served(&world, plan, cpus).await?);
        let alone = without_http(&world, plan, cpus).await?;
        samples.without_http.push(alone);
    }
    still(&application.delivered).await?;
    for repetition in 0..plan.repetitions {
        eprintln!(
            "{}: deliver, {} of {}",
            kind.name(),
            repetition + 1,
            plan.repetitions
        );
        let bare = bare_delivered(&world, plan, cpus, &application).await?;
        samples.bare_deliver.push(bare);
        samples
            .deliver
            .push(delivered(&world, plan, &application).await?);
    }
    Ok(samples.lines(kind))
}

/// Through the sidecar.
async fn published(world: &World, plan: &Plan) -> Result<Sample> {
    let path = format!("/publish/events/{TOPIC}");
    let watched = [process_of(&world.stock)?];
    let producer = Producer::start(world.publishes_at(), &path).await?;
    let sample = sample::taken(&watched, &producer.published, plan.length).await;
    producer.end().await?;
    sample
}

/// The same without a sidecar.
async fn served(world: &World, plan: &Plan, cpus: &Cpus) -> Result<Sample> {
    let address = free_address().await?;
    cpus.pin_to_proxies()?;
    let started = Proxy::start(bare(world, "serve", &address.to_string())?, address).await;
    cpus.pin_to_peers()?;
    let bare = started?;
    let producer = Producer::start(bare.address, "/updates").await?;
    let sample = sample::taken(&[bare.process()], &producer.published, plan.length).await;
    producer.end().await?;
    sample
}

/// The same without requests.
async fn without_http(world: &World, plan: &Plan, cpus: &Cpus) -> Result<Sample> {
    let millis = plan.length.as_millis().to_string();
    let mut command = process::Command::from(bare(world, "publish", &millis)?);
    command.stderr(Stdio::inherit()).kill_on_drop(true);
    cpus.pin_to_proxies()?;
    let output = command.stdout(Stdio::piped()).spawn();
    cpus.pin_to_peers()?;
    let output = output?.wait_with_output().await?;
    ensure!(output.status.success(), "the loop ended: {}", output.status);
    Sample::read(std::str::from_utf8(&output.stdout)?)
}

/// By the sidecar.
async fn delivered(world: &World, plan: &Plan, application: &Application) -> Result<Sample> {
    let before = application.delivered.now();
    world.subscribe(false)?;
    moves(&application.delivered, before).await?;
    let watched = [process_of(&world.billing)?];
    let sample = sample::taken(&watched, &application.delivered, plan.length).await;
    world.subscribe(true)?;
    still(&application.delivered).await?;
    sample
}

/// Without one, in the same group.
async fn bare_delivered(
    world: &World,
    plan: &Plan,
    cpus: &Cpus,
    application: &Application,
) -> Result<Sample> {
    let before = application.delivered.now();
    let mut command =
        process::Command::from(bare(world, "deliver", &application.address.to_string())?);
    cpus.pin_to_proxies()?;
    let child = command.kill_on_drop(true).spawn();
    cpus.pin_to_peers()?;
    let mut child = child?;
    moves(&application.delivered, before).await?;
    let watched = [crate::measure::Watched(child.id().context("it ended")?)];
    let sample = sample::taken(&watched, &application.delivered, plan.length).await;
    child.kill().await?;
    still(&application.delivered).await?;
    sample
}

/// This program, as a loop.
fn bare(world: &World, role: &str, with: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let address = world.address.to_string();
    command.args([ROLE, role, world.kind.scheme(), &address, with]);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Keeps one load up, for another program to look at the sidecar.
pub(crate) async fn profile(kind: Kind, deliver: bool, cpus: &Cpus) -> Result<()> {
    let (world, listener) = World::start(kind, cpus).await?;
    let application = Application::start(listener)?;
    world.subscribe(false)?;
    world.joined(1, tests::mesh::SOON).await?;
    if !deliver {
        world.subscribe(true)?;
    }
    let sidecar = if deliver {
        &world.billing
    } else {
        &world.stock
    };
    println!("process {}", process_of(sidecar)?.0);
    let path = format!("/publish/events/{TOPIC}");
    let producer = Producer::start(world.publishes_at(), &path).await?;
    sleep(PROFILE).await;
    let (published, delivered) = (producer.published.now(), application.delivered.now());
    println!("{published} published, {delivered} delivered");
    producer.end().await
}

// === impl Samples ===

impl Samples {
    fn lines(&self, kind: Kind) -> String {
        let row = |way: &str, who: &str, samples: &[Sample], to: Option<&[Sample]>| {
            let ((median, least, greatest), rate) = Sample::medians(samples);
            let ratio = to.map(|to| {
                let pairs = samples.iter().zip(to);
                let ratios = pairs.map(|(one, other)| one.cpu_us / other.cpu_us);
                crate::measure::spread(ratios).0
            });
            let within = match ratio {
                Some(ratio) if ratio <= AIM => "yes",
                Some(_) => "no",
                None => "",
            };
            let cpu = format!("{median:.1} ({least:.1}..{greatest:.1})");
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let rate = format!("{rate:.0}");
            line([kind.name(), way, who, &cpu, &rate, &ratio, within]) + "\n"
        };
        [
            row("publish", "sidecar", &self.publish, Some(&self.serve)),
            row("publish", "bare", &self.serve, None),
            row("publish", "bare, without HTTP", &self.without_http, None),
            row(
                "deliver",
                "sidecar",
                &self.deliver,
                Some(&self.bare_deliver),
            ),
            row("deliver", "bare", &self.bare_deliver, None),
        ]
        .concat()
    }
}
