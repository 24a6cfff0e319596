//! One call of the container runtime, as the CNI specification has it (0.3.0 to 1.1.0).
//!
//! The runtime sets variables (`CNI_COMMAND`, `CNI_NETNS`, …), writes the network's configuration to
//! standard input, and reads an answer or an error, in JSON, from standard output. This plugin makes
//! no interface: what the plugins before it made (`prevResult`) is its answer too.
//!
//! | command | what is done |
//! |---|---|
//! | `ADD` | a pod that injection says is to be captured is; every other is left as it is |
//! | `CHECK` | fails when the redirect of such a pod is gone |
//! | `DEL` | nothing: the rules end with the pod's network namespace |
//! | `GC`, `STATUS` | nothing: nothing is kept outside of pods, and nothing is needed |
//! | `VERSION` | says which versions of the specification are spoken |

use std::io;
use std::path::Path;

use clap::Parser;
use serde_json::{Map, Value, json};
use sidecar::capture::{RedirectArgs, Rules};
use wire::capture::REDIRECT;

use crate::enter;

/// The versions of the specification that are spoken, oldest first. Older ones know no chains.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The largest configuration that is read, in bytes: of all that it holds, annotations are the most,
/// and a pod has 256 KiB of them at most.
pub const MAX_INPUT_BYTES: usize = 4 << 20;
/// By this name a runtime passes the annotations of a pod to plugins that ask for it.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The longest annotation of ours that is read, in bytes.
const MAX_REDIRECT_BYTES: usize = 16 << 10;
/// The longest message of an error, in bytes: it becomes an event of the pod.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The specification's codes of errors.
mod code {
    /// A version of the specification that is not spoken.
    pub(super) const VERSION: u32 = 1;
    /// A variable is missing or wrong.
    pub(super) const VARIABLE: u32 = 4;
    /// Input could not be read.
    pub(super) const INPUT: u32 = 5;
    /// It is not JSON.
    pub(super) const DECODING: u32 = 6;
    /// It is JSON, and means nothing.
    pub(super) const CONFIGURATION: u32 = 7;
    /// The plugin's own: the pod could not be captured.
    pub(super) const CAPTURE: u32 = 100;
    /// The plugin's own: the pod is not captured any more.
    pub(super) const NOT_CAPTURED: u32 = 101;
}

/// The network namespaces of pods.
pub trait Network {
    /// Installs the redirect in one.
    ///
    /// # Errors
    /// When it can't be entered, or is the node's own, or the kernel refuses.
    fn redirect(&self, netns: &Path, rules: &Rules) -> Result<(), enter::Error>;
    /// Whether one has the redirect.
    ///
    /// # Errors
    /// As above.
    fn is_redirected(&self, netns: &Path) -> Result<bool, enter::Error>;
}

/// What the runtime is told when a call fails; the kubelet makes an event of the pod of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of the specification, in which the call was.
    version: String,
    /// The specification's, or one of the plugin's own from 100 on.
    pub code: u32,
    /// A sentence for a person.
    pub message: String,
}

/// The arguments that the annotation of a pod holds.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Redirect {
    #[command(flatten)]
    redirect: RedirectArgs,
}

/// A call that has been read.
struct Call<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    version: &'a str,
    config: &'a Map<String, Value>,
}

/// Carries out one call. `variable` reads the environment, `input` is the standard input, of at most
/// [`MAX_INPUT_BYTES`].
///
/// # Errors
/// What the runtime is to be told.
pub fn answer(
    variable: &dyn Fn(&str) -> Option<String>,
    input: &[u8],
    network: &dyn Network,
) -> Result<Option<Value>, Failure> {
    let config = decode(input)?;
    let version = match config.get("cniVersion") {
        None => "0.1.0",
        Some(Value::String(version)) => version,
        Some(_) => return Err(newest(code::CONFIGURATION, "cniVersion is no string")),
    };
    let call = Call {
        variable,
        version,
        config: &config,
    };
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(Some(
            json!({ "cniVersion": version, "supportedVersions": VERSIONS }),
        ));
    }
    if !VERSIONS.contains(&version) {
        return Err(newest(
            code::VERSION,
            &format!(
                "meshwright-cni speaks the CNI versions {}, but this network's configuration is of {version}, in which \
                 plugins can't be chained; let whoever installs that network write a newer one",
                VERSIONS.join(", ")
            ),
        ));
    }
    match command.as_str() {
        "ADD" => call.add(network).map(Some),
        "CHECK" => call.check(network).map(|()| None),
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(call.failure(
            code::VARIABLE,
            &format!("CNI_COMMAND is {other:?}: ADD, CHECK, DEL, GC, STATUS and VERSION are known"),
        )),
    }
}

/// That the input could not be read.
pub fn unreadable(error: &io::Error) -> Failure {
    newest(
        code::INPUT,
        &format!("the network's configuration can't be read from standard input: {error}"),
    )
}

