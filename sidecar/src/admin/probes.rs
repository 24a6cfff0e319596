//! The kubelet's questions about the application (15021, `/app-health/...`): asked of the application as
//! the kubelet would, for nobody else is let in without an identity.
//!
//! What may be asked is written into the pod at injection, in [`wire::probe`]'s form, and nothing of the
//! request that comes here is passed on: its path only chooses among what is written. It must show a
//! token, which the kubelet reads in the pod: 15021 is reached from the whole network, and what a hook
//! calls may be the application's way to end.
//!
//! The application is called at the pod's address, which the kubelet has called as well, in the way that
//! peers' requests take: one that listens on all addresses or on the pod's is found. One that listens on
//! 127.0.0.1 alone isn't, nor is it by the kubelet or by any peer.

mod ask;
mod certificate;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::StatusCode;
use rustls::ClientConfig;
use wire::probe::{Ask, PREFIX, Probes, Question, TOKEN_HEADER};

use super::{Answer, LIFE, text};
use crate::net::connect::Connector;

/// The same question at a time: the kubelet has one under way, and perhaps one that it has given up.
const AT_A_TIME: usize = 4;

/// Asks the own application.
#[derive(Debug)]
pub struct Prober {
    token: String,
    questions: BTreeMap<String, Asked>,
    connector: Connector,
    /// For applications that speak HTTPS.
    tls: Arc<ClientConfig>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    under_way: Cell<usize>,
    /// Whether the last answer was no good, so that only changes are logged.
    fails: Cell<bool>,
}

/// What came of a question: what the application has answered, or why there is no answer.
#[derive(Debug)]
enum Outcome {
    /// In HTTP, or what means the same.
    Answered(StatusCode, String),
    Unanswered(String),
}

/// A hook's call that did not reach the application: the kubelet takes whatever is answered for
/// success, so that it gets no answer.
#[derive(Debug, thiserror::Error)]
#[error("the application could not be called")]
pub(super) struct HookFailed;

/// One question under way.
struct UnderWay<'a> {
    asked: &'a Asked,
    path: &'a str,
    what: String,
    has_ended: bool,
}

// === impl Prober ===

impl Prober {
    /// Will ask what `probes` says.
    ///
    /// # Errors
    /// When the provider lacks a version of TLS, which ours does not.
    pub fn new(probes: Probes, connector: Connector) -> Result<Self, rustls::Error> {
        let questions = probes.questions.into_iter().map(|(path, question)| {
            let asked = Asked {
                question,
                under_way: Cell::new(0),
                fails: Cell::new(false),
            };
            (path, asked)
        });
        Ok(Self {
            token: probes.token,
            questions: questions.collect(),
            connector,
            tls: certificate::any()?,
        })
    }

    /// Whether this is a path of ours, known or not.
    pub(super) fn is_asked(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Whether whoever asks has shown what only the kubelet knows.
    pub(super) fn knows(&self, question: &super::Question) -> bool {
        let shown = question.headers.get(TOKEN_HEADER);
        shown.is_some_and(|shown| {
            verify_slices_are_equal(shown.as_bytes(), self.token.as_bytes()).is_ok()
        })
    }

    /// Asks the application at `pod`, the address at which the kubelet came.
    pub(super) async fn answer(
        &self,
        question: &super::Question,
        pod: IpAddr,
    ) -> Result<Answer, HookFailed> {
        if !self.knows(question) {
            let why = format!("only the kubelet is answered here, which shows {TOKEN_HEADER}\n");
            return Ok(text(StatusCode::FORBIDDEN, why));
        }
        let Some(asked) = self.questions.get(&question.path) else {
            return Ok(text(StatusCode::NOT_FOUND, "the pod has no such probe\n"));
        };
        let Some(under_way) = asked.begin(&question.path, pod) else {
            let why = format!("{AT_A_TIME} of this question are under way\n");
            return Ok(text(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        let limit = asked.question.timeout_seconds;
        let limit = limit.map_or(LIFE, |seconds| Duration::from_secs(seconds.into()));
        let outcome = tokio::time::timeout(limit, self.ask(&asked.question.ask, pod)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Outcome::Unanswered(format!("gave no answer within {} s", limit.as_secs()))
        });
        let what = under_way.end(&outcome);
        match outcome {
            Outcome::Answered(status, said) => {
                let told = match status {
                    _ if is_good(status) || asked.question.is_hook => StatusCode::OK,
                    _ if status.is_client_error() || status.is_server_error() => status,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                Ok(text(told, format!("{what}: the application {said}\n")))
            }
            Outcome::Unanswered(_) if asked.question.is_hook => Err(HookFailed),
            Outcome::Unanswered(why) => {
                let why = format!("{what}: the application {why}\n");
                Ok(text(StatusCode::SERVICE_UNAVAILABLE, why))
            }
        }
    }

    async fn ask(&self, ask: &Ask, pod: IpAddr) -> Outcome {
        match ask {
            Ask::HttpGet(get) => ask::http_get(&self.connector, &self.tls, pod, get).await,
            Ask::TcpSocket { port } => ask::tcp_socket(&self.connector, (pod, *port).into()).await,
            Ask::Grpc { port, service } => {
                ask::grpc(&self.connector, (pod, *port).into(), service).await
            }
        }
    }
}

/// As the kubelet has it.
fn is_good(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// In words, without what a query may hold.
fn described(ask: &Ask, pod: IpAddr) -> String {
    let at = std::net::SocketAddr::new(pod, ask.port());
    match ask {
        Ask::HttpGet(get) => {
            let scheme = if get.https { "https" } else { "http" };
            let path = get.path.split('?').next().unwrap_or_default();
            format!("GET {scheme}://{at}{path}")
        }
        Ask::TcpSocket { .. } => format!("a connection to {at}"),
        Ask::Grpc { .. } => format!("grpc.health.v1.Health/Check of {at}"),
    }
}

// === impl Asked ===

impl Asked {
    fn begin<'a>(&'a self, path: &'a str, pod: IpAddr) -> Option<UnderWay<'a>> {
        let under_way = self.under_way.get();
        (under_way < AT_A_TIME).then(|| {
            self.under_way.set(under_way + 1);
            UnderWay {
                asked: self,
                path,
                what: described(&self.question.ask, pod),
                has_ended: false,
            }
        })
    }

    fn log(&self, path: &str, what: &str, outcome: &Outcome) {
        let (good, why) = match outcome {
            Outcome::Answered(status, said) => (is_good(*status) || self.question.is_hook, said),
            Outcome::Unanswered(why) => (false, why),
        };
        match (good, self.fails.replace(!good)) {
            (false, false) => tracing::warn!(path, "{what}: the application {why}"),
            (true, true) => tracing::info!(path, "{what}: the application is well again"),
            _ => {}
        }
    }
}

// === impl UnderWay ===

impl UnderWay<'_> {
    /// Tells what came of it; returns what was asked, in words.
    fn end(mut self, outcome: &Outcome) -> String {
        self.has_ended = true;
        self.asked.log(self.path, &self.what, outcome);
        std::mem::take(&mut self.what)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let under_way = &self.asked.under_way;
        under_way.set(under_way.get().saturating_sub(1));
        // The kubelet's time is over a moment before ours, and it hangs up.
        if !self.has_ended {
            let why = "gave no answer before the kubelet hung up".to_owned();
            let outcome = Outcome::Unanswered(why);
            self.asked.log(self.path, &self.what, &outcome);
        }
    }
}

#[cfg(test)]
mod tests;
