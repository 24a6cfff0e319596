//! A connection to Redis: kept, and asked.
//!
//! Why not the crate's own manager of connections: it tries again what was perhaps done, and whoever
//! asks while it is away waits. Here nobody is asked while it is away, and whoever waits when the
//! connection breaks is told at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::reply::{Refusal, durability, evicts, version};
use super::script::Script;
use crate::events::broker::dial::{Dial, Dialled, refuses};

/// How long a connection may take until it can be used.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// From one try to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long a connection must have lived for the next to be tried as if it were the first.
const LIVED: Duration = Duration::from_secs(10);
/// How often it is asked whether it is still there, and how long it may take to say so: behind what
/// is being published.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);
/// Codes of one that does not take who we are.
const REFUSES: [&str; 2] = ["NOAUTH", "WRONGPASS"];

/// Where a Redis is, and who we are to it.
///
/// TLS is not spoken here: whatever leads there from `dial` brings it. There is no `Debug`: a
/// password is shown to nobody.
pub struct Address {
    /// What is dialled: what leads to the broker.
    pub dial: Dial,
    /// What the broker is called in logs.
    pub name: String,
    /// Who we are; nobody if this and the password are empty, `default` if this alone is.
    pub user: String,
    /// What proves that.
    pub password: String,
}

/// What a Redis does against the loss of what it has confirmed, as far as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does not say: `CONFIG GET` is not permitted, or it was never reached.
    Unknown,
    /// It writes no append-only file: what was published since its last snapshot is lost when it ends.
    None,
    /// It has the append-only file written to disk at times (`appendfsync everysec` or `no`): when its
    /// host ends, what came since is lost.
    AtTimes,
    /// It has it written before it confirms anything (`appendfsync always`).
    Always,
}

/// A connection that is kept as long as this is.
pub(super) struct Link {
    pub(super) address: Arc<Address>,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It can't be asked now, and has done nothing.
    Away(String),
    /// It says no, and has done nothing.
    Refused(Refusal),
    /// It was asked, perhaps.
    Unknown(&'static str),
}

/// A connection that works.
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    driver: Driver,
}

/// What reads and writes; dropped, it closes the connection.
struct Driver(JoinHandle<()>);

/// What the keeper of the connection shares with those who ask.
struct Shared {
    state: Mutex<State>,
    renew: Notify,
}

struct State {
    /// With the version of the broker.
    open: Option<(MultiplexedConnection, String)>,
    why: String,
    durability: Durability,
    evicts: bool,
    told: bool,
}

// === impl Link ===

impl Link {
    /// Opens it in the background, and again whenever it breaks.
    pub(super) fn open(address: Address) -> Self {
        let address = Arc::new(address);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                open: None,
                why: "it is not connected yet".to_owned(),
                durability: Durability::Unknown,
                evicts: false,
                told: false,
            }),
            renew: Notify::new(),
        });
        let keeper = tokio::spawn(keep(address.clone(), shared.clone()));
        Self {
            address,
            shared,
            keeper,
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.shared.lock().open.is_some()
    }

    /// What it says of its durability.
    pub(super) fn durability(&self) -> Durability {
        self.shared.lock().durability
    }

    /// Of which version it is.
    pub(super) fn version(&self) -> Result<String, String> {
        self.opened(|(_, version)| version.clone())
    }

    fn connection(&self) -> Result<MultiplexedConnection, Unanswered> {
        let connection = self.opened(|(connection, _)| connection.clone());
        connection.map_err(Unanswered::Away)
    }

    fn opened<T>(&self, part: impl Fn(&(MultiplexedConnection, String)) -> T) -> Result<T, String> {
        let state = self.shared.lock();
        let open = state.open.as_ref();
        open.map(part).ok_or_else(|| state.why.clone())
    }

    /// Says something, and waits for what is answered.
    pub(super) async fn say(&self, command: &Cmd, patience: Duration) -> Result<Value, Unanswered> {
        let mut connection = self.connection()?;
        self.heard(timeout(patience, ask(&mut connection, command)).await)
    }

    /// Has a script run, and waits for what it returns.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
        patience: Duration,
    ) -> Result<Value, Unanswered> {
        let mut connection = self.connection()?;
        let asked = async {
            // It has not run if it is not known there: the server was started, or told to forget it.
            match ask(&mut connection, &script.by_digest(keys, arguments)).await {
                Err(Unanswered::Refused(why)) if why.code == "NOSCRIPT" => {
                    ask(&mut connection, &script.whole(keys, arguments)).await
                }
                answer => answer,
            }
        };
        self.heard(timeout(patience, asked).await)
    }

    fn heard(
        &self,
        asked: Result<Result<Value, Unanswered>, Elapsed>,
    ) -> Result<Value, Unanswered> {
        let asked = asked.unwrap_or(Err(Unanswered::Unknown("there was no answer in time")));
        if let Err(Unanswered::Refused(why)) = &asked
            && why.code == "READONLY"
        {
            // Another one may be the master by now, and what leads there know it.
            self.shared.renew.notify_one();
        }
        asked
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, Unanswered> {
    let answer = command.query_async::<Value>(connection).await;
    answer.map_err(|error| match Refusal::of(&error) {
        Some(why) if why.is_for_now() => Unanswered::Away(why.to_string()),
        Some(why) => Unanswered::Refused(why),
        // It may have been written before that, or not: the crate does not say.
        None => Unanswered::Unknown("the connection broke"),
    })
}

// === impl Shared ===

impl Shared {
    /// Nothing is done under this lock that could leave something half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, name: &str, why: &str) {
        let mut state = self.lock();
        state.open = None;
        why.clone_into(&mut state.why);
        if !std::mem::replace(&mut state.told, true) {
            tracing::warn!(broker = %name, why, "the broker is away");
        }
    }

    fn is_back(&self, name: &str, open: &Open, said: Said) {
        let mut state = self.lock();
        state.open = Some((open.connection.clone(), said.version));
        if std::mem::replace(&mut state.told, false) {
            tracing::info!(broker = %name, "the broker is back");
        }
        let before = std::mem::replace(&mut state.durability, said.durability);
        let evicted = std::mem::replace(&mut state.evicts, said.evicts);
        drop(state);
        if said.evicts && !evicted {
            tracing::warn!(broker = %name, "the broker deletes whole topics when its memory is full: maxmemory-policy is one of allkeys");
        }
        if before != said.durability && said.durability == Durability::None {
            tracing::warn!(broker = %name, "the broker confirms events and does not store them: appendonly is off");
        }
    }
}

