//! How the programs of a mesh are started: the operator, the sidecars, the applications.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::enter::{Launch, Privileges};
use super::ground::{Ground, Place};
use super::keep::Command;
use super::place::SIDECAR_MARK;
use super::plan::{Field, Template, Value};
use super::process;
use super::runtime::Identity;
use super::state::Layout;

/// Variables that would lead an application around its sidecar.
const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];
/// What workloads on one machine share a CPU with: one thread each is enough.
const SIDECAR_WORKERS: &str = "1";

/// What all programs of a mesh have in common.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) ground: Ground,
    pub(super) layout: Layout,
    /// The user's folder, absolute.
    pub(super) folder: PathBuf,
    pub(super) trust_domain: String,
    pub(super) cluster_domain: String,
    operator: PathBuf,
    sidecar: PathBuf,
}

// === impl Surroundings ===

impl Surroundings {
    pub(super) fn new(ground: Ground, layout: Layout, folder: PathBuf) -> anyhow::Result<Self> {
        Ok(Self {
            ground,
            layout,
            folder,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            operator: process::beside("meshwright-operator")?,
            sidecar: process::beside("meshwright-sidecar")?,
        })
    }

    pub(super) fn operator(&self) -> Command {
        let address = self.ground.operator();
        let argv = [
            path(&self.operator),
            "--files".to_owned(),
            path(&self.layout.accepted()),
            "--files".to_owned(),
            path(&self.layout.runtime()),
            "--state".to_owned(),
            path(&self.layout.operator()),
            "--tokens".to_owned(),
            path(&self.layout.tokens()),
            "--listen-grpc".to_owned(),
            format!("{address}:15012"),
            "--listen-http".to_owned(),
            format!("{address}:15014"),
            "--listen-webhook".to_owned(),
            format!("{address}:15017"),
            "--trust-domain".to_owned(),
            self.trust_domain.clone(),
            "--cluster-domain".to_owned(),
            self.cluster_domain.clone(),
        ];
        Command {
            what: "the operator".to_owned(),
            launch: self.launch(
                argv.to_vec(),
                own_env(),
                "/".into(),
                Privileges::Application,
                false,
            ),
            log: self.layout.log("operator"),
        }
    }

    /// `ports` are those of the application; `folder` is the pod's own; `drain` is how long it waits
    /// for connections to end.
    pub(super) fn sidecar(
        &self,
        identity: &Identity,
        place: &Place,
        ports: &[u16],
        folder: &Path,
        drain: Duration,
    ) -> Command {
        let Place { address, .. } = place;
        let mut argv = vec![path(&self.sidecar)];
        let mut set = |flag: &str, value: String| argv.extend([flag.to_owned(), value]);
        set("--operator", format!("{}:15012", self.ground.operator()));
        set("--token-file", path(&folder.join("token")));
        set(
            "--bundle-file",
            path(&self.layout.operator().join("roots.pem")),
        );
        set("--trust-domain", self.trust_domain.clone());
        set("--state", path(&folder.join("sidecar")));
        set("--workers", SIDECAR_WORKERS.to_owned());
        set("--drain-timeout", format!("{}s", drain.as_secs()));
        match place.application {
            None => {
                set("--mark", SIDECAR_MARK.to_string());
                set("--way-out", path(&self.layout.way_out()));
            }
            Some(application) => {
                set("--application-address", application.to_string());
                set("--listen-outbound", format!("{address}:15001"));
                // Where nothing else listens it still needs one to listen on.
                for port in if ports.is_empty() {
                    &[15006][..]
                } else {
                    ports
                } {
                    set("--listen-inbound", format!("{address}:{port}"));
                }
                set("--listen-admin", format!("{address}:15000"));
                set("--listen-publish", format!("{address}:15090"));
                set("--listen-metrics", format!("{address}:15020"));
                set("--listen-ready", format!("{address}:15021"));
            }
        }
        let name = format!("{}.{}", identity.namespace, identity.pod);
        Command {
            what: "the sidecar".to_owned(),
            launch: self.launch(
                argv,
                own_env(),
                "/".into(),
                Privileges::Sidecar,
                place.namespaces.is_some(),
            ),
            log: self.layout.log(&format!("{name}.sidecar")),
        }
    }

