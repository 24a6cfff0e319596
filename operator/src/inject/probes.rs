//! The kubelet's calls over the network, sent to the sidecar, which asks the application: the kubelet
//! has no identity, so that the pod lets it in nowhere else, and a call that only reached the sidecar
//! would find a dead application alive.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use wire::probe::{Ask, HttpGet, PREFIX, Probes, Question, TOKEN_HEADER};

use super::patch::Operations;
use super::{Config, Refusal};

/// Where the sidecar is asked.
const PORT: u16 = 15021;

/// A call of the kubelet's to a container.
struct Call<'a> {
    container: &'a Container,
    /// In the container, such as `readinessProbe`.
    field: &'static str,
    /// "readiness probe", …
    what: &'static str,
    /// The end of the path at which the sidecar is asked.
    name: &'static str,
    how: How<'a>,
}

enum How<'a> {
    Probe(&'a Probe),
    Hook(&'a LifecycleHandler),
}

/// What a sidecar asks that asks nothing yet.
pub(super) fn none(config: &Config) -> Probes {
    Probes {
        token: config.probe_token.clone(),
        questions: Default::default(),
    }
}

/// Sends to the sidecar what of the kubelet's calls goes over the network to this pod, and returns what
/// the sidecar is to ask: that, and what it asks already. What goes to an excluded port stays as it is,
/// and so do the first `own` init containers, which are the mesh's.
///
/// # Errors
/// When a call can't be made: the pod would wait for it forever.
pub(super) fn rewrite(
    spec: &PodSpec,
    own: usize,
    excluded: &[u16],
    mut probes: Probes,
    patch: &mut Operations,
) -> Result<Probes, Refusal> {
    let lists = [
        ("initContainers", spec.init_containers.as_deref(), own),
        ("containers", Some(spec.containers.as_slice()), 0),
    ];
    let token = probes.token.clone();
    for (list, containers, own) in lists {
        let containers = containers.unwrap_or_default().iter();
        for (at, container) in containers.enumerate().skip(own) {
            for call in calls(container) {
                if call.is_rewritten(&probes) {
                    continue;
                }
                let Some((question, instead_of)) = call.question()? else {
                    continue;
                };
                if excluded.contains(&question.ask.port()) {
                    continue;
                }
                let path = call.path();
                let place = format!("/spec/{list}/{at}/{}", call.field);
                if instead_of != "httpGet" {
                    patch.remove(format!("{place}/{instead_of}"));
                }
                let headers = [json!({ "name": TOKEN_HEADER, "value": token })];
                let get =
                    json!({ "path": path, "port": PORT, "scheme": "HTTP", "httpHeaders": headers });
                patch.add(format!("{place}/httpGet"), get);
                probes.questions.insert(path, question);
            }
        }
    }
    Ok(probes)
}

/// As the sidecar reads it; `None` where there is nothing to ask.
///
/// # Errors
/// When all of it together is too much.
pub(super) fn written(probes: &Probes) -> Result<Option<String>, Refusal> {
    if probes.questions.is_empty() {
        return Ok(None);
    }
    let json = probes.to_json();
    json.map(Some)
        .map_err(|why| Refusal::Probes(why.to_string()))
}

/// What the kubelet does to this container.
fn calls(container: &Container) -> impl Iterator<Item = Call<'_>> {
    let probes = [
        (
            "startupProbe",
            "startup probe",
            "startupz",
            &container.startup_probe,
        ),
        (
            "readinessProbe",
            "readiness probe",
            "readyz",
            &container.readiness_probe,
        ),
        (
            "livenessProbe",
            "liveness probe",
            "livez",
            &container.liveness_probe,
        ),
    ];
    let probes = probes.into_iter().filter_map(|(field, what, name, probe)| {
        let how = How::Probe(probe.as_ref()?);
        Some((field, what, name, how))
    });
    let hooks = container.lifecycle.iter().flat_map(|hooks| {
        [
            (
                "lifecycle/postStart",
                "postStart hook",
                "poststart",
                &hooks.post_start,
            ),
            (
                "lifecycle/preStop",
                "preStop hook",
                "prestop",
                &hooks.pre_stop,
            ),
        ]
    });
    let hooks = hooks.filter_map(|(field, what, name, hook)| {
        let how = How::Hook(hook.as_ref()?);
        Some((field, what, name, how))
    });
    probes
        .chain(hooks)
        .map(move |(field, what, name, how)| Call {
            container,
            field,
            what,
            name,
            how,
        })
}

