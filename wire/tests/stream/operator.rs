//! An operator and sidecars that talk over pipes in memory, through everything but the TCP.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use wire::{
    ResourceId,
    client::{self, Claiming, Says, State},
    delta::{Apply, Change, Held, Outcome, Rejected, Sent},
    discovery::{
        Claim, Delta, FromSidecar, Grant, Report, SubscriptionReport,
        discovery_server::{Discovery, DiscoveryServer},
    },
    lookup::Question,
    report::Reports,
    resource::Hash,
    server::{self, Mailbox, Subscriber},
};

use crate::snapshot::{Enforced, Snapshot, Volume};

/// One replica, with one view for all.
#[derive(Clone)]
pub(crate) struct Operator {
    shared: Arc<Shared>,
    connections: mpsc::UnboundedSender<DuplexStream>,
}

#[derive(Default)]
struct Shared {
    view: Mutex<Arc<Snapshot>>,
    mailboxes: Mutex<Vec<Arc<Mailbox>>>,
    /// The newest of each resource, over all streams.
    outcomes: watch::Sender<BTreeMap<ResourceId, Outcome>>,
    /// How many streams are open.
    open: watch::Sender<usize>,
    /// What sidecars asked for, and no longer, in the order in which they did.
    asked: watch::Sender<Vec<Asked>>,
    /// What sidecars said of what they carry out, in the order in which they did.
    reported: watch::Sender<Vec<SubscriptionReport>>,
    /// How many resources were held at the last Hello.
    held_at_hello: AtomicUsize,
    /// Whether it is one from before there were questions.
    before_questions: AtomicBool,
}

pub(crate) struct Connected {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    open: bool,
}

/// What a sidecar wants to be told, and no longer.
pub(crate) type Asked = (Vec<ResourceId>, Vec<ResourceId>);

/// A sidecar whose client runs in a task.
pub(crate) struct Running {
    pub(crate) enforced: Arc<Mutex<Enforced>>,
    state: watch::Receiver<State>,
    volume: Arc<Mutex<Volume>>,
    /// Which of the replicas it will connect to next.
    pub(crate) replica: Arc<AtomicUsize>,
    /// What it is to ask.
    pub(crate) questions: mpsc::Sender<Question>,
    /// How it goes with what it carries out.
    pub(crate) reports: Reports,
    /// What it is to claim.
    pub(crate) claims: mpsc::Sender<Claiming>,
    task: JoinHandle<()>,
}

struct SharedEnforced(Arc<Mutex<Enforced>>);

/// The view type of the tests' subscribers.
pub(crate) struct Shot(Arc<Snapshot>);

/// A sidecar that asks nothing.
pub(crate) fn nothing_asked() -> mpsc::Receiver<Question> {
    mpsc::channel(1).1
}

/// A condition that never comes fails the test instead of hanging it.
async fn patiently<F: Future>(condition: F) -> F::Output {
    let limit = Duration::from_secs(60);
    let reached = tokio::time::timeout(limit, condition).await;
    reached.expect("never came true")
}

// === impl Operator ===

impl Operator {
    pub(crate) fn start(view: Snapshot) -> Operator {
        let (connections, incoming) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        *shared.view.lock().unwrap() = Arc::new(view);
        let operator = Operator {
            shared,
            connections,
        };
        let service = DiscoveryServer::new(operator.clone())
            .max_decoding_message_size(server::MAX_MESSAGE_BYTES);
        let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        operator
    }

