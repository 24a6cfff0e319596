//! What one pod's sidecar is like: as for all, but for what the pod says of its own.

use std::collections::BTreeMap;

use compiler::pod_settings::{
    CPU_LIMIT, CPU_REQUEST, MEMORY_LIMIT, MEMORY_REQUEST, PodSettings, Quantity,
};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::{Config, Refusal};

/// What a pod's own sidecar is to be like.
pub(super) struct Own {
    /// Of both containers.
    pub(super) resources: ResourceRequirements,
    /// What it logs.
    pub(super) log: String,
    /// What its redirect leaves alone, and how many threads it has.
    pub(super) settings: PodSettings,
    /// What it asks its application for the kubelet.
    pub(super) probes: Option<String>,
}

// === impl Own ===

impl Own {
    /// What the pod says, else what holds for all.
    ///
    /// # Errors
    /// When the two contradict each other.
    pub(super) fn of(
        settings: PodSettings,
        probes: Option<String>,
        config: &Config,
    ) -> Result<Self, Refusal> {
        let all = &config.sidecar;
        let mut resources = all.sidecar_resources.clone();
        let mut set = |name: &str, request: &Option<Quantity>, limit: &Option<Quantity>| {
            put(&mut resources.requests, name, request);
            put(&mut resources.limits, name, limit);
        };
        set("cpu", &settings.cpu_request, &settings.cpu_limit);
        set("memory", &settings.memory_request, &settings.memory_limit);
        fits(
            &resources,
            "cpu",
            [CPU_REQUEST, CPU_LIMIT],
            settings.cpu_request.is_some(),
        )?;
        let said = settings.memory_request.is_some();
        fits(&resources, "memory", [MEMORY_REQUEST, MEMORY_LIMIT], said)?;
        let log = settings.log.clone();
        Ok(Self {
            resources,
            log: log.unwrap_or_else(|| all.sidecar_log.clone()),
            settings,
            probes,
        })
    }
}

fn put(all: &mut Option<BTreeMap<String, Written>>, name: &str, said: &Option<Quantity>) {
    if let Some(said) = said {
        let all = all.get_or_insert_default();
        all.insert(name.to_owned(), Written(said.text.clone()));
    }
}

/// Whether what is asked for is no more than what is the most: the API server would refuse the pod for
/// it, in words that name neither annotation.
fn fits(
    resources: &ResourceRequirements,
    name: &str,
    [request, limit]: [&str; 2],
    request_was_said: bool,
) -> Result<(), Refusal> {
    let amount = |all: &Option<BTreeMap<String, Written>>| {
        let written = all.as_ref()?.get(name)?;
        Quantity::read(&written.0)
    };
    let (Some(least), Some(most)) = (amount(&resources.requests), amount(&resources.limits)) else {
        return Ok(());
    };
    if least.milli <= most.milli {
        return Ok(());
    }
    let (annotation, other) = match request_was_said {
        true => (request, limit),
        false => (limit, request),
    };
    Err(Refusal::Setting {
        annotation: annotation.to_owned(),
        why: format!(
            "makes the sidecar's request of {} more than its limit of {}: write {other} as well",
            least.text, most.text
        ),
    })
}
