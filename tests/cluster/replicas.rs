//! Three replicas of the operator: one leads, and whichever goes, traffic and statuses don't notice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, wait_until};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::installation::{PODS, SYSTEM, installed};
use crate::life::{back, operators, scale};
use crate::load::Load;
use crate::shop::{Shop, condition};

/// From an apply to a status that says that all sidecars enforce it, the time of `kubectl` counted.
const WITHIN: Duration = Duration::from_secs(5);
/// From a leader that dies to the next one.
const NEXT_LEADER: Duration = Duration::from_secs(25);
/// How often the route is edited while nothing is wrong.
const EDITS: usize = 12;
/// A sidecar's stream with a replica that is frozen ends by then, and it goes to another.
const MOVED: Duration = Duration::from_secs(60);

/// What an ApiRoute's status said, each time that it was another.
#[derive(Debug)]
struct Watch {
    kubectl: Child,
    said: JoinHandle<Result<Vec<Said>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    at: Instant,
    generation: u64,
    /// The generation that `Programmed` is of; 0 before there is one.
    observed: u64,
    programmed: bool,
    count: String,
}

// === impl Watch ===

impl Watch {
    async fn begin(shop: &Shop) -> Result<Self> {
        const PROGRAMMED: &str = r#"{.status.conditions[?(@.type=="Programmed")]"#;
        let path = format!(
            "jsonpath={{.metadata.generation}} {PROGRAMMED}.observedGeneration}} \
             {PROGRAMMED}.status}} {{.status.programmed}}{{\"\\n\"}}"
        );
        let args = [
            "get",
            "apiroute",
            "orders",
            "-n",
            &shop.namespace,
            "-w",
            "-o",
            &path,
        ];
        let mut command = shop.cluster.command("kubectl");
        let mut kubectl = command
            .args(args)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(kubectl.stdout.take().context("a pipe")?).lines();
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await? {
                said.push(Said::read(&line).with_context(|| line.clone())?);
            }
            Ok(said)
        });
        Ok(Self { kubectl, said })
    }

    async fn end(mut self) -> Result<Vec<Said>> {
        let ended = self.kubectl.try_wait()?;
        ensure!(ended.is_none(), "it ended before it was to: {ended:?}");
        self.kubectl.kill().await?;
        timeout(PODS, self.said).await??
    }
}

impl Said {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next();
        Some(Self {
            at: Instant::now(),
            generation: word()?.parse().ok()?,
            observed: word()?.parse().unwrap_or_default(),
            programmed: word()? == "True",
            count: word()?.to_owned(),
        })
    }
}

/// The replica that holds the Lease.
pub(crate) async fn leader(cluster: &Cluster) -> Result<String> {
    let lease = ["get", "lease", "meshwright-operator", "-n", SYSTEM];
    let lease = cluster.json(&lease).await?;
    let holder = lease["spec"]["holderIdentity"].as_str();
    Ok(holder.context("nobody holds it")?.to_owned())
}

/// Waits until another replica than `before` leads, and returns how long that took.
pub(crate) async fn next_leader(cluster: &Cluster, before: &str) -> Result<(String, Duration)> {
    let began = Instant::now();
    let next = wait_until("another replica leads", PODS, async || {
        let next = leader(cluster).await?;
        ensure!(next != before, "still {before}");
        Ok(next)
    })
    .await?;
    Ok((next, began.elapsed()))
}

/// Edits the ApiRoute, and waits until its status says that all sidecars enforce the edit.
async fn edit(shop: &Shop, number: usize) -> Result<Duration> {
    let backend = if number.is_multiple_of(2) {
        "two"
    } else {
        "orders"
    };
    let route = shop
        .route(backend)
        .replace("name: all", &format!("name: edit-{number}"));
    let began = Instant::now();
    shop.cluster.apply(&route).await?;
    shop.programmed("orders").await?;
    Ok(began.elapsed())
}

/// Of the replicas, how many sidecars each serves.
async fn streams(shop: &Shop) -> Result<Vec<(String, u64)>> {
    let mut streams = Vec::new();
    for pod in operators(shop.cluster).await? {
        let object = ["get", "pod", "-n", SYSTEM, &pod];
        let object = shop.cluster.json(&object).await?;
        let address = object["status"]["podIP"].as_str().context("no address")?;
        let url = format!("http://{address}:15014/metrics");
        let (_, metrics) = shop.get_from_node(&url).await?;
        let series = "meshwright_operator_streams ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(series));
        streams.push((pod, count.context("no count")?.parse()?));
    }
    Ok(streams)
}