    pub(crate) async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let connections = self.connections.clone();
        let connector = tower::service_fn(move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let sent = connections.send(theirs);
            async move {
                sent.map_err(|_| std::io::Error::other("the operator is gone"))?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        let endpoint = Endpoint::from_static("http://operator");
        endpoint.connect_with_connector(connector).await
    }

    /// Changes the view and tells the streams what changed.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut view = Snapshot::clone(&self.shared.view.lock().unwrap());
        let before = view.hashes();
        change(&mut view);
        let after = view.hashes();
        let ids = before.keys().chain(after.keys());
        let changed: Vec<ResourceId> = ids
            .filter(|id| before.get(id) != after.get(id))
            .cloned()
            .collect();
        *self.shared.view.lock().unwrap() = Arc::new(view);
        for mailbox in self.shared.mailboxes.lock().unwrap().iter() {
            mailbox.changed(changed.iter().cloned());
            mailbox.advanced();
        }
    }

    /// Ends all streams, as when this replica goes away.
    pub(crate) fn hang_up(&self) {
        for mailbox in self.shared.mailboxes.lock().unwrap().drain(..) {
            mailbox.close();
        }
    }

    pub(crate) fn hashes(&self) -> BTreeMap<ResourceId, Hash> {
        self.shared.view.lock().unwrap().hashes()
    }

    /// From now on it says nothing of questions and claims, as an operator before 0.2.
    pub(crate) fn roll_back(&self) {
        self.shared.before_questions.store(true, Ordering::SeqCst);
        self.hang_up();
    }

    /// It is of this version again.
    pub(crate) fn roll_forward(&self) {
        self.shared.before_questions.store(false, Ordering::SeqCst);
        self.hang_up();
    }

    pub(crate) fn held_at_hello(&self) -> usize {
        self.shared.held_at_hello.load(Ordering::SeqCst)
    }

    /// Waits until so many messages named questions, and what they said.
    pub(crate) async fn asked(&self, messages: usize) -> Vec<Asked> {
        let mut asked = self.shared.asked.subscribe();
        let asked = patiently(asked.wait_for(|asked| asked.len() >= messages));
        asked.await.unwrap().clone()
    }

    /// Waits until so much was said of what is carried out, and what.
    pub(crate) async fn reported(&self, reports: usize) -> Vec<SubscriptionReport> {
        let mut reported = self.shared.reported.subscribe();
        let reported = patiently(reported.wait_for(|reported| reported.len() >= reports));
        reported.await.unwrap().clone()
    }

    pub(crate) async fn outcome(&self, id: &str, wanted: impl Fn(&Outcome) -> bool) {
        let id: ResourceId = id.parse().unwrap();
        let mut outcomes = self.shared.outcomes.subscribe();
        let there = |outcomes: &BTreeMap<_, _>| outcomes.get(&id).is_some_and(&wanted);
        patiently(outcomes.wait_for(there)).await.unwrap();
    }

    /// Waits until so many streams are open, or have been dropped.
    pub(crate) async fn streams(&self, count: usize) {
        let mut open = self.shared.open.subscribe();
        patiently(open.wait_for(|open| *open == count))
            .await
            .unwrap();
    }

    pub(crate) fn mailbox(&self) -> Arc<Mailbox> {
        let mailbox = Mailbox::new();
        self.shared.mailboxes.lock().unwrap().push(mailbox.clone());
        mailbox
    }

    /// Grants whatever is claimed, with a token one greater than the one that is held.
    pub(crate) fn subscriber(&self, mailbox: &Arc<Mailbox>) -> Connected {
        Connected {
            shared: self.shared.clone(),
            mailbox: mailbox.clone(),
            open: false,
        }
    }
}

#[tonic::async_trait]
impl Discovery for Operator {
    type StreamStream = BoxStream<'static, Result<Delta, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<FromSidecar>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mailbox = self.mailbox();
        let subscriber = self.subscriber(&mailbox);
        let deltas = server::serve(request.into_inner(), mailbox, subscriber);
        let silent = self.shared.before_questions.load(Ordering::SeqCst);
        let deltas = deltas.map(move |delta| {
            delta.map(|delta| Delta {
                answers_lookups: delta.answers_lookups && !silent,
                reads_reports: delta.reads_reports && !silent,
                grants: delta.grants.filter(|_| !silent),
                ..delta
            })
        });
        Ok(Response::new(deltas.boxed()))
    }
}

