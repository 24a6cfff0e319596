//! The script that a store runs, in a real Redis with a clock that the test sets.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use sidecar::net::resp::{self, Reply};
use sidecar::policy::rate_limit::bucket::{Buckets, Key, Rate};
use sidecar::policy::rate_limit::leases::{Leases, Wish};
use sidecar::policy::rate_limit::shared::{self, Ask, Found};
use tempfile::TempDir;
use tests::mesh::SOON;
use tests::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A second and a day, in microseconds.
const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

struct Store {
    stream: UnixStream,
    read: Vec<u8>,
    server: Child,
    /// The hash of the script that reads the test's clock.
    sha: String,
    _folder: TempDir,
}

impl Store {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("redis");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]);
        command.arg(&socket).stdout(Stdio::null());
        let server = command.spawn();
        let server = server.context("redis-server: apt-get install redis-server")?;
        let stream = wait_until("the store listens", SOON, async || {
            Ok(UnixStream::connect(&socket).await?)
        });
        let mut store = Self {
            stream: stream.await?,
            read: Vec::new(),
            server,
            sha: String::new(),
            _folder: folder,
        };
        let (clock, set) = (
            "local t = redis.call('TIME')\nlocal now = t[1] * 1000000 + t[2]\n",
            "local now = tonumber(redis.call('GET', 'now'))\n",
        );
        let text = shared::SCRIPT.text();
        ensure!(text.contains(clock), "where it reads the clock");
        let text = text.replace(clock, set);
        let loaded = store.run(&["SCRIPT", "LOAD", &text]).await?;
        let Reply::Bulk(Some(sha)) = loaded else {
            bail!("{loaded:?}");
        };
        store.sha = String::from_utf8(sha)?;
        Ok(store)
    }

    async fn run(&mut self, words: &[&str]) -> Result<Reply> {
        let words = Vec::from_iter(words.iter().map(|word| word.as_bytes().to_vec()));
        self.send(&resp::command(&words)).await
    }

    async fn send(&mut self, command: &[u8]) -> Result<Reply> {
        self.stream.write_all(command).await?;
        loop {
            match resp::read(&self.read) {
                Ok(Some((reply, length))) => {
                    self.read.drain(..length);
                    return Ok(reply);
                }
                Ok(None) => ensure!(self.stream.read_buf(&mut self.read).await? > 0, "it ended"),
                Err(_) => bail!("no answer: {:?}", self.read),
            }
        }
    }

    /// Asks as a sidecar does, at a time in microseconds.
    async fn ask(&mut self, ask: &Ask, now: u64) -> Result<Found> {
        self.run(&["SET", "now", &now.to_string()]).await?;
        let asks = std::slice::from_ref(ask);
        let command = String::from_utf8(shared::asks(asks))?;
        let command = command.replace(shared::SCRIPT.sha(), &self.sha);
        let reply = self.send(command.as_bytes()).await?;
        let found = shared::found(asks, &reply);
        let found = found.with_context(|| format!("{reply:?}"))?;
        Ok(found[0])
    }

    /// How many of so many pass.
    async fn pass(&mut self, rate: Rate, count: usize, now: u64) -> Result<usize> {
        let mut passed = 0;
        for _ in 0..count {
            let found = self.ask(&ask(rate, Wish::default()), now).await?;
            passed += usize::from(found.passes.is_ok());
        }
        Ok(passed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn ask(rate: Rate, wish: Wish) -> Ask {
    Ask {
        key: "limit".to_owned(),
        rate,
        window: None,
        cost: 1,
        shadow: false,
        edition: rate,
        lease: wish.lease,
        back: wish.back,
        since: wish.since,
    }
}

/// So many in so many microseconds.
fn rate(requests: u32, per: u64, burst: u32) -> Rate {
    Rate {
        requests,
        per: per * 1_000,
        burst,
    }
}

/// A replica that uses leases; its clock runs as the store's does.
struct Replica {
    leases: Leases,
    key: Key,
    asked: usize,
}

impl Replica {
    fn new() -> Self {
        Self {
            leases: Leases::default(),
            key: Buckets::default().key(b"a"),
            asked: 0,
        }
    }

    async fn passes(&mut self, store: &mut Store, rate: Rate, now: u64) -> Result<bool> {
        let nanos = now * 1_000;
        if self.leases.take(self.key, 1, nanos).is_some() {
            return Ok(true);
        }
        self.asked += 1;
        let wish = self.leases.wish(self.key, 1, shared::lease(rate), nanos);
        let found = store.ask(&ask(rate, wish), now).await?;
        if wish.lease > 0 {
            let given = (found.passes.ok(), found.at);
            self.leases.give(self.key, found.lease, given, nanos);
        }
        Ok(found.passes.is_ok())
    }
}

#[tokio::test]
async fn what_is_not_used_of_leases_is_not_lost_however_long_it_goes_on() -> Result<()> {
    let mut store = Store::start().await?;
    let rate = rate(50, SECOND, 320);
    let lease = shared::lease(rate) as usize;
    let mut replicas = [
        Replica::new(),
        Replica::new(),
        Replica::new(),
        Replica::new(),
    ];
    // 45 of 50 a second, unevenly: now one has much to do, now another. What each leaves of its
    // lease would fill half of the burst within seconds.
    let (mut calls, mut last) = (0, 0);
    for millis in 0..40_000_u64 {
        let (now, second) = (DAY + millis * 1_000, millis / 1_000);
        let busy = (second % 4) as usize;
        if millis % 30 == 0 {
            ensure!(
                replicas[busy].passes(&mut store, rate, now).await?,
                "{millis}"
            );
            calls += 1;
        }
        if millis % 200 == 100 {
            let calm = (busy + 1 + (millis / 200 % 3) as usize) % 4;
            ensure!(
                replicas[calm].passes(&mut store, rate, now).await?,
                "{millis}"
            );
            calls += 1;
        }
        last = now;
    }
    let asked: usize = replicas.iter().map(|one| one.asked).sum();
    assert!(asked * 2 < calls, "{asked} of {calls} were asked for");
    // Nothing of the burst is gone but a lease for each replica at most.
    let passed = store.pass(rate, 320, last).await?;
    assert!(passed + 4 * lease >= 320 - 45, "{passed} of 320 at once");
    let found = store.ask(&ask(rate, Wish::default()), last).await?;
    assert!(found.passes.is_err(), "and no more");
    Ok(())
}

#[tokio::test]
async fn whatever_is_given_back_no_more_passes_than_is_promised_and_the_leases() -> Result<()> {
    let mut store = Store::start().await?;
    let rate = rate(50, SECOND, 320);
    let lease = shared::lease(rate);
    for seed in 0..12_u64 {
        store.run(&["DEL", "limit"]).await?;
        let mut replicas = [Replica::new(), Replica::new(), Replica::new()];
        let mut random = 0x9E37_79B9_97F4_A7C1_u64.wrapping_mul(seed + 1);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut now = DAY;
        let mut passed: Vec<u64> = Vec::new();
        while passed.len() < 600 {
            // Bursts, calm and silence.
            now += match next(40) {
                0 => next(3_000) * 1_000,
                1..10 => next(100) * 1_000,
                _ => next(5) * 1_000,
            };
            let replica = &mut replicas[next(3) as usize];
            if replica.passes(&mut store, rate, now).await? {
                passed.push(now);
            }
        }
        for (place, from) in passed.iter().enumerate() {
            for (before, until) in passed[place..].iter().enumerate() {
                let most = 320 + (until - from) * 50 / SECOND + 3 * lease;
                let count = before as u64 + 1;
                assert!(count <= most, "{count} of {most} from {from} to {until}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_has_drained_of_leases_is_not_given_back() -> Result<()> {
    let mut store = Store::start().await?;
    let rate = rate(50, SECOND, 320);
    let wish = |lease, back, since| Wish { lease, back, since };
    for _ in 0..4 {
        assert_eq!(store.ask(&ask(rate, wish(20, 0, 0)), DAY).await?.lease, 20);
    }
    // 84 are used, of which none is two seconds later: all of the burst passes.
    let later = DAY + 2 * SECOND - 1;
    assert_eq!(store.pass(rate, 330, later).await?, 320);
    for _ in 0..4 {
        let found = store.ask(&ask(rate, wish(0, 20, DAY)), later).await?;
        assert!(found.passes.is_err());
    }
    // What has not drained goes back at once, even with what is refused.
    store.run(&["DEL", "limit"]).await?;
    assert_eq!(store.pass(rate, 320, DAY - 5 * SECOND).await?, 320);
    assert_eq!(store.ask(&ask(rate, wish(20, 0, 0)), DAY).await?.lease, 20);
    assert_eq!(store.pass(rate, 330, DAY).await?, 229);
    let all = Ask {
        cost: 30,
        ..ask(rate, wish(0, 20, DAY))
    };
    assert!(store.ask(&all, DAY).await?.passes.is_err());
    assert_eq!(store.pass(rate, 30, DAY).await?, 20);
    Ok(())
}

#[tokio::test]
async fn an_edit_leaves_as_large_a_part_of_a_shared_burst_used() -> Result<()> {
    let mut store = Store::start().await?;
    let (day, minute) = (rate(100, DAY, 100), rate(100, 60 * SECOND, 100));
    assert_eq!(store.pass(day, 101, DAY).await?, 100);
    // Used up, and a minute later nothing is used.
    assert_eq!(store.pass(minute, 1, DAY).await?, 0);
    assert_eq!(store.pass(minute, 60, DAY + 30 * SECOND).await?, 50);
    let now = DAY + 100 * SECOND;
    assert_eq!(store.pass(minute, 101, now).await?, 100);
    // And the other way round it takes a day, not a minute.
    assert_eq!(store.pass(day, 1, now).await?, 0);
    assert_eq!(store.pass(day, 10, now + 120 * SECOND).await?, 0);
    assert_eq!(store.pass(day, 100, now + DAY / 2).await?, 50);
    let wide = rate(100, DAY, 400);
    assert_eq!(store.pass(wide, 10, now + DAY / 2).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_clock_that_goes_back_is_not_waited_for() -> Result<()> {
    let mut store = Store::start().await?;
    let rate = rate(10, SECOND, 10);
    assert_eq!(store.pass(rate, 11, 2 * DAY).await?, 10);
    assert_eq!(store.pass(rate, 1, DAY).await?, 0);
    assert_eq!(store.pass(rate, 11, DAY + SECOND).await?, 10);
    Ok(())
}

/// Every month of a century and a third, as the script that the store runs has it.
#[tokio::test]
async fn months_begin_and_end_as_in_the_calendar() -> Result<()> {
    let mut store = Store::start().await?;
    let script = shared::SCRIPT.text();
    let from = script.find("local function month").context("month")?;
    let to = script.find("local function window").context("window")?;
    let asks = format!(
        "local now = tonumber(ARGV[1])\nlocal DAY = {DAY}\n{}\nlocal a, b = month()\nreturn {{a, b}}",
        &script[from..to]
    );
    let mut begin = 0;
    for year in 1970..2104_i64 {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            let end = begin + days * i64::try_from(DAY)?;
            for now in [begin, end - 1] {
                let reply = store.run(&["EVAL", &asks, "0", &now.to_string()]).await?;
                let month = Reply::Array(vec![Reply::Integer(begin), Reply::Integer(end)]);
                assert_eq!(reply, month, "{year}: {now}");
            }
            begin = end;
        }
    }
    Ok(())
}