async fn signal(cluster: &Cluster, replica: &str, signal: Signal) -> Result<()> {
    cluster.signal(SYSTEM, replica, "operator", signal).await
}

#[tokio::test]
async fn losing_any_replica_or_the_api_server_interrupts_nothing_and_the_status_stays_true()
-> Result<()> {
    let services = [("orders", 2), ("two", 1), ("shut", 1)];
    let shop = Shop::alone(installed().await?, &services).await?;
    shop.cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    // Open at first, so that who goes back to what was before lets callers in.
    let open = shop.route("shut").replace("orders", "shut");
    let nobody = "authorization: { rules: [{ principals: { serviceAccounts: [nobody] } }] }";
    for route in [&open, &format!("{open}  {nobody}\n")] {
        shop.cluster.apply(route).await?;
        shop.programmed("shut").await?;
    }
    scale(shop.cluster, 3).await?;
    let told = replicas_come_and_go(&shop).await;
    // However that went, the other tests need it.
    scale(shop.cluster, 1).await?;
    back(&shop).await?;
    told
}

async fn replicas_come_and_go(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    let load = Load::begin(shop, "http://orders/?wait=50ms", "50ms").await?;
    let refused = Load::begin(shop, "http://shut/", "50ms").await?;
    let watch = Watch::begin(shop).await?;
    let mut took = Vec::new();
    let mut number = 0;
    let mut edits = async |times: usize| -> Result<()> {
        for _ in 0..times {
            number += 1;
            took.push(edit(shop, number).await?);
        }
        Ok(())
    };

    // The leader is killed, and the sidecars spread over the others.
    let first = leader(cluster).await?;
    signal(cluster, &first, Signal::SIGKILL).await?;
    wait_until("all sidecars are back", PODS, async || {
        let spread = streams(shop).await?;
        let all: u64 = spread.iter().map(|(_, streams)| streams).sum();
        ensure!(spread.len() == 3 && all >= 4, "{spread:?}");
        eprintln!("sidecars by replica: {spread:?}");
        Ok(())
    })
    .await?;
    shop.programmed("orders").await?;
    edits(EDITS).await?;

    // The leader is frozen: it can't say that it no longer leads.
    let frozen = leader(cluster).await?;
    signal(cluster, &frozen, Signal::SIGSTOP).await?;
    let (next, after) = next_leader(cluster, &frozen).await?;
    eprintln!("{next} leads {after:?} after {frozen} was frozen");
    ensure!(after <= NEXT_LEADER, "{after:?}");
    // Its sidecars go elsewhere, and what they had not got they get there.
    let moved = Instant::now();
    edit_amid(shop, 1000).await?;
    ensure!(moved.elapsed() <= MOVED, "{:?}", moved.elapsed());
    // And of the two that are left, one is killed: the status is true while another lags.
    let replicas = operators(cluster).await?;
    let is_left = |one: &&String| **one != next && **one != frozen;
    let third = replicas.iter().find(is_left).context("a third")?;
    signal(cluster, third, Signal::SIGKILL).await?;
    edit_amid(shop, 1001).await?;
    signal(cluster, &frozen, Signal::SIGCONT).await?;
    // Killed for the second time it may be, and then it is started after a pause.
    cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    edits(EDITS).await?;
    ensure!(leader(cluster).await? == next, "who wakes leads no more");

    // Once more the leader goes, and its pod with it.
    let before = leader(cluster).await?;
    cluster
        .kubectl(&[
            "delete",
            "pod",
            "-n",
            SYSTEM,
            &before,
            "--grace-period=0",
            "--force",
        ])
        .await?;
    let (next, after) = next_leader(cluster, &before).await?;
    eprintln!("{next} leads {after:?} after {before} was deleted");
    ensure!(after <= NEXT_LEADER, "{after:?}");
    edit_amid(shop, 2000).await?;
    edits(EDITS).await?;

    // A sidecar that hangs, and to which nobody is led, lacks an edit: as long as it does, nobody says that all
    // have it.
    edit_amid(shop, 2001).await?;
    let hangs = shop.pod("two").await?;
    let sidecar = "meshwright-sidecar";
    cluster
        .signal(&shop.namespace, &hangs, sidecar, Signal::SIGSTOP)
        .await?;
    let held = cluster
        .apply(&shop.route("orders").replace("name: all", "name: held"))
        .await;
    let lacks = Instant::now();
    let led = leader(cluster).await?;
    signal(cluster, &led, Signal::SIGKILL).await?;
    sleep(NEXT_LEADER).await;
    let until = Instant::now();
    let object = shop.object("orders").await?;
    cluster
        .signal(&shop.namespace, &hangs, sidecar, Signal::SIGCONT)
        .await?;
    held?;
    let generation = object["metadata"]["generation"].as_u64().context("one")?;
    let programmed = condition(&object, "Programmed");
    ensure!(
        programmed["observedGeneration"] == generation,
        "{programmed}"
    );
    ensure!(programmed["status"] == "False", "{programmed}");
    let message = programmed["message"].as_str().unwrap_or_default();
    ensure!(message.contains(&hangs), "{programmed}");
    shop.programmed("orders").await?;

    // The API server hangs for longer than a leader may lead without it.
    let api_server = cluster.process("kube-apiserver")?;
    let stop = |signal| tests::cluster::signal_process(api_server, signal);
    stop(Signal::SIGSTOP)?;
    sleep(Duration::from_secs(20)).await;
    stop(Signal::SIGCONT)?;
    let again = Instant::now();
    wait_until("the API server answers again", PODS, async || {
        cluster.kubectl(&["get", "namespaces"]).await
    })
    .await?;
    edit_amid(shop, 3000).await?;
    eprintln!(
        "a status {:?} after the API server came back",
        again.elapsed()
    );
    edits(3).await?;

    let said = watch.end().await?;
    let asked = load.end().await?;
    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    ensure!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        asked.len()
    );
    eprintln!("{} requests, none failed", asked.len());
    let refused = refused.end().await?;
    let let_in: Vec<_> = refused
        .iter()
        .filter(|one| !one.outcome.starts_with("403"))
        .collect();
    ensure!(
        let_in.is_empty(),
        "{} of {} were not refused: {let_in:?}",
        let_in.len(),
        refused.len()
    );
    eprintln!("{} requests, all refused", refused.len());
    never_untrue(&said, generation, lacks, until)?;
    took.sort();
    eprintln!("{} statuses after edits: {took:?}", said.len());
    let slowest = took.last().context("no edits")?;
    ensure!(*slowest <= WITHIN, "{took:?}");
    Ok(())
}

