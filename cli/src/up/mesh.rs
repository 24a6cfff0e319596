//! A running mesh: makes what runs what the folder says, and answers questions about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ::operator::source::folder::Folder;
use ::operator::source::reading::Reading;
use anyhow::Context as _;
use compiler::ObjectKey;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::accepted::Accepted;
use super::addresses::Addresses;
use super::control::Asked;
use super::fleet::{Running, ingress};
use super::gate::Gate;
use super::ground::Ground;
use super::launches::Surroundings;
use super::link::HostLink;
use super::operator;
use super::plan::Plan;
use super::pod::{Ending, News, Phase, stopped};
use super::publish::{Publish, Published, Target};
use super::table::say;
use super::written::selects;
use super::{answers, changes, dns, plain, table};

/// What is in flight when the mesh is to end may take so long, as in a pod that says nothing of it.
pub(super) const IN_FLIGHT: Duration = Duration::from_secs(30);
/// When all that is inside has ended, the last bytes are on their way to their callers.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// When the table is shown though not everything is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh and all that belongs to it.
pub(super) struct Mesh {
    pub(super) name: String,
    /// The folder as the user named it.
    pub(super) shown_folder: PathBuf,
    pub(super) around: Surroundings,
    pub(super) accepted: Accepted,
    pub(super) plan: Plan,
    pub(super) pods: BTreeMap<ObjectKey, Running>,
    pub(super) published: BTreeMap<Target, Published>,
    pub(super) asked_to_publish: Vec<Publish>,
    pub(super) gate: Gate,
    pub(super) host: HostLink,
    pub(super) addresses: Addresses,
    pub(super) names: dns::Names,
    pub(super) news: mpsc::UnboundedSender<News>,
    /// Whether the operator knows the token of each pod.
    pub(super) tokens_written: bool,
    /// What failed when it was last tried, and when it is tried again.
    failed: BTreeSet<String>,
    again_at: Option<Instant>,
    /// A good form of the folder that could not be accepted.
    untaken: Option<Reading>,
    /// Whether everything was ready once, and whether the table was shown then.
    settling: bool,
    started: bool,
    stopping: bool,
}

/// What to run, and how.
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) shown_folder: PathBuf,
    pub(super) around: Surroundings,
    pub(super) publish: Vec<Publish>,
    /// The folder, read once, of which the plan came.
    pub(super) watched: Folder,
    /// What was read then.
    pub(super) accepted: Accepted,
}

/// Runs a mesh until it is told to stop or can't go on.
pub(super) async fn run(settings: Settings, plan: Plan, host: HostLink) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (news, mut heard) = mpsc::unbounded_channel();
    let (asked, mut questions) = mpsc::unbounded_channel();
    super::control::listen(&settings.around.layout.control(), asked)
        .context("opening the control socket")?;
    let mut stop = host.stop.clone();
    let mut mesh = Mesh {
        name: settings.name,
        shown_folder: settings.shown_folder,
        around: settings.around,
        accepted: settings.accepted,
        plan,
        pods: BTreeMap::new(),
        published: BTreeMap::new(),
        asked_to_publish: settings.publish,
        gate: Gate::new(),
        host,
        addresses: Addresses::default(),
        names: dns::Names::default(),
        news,
        tokens_written: false,
        failed: BTreeSet::new(),
        again_at: None,
        untaken: None,
        settling: false,
        started: false,
        stopping: false,
    };
    mesh.addresses.know(&mesh.plan.services);
    for note in &mesh.plan.notes {
        say(format_args!("  note: {note}"));
    }
    if let Ground::Namespaces { .. } = mesh.around.ground {
        // Without one, only names of the mesh itself are known.
        let resolver = mesh.host.resolver().await.ok();
        dns::serve(
            mesh.names.clone(),
            mesh.around.cluster_domain.clone(),
            resolver,
        )
        .await
        .context("starting the mesh's name server")?;
    }
    // Before anything is started: a port that is taken ends all.
    mesh.take_ports().await?;
    mesh.write_tokens()?;
    mesh.write_runtime()?;
    let operator = operator::start(&mesh.around, mesh.news.clone());
    let started = tokio::select! {
        started = operator.ready(mesh.around.ground.operator()) => started.map(|()| true),
        () = stopped(&mut stop) => Ok(false),
    };
    // However it goes, all that was started is ended in good order.
    let done = match started {
        Ok(true) => {
            let after = begun.elapsed().as_secs_f32();
            say(format_args!("  {:24} ready after {after:.1} s", "operator"));
            let readings = follow(settings.watched);
            mesh.attend(begun, readings, &mut heard, &mut questions, &mut stop)
                .await
        }
        Ok(false) => Ok(()),
        Err(error) => Err(anyhow::Error::msg(
            mesh.accepted.names.in_words(&format!("{error:#}")),
        )),
    };
    mesh.drain().await;
    heard.close();
    operator.end().await;
    done
}

