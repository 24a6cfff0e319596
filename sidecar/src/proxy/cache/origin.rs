//! Where requests go that are not answered with what is kept: to the application beside the sidecar,
//! or, at the caller's side, where the rule sends them that governs them.

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::request::Parts;

use super::super::body::{RequestBody, ResponseBody};
use super::super::context::Context;
use super::super::destination::Backend;
use super::super::error::Error;
use super::super::forward;
use super::super::upstream::{Speak, Upstream};
use crate::policy::cache::flight::Outcome;
use crate::policy::cache::key::{By, To};
use crate::policy::retry::Retries;
use crate::policy::timeout::Deadline;

/// Where requests go that are not answered here.
#[derive(Clone, Debug)]
pub enum Origin {
    /// To the application beside the sidecar.
    Application {
        /// The application.
        upstream: Rc<Upstream>,
        /// How it is spoken to.
        speak: Speak,
        /// The port of it that was called.
        port: u16,
    },
    /// From the application beside the sidecar to others.
    Service(Box<Outbound>),
}

/// What a rule does with a request.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The port that was called.
    pub port: u16,
    /// The rule.
    pub rule: Arc<str>,
    /// Who answers.
    pub backend: Backend,
    /// When it is sent again, if there is a policy.
    pub retries: Option<Arc<Retries>>,
    /// When it must be answered.
    pub deadline: Deadline,
}

// === impl Origin ===

impl Origin {
    /// The application, at a port of it.
    pub fn application(upstream: Rc<Upstream>, speak: Speak, port: u16) -> Self {
        Self::Application {
            upstream,
            speak,
            port,
        }
    }

    /// Where that is, as it tells answers apart.
    pub fn to(&self) -> To<'_> {
        match self {
            Self::Application { port, .. } => To::from(*port),
            Self::Service(outbound) => {
                let Outbound { rule, backend, .. } = &**outbound;
                To {
                    port: outbound.port,
                    by: Some(By {
                        rule,
                        service: &backend.service,
                        port: backend.port,
                        endpoint: backend.endpoint,
                    }),
                }
            }
        }
    }

    /// Sends a request there.
    ///
    /// # Errors
    /// Those of [`forward::once`], or of [`forward::forward`].
    pub async fn ask(
        &self,
        cx: &mut Context,
        head: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Error> {
        match self {
            Self::Application {
                upstream, speak, ..
            } => forward::once(cx, upstream, *speak, head, body).await,
            Self::Service(outbound) => {
                let Outbound {
                    backend,
                    retries,
                    deadline,
                    ..
                } = &**outbound;
                let retries = retries.as_deref().unwrap_or(Retries::without_policy());
                let forwarded = forward::forward(cx, backend, retries, *deadline, head, body);
                Box::pin(forwarded).await
            }
        }
    }

    /// Waits for what another fetches, and no longer than the request has.
    ///
    /// # Errors
    /// `request_timeout`.
    pub(super) async fn wait(
        &self,
        waiting: impl Future<Output = Outcome>,
    ) -> Result<Outcome, Error> {
        let waiting = async { Ok(waiting.await) };
        match self {
            Self::Application { .. } => waiting.await,
            Self::Service(outbound) => outbound.deadline.bound(waiting).await,
        }
    }
}