/// An edit during what is wrong: not among those whose time counts.
async fn edit_amid(shop: &Shop, number: usize) -> Result<()> {
    edit(shop, number).await.map(drop)
}

/// Statuses never go back, and none said that all sidecars have what one lacked between the two.
fn never_untrue(said: &[Said], generation: u64, lacks: Instant, until: Instant) -> Result<()> {
    for pair in said.windows(2) {
        let [before, after] = pair else { continue };
        let back = after.observed < before.observed || after.observed > after.generation;
        ensure!(!back, "{before:?} {after:?}");
    }
    for one in said.iter().filter(|one| one.at > lacks && one.at < until) {
        if one.observed >= generation && one.programmed {
            bail!("{one:?}, while one sidecar lacked it");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_person_should_notice_is_an_event_on_the_object() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let lost = shop.route("orders");
    let lost = lost.replace("hosts: [orders]", "hosts: [ordres]");
    shop.cluster.apply(&lost).await?;
    let told = async |type_: &str, reason: &str| {
        wait_until(&format!("{reason} is told"), PODS, async || {
            let events = ["events", "-n", &shop.namespace, "--for", "apiroute/orders"];
            let events = shop.cluster.kubectl(&events).await?;
            let is = |line: &str| line.contains(type_) && line.contains(reason);
            let found = events.lines().find(|line| is(line));
            Ok(found.context(events.clone())?.to_owned())
        })
        .await
    };
    let warned = told("Warning", "HostNotFound").await?;
    ensure!(warned.contains("did you mean"), "{warned}");
    shop.cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    let normal = told("Normal", "Accepted").await?;
    ensure!(normal.contains("it is accepted again"), "{normal}");
    Ok(())
}