fn decode(input: &[u8]) -> Result<Map<String, Value>, Failure> {
    if input.len() > MAX_INPUT_BYTES {
        let long = format!("the network's configuration is longer than {MAX_INPUT_BYTES} bytes");
        return Err(newest(code::CONFIGURATION, &long));
    }
    let decoded = serde_json::from_slice(input).map_err(|error| {
        let wrong = format!("the network's configuration on standard input is no JSON: {error}");
        newest(code::DECODING, &wrong)
    })?;
    match decoded {
        Value::Object(config) => Ok(config),
        _ => Err(newest(
            code::DECODING,
            "the network's configuration on standard input is no JSON object",
        )),
    }
}

fn newest(code: u32, message: &str) -> Failure {
    let version = VERSIONS.last().copied().unwrap_or_default();
    Failure::new(version, code, message)
}

// === impl Call ===

impl Call<'_> {
    /// The answer is that of the plugin before.
    fn add(&self, network: &dyn Network) -> Result<Value, Failure> {
        self.variable("CNI_CONTAINERID")?;
        self.variable("CNI_IFNAME")?;
        let netns = self.variable("CNI_NETNS")?;
        let before = self.before()?;
        if let Some(rules) = self.rules()? {
            let done = network.redirect(Path::new(&netns), &rules);
            done.map_err(|error| self.not_done(&error))?;
        }
        Ok(before)
    }

    fn check(&self, network: &dyn Network) -> Result<(), Failure> {
        self.variable("CNI_CONTAINERID")?;
        self.variable("CNI_IFNAME")?;
        let netns = self.variable("CNI_NETNS")?;
        self.before()?;
        if self.rules()?.is_none() {
            return Ok(());
        }
        match network.is_redirected(Path::new(&netns)) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let gone = format!("{} is not redirected to its sidecar any more", self.pod());
                Err(self.failure(code::NOT_CAPTURED, &gone))
            }
            Err(error) => Err(self.not_done(&error)),
        }
    }

    fn variable(&self, name: &str) -> Result<String, Failure> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| self.failure(code::VARIABLE, &format!("{name} is not set")))
    }

    /// What the plugins before made.
    fn before(&self) -> Result<Value, Failure> {
        match self.config.get("prevResult") {
            Some(Value::Object(result)) => {
                let mut result = result.clone();
                result
                    .entry("cniVersion")
                    .or_insert_with(|| self.version.into());
                Ok(Value::Object(result))
            }
            _ => Err(self.failure(
                code::CONFIGURATION,
                "there is no prevResult: meshwright-cni makes no network, it has to come after the plugin \
                 that does in the same list",
            )),
        }
    }

    /// What to redirect in this pod; nothing in one that injection didn't say so of.
    fn rules(&self) -> Result<Option<Rules>, Failure> {
        let annotation = self
            .config
            .get("runtimeConfig")
            .and_then(|config| config.get(ANNOTATIONS))
            .and_then(|annotations| annotations.get(REDIRECT));
        let Some(annotation) = annotation else {
            return Ok(None);
        };
        let wrong = |why: &str| {
            let message = format!(
                "the annotation {REDIRECT} of {} is not as injection writes it: {why}; remove it, or delete the pod \
                 and let its controller make another",
                self.pod()
            );
            self.failure(code::CONFIGURATION, &message)
        };
        let text = annotation.as_str().ok_or_else(|| wrong("no string"))?;
        if text.len() > MAX_REDIRECT_BYTES {
            return Err(wrong(&format!("longer than {MAX_REDIRECT_BYTES} bytes")));
        }
        let arguments: Vec<String> =
            serde_json::from_str(text).map_err(|_| wrong("no JSON list of strings"))?;
        let parsed = Redirect::try_parse_from(arguments).map_err(|error| {
            let said = error.to_string();
            wrong(said.lines().next().unwrap_or_default())
        })?;
        Ok(Some(parsed.redirect.rules()))
    }

    /// The pod, as the runtime names it, for a sentence.
    fn pod(&self) -> String {
        let arguments = (self.variable)("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
            (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
            _ => "this pod".to_owned(),
        }
    }

    fn not_done(&self, error: &enter::Error) -> Failure {
        let code = match error {
            enter::Error::Entering { .. } | enter::Error::Own(_) => code::VARIABLE,
            enter::Error::Redirect(_) | enter::Error::Thread => code::CAPTURE,
        };
        let variable = if code == code::VARIABLE {
            "CNI_NETNS: "
        } else {
            ""
        };
        let message = format!("{} could not be captured: {variable}{error}", self.pod());
        self.failure(code, &message)
    }

    fn failure(&self, code: u32, message: &str) -> Failure {
        Failure::new(self.version, code, message)
    }
}

// === impl Failure ===

impl Failure {
    fn new(version: &str, code: u32, message: &str) -> Self {
        let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
        Self {
            version: version.to_owned(),
            code,
            message: message.get(..end).unwrap_or_default().to_owned(),
        }
    }

    /// As the specification writes it.
    pub fn to_json(&self) -> Value {
        json!({ "cniVersion": self.version, "code": self.code, "msg": self.message })
    }
}

#[cfg(test)]
mod tests;
