//! A running mesh: makes what runs what the folder says, and answers questions about it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use compiler::ObjectKey;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::addresses::Addresses;
use super::control::{Asked, Entrance, Row};
use super::ground::{Ground, Place};
use super::hosts;
use super::launches::{Surroundings, application_env};
use super::link::HostLink;
use super::operator;
use super::plan::{Plan, Template};
use super::pod::{News, Phase, Pod, stopped};
use super::publish::{self, Destination, Publish, Published, Target};
use super::runtime::{self, Identity, Issued};
use super::state::{private_folder, replace};
use super::table::say;
use super::{answers, changes, dns, table};
use crate::folder::{self, Stamp};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// When the table is shown though not everything is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the ingress and the operator are.
const SYSTEM: &str = "meshwright-system";
const INGRESS: &str = "meshwright-ingress";

/// A mesh and all that belongs to it.
pub(super) struct Mesh {
    pub(super) name: String,
    /// The folder as the user named it.
    pub(super) shown_folder: PathBuf,
    pub(super) around: Surroundings,
    pub(super) plan: Plan,
    pub(super) pods: BTreeMap<ObjectKey, Running>,
    pub(super) published: BTreeMap<Target, Published>,
    asked_to_publish: Vec<Publish>,
    host: HostLink,
    addresses: Addresses,
    names: dns::Names,
    news: mpsc::UnboundedSender<News>,
    /// Whether the table was shown.
    started: bool,
    stopping: bool,
}

/// A pod in one of its lives.
pub(super) struct Running {
    pub(super) identity: Identity,
    /// The ingress has none.
    pub(super) template: Option<Template>,
    pub(super) place: Arc<Place>,
    pub(super) phase: Phase,
    pub(super) entrance: Entrance,
    issued: Issued,
    stop: watch::Sender<bool>,
    life: JoinHandle<()>,
}

/// What to run, and how.
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) shown_folder: PathBuf,
    pub(super) around: Surroundings,
    pub(super) publish: Vec<Publish>,
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
        plan,
        pods: BTreeMap::new(),
        published: BTreeMap::new(),
        asked_to_publish: settings.publish,
        host,
        addresses: Addresses::default(),
        names: dns::Names::default(),
        news,
        started: false,
        stopping: false,
    };
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
    if started? {
        say(format_args!(
            "  {:24} ready after {:.1} s",
            "operator",
            begun.elapsed().as_secs_f32()
        ));
        mesh.open_ports()?;
        mesh.reconcile()?;
        mesh.attend(begun, &mut heard, &mut questions, &mut stop)
            .await?;
    }
    mesh.drain(&mut heard).await;
    operator.end().await;
    Ok(())
}

// === impl Mesh ===

impl Mesh {
    /// Reacts to whatever happens, until it is to stop.
    async fn attend(
        &mut self,
        begun: Instant,
        heard: &mut mpsc::UnboundedReceiver<News>,
        questions: &mut mpsc::UnboundedReceiver<Asked>,
        stop: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut seen = folder::stamp(&self.around.folder);
        let mut look_at = Instant::now() + LOOK;
        let impatient = begun + PATIENCE;
        self.show_table_when_ready();
        loop {
            tokio::select! {
                () = stopped(stop) => return Ok(()),
                Some(news) = heard.recv() => {
                    self.hear(news, begun)?;
                    self.show_table_when_ready();
                }
                Some(asked) = questions.recv() => answers::answer(self, asked),
                () = sleep_until(look_at) => {
                    self.look(&mut seen).await?;
                    look_at = Instant::now() + LOOK;
                }
                () = sleep_until(impatient), if !self.started => self.show_table(),
            }
        }
    }

