//! Stores that replicas share: one connection for each worker, whatever is under way on it at once.
//!
//! A store in the mesh is reached as the application's calls are, with the mesh's mutual TLS; another
//! one over TLS. Whoever asks waits as long as [`Use::patience`] says, and not at all while the store is known to be
//! away; it is tried again all the while, and used as soon as it is back.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::{Proxy, opaque};
use crate::config::State;
use crate::config::store::Address;
use crate::net::resp::{self, Reply};
use crate::policy::{idempotency, rate_limit};

/// How long answers that come bit by bit are waited for beyond that, as long as they come.
const COMES: Duration = Duration::from_secs(1);
/// How long a connection may take until it can be used.
const CONNECT: Duration = Duration::from_secs(1);
/// From one try to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How many questions are under way, and how many wait.
const UNDER_WAY: usize = 1_024;
/// How many bytes of questions are written at once.
const BATCH: usize = 64 * 1024;
/// How many bytes of its answers there is room for from the beginning: without any, each read would be of 64.
const READ: usize = 4 * 1024;
/// How many wait for a store to be back, to tell it something.
const TELLING: usize = 1_024;

/// The stores of a worker.
#[derive(Default)]
pub struct Stores(RefCell<HashMap<Which, Rc<Store>>>);

/// A store, and what it is asked for.
type Which = (Arc<Address>, Use);

/// What a connection is for: what takes long for one must not hold up the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Counts, which are short.
    Limits,
    /// Answers that are kept.
    Answers,
    /// Which events are done.
    Events,
    /// Who waits for what comes of events, and what came.
    Jobs,
}

// === impl Use ===

impl Use {
    /// How long an answer is waited for.
    pub fn patience(self) -> Duration {
        match self {
            Self::Limits => Duration::from_millis(100),
            Self::Answers | Self::Events | Self::Jobs => Duration::from_millis(500),
        }
    }
}

/// A store.
pub struct Store {
    questions: mpsc::Sender<Question>,
    away: Rc<Cell<bool>>,
    patience: Duration,
    telling: Rc<()>,
}

/// A place among those who wait to tell a store something.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "it is counted")] Rc<()>);

/// The store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// It may have been told all the same.
    pub may_have_been_told: bool,
}

struct Question {
    command: Vec<u8>,
    answer: oneshot::Sender<Reply>,
}

/// A connection, whatever it goes over.
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

// === impl Stores ===

impl Stores {
    /// The store at an address.
    pub fn at(&self, px: &Rc<Proxy>, address: &Arc<Address>, used: Use) -> Rc<Store> {
        let mut all = self.0.borrow_mut();
        let new = || Store::open(Rc::downgrade(px), address.clone(), used);
        all.entry((address.clone(), used))
            .or_insert_with(new)
            .clone()
    }
}

/// Opens the stores that a state uses, before anybody asks, and forgets those that it does not.
pub fn keep(px: &Rc<Proxy>, state: &State) {
    let limits = state.built.rate_limits.values();
    let limits = limits.filter_map(|limit| Some((limit.store()?.clone(), Use::Limits)));
    let idempotency = state.built.idempotency.values();
    let idempotency = idempotency.filter_map(|one| Some((one.store()?.clone(), Use::Answers)));
    let jobs = state.built.publish.values();
    let jobs = jobs.flat_map(|one| one.async_replies());
    let jobs = jobs.filter_map(|one| Some((one.kept.store.clone()?, Use::Jobs)));
    let used = Vec::from_iter(limits.chain(idempotency).chain(jobs));
    // One worker asks about a subscription's events, and opens the store then.
    let events = state.built.subscriptions.values();
    let events = events.filter_map(|one| Some((one.deduplication.as_ref()?.store()?, Use::Events)));
    let events = Vec::from_iter(events);
    let stores = &px.stores;
    stores
        .0
        .borrow_mut()
        .retain(|one, _| used.contains(one) || events.contains(&(&one.0, one.1)));
    for (address, used) in used {
        stores.at(px, &address, used);
    }
}

