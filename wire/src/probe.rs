//! What the kubelet wants to know of an application, asked by its sidecar: the operator writes it at
//! injection, the sidecar reads it when it starts, and both check it here.
//!
//! The kubelet has no identity in the mesh, so that nobody lets it in. It asks the sidecar instead, at
//! a path for each question, and the sidecar asks the application as the kubelet would have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the path of every question begins with; the container's name and the question follow.
pub const PREFIX: &str = "/app-health/";

/// The header in which the kubelet shows the token: else anybody in the network could call what an
/// application's hooks call.
pub const TOKEN_HEADER: &str = "meshwright-probe";

/// The sidecar's own ports: it asks none of them, lest it ask itself.
pub const SIDECAR_PORTS: [u16; 5] = [15000, 15001, 15006, 15020, 15021];

/// Questions of one pod, at most: five of each of 25 containers.
const MAX_QUESTIONS: usize = 125;
/// Bytes of a path or of a gRPC service's name, at most.
const MAX_TEXT: usize = 2048;
/// Headers of a question, at most, and bytes of each.
const MAX_HEADERS: usize = 32;
const MAX_HEADER: usize = 4096;
/// Bytes of all questions as JSON, at most: an environment variable can be 128 KiB long.
const MAX_JSON: usize = 64 * 1024;
/// The longest that one question may take, in seconds: an hour.
const MAX_SECONDS: u32 = 3600;

/// All questions of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// What [`TOKEN_HEADER`] must say.
    pub token: String,
    /// By the path at which each is asked, such as `/app-health/orders/readyz`.
    pub questions: BTreeMap<String, Question>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// What is asked, and how.
    pub ask: Ask,
    /// How long the answer may take; without it, as long as the sidecar keeps a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Of a hook the kubelet wants to know only that it was called, whatever was answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_hook: bool,
}

/// What is asked of the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Ask {
    /// A GET that is answered with a status from 200 to 399.
    HttpGet(HttpGet),
    /// A connection that is accepted.
    TcpSocket {
        /// Where the application listens.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check` that is answered SERVING.
    Grpc {
        /// Where the application listens.
        port: u16,
        /// Which of its services; often empty.
        #[serde(default)]
        service: String,
    },
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    /// Where the application listens.
    pub port: u16,
    /// The path and, after a `?`, the query.
    pub path: String,
    /// HTTPS, whatever certificate is shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
    /// Name and value of each header, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// Why questions can't be asked: a sentence's end, for whoever wrote them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unaskable(String);

// === impl Probes ===

impl Probes {
    /// Reads what [`Probes::to_json`] has written.
    ///
    /// # Errors
    /// When it was not written so, or asks what can't be asked.
    pub fn parse(text: &str) -> Result<Self, Unaskable> {
        if text.len() > MAX_JSON {
            return Err(Self::too_long());
        }
        let probes: Self =
            serde_json::from_str(text).map_err(|error| Unaskable(error.to_string()))?;
        probes.check()?;
        Ok(probes)
    }

    /// As the value of an environment variable: with no `$`, which Kubernetes would take for the
    /// beginning of a reference.
    ///
    /// # Errors
    /// When they ask what can't be asked.
    pub fn to_json(&self) -> Result<String, Unaskable> {
        self.check()?;
        let text = serde_json::to_string(self).map_err(|error| Unaskable(error.to_string()))?;
        let text = text.replace('$', "\\u0024");
        match text.len() > MAX_JSON {
            true => Err(Self::too_long()),
            false => Ok(text),
        }
    }

    fn check(&self) -> Result<(), Unaskable> {
        if self.token.is_empty() || !self.token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Unaskable("the token must be letters and digits".into()));
        }
        if self.questions.len() > MAX_QUESTIONS {
            let why = format!("there are more than {MAX_QUESTIONS} probes and hooks in the pod");
            return Err(Unaskable(why));
        }
        for (path, question) in &self.questions {
            if !path.starts_with(PREFIX) {
                return Err(Unaskable(format!("{path} does not begin with {PREFIX}")));
            }
            question.check()?;
        }
        Ok(())
    }

    fn too_long() -> Unaskable {
        Unaskable(format!(
            "the pod's probes and hooks take more than {MAX_JSON} bytes together: shorten their headers"
        ))
    }
}

// === impl Question ===

impl Question {
    /// Whether it can be asked.
    ///
    /// # Errors
    /// When the application could not be asked this.
    pub fn check(&self) -> Result<(), Unaskable> {
        if self
            .timeout_seconds
            .is_some_and(|seconds| !(1..=MAX_SECONDS).contains(&seconds))
        {
            let why = format!("timeoutSeconds must be from 1 to {MAX_SECONDS}");
            return Err(Unaskable(why));
        }
        self.ask.check()
    }
}

