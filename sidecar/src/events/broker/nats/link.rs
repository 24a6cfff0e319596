//! A connection to NATS: kept, and asked.
//!
//! Why not the crate's own requests: it keeps a note of each that is never answered, for ever, and
//! holds what is asked while it is away, to say it later. Here nobody is asked while it is away, and
//! whoever waits when the connection breaks is told at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ClientError, ConnectOptions, Event, HeaderMap, PublishErrorKind, ServerError,
    StatusCode, Subject, Subscriber,
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a connection may take until it can be used.
const CONNECT: Duration = Duration::from_secs(5);
/// From one try to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often it is asked whether it is still there, when it says nothing; the third silence ends it.
const PING: Duration = Duration::from_secs(10);
/// How many answers are waited for at once. As many may lie in the inbox, so that none is dropped.
const UNDER_WAY: usize = 4_096;
/// How many commands wait to be written.
const COMMANDS: usize = 1_024;
/// How long one waits to be taken by whoever writes, when nobody waits for an answer.
const WRITTEN: Duration = Duration::from_secs(1);
/// Why there is no connection, where who we are is not taken.
const REFUSES: &str =
    "it refuses what its Secret has as username and password, or token: authorization violation";
/// Longer than any process lives.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Where a broker is, and what it wants to know.
///
/// TLS is not spoken here: the crate takes the name that it verifies from the address that it dials,
/// and cannot be told another. Whatever leads there from `dial` brings it.
pub struct Address {
    /// What is dialled: what leads to the broker.
    pub dial: SocketAddr,
    /// What the broker is called in logs.
    pub name: String,
    /// Who we are.
    pub credentials: Credentials,
}

/// Who we are to a broker. There is no `Debug`: they are shown to nobody.
pub enum Credentials {
    /// Nobody.
    None,
    /// Somebody who knows a password.
    UserPassword(String, String),
    /// Somebody who has this.
    Token(String),
}

/// A connection that is kept as long as this is.
pub(super) struct Link {
    pub(super) client: Client,
    shared: Arc<Shared>,
    /// What every inbox of an answer begins with.
    inbox: String,
    next: Cell<u64>,
    reader: JoinHandle<()>,
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// There is no connection, and nothing was sent.
    Away(String),
    /// Nobody is there whom it would reach.
    Nobody,
    /// It is too long.
    TooLong,
    /// It was not sent, or not let through.
    Refused(String),
    /// It was sent, perhaps.
    Unknown(&'static str),
}

/// What the tasks of the crate share with us.
struct Shared {
    name: String,
    waiting: Mutex<HashMap<u64, Waiting>>,
    broken: Notify,
    away: AtomicBool,
    why: Mutex<String>,
    closed: AtomicBool,
}

struct Waiting {
    subject: Subject,
    answer: oneshot::Sender<Result<async_nats::Message, String>>,
}

/// A place among those who wait, which is free again whatever becomes of them.
struct Place<'a>(&'a Shared, u64);

// === impl Link ===