    pub(super) fn application(
        &self,
        identity: &Identity,
        place: &Place,
        template: &Template,
    ) -> Command {
        let env = application_env(identity, place, &template.env);
        let lookup: BTreeMap<_, _> = env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let argv = template
            .argv
            .iter()
            .map(|argument| expand(argument, &lookup))
            .collect();
        Command {
            what: format!("container {}", template.container),
            launch: self.launch(
                argv,
                env,
                template.cwd.clone(),
                Privileges::Application,
                place.namespaces.is_some(),
            ),
            log: self
                .layout
                .log(&format!("{}.{}", identity.namespace, identity.pod)),
        }
    }

    fn launch(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        cwd: PathBuf,
        privileges: Privileges,
        namespaces: bool,
    ) -> Launch {
        let own_user_namespace = matches!(self.ground, Ground::Namespaces { .. });
        Launch {
            argv,
            env,
            cwd,
            privileges: own_user_namespace.then_some(privileges),
            namespaces,
            dies_with_parent: true,
        }
    }
}

/// The environment of the mesh's own programs.
fn own_env() -> Vec<(String, String)> {
    let kept = |name: &String| {
        ["PATH", "HOME", "TMPDIR", "MESHWRIGHT_LOG", "RUST_BACKTRACE"].contains(&name.as_str())
    };
    std::env::vars().filter(|(name, _)| kept(name)).collect()
}

/// The environment of an application: that of `meshwright up`, for it is a program of this machine
/// that may need to know its way around, changed as the Deployment says.
pub(super) fn application_env(
    identity: &Identity,
    place: &Place,
    variables: &[(String, Value)],
) -> Vec<(String, String)> {
    let inherited = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut env: BTreeMap<_, _> = inherited
        .filter(|(name, _)| !PROXY_VARIABLES.contains(&name.as_str()))
        .collect();
    env.insert("PATH".to_owned(), search_path());
    env.insert("HOSTNAME".to_owned(), identity.pod.clone());
    if let Some(application) = place.application {
        let proxy = format!("http://{}:15001", place.address);
        env.insert("HOST".to_owned(), application.to_string());
        env.insert("http_proxy".to_owned(), proxy.clone());
        env.insert("HTTP_PROXY".to_owned(), proxy);
        for name in ["no_proxy", "NO_PROXY"] {
            env.insert(name.to_owned(), "localhost,127.0.0.1".to_owned());
        }
    }
    // In the order written: a variable may refer to those before it.
    for (name, value) in variables {
        let value = match value {
            Value::Text(text) => {
                let lookup = env
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                expand(text, &lookup)
            }
            Value::Field(field) => of_pod(*field, identity, place.address),
        };
        env.insert(name.clone(), value);
    }
    env.into_iter().collect()
}

fn of_pod(field: Field, identity: &Identity, address: Ipv4Addr) -> String {
    match field {
        Field::Name => identity.pod.clone(),
        Field::Namespace => identity.namespace.clone(),
        Field::Uid => identity.uid.clone(),
        Field::Address => address.to_string(),
        Field::ServiceAccount => identity.service_account.clone(),
        Field::Node => "this-machine".to_owned(),
    }
}

/// `PATH`, and last the folder that this program is in: examples bring programs of their own.
fn search_path() -> String {
    let mut path =
        std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    if let Ok(own) = std::env::current_exe()
        && let Some(folder) = own.parent()
    {
        path.push(":");
        path.push(folder);
    }
    path.to_string_lossy().into_owned()
}

/// Replaces `$(NAME)` as Kubernetes does: unknown names stay as written, `$$(NAME)` is `$(NAME)`.
fn expand(text: &str, variables: &BTreeMap<&str, &str>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix("$(")
            .and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((variables.get(name)?, after))) {
            Some((value, after)) => {
                expanded.push_str(value);
                rest = after;
            }
            None => {
                expanded.push('$');
                rest = &rest[1..];
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let variables = BTreeMap::from([("PORT", "8080"), ("EMPTY", "")]);
        for (text, expanded) in [
            ("--port=$(PORT)", "--port=8080"),
            ("$(PORT)$(EMPTY)!", "8080!"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$$(PORT)", "$(PORT)"),
            ("costs $5 (or $6)", "costs $5 (or $6)"),
            ("$(PORT", "$(PORT"),
            ("$", "$"),
        ] {
            assert_eq!(expand(text, &variables), expanded);
        }
    }
}