    fn hear(&mut self, news: News, begun: Instant) -> anyhow::Result<()> {
        match news {
            News::Said(sentence, lines) => {
                say(format_args!("  {sentence}"));
                for line in lines {
                    say(format_args!("    | {line}"));
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
                    self.reconcile()?;
                }
            }
            News::Phase(key, phase) => {
                let Some(pod) = self.pods.get_mut(&key) else {
                    return Ok(());
                };
                let (before, now) = (pod.phase == Phase::Ready, phase == Phase::Ready);
                pod.phase = phase;
                if before != now {
                    self.write_runtime()?;
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
        Ok(())
    }

    fn show_table_when_ready(&mut self) {
        if !self.started && self.pods.values().all(|pod| pod.phase == Phase::Ready) {
            self.show_table();
        }
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

    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |(key, pod): (&ObjectKey, &Running)| Row {
            workload: key.to_string(),
            address: pod.place.address.to_string(),
            identity: pod.identity.spiffe(&self.around.trust_domain),
            ports: pod.template.as_ref().map_or_else(String::new, |template| {
                template
                    .ports
                    .iter()
                    .map(|port| port.number.to_string())
                    .collect::<Vec<_>>()
                    .join(",")
            }),
            state: pod.phase.to_string(),
        };
        self.pods.iter().map(row).collect()
    }

    pub(super) fn published_at(&self) -> BTreeMap<String, String> {
        let line = |(target, published): (&Target, &Published)| {
            let Target { service, port } = target;
            (
                format!("{service}:{port}"),
                format!("http://{}", published.at),
            )
        };
        self.published.iter().map(line).collect()
    }

    /// Starts the pods that should be there and aren't, and ends those that shouldn't.
    fn reconcile(&mut self) -> anyhow::Result<()> {
        let wanted: BTreeMap<ObjectKey, Template> = self
            .plan
            .replicas()
            .map(|(key, template)| (key, template.clone()))
            .collect();
        for (key, pod) in &self.pods {
            let keep = match &pod.template {
                Some(template) => wanted.get(key) == Some(template),
                None => true,
            };
            if !keep {
                pod.stop.send_replace(true);
            }
        }
        let mut missing = Vec::new();
        for (key, template) in wanted {
            if !self.pods.contains_key(&key) {
                missing.push((key, template));
            }
        }
        if !missing.is_empty() {
            for (key, template) in missing {
                self.start(&key, Some(template))?;
            }
            self.write_tokens()?;
        }
        self.write_runtime()
    }

    fn start(&mut self, key: &ObjectKey, template: Option<Template>) -> anyhow::Result<()> {
        let service_account = template
            .as_ref()
            .map_or(INGRESS, |template| &template.service_account);
        let identity = Identity::new(&key.namespace, &key.name, service_account);
        self.write_hosts(&key.namespace)?;
        let resolv_conf = self.around.layout.resolv_conf(&key.namespace);
        hosts::write(
            &resolv_conf,
            &dns::resolv_conf(&key.namespace, &self.around.cluster_domain),
        )?;
        let nth = self.addresses.pod(&key.to_string());
        let place = self
            .around
            .ground
            .make(
                nth,
                vec![
                    (
                        self.around.layout.hosts(&key.namespace),
                        "/etc/hosts".into(),
                    ),
                    (resolv_conf, "/etc/resolv.conf".into()),
                ],
            )
            .with_context(|| format!("making a place for {key}"))?;
        let place = Arc::new(place);

        let folder = self
            .around
            .layout
            .pod(&format!("{}.{}", key.namespace, key.name));
        // A new life: nothing of the last one's identity is there.
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => private_folder(&folder)?,
        }
        private_folder(&folder.join("sidecar"))?;
        let (token, issued) = identity.token();
        replace(&folder.join("token"), token.as_bytes())?;

        let ports: Vec<_> = template
            .iter()
            .flat_map(|template| &template.ports)
            .map(|port| port.number)
            .collect();
        let sidecar = self.around.sidecar(&identity, &place, &ports, &folder);
        let application = template
            .as_ref()
            .map(|template| self.around.application(&identity, &place, template));
        let entrance = match &application {
            Some(application) => Entrance {
                pod: key.to_string(),
                env: application.launch.env.clone(),
                cwd: application.launch.cwd.clone(),
            },
            None => Entrance {
                pod: key.to_string(),
                env: application_env(&identity, &place, &[]),
                cwd: self.around.folder.clone(),
            },
        };
        let grace = template
            .as_ref()
            .map_or(Duration::ZERO, |template| template.grace);
        let pod = Pod {
            identity: identity.clone(),
            place: place.clone(),
            sidecar,
            application,
            ports,
            grace,
        };
        let (stop, stopping) = watch::channel(false);
        let life = tokio::spawn(pod.live(self.news.clone(), stopping));
        let phase = Phase::Starting("its sidecar".to_owned());
        let running = Running {
            identity,
            template,
            place,
            phase,
            entrance,
            issued,
            stop,
            life,
        };
        self.pods.insert(key.clone(), running);
        Ok(())
    }

    /// Takes the ports to publish on that aren't taken yet, and gives back those that need not be.
    async fn take_ports(&mut self) -> anyhow::Result<()> {
        let wanted = publish::wanted(&self.plan.services, &self.asked_to_publish)?;
        self.published.retain(|target, published| {
            wanted
                .get(target)
                .is_some_and(|on| *on == 0 || *on == published.at.port())
        });
        for (target, on) in wanted {
            if !self.published.contains_key(&target) {
                let published = publish::take(&mut self.host, &target, on).await?;
                self.published.insert(target, published);
            }
        }
        Ok(())
    }

    /// Lets connections in at the ports that were taken.
    fn open_ports(&mut self) -> anyhow::Result<()> {
        if self.published.is_empty() {
            return Ok(());
        }
        let ingress = self.ingress()?;
        for (target, published) in &mut self.published {
            let Some(service) = self.plan.services.get(&target.service) else {
                continue;
            };
            let Some(address) = self.addresses.service(&target.service, service) else {
                bail!(
                    "Service {} can't be published: it has no address of its own",
                    target.service
                );
            };
            let ObjectKey { namespace, name } = &target.service;
            let host = format!("{name}.{namespace}.svc.{}", self.around.cluster_domain);
            published.open(
                ingress.clone(),
                Destination {
                    address,
                    port: target.port,
                    host,
                },
            )?;
        }
        Ok(())
    }

    /// The place of the ingress, which is started with the first port that is published.
    fn ingress(&mut self) -> anyhow::Result<Arc<Place>> {
        let key = ObjectKey::new(SYSTEM, format!("{INGRESS}-0"));
        if !self.pods.contains_key(&key) {
            self.start(&key, None)?;
            self.write_tokens()?;
        }
        Ok(self.pods[&key].place.clone())
    }

    fn write_tokens(&self) -> anyhow::Result<()> {
        let issued = self.pods.values().map(|pod| &pod.issued);
        runtime::write_tokens(&self.around.layout.tokens(), issued)
            .context("writing the table of tokens")
    }

    /// Tells the operator what runs, and the workloads where it is.
    fn write_runtime(&mut self) -> anyhow::Result<()> {
        let folder = self.around.layout.runtime();
        let pods: Vec<_> = self
            .pods
            .values()
            .map(|pod| {
                let ready = pod.phase == Phase::Ready;
                runtime::pod(
                    &pod.identity,
                    pod.template.as_ref(),
                    pod.place.address,
                    ready,
                )
            })
            .collect();
        runtime::write_documents(&folder.join("pods.yaml"), &pods).context("writing the Pods")?;
        let mut services = Vec::new();
        for (key, service) in &self.plan.services {
            let written = self
                .plan
                .documents
                .get(&("Service".to_owned(), key.clone()));
            if let (Some(address), Some(written)) = (self.addresses.service(key, service), written)
            {
                services.push(runtime::service(&written.value, address));
            }
        }
        runtime::write_documents(&folder.join("services.yaml"), &services)
            .context("writing the Services")?;
        let namespaces: std::collections::BTreeSet<_> =
            self.pods.keys().map(|key| key.namespace.clone()).collect();
        for namespace in namespaces {
            self.write_hosts(&namespace)?;
        }
        Ok(())
    }

    fn write_hosts(&mut self, namespace: &str) -> anyhow::Result<()> {
        let mut services = BTreeMap::new();
        for (key, service) in &self.plan.services {
            let addresses = match self.addresses.service(key, service) {
                Some(address) => vec![address],
                None => self.behind(service),
            };
            services.insert(key.clone(), addresses);
        }
        let domain = &self.around.cluster_domain;
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = services
            .iter()
            .map(|(key, addresses)| {
                (
                    format!("{}.{}.svc.{domain}", key.name, key.namespace),
                    addresses.clone(),
                )
            })
            .collect();
        let text = hosts::render(namespace, &services, domain);
        hosts::write(&self.around.layout.hosts(namespace), &text).context("writing a hosts file")
    }

    /// The addresses of the ready pods that a headless Service selects.
    fn behind(&self, service: &k8s_openapi::api::core::v1::Service) -> Vec<std::net::Ipv4Addr> {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            return Vec::new();
        };
        let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
        let selected = |(key, pod): (&ObjectKey, &Running)| {
            let labels = &pod.template.as_ref()?.labels;
            let fits = key.namespace == namespace
                && selector
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value));
            (fits && pod.phase == Phase::Ready).then_some(pod.place.address)
        };
        self.pods.iter().filter_map(selected).collect()
    }

    /// Looks at the folder, and does what it says now if it is whole.
    async fn look(&mut self, seen: &mut Stamp) -> anyhow::Result<()> {
        let now = folder::stamp(&self.around.folder);
        if now == *seen {
            return Ok(());
        }
        *seen = now;
        let reading = folder::read(&self.around.folder);
        let plan = if reading.problems.is_empty() {
            Plan::new(reading.documents, &self.around.folder)
        } else {
            Err(reading.problems)
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(problems) => {
                for problem in problems {
                    say(super::shown(
                        &problem,
                        &self.around.folder,
                        &self.shown_folder,
                    ));
                }
                say("  nothing was changed: what ran before runs on until this is right");
                return Ok(());
            }
        };
        let changes = changes::between(&self.plan, &plan);
        if changes.is_empty() {
            return Ok(());
        }
        for line in &changes.lines {
            say(format_args!("  {line}"));
        }
        self.plan = plan;
        let published = self.take_ports().await;
        // What is published is no reason to end what runs.
        if let Err(error) = published.and_then(|()| self.open_ports()) {
            say(format_args!("  {error:#}"));
        }
        self.reconcile()?;
        changes::follow(self.around.ground.operator(), changes.routes);
        Ok(())
    }

    /// Ends all pods at once, each in good order.
    async fn drain(&mut self, heard: &mut mpsc::UnboundedReceiver<News>) {
        self.stopping = true;
        self.published.clear();
        let count = self.pods.len();
        say(format_args!(
            "\nstopping {count} workloads; Ctrl-C again ends them at once"
        ));
        for pod in self.pods.values() {
            pod.stop.send_replace(true);
        }
        let longest = self
            .pods
            .values()
            .filter_map(|pod| Some(pod.template.as_ref()?.grace))
            .max()
            .unwrap_or_default();
        let all = async {
            for (_, pod) in std::mem::take(&mut self.pods) {
                // A life that panicked is over as well.
                let _ = pod.life.await;
            }
        };
        // Each life has its own bound; this one is against a mistake in them.
        let bound = longest + Duration::from_secs(20);
        if timeout(bound, all).await.is_err() {
            say("  some did not end in time and are killed");
        }
        heard.close();
    }

    /// The operator's address for questions.
    pub(super) fn operator(&self) -> std::net::SocketAddr {
        (self.around.ground.operator(), 15014).into()
    }
}

/// Verdicts as the operator tells them.
pub(super) async fn verdicts(operator: std::net::SocketAddr) -> anyhow::Result<Value> {
    let (status, body) = timeout(
        Duration::from_secs(2),
        crate::http::get(operator, "/verdicts"),
    )
    .await??;
    anyhow::ensure!(status == 200, "the operator answered {status}");
    Ok(serde_json::from_slice(&body)?)
}