// === impl Open ===

impl Open {
    /// Dials, and shows who we are. `through`: what is read and written through.
    pub(super) async fn dial<T>(
        address: &Address,
        through: impl FnOnce(Dialled) -> T,
    ) -> Result<Self, String>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Shown who we are by the crate, a broker that says no has no words.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        // It gives up after half a second otherwise.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let dialling = async {
            let stream = address.dial.open().await;
            let stream = stream.map_err(|error| error.to_string())?;
            let made = MultiplexedConnection::new_with_config(&info, through(stream), config).await;
            let (mut connection, driver) = made.map_err(|error| why(&error))?;
            let driver = Driver(tokio::spawn(driver));
            if let Some(auth) = auth(address) {
                let shown = auth.query_async::<Value>(&mut connection).await;
                shown.map_err(|error| why(&error))?;
            }
            // One that reads what it holds is connected to, and answers nothing.
            match redis::cmd("PING")
                .query_async::<Value>(&mut connection)
                .await
            {
                Err(error) if error.code() != Some("NOPERM") => Err(why(&error)),
                _ => Ok(Self { connection, driver }),
            }
        };
        let dialled = timeout(CONNECT, dialling).await;
        dialled.unwrap_or_else(|_| Err("it is silent".to_owned()))
    }

    /// Waits until it can't be used any more, and says why.
    async fn broken(mut self, shared: &Shared) -> &'static str {
        let mut connection = self.connection.clone();
        let silent = async move {
            loop {
                sleep(PING).await;
                let ping = redis::cmd("PING");
                match timeout(PONG, ping.query_async::<Value>(&mut connection)).await {
                    Ok(Err(error)) if Refusal::of(&error).is_none() => {
                        return "the connection broke";
                    }
                    Ok(_) => {}
                    Err(_) => return "it is silent",
                }
            }
        };
        tokio::select! {
            _ = &mut self.driver.0 => "the connection broke",
            why = silent => why,
            () = shared.renew.notified() => "it takes no writes",
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What says who we are, if we are anybody.
fn auth(address: &Address) -> Option<Cmd> {
    let mut command = redis::cmd("AUTH");
    match (&*address.user, &*address.password) {
        ("", "") => return None,
        ("", password) => command.arg(password),
        (user, password) => command.arg(user).arg(password),
    };
    Some(command)
}

/// What a broker says of itself.
struct Said {
    version: String,
    durability: Durability,
    evicts: bool,
}

async fn say(open: &Open) -> Result<Said, String> {
    let mut connection = open.connection.clone();
    let asking = async {
        // Anybody may ask this, which 6.0 brought.
        let hello = redis::cmd("HELLO").query_async(&mut connection).await;
        let found = match hello {
            Ok(hello) => version(&hello),
            Err(error) if Refusal::of(&error).is_some() => {
                let mut info = redis::cmd("INFO");
                let info = info.arg("server").query_async(&mut connection);
                info.await.ok().as_ref().and_then(version)
            }
            Err(_) => return Err("the connection broke".to_owned()),
        };
        let mut config = async |names: &str| {
            let mut command = redis::cmd("CONFIG");
            let command = command.arg("GET").arg(names);
            let said = command.query_async::<Value>(&mut connection).await;
            // It need not be permitted.
            said.unwrap_or_default()
        };
        Ok(Said {
            version: found.unwrap_or_else(|| "unknown".to_owned()),
            durability: durability(&config("append*").await),
            evicts: evicts(&config("maxmemory*").await),
        })
    };
    let asked = timeout(CONNECT, asking).await;
    asked.unwrap_or_else(|_| Err("it is silent".to_owned()))
}

async fn keep(address: Arc<Address>, shared: Arc<Shared>) {
    let mut tried = 0;
    loop {
        let since = Instant::now();
        let opened = async {
            let open = Open::dial(&address, |stream| stream).await?;
            let said = say(&open).await?;
            Result::<_, String>::Ok((open, said))
        };
        match opened.await {
            Ok((open, said)) => {
                shared.is_back(&address.name, &open, said);
                let why = open.broken(&shared).await;
                shared.is_away(&address.name, why);
                // One that is closed as soon as it is open is not opened at every turn.
                if since.elapsed() > LIVED {
                    tried = 0;
                }
            }
            Err(why) => shared.is_away(&address.name, &why),
        }
        sleep(pause(tried)).await;
        tried = tried.saturating_add(1);
    }
}

/// How long to wait before a try.
fn pause(tried: u32) -> Duration {
    let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(tried));
    pause.min(AGAIN.1).mul_f64(rand::random_range(0.5..=1.0))
}

/// Why a connection can't be used; none of it is what we have said.
fn why(error: &RedisError) -> String {
    match Refusal::of(error) {
        Some(refusal) if REFUSES.contains(&&*refusal.code) => refuses(refusal),
        Some(refusal) => refusal.to_string(),
        None => error.category().to_owned(),
    }
}
