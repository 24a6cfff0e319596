//! What is measured: a proxy, and the way that calls take through it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use crate::load::{self, Client};
use crate::measure::{self, Sample, Watched};
use crate::{Plan, mesh};

/// Calls to the hop a second when paced: a busy service, far from saturating any of the proxies.
pub(crate) const HOP_RATE: u32 = 10_000;
/// Calls to the pair a second when paced: what the slowest pair carries without queueing.
pub(crate) const PAIR_RATE: u32 = 3_900;

/// Which way a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the upstream itself: what the latency of the others is compared with.
    Direct,
    /// Through one proxy.
    Hop,
    /// Through two, with mutual TLS between them.
    Pair,
}

/// Something that is measured.
pub(crate) struct Subject {
    /// The proxy's, in the table.
    pub(crate) name: &'static str,
    /// Which way its calls take.
    pub(crate) way: Way,
    /// Where calls go in.
    pub(crate) address: SocketAddr,
    /// Whose CPU time counts.
    pub(crate) processes: Vec<Watched>,
    /// Resident memory before the first call, KiB, all processes together.
    pub(crate) idle_kib: u64,
    /// Resident memory after the last call, KiB.
    pub(crate) loaded_kib: u64,
    /// One for each repetition, as all of these.
    pub(crate) saturated: Vec<Sample>,
    /// At [`HOP_RATE`], or [`PAIR_RATE`] for a pair.
    pub(crate) paced: Vec<Sample>,
    /// Only of [`Way::Direct`]: at [`PAIR_RATE`].
    pub(crate) paced_as_pair: Vec<Sample>,
}

// === impl Way ===

impl Way {
    /// For the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hop => "hop",
            Self::Pair => "pair",
        }
    }
}

// === impl Subject ===

impl Subject {
    /// Not measured yet.
    pub(crate) fn new(
        name: &'static str,
        way: Way,
        address: SocketAddr,
        processes: Vec<Watched>,
    ) -> Self {
        Self {
            name,
            way,
            address,
            processes,
            idle_kib: 0,
            loaded_kib: 0,
            saturated: Vec::new(),
            paced: Vec::new(),
            paced_as_pair: Vec::new(),
        }
    }

    /// What the `Host` header says. Only the mesh selects by it; the others are sent the same.
    pub(crate) fn host(&self) -> &'static str {
        match self.way {
            Way::Pair => mesh::MESHED,
            Way::Direct | Way::Hop => mesh::PLAIN,
        }
    }

    /// Paced calls a second.
    pub(crate) fn rate(&self) -> u32 {
        match self.way {
            Way::Pair => PAIR_RATE,
            Way::Direct | Way::Hop => HOP_RATE,
        }
    }

    /// Resident memory of all its processes.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        self.processes.iter().map(Watched::resident_kib).sum()
    }

    /// One repetition: saturated, then paced.
    pub(crate) async fn measure(&mut self, plan: &Plan) -> Result<()> {
        let context = || format!("{} ({:?})", self.name, self.way);
        let client = Client::open(self.address, self.host(), load::CONNECTIONS);
        let mut client = client.await.with_context(context)?;
        // Pools and caches fill before anything is counted.
        client
            .saturate(plan.calls / 10)
            .await
            .with_context(context)?;
        let saturated = measure::during(&self.processes, client.saturate(plan.calls)).await;
        let saturated = saturated.with_context(context)?;
        let paced = client.pace(self.rate(), plan.paced);
        let paced = measure::during(&self.processes, paced).await;
        let paced = paced.with_context(context)?;
        if self.way == Way::Direct {
            let paced = measure::during(&self.processes, client.pace(PAIR_RATE, plan.paced)).await;
            self.paced_as_pair.push(paced?);
        }
        self.saturated.push(saturated);
        self.paced.push(paced);
        Ok(())
    }
}
