//! CPU time, memory and places of processes, as the kernel counts them.

use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The two CPUs that a measurement uses, or none when there is only one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus(Option<(usize, usize)>);

/// A process whose CPU time and memory are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched(pub(crate) u32);

/// What a load did, as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// Calls that were answered with 200; there are no others.
    pub(crate) calls: u32,
    /// From the first call to the last answer.
    pub(crate) took: Duration,
    /// Latencies in nanoseconds, sorted.
    pub(crate) latencies: Vec<u64>,
}

/// One measurement of one subject.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// CPU time of all its processes (user and system), microseconds for each call.
    pub(crate) cpu_us: f64,
    /// The share of one CPU that they used, 0 to 1.
    pub(crate) busy: f64,
    /// Calls answered in a second.
    pub(crate) rate: f64,
    /// Latency, microseconds.
    pub(crate) p50_us: f64,
    /// Latency, microseconds.
    pub(crate) p99_us: f64,
}

// === impl Cpus ===

impl Cpus {
    /// The first two that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::this()).context("the CPUs of this process")?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        Ok(Self(usable.next().zip(usable.next())))
    }

    /// For the calling thread and what it starts: client and upstream.
    pub(crate) fn pin_to_peers(&self) -> Result<()> {
        self.0.map_or(Ok(()), |(peers, _)| pin(peers))
    }

    /// For the calling thread and what it starts: the proxies.
    pub(crate) fn pin_to_proxies(&self) -> Result<()> {
        self.0.map_or(Ok(()), |(_, proxies)| pin(proxies))
    }

    /// For the report.
    pub(crate) fn describe(&self) -> String {
        match self.0 {
            Some((peers, proxies)) => {
                format!("client and upstream on CPU {peers}, proxies on CPU {proxies}")
            }
            None => "everything on one CPU: proxies wait for client and upstream".to_owned(),
        }
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot move to CPU {cpu}"))
}

// === impl Watched ===

impl Watched {
    /// The process that was started with this argument.
    pub(crate) fn find(argument: &str) -> Result<Self> {
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            if line
                .split(|byte| *byte == 0)
                .any(|one| one == argument.as_bytes())
            {
                return Ok(Self(process));
            }
        }
        bail!("no process was started with {argument}")
    }

    /// The CPU time of its threads, nanoseconds. `/proc/PID/stat` counts the same in ticks of
    /// 10 ms, too coarse for a short measurement.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).context("a proxy ended")? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} (CONFIG_SCHED_INFO of the kernel)", path.display()))?;
            let nanoseconds = text
                .split(' ')
                .next()
                .and_then(|field| field.parse::<u64>().ok());
            sum += nanoseconds.with_context(|| format!("{}: {text}", path.display()))?;
        }
        Ok(sum)
    }

    /// Resident memory, KiB, pages of the binary included.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("{path} has no VmRSS"))
    }
}

/// Runs a load, and charges what `processes` used meanwhile to its calls.
pub(crate) async fn during(
    processes: &[Watched],
    load: impl Future<Output = Result<Done>>,
) -> Result<Sample> {
    let used = || processes.iter().map(Watched::cpu_ns).sum::<Result<u64>>();
    let before = used()?;
    let done = load.await?;
    let nanoseconds = used()?.saturating_sub(before) as f64;
    let calls = f64::from(done.calls);
    Ok(Sample {
        cpu_us: nanoseconds / 1e3 / calls,
        busy: nanoseconds / 1e9 / done.took.as_secs_f64(),
        rate: calls / done.took.as_secs_f64(),
        p50_us: done.percentile_us(50),
        p99_us: done.percentile_us(99),
    })
}

// === impl Done ===

impl Done {
    /// Of calls with these latencies since `start`.
    pub(crate) fn new(start: Instant, mut latencies: Vec<u64>) -> Result<Self> {
        let calls = u32::try_from(latencies.len())?;
        if calls == 0 {
            bail!("nothing was called");
        }
        latencies.sort_unstable();
        Ok(Self {
            calls,
            took: start.elapsed(),
            latencies,
        })
    }

    fn percentile_us(&self, percent: usize) -> f64 {
        let place = (self.latencies.len() * percent / 100).min(self.latencies.len() - 1);
        self.latencies[place] as f64 / 1e3
    }
}

/// The median of `values`, and the least and the greatest of them; zeros when there are none.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (values.first(), values.last()) else {
        return (0.0, 0.0, 0.0);
    };
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    };
    (median, *least, *greatest)
}