// === impl Mesh ===

impl Mesh {
    /// Reacts to whatever happens, until it is to stop.
    async fn attend(
        &mut self,
        begun: Instant,
        mut readings: mpsc::UnboundedReceiver<Reading>,
        heard: &mut mpsc::UnboundedReceiver<News>,
        questions: &mut mpsc::UnboundedReceiver<Asked>,
        stop: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        self.open_ports()?;
        self.reconcile()?;
        let impatient = begun + PATIENCE;
        self.show_table_when_ready();
        loop {
            tokio::select! {
                () = stopped(stop) => return Ok(()),
                Some(news) = heard.recv() => {
                    self.hear(news, begun);
                    self.show_table_when_ready();
                }
                Some(asked) = questions.recv() => answers::answer(self, asked),
                Some(reading) = readings.recv() => self.obey(&reading).await,
                () = at(self.again_at) => match self.untaken.take() {
                    Some(reading) => self.obey(&reading).await,
                    None => self.bring_about(),
                },
                () = sleep_until(impatient), if !self.started => self.show_table(),
            }
        }
    }

    /// Makes what runs what the plan says. A start that the system refuses or a disk that is full
    /// ends nothing that runs: it is said, and tried again.
    fn bring_about(&mut self) {
        let results = [self.open_ports(), self.reconcile()];
        let failed = results.into_iter().filter_map(Result::err);
        self.try_again(failed.collect());
    }

    /// Says what failed, once, until it is tried again and fails no more.
    fn try_again(&mut self, failed: Vec<anyhow::Error>) {
        let failed: BTreeSet<_> = failed.iter().map(|error| format!("{error:#}")).collect();
        for sentence in failed.difference(&self.failed) {
            let seconds = AGAIN.as_secs();
            say(format_args!("  {sentence}; trying again every {seconds} s"));
        }
        self.again_at = (!failed.is_empty()).then(|| Instant::now() + AGAIN);
        self.failed = failed;
    }

    fn hear(&mut self, news: News, begun: Instant) {
        match news {
            News::Said(sentence, lines) => {
                say(format_args!("  {sentence}"));
                for line in lines {
                    let line = self.accepted.names.in_words(&line);
                    say(format_args!("    | {line}"));
                }
            }
            News::Settled => {
                if !self.started {
                    self.show_table();
                }
            }
            News::Phase(key, Phase::Gone) => {
                if let Some(gone) = self.pods.remove(&key) {
                    // Its place is made anew: nothing of the old life is there.
                    drop(gone);
                    let wanted = self.plan.replicas().any(|(pod, _)| pod == key);
                    if !wanted {
                        self.addresses.release(&key.to_string());
                    }
                }
                if !self.stopping {
                    self.bring_about();
                }
            }
            News::Phase(key, phase) => {
                let Some(pod) = self.pods.get_mut(&key) else {
                    return;
                };
                let (before, now) = (pod.phase == Phase::Ready, phase == Phase::Ready);
                pod.phase = phase;
                if before != now {
                    // Who waited for it may be replaced now.
                    self.bring_about();
                    if now {
                        let after = begun.elapsed().as_secs_f32();
                        let when = if self.started {
                            String::new()
                        } else {
                            format!(" after {after:.1} s")
                        };
                        say(format_args!("  {:24} ready{when}", key.to_string()));
                    }
                }
            }
        }
    }

    fn show_table_when_ready(&mut self) {
        let ready = self.pods.values().all(|pod| pod.phase == Phase::Ready);
        if self.settling || !ready {
            return;
        }
        self.settling = true;
        let (expected, news) = (self.expected(), self.news.clone());
        tokio::spawn(async move {
            expected.settle().await;
            let _ = news.send(News::Settled);
        });
    }

    fn show_table(&mut self) {
        self.started = true;
        let (rows, published) = (self.rows(), self.published_at());
        say(format_args!("\n{}\n", table::workloads(&rows, &published)));
        say(format_args!(
            "Edit {} and save: changes take effect at once. `meshwright exec WORKLOAD -- CMD` runs a command inside a workload. Ctrl-C ends all.",
            self.shown_folder.display()
        ));
    }

