//! What was measured, for people and for machines.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde_json::{Value, json};

use crate::envoy;
use crate::measure::{Cpus, Sample, spread};
use crate::subject::{HOP_RATE, PAIR_RATE, Subject, Way};

/// Where and with what it was measured.
pub(crate) struct Environment {
    cpu: String,
    cores: usize,
    kernel: String,
    /// Runnable threads in the minute before: above 1 somebody else was at work.
    load: String,
    places: String,
}

/// Everything.
pub(crate) struct Report {
    pub(crate) environment: Environment,
    pub(crate) subjects: Vec<Subject>,
    /// Resident memory of a sidecar without any configuration, KiB.
    pub(crate) empty_kib: u64,
    pub(crate) repetitions: usize,
}

/// How calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Saturated,
    Paced,
}

/// One line of the table. Every figure but the CPU's spread is a median; ratios and added
/// latencies are medians of what each repetition gave.
struct Row<'a> {
    subject: &'a Subject,
    load: Load,
    cpu_us: (f64, f64, f64),
    to_relay: Option<f64>,
    to_envoy: Option<f64>,
    busy: f64,
    rate: f64,
    /// Over a direct call at the same rate; of paced calls only.
    added_us: Option<(f64, f64)>,
}

// === impl Environment ===

impl Environment {
    /// Of this machine, now.
    pub(crate) fn read(cpus: &Cpus) -> Result<Self> {
        let field = |text: &str| text.split(':').nth(1).unwrap_or_default().trim().to_owned();
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name"));
        Ok(Self {
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), field),
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            load: load_now(),
            places: cpus.describe(),
        })
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let Self {
            cpu,
            cores,
            kernel,
            load,
            places,
        } = self;
        format!(
            "{cores} cores ({cpu}), Linux {kernel}, load {load} before and {} now; {places}; \
             Meshwright {}",
            load_now(),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// The load average of the last minute.
fn load_now() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

// === impl Load ===

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Saturated => "saturated",
            Self::Paced => "paced",
        }
    }

    fn of(self, subject: &Subject) -> &[Sample] {
        match self {
            Self::Saturated => &subject.saturated,
            Self::Paced => &subject.paced,
        }
    }
}

// === impl Report ===

