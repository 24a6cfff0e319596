//! What holds for attempts at one Service, whichever rule sends there.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::State;
use crate::config::service::ServiceKey;
use crate::policy::budget::{Allowance, Budget};
use crate::policy::retry::Retries;
use crate::proxy::body::replay::Kept;
use crate::proxy::upstream::Dial;
use crate::telemetry::metrics::RequestMetrics;

/// What holds for attempts at one Service.
pub struct Terms {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// How many retries are left, of all workers and rules together.
    pub budget: Arc<Budget>,
    /// How many are allowed.
    pub allowance: Allowance,
    /// When requests are sent again, if the Service has a policy.
    pub retries: Option<Arc<Retries>>,
    /// How much the worker keeps of bodies.
    pub kept: Kept,
    /// Where attempts are counted.
    pub metrics: Rc<RequestMetrics>,
}

impl Terms {
    pub(super) fn of(state: &State, service: &ServiceKey, dial: &Dial) -> Rc<Self> {
        let written = state.policies.destination(service);
        let allowance = written.and_then(|written| written.budget);
        let allowance = allowance.unwrap_or_default();
        Rc::new(Self {
            service: service.text().clone(),
            budget: dial.budgets.of(service, allowance),
            allowance,
            retries: state.policies.of_service(service).cloned(),
            kept: dial.kept.clone(),
            metrics: dial.metrics.clone(),
        })
    }
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Terms").field(&self.service).finish()
    }
}
