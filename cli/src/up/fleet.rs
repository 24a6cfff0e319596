//! The pods of a mesh: which there should be, their starts and their ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use compiler::ObjectKey;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::control::{Entrance, Row};
use super::gate::Destination;
use super::ground::Place;
use super::launches::application_env;
use super::mesh::{IN_FLIGHT, Mesh};
use super::plan::Template;
use super::pod::{Ending, Phase, Pod};
use super::publish::{self, Published, Target};
use super::runtime::{Identity, Issued};
use super::state::{private_folder, replace};
use super::{dns, hosts};

/// How long a sidecar beside an application waits for connections to end: no request is in flight
/// any more when an application has ended well.
const DRAIN: Duration = Duration::from_secs(5);
/// Where the ingress and the operator are.
const SYSTEM: &str = "meshwright-system";
const INGRESS: &str = "meshwright-ingress";

/// A pod in one of its lives.
pub(super) struct Running {
    /// The Deployment it is of; the ingress is of none.
    pub(super) workload: Option<ObjectKey>,
    pub(super) identity: Identity,
    /// The ingress has none.
    pub(super) template: Option<Template>,
    pub(super) place: Arc<Place>,
    pub(super) phase: Phase,
    pub(super) entrance: Entrance,
    pub(super) issued: Issued,
    pub(super) ending: watch::Sender<Ending>,
    pub(super) life: JoinHandle<()>,
}

// === impl Running ===

impl Running {
    /// Whether it is ready and was not asked to end, of which its phase tells a little later.
    fn serves(&self) -> bool {
        self.phase == Phase::Ready && *self.ending.borrow() == Ending::Not
    }
}

// === impl Mesh ===

impl Mesh {
    /// Starts the pods that should be there and aren't, and ends those that shouldn't.
    pub(super) fn reconcile(&mut self) -> anyhow::Result<()> {
        let wanted: BTreeMap<ObjectKey, Template> = self
            .plan
            .replicas()
            .map(|(key, template)| (key, template.clone()))
            .collect();
        for (key, pod) in &self.pods {
            let Some(template) = &pod.template else {
                continue;
            };
            let leaves = match wanted.get(key) {
                Some(now) => now != template && self.may_be_replaced(key, pod),
                None => true,
            };
            if leaves {
                pod.ending.send_replace(Ending::Gently);
            }
        }
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(key, _)| !self.pods.contains_key(key))
            .collect();
        // One that can't be started keeps no other from being.
        let mut failed = Vec::new();
        for (key, template) in missing {
            if let Err(error) = self.start(&key, Some(template)) {
                failed.push(format!("{key} can't be started: {error:#}"));
            }
        }
        if !self.tokens_written {
            self.write_tokens()?;
        }
        self.write_runtime()?;
        if !failed.is_empty() {
            bail!(failed.join("; "));
        }
        Ok(())
    }

    /// Whether its workload can do without a pod while its successor starts: one at a time, unless
    /// it is of no use anyway.
    fn may_be_replaced(&self, key: &ObjectKey, pod: &Running) -> bool {
        let workload = pod
            .workload
            .as_ref()
            .and_then(|workload| self.plan.workloads.get(workload));
        let mut siblings = workload
            .into_iter()
            .flat_map(|workload| workload.pods())
            .filter(|own| own != key);
        let serves = |sibling: ObjectKey| self.pods.get(&sibling).is_some_and(Running::serves);
        pod.phase != Phase::Ready || siblings.all(serves)
    }

    pub(super) fn start(
        &mut self,
        key: &ObjectKey,
        template: Option<Template>,
    ) -> anyhow::Result<()> {
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
        let drain = template.as_ref().map_or(IN_FLIGHT, |_| DRAIN);
        let sidecar = self
            .around
            .sidecar(&identity, &place, &ports, &folder, drain);
        let application = template
            .as_ref()
            .filter(|template| !template.argv.is_empty())
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
            drain,
        };
        let (ending, asked) = watch::channel(Ending::Not);
        let life = tokio::spawn(pod.live(self.news.clone(), asked));
        let phase = Phase::Starting("its sidecar".to_owned());
        let workload = self.plan.workload_of(key);
        let running = Running {
            workload,
            identity,
            template,
            place,
            phase,
            entrance,
            issued,
            ending,
            life,
        };
        self.pods.insert(key.clone(), running);
        self.tokens_written = false;
        Ok(())
    }

    /// The place of the ingress, which is started with the first port that is published.
    pub(super) fn ingress(&mut self) -> anyhow::Result<Arc<Place>> {
        let key = ingress();
        if !self.pods.contains_key(&key) {
            self.start(&key, None)?;
            self.write_tokens()?;
        }
        Ok(self.pods[&key].place.clone())
    }

    /// Takes the ports to publish on that aren't taken yet, and gives back those that need not be.
    pub(super) async fn take_ports(&mut self) -> anyhow::Result<()> {
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
    pub(super) fn open_ports(&mut self) -> anyhow::Result<()> {
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
            let port = target.port;
            let to = Destination {
                address,
                port,
                host,
            };
            published.open(&self.gate, ingress.clone(), to)?;
        }
        Ok(())
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
}

/// The pod that published connections come in by.
pub(super) fn ingress() -> ObjectKey {
    ObjectKey::new(SYSTEM, format!("{INGRESS}-0"))
}