    /// Does what the folder says now, if it is whole.
    async fn obey(&mut self, reading: &Reading) {
        self.untaken = None;
        let plan = match Plan::of(reading, &self.around.folder) {
            Ok(plan) => plan,
            Err(problems) => {
                for problem in &problems {
                    say(plain(&problem.to_string()));
                }
                say("  nothing was changed: what ran before runs on until this is right");
                return;
            }
        };
        if let Err(error) = self.accepted.take(reading) {
            self.untaken = Some(reading.clone());
            return self.try_again(vec![error]);
        }
        let changes = changes::between(&self.plan, &plan);
        if changes.is_empty() {
            return;
        }
        for line in &changes.lines {
            say(format_args!("  {line}"));
        }
        let known = &self.plan.notes;
        for note in plan.notes.iter().filter(|note| !known.contains(note)) {
            say(format_args!("  note: {note}"));
        }
        self.plan = plan;
        self.addresses.know(&self.plan.services);
        // A port that is taken is no reason to end what runs.
        if let Err(error) = self.take_ports().await {
            say(format_args!("  {error:#}"));
        }
        self.bring_about();
        changes::follow(self.around.ground.operator(), changes.enforced);
    }

    /// Ends everything in good order: callers before those they call, as far as that is known, so
    /// that what is in flight is answered.
    async fn drain(&mut self) {
        self.stopping = true;
        say(format_args!(
            "\nstopping {} workloads; Ctrl-C again ends them at once",
            self.pods.len()
        ));
        // First what came from outside: the ingress's sidecar lets its requests end, and whoever they
        // need is still there.
        let until = Instant::now() + IN_FLIGHT;
        let _ = timeout_at(until, self.gate.close()).await;
        self.published.clear();
        self.end(until, |_, key, _| *key == ingress()).await;
        let _ = timeout(LAST_BYTES, self.gate.left()).await;
        // Then those whom nobody can call by name, and at last all others.
        let is_called = |mesh: &Self, key: &ObjectKey, pod: &Running| {
            let mut services = mesh.plan.services.values();
            services.any(|service| selects(service, key, pod))
        };
        let graces = self.pods.values().filter_map(|pod| pod.template.as_ref());
        let longest = graces.map(|template| template.grace).max();
        // Each life has its own bound; this one is against a mistake in them.
        let bound = longest.unwrap_or_default() + Duration::from_secs(20);
        self.end(Instant::now() + bound, |mesh, key, pod| {
            !is_called(mesh, key, pod)
        })
        .await;
        self.end(Instant::now() + bound, |_, _, _| true).await;
        if !self.pods.is_empty() {
            say("  some did not end in time and are killed");
        }
    }

    /// Asks some pods to end, and waits until they have or it is too late.
    async fn end(&mut self, until: Instant, which: impl Fn(&Self, &ObjectKey, &Running) -> bool) {
        let some = self.pods.iter().filter(|(key, pod)| which(self, key, pod));
        let some: Vec<_> = some.map(|(key, _)| key.clone()).collect();
        for pod in some.iter().filter_map(|key| self.pods.get(key)) {
            pod.ending.send_replace(Ending::AtOnce);
        }
        let all = async {
            for key in &some {
                if let Some(pod) = self.pods.get_mut(key) {
                    // A life that panicked is over as well.
                    let _ = (&mut pod.life).await;
                    self.pods.remove(key);
                }
            }
        };
        // Those that are left may be waited for again.
        let _ = timeout_at(until, all).await;
    }

    /// The operator's address for questions.
    pub(super) fn operator(&self) -> std::net::SocketAddr {
        (self.around.ground.operator(), 15014).into()
    }
}

/// Every further reading of a folder. They are made by a task of their own: whoever waits for a folder
/// to be quiet must not begin to wait anew whenever something else happens.
fn follow(mut watched: Folder) -> mpsc::UnboundedReceiver<Reading> {
    let (read, readings) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(reading) = watched.reading().await {
            if read.send(reading.clone()).is_err() {
                return;
            }
        }
    });
    readings
}

/// Waits until then; for ever when there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Verdicts as the operator tells them.
pub(super) async fn verdicts(operator: std::net::SocketAddr) -> anyhow::Result<Value> {
    told(operator, "/verdicts").await
}

/// What the operator answers to a GET of `path`.
pub(super) async fn told(operator: std::net::SocketAddr, path: &str) -> anyhow::Result<Value> {
    let asked = crate::http::get(operator, path);
    let (status, body) = timeout(Duration::from_secs(2), asked).await??;
    anyhow::ensure!(status == 200, "the operator answered {status}");
    Ok(serde_json::from_slice(&body)?)
}