impl Report {
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let each = [(Way::Hop, Load::Saturated), (Way::Hop, Load::Paced)];
        let each = each
            .into_iter()
            .chain([(Way::Pair, Load::Saturated), (Way::Pair, Load::Paced)]);
        each.flat_map(move |(way, load)| {
            let subjects = self
                .subjects
                .iter()
                .filter(move |subject| subject.way == way);
            subjects.map(move |subject| self.row(subject, load))
        })
    }

    fn row<'a>(&'a self, subject: &'a Subject, load: Load) -> Row<'a> {
        let samples = load.of(subject);
        let median = |of: fn(&Sample) -> f64| spread(samples.iter().map(of)).0;
        let ratio = |name: &str, way: Way| {
            let other = self.subject(name, way)?;
            let pairs = samples.iter().zip(load.of(other));
            let ratios = pairs.map(|(sample, other)| sample.cpu_us / other.cpu_us);
            Some(spread(ratios).0)
        };
        let added = |of: fn(&Sample) -> f64| {
            let direct = self.subject("direct", Way::Direct)?;
            let direct = match (load, subject.way) {
                (Load::Saturated, _) => return None,
                (Load::Paced, Way::Pair) => &direct.paced_as_pair,
                (Load::Paced, _) => &direct.paced,
            };
            let pairs = samples.iter().zip(direct);
            Some(spread(pairs.map(|(sample, direct)| of(sample) - of(direct))).0)
        };
        Row {
            subject,
            load,
            cpu_us: spread(samples.iter().map(|sample| sample.cpu_us)),
            // The relay's paced figure is at the hop's rate, and nothing at the pair's.
            to_relay: ratio("TCP relay", Way::Hop)
                .filter(|_| load == Load::Saturated || subject.way == Way::Hop),
            to_envoy: ratio("Envoy", subject.way),
            busy: median(|sample| sample.busy),
            rate: median(|sample| sample.rate),
            added_us: added(|sample| sample.p50_us).zip(added(|sample| sample.p99_us)),
        }
    }

    fn environment(&self) -> String {
        let line = self.environment.line();
        match self.subject("Envoy", Way::Hop) {
            Some(_) => format!("{line}, Envoy {}", envoy::VERSION),
            None => line,
        }
    }

    fn subject(&self, name: &str, way: Way) -> Option<&Subject> {
        let mut subjects = self.subjects.iter();
        subjects.find(|subject| (subject.name, subject.way) == (name, way))
    }

    /// Without any proxy: calls a second when saturated, and p50 and p99 in microseconds at the
    /// rates of a hop and of a pair.
    fn direct(&self) -> Option<(f64, [(f64, f64); 2])> {
        let direct = self.subject("direct", Way::Direct)?;
        let median = |samples: &[Sample], of: fn(&Sample) -> f64| spread(samples.iter().map(of)).0;
        let latency = |samples: &[Sample]| {
            let p50 = median(samples, |sample| sample.p50_us);
            (p50, median(samples, |sample| sample.p99_us))
        };
        let rate = median(&direct.saturated, |sample| sample.rate);
        Some((
            rate,
            [latency(&direct.paced), latency(&direct.paced_as_pair)],
        ))
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}\nmedians of {} interleaved repetitions; paced: hop {HOP_RATE} calls/s, pair \
             {PAIR_RATE} calls/s; latency is what is added to a direct call\n",
            self.environment(),
            self.repetitions,
        );
        if let Some((rate, [(p50, p99), (pair_p50, pair_p99)])) = self.direct() {
            let _ = writeln!(
                text,
                "without a proxy: {rate:.0} calls/s; p50/p99 {p50:.0} / {p99:.0} us at {HOP_RATE} \
                 calls/s, {pair_p50:.0} / {pair_p99:.0} us at {PAIR_RATE}\n"
            );
        }
        // Writing into a String does not fail, here and below.
        let mut line = |cells: [&str; 9]| {
            let [way, load, proxy, cpu, relay, envoy, busy, rate, latency] = cells;
            let _ = writeln!(
                text,
                "{way:<5} {load:<10} {proxy:<11} {cpu:>24} {relay:>8} {envoy:>8} {busy:>5} \
                 {rate:>8} {latency:>17}"
            );
        };
        line([
            "call",
            "load",
            "proxy",
            "CPU us/call (min..max)",
            "x relay",
            "x Envoy",
            "busy",
            "calls/s",
            "added p50/p99 us",
        ]);
        let ratio = |of: Option<f64>| of.map_or("-".to_owned(), |of| format!("{of:.2}"));
        for row in self.rows() {
            let (median, least, greatest) = row.cpu_us;
            line([
                row.subject.way.name(),
                row.load.name(),
                row.subject.name,
                &format!("{median:.1} ({least:.1}..{greatest:.1})"),
                &ratio(row.to_relay),
                &ratio(row.to_envoy),
                &format!("{:.0} %", row.busy * 100.0),
                &format!("{:.0}", row.rate),
                &row.added_us
                    .map_or("-".to_owned(), |(p50, p99)| format!("{p50:.0} / {p99:.0}")),
            ]);
        }
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let _ = writeln!(
            text,
            "\n{:<5} {:<11} {:>16} {:>15}",
            "call", "proxy", "RSS idle, MiB", "after load"
        );
        for subject in self
            .subjects
            .iter()
            .filter(|subject| subject.way != Way::Direct)
        {
            let (idle, loaded) = (mib(subject.idle_kib), mib(subject.loaded_kib));
            let way = subject.way.name();
            let _ = writeln!(
                text,
                "{way:<5} {:<11} {idle:>16} {loaded:>15}",
                subject.name
            );
        }
        let empty = mib(self.empty_kib);
        let _ = writeln!(
            text,
            "{:<5} {:<11} {empty:>16} {:>15}",
            "none", "Meshwright", "-"
        );
        text
    }

    /// For machines: what the table says, with every sample.
    pub(crate) fn json(&self) -> Value {
        let samples = |samples: &[Sample]| -> Vec<Value> {
            let each = samples.iter().map(|sample| {
                json!({
                    "cpu_us": sample.cpu_us, "busy": sample.busy, "calls_per_second": sample.rate,
                    "p50_us": sample.p50_us, "p99_us": sample.p99_us,
                })
            });
            each.collect()
        };
        let rows = self.rows().map(|row| {
            json!({
                "call": row.subject.way.name(),
                "load": row.load.name(),
                "proxy": row.subject.name,
                "cpu_us": { "median": row.cpu_us.0, "min": row.cpu_us.1, "max": row.cpu_us.2 },
                "to_relay": row.to_relay,
                "to_envoy": row.to_envoy,
                "busy": row.busy,
                "calls_per_second": row.rate,
                "added_p50_us": row.added_us.map(|(p50, _)| p50),
                "added_p99_us": row.added_us.map(|(_, p99)| p99),
                "samples": samples(row.load.of(row.subject)),
            })
        });
        let memory = self
            .subjects
            .iter()
            .filter(|subject| subject.way != Way::Direct);
        let memory = memory.map(|subject| {
            json!({
                "call": subject.way.name(),
                "proxy": subject.name,
                "idle_kib": subject.idle_kib,
                "loaded_kib": subject.loaded_kib,
            })
        });
        json!({
            "environment": self.environment(),
            "repetitions": self.repetitions,
            "hop_rate": HOP_RATE,
            "pair_rate": PAIR_RATE,
            "direct": self.direct().map(|(rate, [hop, pair])| json!({
                "calls_per_second": rate,
                "at_hop_rate": { "p50_us": hop.0, "p99_us": hop.1 },
                "at_pair_rate": { "p50_us": pair.0, "p99_us": pair.1 },
            })),
            "figures": rows.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(),
            "empty_sidecar_kib": self.empty_kib,
        })
    }
}