impl Link {
    /// Opens it in the background, and again whenever it breaks.
    pub(super) async fn open(address: Address) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            name: address.name,
            waiting: Mutex::default(),
            broken: Notify::new(),
            away: AtomicBool::new(false),
            why: Mutex::new("it is not connected yet".to_owned()),
            closed: AtomicBool::new(false),
        });
        let (heard, parked) = (shared.clone(), shared.clone());
        let options = match address.credentials {
            Credentials::None => ConnectOptions::new(),
            Credentials::UserPassword(user, password) => {
                ConnectOptions::with_user_and_password(user, password)
            }
            Credentials::Token(token) => ConnectOptions::with_token(token),
        };
        let client = options
            .name("meshwright")
            .retry_on_initial_connect()
            .ignore_discovered_servers()
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .client_capacity(COMMANDS)
            .subscription_capacity(UNDER_WAY)
            .reconnect_delay_callback(move |attempt| parked.pause(attempt))
            .event_callback(move |event| {
                heard.hear(event);
                std::future::ready(())
            })
            // With that option nothing is waited for here.
            .connect(format!("nats://{}", address.dial))
            .await
            .map_err(|error| error.kind().to_string())?;
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await;
        let answers = answers.map_err(|error| error.to_string())?;
        let reader = tokio::spawn(read(answers, inbox.len(), shared.clone()));
        Ok(Self {
            client,
            shared,
            inbox,
            next: Cell::new(0),
            reader,
        })
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Why there is none.
    pub(super) fn why_away(&self) -> String {
        lock(&self.shared.why).clone()
    }

    /// Which connection it is: another number is another one.
    pub(super) fn number(&self) -> u64 {
        let statistics = self.client.statistics();
        statistics.connects.load(Ordering::Relaxed)
    }

    /// Returns when the connection breaks.
    pub(super) async fn broken(&self) {
        self.shared.broken.notified().await;
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(
        &self,
        subject: Subject,
        headers: HeaderMap,
        data: Bytes,
        patience: Duration,
    ) -> Result<async_nats::Message, Unanswered> {
        // The crate would keep it until there is a connection, however long that takes.
        if !self.is_connected() {
            return Err(Unanswered::Away(self.why_away()));
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.len() >= UNDER_WAY {
                return Err(Unanswered::Refused("too much is under way".to_owned()));
            }
            let subject = subject.clone();
            waiting.insert(number, Waiting { subject, answer });
        }
        let _place = Place(&self.shared, number);
        let inbox = format!("{}{number}", self.inbox);
        let asked = async {
            let sent = match headers.is_empty() {
                true => self.client.publish_with_reply(subject, inbox, data).await,
                false => {
                    let client = &self.client;
                    client
                        .publish_with_reply_and_headers(subject, inbox, headers, data)
                        .await
                }
            };
            if let Err(error) = sent {
                return Err(match error.kind() {
                    PublishErrorKind::MaxPayloadExceeded => Unanswered::TooLong,
                    PublishErrorKind::InvalidSubject => Unanswered::Refused(error.to_string()),
                    PublishErrorKind::Send => Unanswered::Away(self.why_away()),
                });
            }
            match answered.await {
                Ok(Ok(answer)) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                    Err(Unanswered::Nobody)
                }
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(why)) => Err(Unanswered::Refused(why)),
                Err(_) => Err(Unanswered::Unknown("the connection broke")),
            }
        };
        let asked = timeout(patience, asked).await;
        asked.unwrap_or(Err(Unanswered::Unknown("there was no answer in time")))
    }

    /// Says something to which there is no answer.
    pub(super) async fn tell(
        &self,
        subject: Subject,
        inbox: Option<Subject>,
        data: Bytes,
    ) -> Result<(), String> {
        if !self.is_connected() {
            return Err(self.why_away());
        }
        let told = async {
            match inbox {
                Some(inbox) => self.client.publish_with_reply(subject, inbox, data).await,
                None => self.client.publish(subject, data).await,
            }
        };
        match timeout(WRITTEN, told).await {
            Ok(told) => told.map_err(|error| error.to_string()),
            Err(_) => Err("nothing can be written to it".to_owned()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What reads holds the connection, as it could unsubscribe.
        self.reader.abort();
        // The crate goes on trying if it is away now, and nothing ends it.
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

// === impl Shared ===

impl Shared {
    /// How long to wait before a try.
    fn pause(&self, attempt: usize) -> Duration {
        // It dials, and shows its credentials, with nobody left who wants it to, when by then another
        // may listen there. So it sleeps, and that little is never freed.
        if self.closed.load(Ordering::Relaxed) {
            return NEVER;
        }
        let doubled = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(doubled));
        pause.min(AGAIN.1).mul_f64(rand::random_range(0.5..=1.0))
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Connected if self.away.swap(false, Ordering::Relaxed) => {
                tracing::info!(broker = %self.name, "the broker is back");
            }
            Event::Disconnected => {
                self.is_away("the connection broke");
                // Their answers would go to an inbox that is no more.
                lock(&self.waiting).clear();
                self.broken.notify_waiters();
            }
            // What it says is a kind of error, and never what was sent.
            Event::ClientError(ClientError::Other(why)) => self.is_away(match why.as_str() {
                "TLS error" => "it wants TLS, which what leads to it must bring",
                "authorization violation" => REFUSES,
                why => why,
            }),
            Event::ServerError(ServerError::Other(why)) => self.refuse(&why),
            Event::SlowConsumer(_) => {
                tracing::warn!(broker = %self.name, "more came from the broker than was asked for");
            }
            _ => {}
        }
    }

    fn is_away(&self, why: &str) {
        let mut known = lock(&self.why);
        known.clear();
        known.push_str(why);
        drop(known);
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(broker = %self.name, why, "the broker is away");
        }
    }

    /// Tells those who asked what may not be asked: no answer would come.
    fn refuse(&self, why: &str) {
        tracing::debug!(broker = %self.name, why, "the broker refuses something");
        let lower = why.to_ascii_lowercase();
        let refused = lower.starts_with("permissions violation for publish to");
        let Some(subject) = why.split('"').nth(1).filter(|_| refused) else {
            return;
        };
        let mut waiting = lock(&self.waiting);
        let theirs = waiting.extract_if(|_, waiting| waiting.subject.as_str() == subject);
        for (_, waiting) in theirs {
            // Whoever asked may have gone.
            let _ = waiting
                .answer
                .send(Err("it may not be done by us".to_owned()));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
    }
}

/// Hands answers to those who wait for them.
async fn read(mut answers: Subscriber, prefix: usize, shared: Arc<Shared>) {
    while let Some(answer) = answers.next().await {
        let number = answer.subject.as_str().get(prefix..);
        let number = number.and_then(|number| number.parse().ok());
        let waiting = number.and_then(|number: u64| lock(&shared.waiting).remove(&number));
        if let Some(waiting) = waiting {
            // Whoever asked may have gone.
            let _ = waiting.answer.send(Ok(answer));
        }
    }
}

/// Nothing is done under these locks that could leave something half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
