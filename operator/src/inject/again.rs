//! A pod that was injected before: by this webhook, to which the API server comes back when another
//! has changed the pod since, or by `meshwright inject`, perhaps of an older version.
//!
//! What was put in stays. What others have added is looked at as in a new pod.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::json;
use wire::probe::Probes;

use super::patch::Operations;
use super::{Config, INJECTED, REDIRECT, Refusal, SIDECAR, UID, probes};

const PROBES: &str = "MESHWRIGHT_PROBES";
const CAPTURED_BY: &str = "MESHWRIGHT_CAPTURED_BY";

/// What injection put into a pod before.
pub(super) struct Before<'a> {
    sidecar: &'a Container,
    /// How many init containers of its own come first: the sidecar is the last of them.
    pub(super) own: usize,
}

// === impl Before ===

impl<'a> Before<'a> {
    /// What is there; none in a pod that nobody has injected.
    ///
    /// # Errors
    /// When something passes for it that would capture nothing, or others come first.
    pub(super) fn of(
        pod: &Pod,
        spec: &'a PodSpec,
        config: &Config,
    ) -> Result<Option<Self>, Refusal> {
        let annotations = pod.metadata.annotations.as_ref();
        if !annotations.is_some_and(|all| all.contains_key(INJECTED)) {
            return Ok(None);
        }
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let Some(at) = init.iter().position(|one| one.name == SIDECAR) else {
            return Ok(None);
        };
        let (first, rest) = init.split_at(at);
        let Some(sidecar) = rest.first() else {
            return Ok(None);
        };
        if let Some(other) = first.iter().find(|one| one.name != REDIRECT) {
            return Err(Refusal::Before(other.name.clone()));
        }
        check_sidecar(sidecar, config)?;
        match (first, variable(sidecar, CAPTURED_BY)) {
            ([redirect], Some("init") | None) => check_redirect(redirect, config)?,
            ([], Some("cni")) => {}
            _ => return Err(foreign(SIDECAR, "who is to capture the pod is not said")),
        }
        Ok(Some(Self {
            sidecar,
            own: at + 1,
        }))
    }

    /// What the sidecar asks its application already.
    ///
    /// # Errors
    /// When it is not as injection writes it.
    pub(super) fn probes(&self, config: &Config) -> Result<Probes, Refusal> {
        match variable(self.sidecar, PROBES) {
            None => Ok(probes::none(config)),
            Some(text) => Probes::parse(text)
                .map_err(|why| foreign(SIDECAR, &format!("its {PROBES} can't be read: {why}"))),
        }
    }

    /// Tells the sidecar to ask this from now on.
    pub(super) fn ask(&self, probes: String, patch: &mut Operations) {
        let env = self.sidecar.env.as_deref().unwrap_or_default();
        let place = format!("/spec/initContainers/{}/env", self.own - 1);
        match env.iter().rposition(|one| one.name == PROBES) {
            Some(at) => patch.add(format!("{place}/{at}/value"), json!(probes)),
            None => patch.append(
                &place,
                self.sidecar.env.as_ref().map(Vec::len),
                &[json!({ "name": PROBES, "value": probes })],
            ),
        }
    }
}

/// Whether it does what a sidecar is there for. More may have been added to it, as to any container.
fn check_sidecar(sidecar: &Container, config: &Config) -> Result<(), Refusal> {
    check_image(sidecar, config)?;
    let user = sidecar.security_context.as_ref();
    let user = user.and_then(|context| context.run_as_user);
    let why = match sidecar.restart_policy.as_deref() {
        _ if user != Some(UID) => "it does not run as the sidecar's user",
        Some("Always") if sidecar.args.is_some() => "it has arguments",
        Some("Always") => return Ok(()),
        _ => "it does not stay (restartPolicy: Always)",
    };
    Err(foreign(SIDECAR, why))
}

fn check_redirect(redirect: &Container, config: &Config) -> Result<(), Refusal> {
    check_image(redirect, config)?;
    let args = redirect.args.as_deref().unwrap_or_default();
    let redirects = args.first().is_some_and(|first| first == "redirect");
    match redirects && !args.iter().any(|one| one == "--remove") {
        true => Ok(()),
        false => Err(foreign(REDIRECT, "its arguments redirect nothing")),
    }
}

/// Any version, and from whatever registry: there are webhooks that put a mirror's name into every pod,
/// and mirrors that make one word of a name.
fn check_image(container: &Container, config: &Config) -> Result<(), Refusal> {
    let image = container.image.as_deref().unwrap_or_default();
    let why = if container.command.is_some() {
        "it has a command of its own".to_owned()
    } else if !is_alike(repository(image), repository(&config.sidecar.sidecar_image)) {
        format!(
            "its image is none of the mesh's, such as {}",
            config.sidecar.sidecar_image
        )
    } else {
        return Ok(());
    };
    Err(foreign(&container.name, &why))
}

fn is_alike(one: &str, other: &str) -> bool {
    !one.is_empty() && (one.contains(other) || other.contains(one))
}

/// The last part of an image's name, without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// What a container's variable holds: of several of one name the last.
fn variable<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut all = container.env.iter().flatten().rev();
    all.find(|one| one.name == name)?.value.as_deref()
}

fn foreign(container: &str, why: &str) -> Refusal {
    Refusal::Foreign {
        container: container.to_owned(),
        why: why.to_owned(),
    }
}