// === impl Store ===

impl Store {
    fn open(px: Weak<Proxy>, address: Arc<Address>, used: Use) -> Rc<Self> {
        let (questions, asked) = mpsc::channel(UNDER_WAY);
        let away = Rc::new(Cell::new(false));
        let keeping = serve(px, (address, used), asked, away.clone());
        tokio::task::spawn_local(keeping);
        Rc::new(Self {
            questions,
            away,
            patience: used.patience(),
            telling: Rc::new(()),
        })
    }

    /// A place among those who wait to tell it something, if there is one.
    pub fn place(&self) -> Option<Place> {
        let taken = Rc::strong_count(&self.telling) - 1;
        (taken < TELLING).then(|| Place(self.telling.clone()))
    }

    /// Asks.
    ///
    /// # Errors
    /// That there is no answer in time.
    pub async fn ask(&self, command: Vec<u8>) -> Result<Reply, Away> {
        let untold = Away {
            may_have_been_told: false,
        };
        if self.away.get() {
            return Err(untold);
        }
        let (answer, answered) = oneshot::channel();
        let question = Question { command, answer };
        self.questions.try_send(question).map_err(|_| untold)?;
        match timeout(self.patience, answered).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(Away {
                may_have_been_told: true,
            }),
        }
    }
}

/// Keeps a connection as long as anybody may ask.
async fn serve(
    px: Weak<Proxy>,
    (address, used): (Arc<Address>, Use),
    mut asked: mpsc::Receiver<Question>,
    away: Rc<Cell<bool>>,
) {
    let (mut pause, patience) = (AGAIN.0, used.patience());
    loop {
        let opened = timeout(CONNECT, open(&px, &address, used)).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let why = match opened {
            Ok(io) => {
                if away.replace(false) {
                    tracing::info!(store = %address, "the store is back");
                }
                let mut answered = false;
                match carry(io, &mut asked, patience, &mut answered).await {
                    Ok(()) => return,
                    Err(why) => {
                        // One that opens and answers nothing well is not asked at every turn.
                        if answered {
                            pause = AGAIN.0;
                        }
                        why
                    }
                }
            }
            Err(why) => why,
        };
        if !away.replace(true) {
            tracing::warn!(store = %address, %why, "the store is away");
        }
        // Whoever has asked goes on without an answer.
        while asked.try_recv().is_ok() {}
        if asked.is_closed() {
            return;
        }
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Opens a connection that can be used at once.
async fn open(px: &Weak<Proxy>, address: &Address, used: Use) -> io::Result<Box<dyn Io>> {
    let mut io = reach(px, address).await?;
    let words = |words: &[&str]| {
        let words = words.iter().map(|word| word.as_bytes().to_vec());
        resp::command(&words.collect::<Vec<_>>())
    };
    let mut commands = Vec::new();
    match (address.user(), address.password()) {
        (_, "") => {}
        ("", password) => commands.push(words(&["AUTH", password])),
        (user, password) => commands.push(words(&["AUTH", user, password])),
    }
    if address.database() > 0 {
        commands.push(words(&["SELECT", &address.database().to_string()]));
    }
    match used {
        Use::Limits | Use::Answers => {
            commands.push(rate_limit::shared::SCRIPT.loads());
            commands.push(idempotency::shared::SCRIPT.loads());
        }
        // Who may do no more than it needs may run no scripts. Something must be answered: who is no store is not used.
        Use::Events | Use::Jobs => commands.push(words(&["PING"])),
    }
    io.write_all(&commands.concat()).await?;
    io.flush().await?;
    let mut read = Vec::with_capacity(READ);
    for _ in commands {
        let reply = loop {
            if let Some(reply) = next(&mut read)? {
                break reply;
            }
            if io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if let Reply::Error(why) = reply {
            // Its first word is a code; what follows may repeat what was sent.
            let code = why.split(' ').next().unwrap_or_default().to_owned();
            return Err(io::Error::other(code));
        }
    }
    Ok(io)
}

async fn reach(px: &Weak<Proxy>, address: &Address) -> io::Result<Box<dyn Io>> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let px = px.upgrade().ok_or_else(gone)?;
    let (host, port) = (address.host(), address.port());
    let destination = px.named(host, port).await;
    let stream: Box<dyn Io> = match destination {
        Some(destination) => {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let px = px.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = opaque::outbound(&px, far, &destination).await {
                    tracing::debug!(%error, "a connection to a store ended");
                }
            });
            Box::new(near)
        }
        // Whoever answers plaintext outside the mesh may be anybody.
        None if address.tls().is_none() => {
            return Err(io::Error::other(
                "it is no Service of the mesh, and not rediss",
            ));
        }
        None => Box::new(px.dial.connector.to_host(host, port).await?),
    };
    let Some(tls) = address.tls() else {
        return Ok(stream);
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls.clone())
        .connect(name, stream)
        .await?;
    Ok(Box::new(stream))
}

