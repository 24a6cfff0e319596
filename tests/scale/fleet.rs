//! Many sidecars' ends of the stream: a certificate each, a connection each, and what each holds. All
//! that they lack of a sidecar is that nothing is enforced.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sidecar::net::tls::{KeyAndChain, TlsContext, anonymous_client, root_store};
use tests::mesh::Mesh;
use tests::wait_until;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tonic::transport::Channel;
use wire::client::State;
use wire::delta::Held;
use wire::discovery::SignRequest;
use wire::discovery::certificates_client::CertificatesClient;
use wire::lookup::Question;

use crate::board::{Board, Taking, Told};
use crate::connection::Way;
use crate::world::World;

/// How many certificates are asked for over one connection: it is open for half a minute at most.
const OVER_ONE: usize = 200;

/// How many of them at a time.
const AT_A_TIME: usize = 8;

/// The ends of all sidecars of a world.
pub(crate) struct Fleet {
    pub(crate) board: Arc<Board>,
    ways: Vec<Way>,
    told: Vec<Arc<Told>>,
    streams: Vec<Stream>,
}

/// A stream that is kept open. Dropping it ends it.
struct Stream {
    state: watch::Receiver<State>,
    questions: mpsc::Sender<Question>,
    task: AbortHandle,
}

// === impl Fleet ===

impl Fleet {
    /// Gets a certificate for each pod of the world: for its token, as its sidecar would.
    pub(crate) async fn enrol(mesh: &Mesh, world: World) -> Result<Self> {
        let roots = root_store(&mesh.roots()?)?;
        let pods = Vec::from_iter(world.all_pods());
        let named = pods.iter().map(|(namespace, pod)| (&**namespace, &**pod));
        let tokens = mesh.issue_all(named)?;
        let anonymous = Arc::new(anonymous_client(roots.clone())?);
        let mut ways = Vec::with_capacity(pods.len());
        for tokens in tokens.chunks(OVER_ONE) {
            let way = |tls| Way {
                operator: mesh.grpc(),
                source: source(ways.len()),
                tls,
            };
            let asks = way(anonymous.clone());
            let channel = asks.connect(Told::new(Arc::default())).await?;
            let signed = futures::stream::iter(tokens)
                .map(|token| sign(channel.clone(), token, roots.clone()));
            let signed: Vec<_> = signed.buffered(AT_A_TIME).try_collect().await?;
            for tls in signed {
                ways.push(Way {
                    operator: mesh.grpc(),
                    source: source(ways.len()),
                    tls,
                });
            }
        }
        let board = Arc::<Board>::default();
        let told = ways.iter().map(|_| Told::new(board.clone()));
        Ok(Self {
            told: told.collect(),
            board,
            ways,
            streams: Vec::new(),
        })
    }

    /// Opens all streams at once.
    pub(crate) fn storm(&mut self) {
        self.board.await_complete(self.all());
        let ends = self.ways.iter().zip(&self.told);
        self.streams = ends.map(|(way, told)| Stream::open(way, told)).collect();
    }

    /// How many ends there are.
    pub(crate) fn len(&self) -> usize {
        self.told.len()
    }

    /// What the first so many have been told: those of the first namespace stand first.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &Told> {
        self.told.iter().take(count).map(|told| &**told)
    }

    /// What those after the first so many have been told.
    pub(crate) fn beyond(&self, count: usize) -> impl Iterator<Item = &Told> {
        self.told.iter().skip(count).map(|told| &**told)
    }

    /// What all have been told.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Told> {
        self.first(usize::MAX)
    }

    /// The first so many ask.
    pub(crate) async fn ask(&self, count: usize, question: &Question) -> Result<()> {
        for stream in self.streams.iter().take(count) {
            let asked = stream.questions.send(question.clone()).await;
            asked.map_err(|_| anyhow!("an end has ended"))?;
        }
        Ok(())
    }

    /// Waits until every end has noticed that its stream is gone.
    pub(crate) async fn all_cut_off(&self) -> Result<()> {
        let limit = Duration::from_secs(60);
        wait_until("every stream is gone", limit, async || {
            let open = |stream: &&Stream| stream.state.borrow().connected;
            let open = self.streams.iter().filter(open).count();
            ensure!(open == 0, "{open} are open");
            Ok(())
        })
        .await
    }

    /// Why the first of those without a stream has none.
    pub(crate) fn trouble(&self) -> Option<String> {
        let mut states = self
            .streams
            .iter()
            .map(|stream| stream.state.borrow().clone());
        states.find_map(|state| state.error)
    }
}

// === impl Stream ===

impl Stream {
    fn open(way: &Way, told: &Arc<Told>) -> Self {
        let (telling, state) = watch::channel(State::default());
        let (questions, asked) = mpsc::channel(1);
        let (way, told) = (way.clone(), told.clone());
        let task = tokio::spawn(async move {
            let dial = || way.clone().connect(told.clone());
            let persist = |held: &mut Held| told.taken(held.is_complete());
            let taking = Taking(told.clone());
            wire::client::run(
                dial,
                Held::default(),
                taking,
                persist,
                &telling,
                asked.into(),
            )
            .await
        });
        Self {
            state,
            questions,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address for an end: outside of those that meshes of tests have.
fn source(number: usize) -> Ipv4Addr {
    let [_, high, middle, low] = (number as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 128 + high, middle, low)
}

/// How a sidecar that has just got its certificate speaks to the operator.
async fn sign(
    channel: Channel,
    token: &str,
    roots: Arc<RootCertStore>,
) -> Result<Arc<rustls::ClientConfig>> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let request = SignRequest {
        csr: csr.der().to_vec().into(),
        token: token.to_owned(),
    };
    let signed = CertificatesClient::new(channel).sign(request).await;
    let signed = signed.context("no certificate")?.into_inner();
    let chain = signed.chain.iter();
    let own = KeyAndChain {
        chain: chain
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    };
    Ok(TlsContext::new(&own, roots)?.client_grpc)
}