// === impl Connected ===

impl Subscriber for Connected {
    type View = Shot;

    fn view(&self) -> Shot {
        Shot(self.shared.view.lock().unwrap().clone())
    }

    fn introduced(&mut self, _capabilities: &[String]) {}

    fn asked(&mut self, wanted: Vec<ResourceId>, unwanted: Vec<ResourceId>) {
        if !wanted.is_empty() || !unwanted.is_empty() {
            let asked = (wanted, unwanted);
            self.shared.asked.send_modify(|all| all.push(asked));
        }
    }

    fn claimed(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            self.mailbox.granted(Grant {
                number: claim.number,
                token: claim.token + 1,
                ..Grant::default()
            });
        }
    }

    fn opened(&mut self, sent: &Sent) {
        let held = sent.held().count();
        self.shared.held_at_hello.store(held, Ordering::SeqCst);
        self.open = true;
        self.shared.open.send_modify(|open| *open += 1);
    }

    fn reported(&mut self, report: Report) {
        let told = report.subscriptions;
        self.shared.reported.send_modify(|all| all.extend(told));
    }

    fn acked(&mut self, outcomes: Vec<(ResourceId, Outcome)>) {
        self.shared.outcomes.send_modify(|all| all.extend(outcomes));
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if self.open {
            self.shared.open.send_modify(|open| *open -= 1);
        }
    }
}

impl wire::delta::View for Shot {
    fn get(&self, id: &ResourceId) -> Option<wire::Resource> {
        self.0.get(id)
    }

    fn ids(&self) -> Vec<ResourceId> {
        self.0.ids()
    }

    fn seen(&self, kind: wire::Kind) -> wire::Generation {
        wire::delta::View::seen(&*self.0, kind)
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn start(operator: &Operator) -> Running {
        Running::with(operator, Held::default(), Enforced::default())
    }

    pub(crate) fn with(operator: &Operator, held: Held, enforced: Enforced) -> Running {
        Running::among(vec![operator.clone()], held, enforced)
    }

    /// Connects to the first of `replicas`, until told otherwise.
    pub(crate) fn among(replicas: Vec<Operator>, held: Held, enforced: Enforced) -> Running {
        let enforced = Arc::new(Mutex::new(enforced));
        let volume = Arc::new(Mutex::new(Volume::default()));
        let (state, receiver) = watch::channel(State::default());
        let replica = Arc::new(AtomicUsize::new(0));
        let (apply, file, which) = (
            SharedEnforced(enforced.clone()),
            volume.clone(),
            replica.clone(),
        );
        let (questions, asked) = mpsc::channel(512);
        let (claims, claimed) = mpsc::channel(512);
        let reports = Reports::default();
        let says = Says {
            questions: asked,
            claims: claimed,
            reports: reports.clone(),
        };
        let task = tokio::spawn(async move {
            let connect = || {
                let operator = replicas[which.load(Ordering::SeqCst)].clone();
                async move { operator.connect().await }
            };
            let persist = |held: &mut Held| {
                file.lock().unwrap().save(held);
            };
            client::run(connect, held, apply, persist, &state, says).await;
        });
        Running {
            enforced,
            state: receiver,
            volume,
            replica,
            questions,
            reports,
            claims,
            task,
        }
    }

    pub(crate) async fn state(&self, wanted: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        let state = patiently(state.wait_for(wanted)).await.unwrap();
        state.clone()
    }

    pub(crate) fn enforces(&self) -> BTreeMap<ResourceId, Hash> {
        self.enforced.lock().unwrap().resources.clone()
    }

    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// What it would start from again.
    pub(crate) fn volume(&self) -> Held {
        Held::from_bytes(&self.volume.lock().unwrap().file).unwrap()
    }
}

impl Apply for SharedEnforced {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        self.0.lock().unwrap().apply(changes)
    }
}