/// Carries questions and answers until nobody asks any more.
async fn carry(
    mut io: Box<dyn Io>,
    asked: &mut mpsc::Receiver<Question>,
    patience: Duration,
    answered: &mut bool,
) -> io::Result<()> {
    let mut waiting: VecDeque<(oneshot::Sender<Reply>, Instant)> = VecDeque::new();
    let mut read = Vec::with_capacity(READ);
    let mut heard = Instant::now();
    loop {
        // Late is who says nothing, not who has much to say.
        let late = waiting.front().map(|(_, until)| {
            let comes = (heard + patience).min(*until + COMES);
            comes.max(*until)
        });
        let late = async {
            match late {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            more = io.read_buf(&mut read) => {
                if more? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                heard = Instant::now();
                while let Some(reply) = next(&mut read)? {
                    let (answer, _) = waiting.pop_front().ok_or(io::ErrorKind::InvalidData)?;
                    match &reply {
                        Reply::Error(why) if !is_of_one(why) => {
                            // Its first word is a code; a store that has forgotten the script is given
                            // it with the next connection.
                            let code = why.split(' ').next().unwrap_or_default().to_owned();
                            return Err(io::Error::other(code));
                        }
                        Reply::Error(_) => {}
                        _ => *answered = true,
                    }
                    // Whoever asked may have gone.
                    let _ = answer.send(reply);
                }
            }
            question = asked.recv(), if waiting.len() < UNDER_WAY => {
                let Some(question) = question else {
                    return Ok(());
                };
                let mut commands = Vec::new();
                let before = waiting.len();
                let mut next = Some(question);
                while let Some(question) = next {
                    // Whoever has given up is not told, and nothing is noted for it.
                    if !question.answer.is_closed() {
                        commands.extend(question.command);
                        waiting.push_back((question.answer, Instant::now() + patience));
                    }
                    let more = waiting.len() < UNDER_WAY && commands.len() < BATCH;
                    next = if more { asked.try_recv().ok() } else { None };
                }
                for part in commands.chunks(BATCH) {
                    let written = async {
                        io.write_all(part).await?;
                        io.flush().await
                    };
                    timeout(patience, written).await.map_err(|_| io::ErrorKind::TimedOut)??;
                }
                let until = Instant::now() + patience;
                waiting.iter_mut().skip(before).for_each(|(_, late)| *late = until);
            }
            () = late => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Whether an error is about one question alone, so that others can be answered.
fn is_of_one(why: &str) -> bool {
    ["OOM", "WRONGTYPE"]
        .iter()
        .any(|code| why.starts_with(code))
}

/// Takes the next answer out of what was read.
fn next(read: &mut Vec<u8>) -> io::Result<Option<Reply>> {
    let found = resp::read(read).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(found.map(|(reply, length)| {
        read.drain(..length);
        reply
    }))
}