// === impl Ask ===

impl Ask {
    /// Where the application listens.
    pub fn port(&self) -> u16 {
        match self {
            Self::HttpGet(get) => get.port,
            Self::TcpSocket { port } | Self::Grpc { port, .. } => *port,
        }
    }

    fn check(&self) -> Result<(), Unaskable> {
        let port = self.port();
        if port == 0 || SIDECAR_PORTS.contains(&port) {
            let why =
                format!("port {port} is no port of an application: name one that it listens on");
            return Err(Unaskable(why));
        }
        match self {
            Self::HttpGet(get) => get.check(),
            Self::TcpSocket { .. } => Ok(()),
            Self::Grpc { service, .. } if service.len() > MAX_TEXT => Err(Unaskable(format!(
                "the name of the service is longer than {MAX_TEXT} bytes"
            ))),
            Self::Grpc { .. } => Ok(()),
        }
    }
}

// === impl HttpGet ===

impl HttpGet {
    fn check(&self) -> Result<(), Unaskable> {
        let may_be = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        if !self.path.starts_with('/') || !self.path.bytes().all(may_be) {
            let why = "its path has characters that no URL has: write them as %20 and the like";
            return Err(Unaskable(why.into()));
        }
        if self.path.len() > MAX_TEXT {
            return Err(Unaskable(format!(
                "its path is longer than {MAX_TEXT} bytes"
            )));
        }
        if self.headers.len() > MAX_HEADERS {
            return Err(Unaskable(format!("it has more than {MAX_HEADERS} headers")));
        }
        for (name, value) in &self.headers {
            let token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(Unaskable("it has a header whose name is none".into()));
            }
            let visible = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
            if !value.bytes().all(visible) || name.len() + value.len() > MAX_HEADER {
                return Err(Unaskable(format!(
                    "the value of its header {name} is not up to {MAX_HEADER} visible ASCII characters"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, headers: &[(&str, &str)]) -> Ask {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Ask::HttpGet(HttpGet {
            port: 8080,
            path: path.into(),
            https: false,
            headers: headers.collect(),
        })
    }

    fn asking(ask: Ask) -> Probes {
        let question = Question {
            ask,
            timeout_seconds: Some(1),
            is_hook: false,
        };
        Probes {
            token: "t0ken".into(),
            questions: [(format!("{PREFIX}orders/readyz"), question)].into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_in_it_is_a_reference() {
        for ask in [
            get(
                "/ready?full=1",
                &[("Host", "orders"), ("x-a", "$(HOME) \"b\"")],
            ),
            Ask::TcpSocket { port: 5432 },
            Ask::Grpc {
                port: 9000,
                service: "orders.Orders".into(),
            },
        ] {
            let probes = asking(ask);
            let text = probes.to_json().unwrap();
            assert!(!text.contains('$'), "{text}");
            assert_eq!(Probes::parse(&text).unwrap(), probes);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_both_sides() {
        let long = "x".repeat(MAX_HEADER + 1);
        let many = vec![("a", "b"); MAX_HEADERS + 1];
        for ask in [
            get("ready", &[]),
            get("/a b", &[]),
            get("/a#b", &[]),
            get("/\r\n", &[]),
            get(&format!("/{long}"), &[]),
            get("/", &[("a b", "")]),
            get("/", &[("a", "b\r\nc: d")]),
            get("/", &[("a", &long)]),
            get("/", &many),
            Ask::TcpSocket { port: 0 },
            Ask::TcpSocket { port: 15000 },
            Ask::Grpc {
                port: 15021,
                service: String::new(),
            },
            Ask::Grpc {
                port: 9000,
                service: long.clone(),
            },
        ] {
            let probes = asking(ask);
            assert!(probes.to_json().is_err(), "{probes:?}");
            let written = serde_json::to_string(&probes).unwrap();
            assert!(Probes::parse(&written).is_err(), "{written}");
        }
        let mut many = asking(Ask::TcpSocket { port: 80 });
        let one = many.questions.values().next().unwrap().clone();
        let more = (0..MAX_QUESTIONS).map(|nth| (format!("{PREFIX}{nth}/livez"), one.clone()));
        many.questions.extend(more);
        assert!(many.to_json().is_err());
        for seconds in [0, MAX_SECONDS + 1] {
            let mut probes = asking(Ask::TcpSocket { port: 80 });
            probes
                .questions
                .values_mut()
                .for_each(|one| one.timeout_seconds = Some(seconds));
            assert!(probes.to_json().is_err());
        }
    }
}