/// Whether it is the pod that is asked, and not another host.
fn is_own(host: Option<&str>) -> bool {
    host.unwrap_or_default().is_empty()
}

// === impl Call ===

impl Call<'_> {
    /// Where the sidecar is asked instead of the application.
    fn path(&self) -> String {
        format!("{PREFIX}{}/{}", self.container.name, self.name)
    }

    /// Whether the sidecar is asked already, and knows what.
    fn is_rewritten(&self, probes: &Probes) -> bool {
        let get = match self.how {
            How::Probe(probe) => &probe.http_get,
            How::Hook(hook) => &hook.http_get,
        };
        get.as_ref().is_some_and(|get| {
            get.port == IntOrString::Int(PORT.into())
                && get.path.as_ref() == Some(&self.path())
                && probes.questions.contains_key(&self.path())
        })
    }

    /// What the sidecar is to ask, and which field says so; `None` for a command, or for what does not
    /// come to this pod.
    fn question(&self) -> Result<Option<(Question, &'static str)>, Refusal> {
        let (ask, field) = match self.how {
            How::Probe(Probe {
                http_get: Some(get),
                ..
            })
            | How::Hook(LifecycleHandler {
                http_get: Some(get),
                ..
            }) if is_own(get.host.as_deref()) => (Ask::HttpGet(self.get(get)?), "httpGet"),
            How::Probe(Probe {
                tcp_socket: Some(tcp),
                ..
            }) if is_own(tcp.host.as_deref()) => {
                let port = self.port(&tcp.port)?;
                (Ask::TcpSocket { port }, "tcpSocket")
            }
            How::Probe(Probe {
                grpc: Some(grpc), ..
            }) => {
                let port = self.port(&IntOrString::Int(grpc.port))?;
                let service = grpc.service.clone().unwrap_or_default();
                (Ask::Grpc { port, service }, "grpc")
            }
            _ => return Ok(None),
        };
        let question = match self.how {
            How::Probe(probe) => {
                // As Kubernetes has it, where it has not been filled in.
                let seconds = probe
                    .timeout_seconds
                    .filter(|seconds| *seconds != 0)
                    .unwrap_or(1);
                let seconds = u32::try_from(seconds).unwrap_or_default();
                Question {
                    ask,
                    timeout_seconds: Some(seconds),
                    is_hook: false,
                }
            }
            How::Hook(_) => Question {
                ask,
                timeout_seconds: None,
                is_hook: true,
            },
        };
        question
            .check()
            .map_err(|why| self.refused(why.to_string()))?;
        Ok(Some((question, field)))
    }

    fn get(&self, get: &HTTPGetAction) -> Result<HttpGet, Refusal> {
        let path = get.path.as_deref().unwrap_or_default();
        // What follows a # is sent to nobody.
        let path = path.split('#').next().unwrap_or_default();
        let headers = get.http_headers.iter().flatten();
        Ok(HttpGet {
            port: self.port(&get.port)?,
            path: match path.starts_with('/') {
                true => path.to_owned(),
                false => format!("/{path}"),
            },
            https: get.scheme.as_deref() == Some("HTTPS"),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        })
    }

    /// A port by its number, or by the name that the container gives it.
    fn port(&self, port: &IntOrString) -> Result<u16, Refusal> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let mut named = ports.filter(|port| port.name.as_ref() == Some(name));
                // The kubelet takes a number in quotes as well.
                let number = named.next().map(|port| port.container_port);
                number.or_else(|| name.parse().ok()).ok_or_else(|| {
                    let why = format!(
                        "its port {name:?} is the name of none of the container's ports: write one of \
                         theirs, or a number"
                    );
                    self.refused(why)
                })?
            }
        };
        u16::try_from(number)
            .map_err(|_| self.refused(format!("{number} is no port: write 1 to 65535")))
    }

    fn refused(&self, why: String) -> Refusal {
        Refusal::Probe {
            container: self.container.name.clone(),
            what: self.what,
            why,
        }
    }
}
