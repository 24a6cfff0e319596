//! What is counted of each request: shared series, and each worker's handles to those it has used.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;

use super::Metrics;
use super::labels::{Direction, DirectionLabels, FlowLabels, RequestLabels, Source};
use super::series::{Bounded, Series};
use crate::identity::SpiffeId;

/// Series of requests that one process has, before callers become `other`.
pub(super) const MAX_REQUEST_SERIES: usize = 2000;

/// The same of durations and bytes: each is a histogram, 17 lines of a scrape.
pub(super) const MAX_FLOW_SERIES: usize = 500;

/// Upper bounds of the duration buckets, seconds: half a millisecond to a minute.
const DURATION_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0,
];

/// Everything that is counted of requests. Shared by all workers.
#[derive(Debug)]
pub struct Requests {
    counts: Bounded<RequestLabels, Counter>,
    flows: Bounded<FlowLabels, Flow>,
    in_flight: Mutex<Vec<Arc<InFlight>>>,
    overflow: Counter,
}

/// How long requests took, and the bytes of their bodies.
#[derive(Debug)]
struct Flow {
    seconds: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
}

/// What is observed of one request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// From its head to its response's last byte.
    pub duration: Duration,
    /// Of its body.
    pub request_bytes: u64,
    /// Of its response's body.
    pub response_bytes: u64,
}

/// Renders [`Requests`].
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Requests>);

/// A worker's handles to the series that it has used. Not shared between threads.
#[derive(Debug)]
pub struct RequestMetrics {
    metrics: Arc<Metrics>,
    used: RefCell<HashMap<RequestLabels, Handles>>,
    in_flight: Arc<InFlight>,
    own: RefCell<Source>,
}

#[derive(Debug)]
struct Handles {
    count: Arc<Series<Counter>>,
    flow: Arc<Series<Flow>>,
}

/// One worker's requests in flight, which it alone changes.
#[derive(Debug, Default)]
struct InFlight {
    outbound: AtomicI64,
    inbound: AtomicI64,
}

// === impl Requests ===

impl Requests {
    /// Without any series yet; what counts as `other` is counted in `overflow`.
    pub fn new(overflow: Counter) -> Self {
        Self {
            counts: Bounded::new(MAX_REQUEST_SERIES, Counter::default),
            flows: Bounded::new(MAX_FLOW_SERIES, Flow::default),
            in_flight: Mutex::default(),
            overflow,
        }
    }

    /// Drops what has been idle.
    pub fn sweep(&self) {
        let now = tokio::time::Instant::now();
        self.counts.sweep(now);
        self.flows.sweep(now);
    }

    /// Every series, and how many requests it has counted.
    pub fn counted(&self) -> impl Iterator<Item = (RequestLabels, u64)> {
        let all = self.counts.all().into_iter();
        all.map(|(labels, series)| (labels, series.metric.get()))
    }

    /// Requests that have not ended yet.
    pub fn in_flight(&self, direction: Direction) -> i64 {
        let workers = self.in_flight.lock();
        let workers = workers.unwrap_or_else(PoisonError::into_inner);
        let counts = workers.iter().map(|worker| worker.of(direction));
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Requests that have not ended yet.";
        let mut family =
            encoder.encode_descriptor("requests_in_flight", help, None, MetricType::Gauge)?;
        for direction in [Direction::outbound, Direction::inbound] {
            let count = ConstGauge::new(self.0.in_flight(direction));
            count.encode(family.encode_family(&DirectionLabels { direction })?)?;
        }
        let counts = self.0.counts.all();
        if !counts.is_empty() {
            let help = "Requests, counted when their response has ended.";
            let mut family =
                encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
            for (labels, series) in &counts {
                series.metric.encode(family.encode_family(labels)?)?;
            }
        }
        let flows = self.0.flows.all();
        if flows.is_empty() {
            return Ok(());
        }
        let help = "From a request's head to its response's last byte.";
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor("request_duration_seconds", help, None, kind)?;
        for (labels, series) in &flows {
            let seconds = &series.metric.seconds;
            seconds.encode(family.encode_family(labels)?)?;
        }
        let request: fn(&Flow) -> &Counter = |flow| &flow.request_bytes;
        let response: fn(&Flow) -> &Counter = |flow| &flow.response_bytes;
        for (name, help, of) in [
            ("request_body_bytes", "Bytes of requests' bodies.", request),
            (
                "response_body_bytes",
                "Bytes of responses' bodies.",
                response,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &flows {
                let bytes = ConstCounter::new(of(&series.metric).get());
                bytes.encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

// === impl Flow ===

impl Default for Flow {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(DURATION_BUCKETS),
            request_bytes: Counter::default(),
            response_bytes: Counter::default(),
        }
    }
}

impl Flow {
    fn add(&self, ended: Ended) {
        self.seconds.observe(ended.duration.as_secs_f64());
        // Most requests have no body.
        if ended.request_bytes > 0 {
            self.request_bytes.inc_by(ended.request_bytes);
        }
        if ended.response_bytes > 0 {
            self.response_bytes.inc_by(ended.response_bytes);
        }
    }
}

// === impl InFlight ===

impl InFlight {
    fn of(&self, direction: Direction) -> &AtomicI64 {
        match direction {
            Direction::outbound => &self.outbound,
            Direction::inbound => &self.inbound,
        }
    }
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// A worker's own view.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let in_flight = Arc::new(InFlight::default());
        let workers = metrics.requests.in_flight.lock();
        let mut workers = workers.unwrap_or_else(PoisonError::into_inner);
        workers.push(in_flight.clone());
        drop(workers);
        Self {
            metrics,
            used: RefCell::default(),
            in_flight,
            own: RefCell::default(),
        }
    }

    /// The shared series.
    pub fn all(&self) -> &Metrics {
        &self.metrics
    }

    /// Says whose calls outbound requests are.
    pub fn belong_to(&self, own: SpiffeId) {
        *self.own.borrow_mut() = Source::Workload(own);
    }

    /// The own workload, as the source of its calls.
    pub fn own(&self) -> Source {
        self.own.borrow().clone()
    }

    /// A request is in flight from now on.
    pub fn begun(&self, direction: Direction) {
        self.in_flight.of(direction).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was in flight.
    pub fn ended(&self, labels: RequestLabels, ended: Ended) {
        let in_flight = self.in_flight.of(labels.direction);
        in_flight.fetch_sub(1, Ordering::Relaxed);
        let one = |count: &Counter| {
            count.inc();
        };
        let add = |flow: &Flow| flow.add(ended);
        let (counted, added) = match self.used.borrow().get(&labels) {
            Some(used) => (used.count.count(one), used.flow.count(add)),
            None => (false, false),
        };
        if counted && added {
            return;
        }
        let requests = &self.metrics.requests;
        let (count, own_count) = requests.counts.find(&labels);
        let (flow, own_flow) = requests.flows.find(&labels.flow());
        if !counted {
            count.count(one);
        }
        if !added {
            flow.count(add);
        }
        if own_count && own_flow {
            let mut used = self.used.borrow_mut();
            used.retain(|_, used| !used.count.is_dropped() && !used.flow.is_dropped());
            used.insert(labels, Handles { count, flow });
        } else {
            // Looked up every time: there may be room again.
            requests.overflow.inc();
        }
    }
}

#[cfg(test)]
#[path = "requests/tests.rs"]
mod tests;
