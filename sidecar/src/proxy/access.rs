//! Who may enter: what each ApiRoute that holds at a port says of it, for requests and for
//! connections.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::request::Parts;

use super::Proxy;
use super::context::Context;
use super::error::{Error, Reason};
use super::fetch::fetch;
use super::inbound::FromPeer;
use crate::config::access::Enforced;
use crate::config::state::Served;
use crate::policy::authentication::api_key::Consumers;
use crate::policy::authentication::introspection::{Ask, Introspection, Worth};
use crate::policy::authentication::{Authentication, Caller, Need, Refused};
use crate::policy::authorization::{Audit, Decision};

/// How often somebody is waited for, for one request: keys, and what a token is worth.
const MAX_WAITS: u32 = 3;
/// How long a server that is asked about a token may take.
const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// What it may answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Lets a request in: every ApiRoute must. What credentials the application does not get are taken out.
/// Answers who calls, as each of them found.
///
/// # Errors
/// `credentials_missing`, `credentials_invalid`, `scope_missing`, `credentials_uncheckable`,
/// `not_permitted`, `access_closed`.
pub(super) async fn request(
    px: &Rc<Proxy>,
    cx: &mut Context,
    served: &Served,
    peer: &FromPeer,
    head: &mut Parts,
) -> Result<Vec<Caller>, Error> {
    // Credentials are all read before any is taken out, and rules see the headers that the application
    // will: what claims are told in, nobody else can set.
    let mut callers = Vec::with_capacity(1);
    for enforced in served.for_requests() {
        open(enforced)?;
        let caller = match &enforced.access.authentication {
            None => Caller::default(),
            Some(authentication) => {
                let known = authenticate(px, authentication, enforced, head).await;
                match known {
                    Ok(caller) => caller,
                    Err(refused) => {
                        count(px, enforced, refused);
                        let authorization = enforced.access.authorization.as_ref();
                        if let Some(authorization) = authorization {
                            let audited = authorization.audit != Audit::None;
                            cx.decided(None, "denied", audited);
                        }
                        return Err(refused.error(authentication));
                    }
                }
            }
        };
        cx.calls(&caller);
        callers.push(caller);
    }
    for enforced in served.for_requests() {
        if let Some(authentication) = &enforced.access.authentication {
            authentication.clear(head);
        }
    }
    for (enforced, caller) in served.for_requests().iter().zip(&callers) {
        if let Some(authentication) = &enforced.access.authentication {
            authentication.pass_on(caller, head);
        }
    }
    for (enforced, caller) in served.for_requests().iter().zip(&callers) {
        authorize(cx, enforced, peer, caller, Some(head))?;
    }
    Ok(callers)
}

/// Lets in a connection whose bytes nobody reads.
///
/// # Errors
/// `not_permitted`, `access_closed`.
pub(super) fn connection(served: &Served, peer: &FromPeer) -> Result<(), Error> {
    if served.reads_requests() {
        let requests = served.for_requests().iter();
        for enforced in requests.filter(|enforced| !enforced.access.connections) {
            unread(enforced)?;
        }
    }
    for enforced in served.for_connections() {
        open(enforced)?;
        let Some(authorization) = &enforced.access.authorization else {
            continue;
        };
        let decision = authorization.decide(peer.identity.as_ref(), &Caller::default(), None);
        enforced
            .access
            .counts
            .decided(decision, authorization.audit_only);
        let told = authorization.audit == Audit::All
            || authorization.audit == Audit::Denied && !decision.allows();
        if told {
            let route = &enforced.access.object;
            let rule = decision.rule(authorization).map_or("", |rule| &rule.name);
            let source = peer.identity.as_ref().map_or("", |id| id.as_str());
            let allowed = decision.allows();
            tracing::info!(%route, rule, source, allowed, "who may connect was decided");
        }
        if !decision.allows() && !authorization.audit_only {
            return Err(refusal(enforced, decision));
        }
    }
    Ok(())
}

/// Bytes that nobody reads, where a request would have to say who it is from: refused like a request
/// that says nothing, and told where that is only told.
fn unread(enforced: &Enforced) -> Result<(), Error> {
    open(enforced)?;
    let access = &enforced.access;
    let only_told = access
        .authorization
        .as_ref()
        .is_some_and(|one| one.audit_only);
    let only_told = only_told && access.authentication.is_none();
    access.counts.decided(Decision::NotAllowed, only_told);
    match only_told {
        true => Ok(()),
        false => {
            let why = "an ApiRoute says who may enter with a request, and this is none";
            Err(Error::new(Reason::NotPermitted, why))
        }
    }
}

/// Where it can't be understood who may enter, nobody does.
fn open(enforced: &Enforced) -> Result<(), Error> {
    match enforced.access.closed {
        true => {
            enforced.access.counts.closed();
            let why = format!("ApiRoute {} can't be understood", enforced.access.object);
            Err(Error::new(Reason::AccessClosed, why))
        }
        false => Ok(()),
    }
}

fn authorize(
    cx: &mut Context,
    enforced: &Enforced,
    peer: &FromPeer,
    caller: &Caller,
    head: Option<&Parts>,
) -> Result<(), Error> {
    let counts = &enforced.access.counts;
    let Some(authorization) = &enforced.access.authorization else {
        counts.authenticated();
        return Ok(());
    };
    let decision = authorization.decide(peer.identity.as_ref(), caller, head);
    counts.decided(decision, authorization.audit_only);
    let audited = match authorization.audit {
        Audit::None => false,
        Audit::Denied => !decision.allows(),
        Audit::All => true,
    };
    let rule = decision.rule(authorization).map(|rule| rule.name.clone());
    let outcome = match (decision.allows(), authorization.audit_only) {
        (true, _) => "allowed",
        (false, true) => "would_deny",
        (false, false) => "denied",
    };
    cx.decided(rule, outcome, audited);
    match decision.allows() || authorization.audit_only {
        true => Ok(()),
        false => Err(refusal(enforced, decision)),
    }
}

fn refusal(enforced: &Enforced, decision: Decision) -> Error {
    let authorization = enforced.access.authorization.as_ref();
    let rule = authorization.and_then(|authorization| decision.rule(authorization));
    let route = &enforced.access.object;
    let why = match rule {
        Some(rule) => format!("rule {} of ApiRoute {route} denies it", rule.name),
        None => format!("no rule of ApiRoute {route} allows it"),
    };
    Error::new(Reason::NotPermitted, why)
}

fn count(px: &Proxy, enforced: &Enforced, refused: Refused) {
    let metrics = px.metrics.all();
    metrics
        .access
        .refused(&enforced.access.counts, refused.name());
}

/// Finds out who calls; waits for keys and for what a token is worth, where that is to be had.
async fn authenticate(
    px: &Rc<Proxy>,
    authentication: &Authentication,
    enforced: &Enforced,
    head: &Parts,
) -> Result<Caller, Refused> {
    let none = Consumers::default();
    let consumers = enforced.keys.as_ref().map_or(&none, |keys| &keys.consumers);
    let mut waits = 0;
    loop {
        let now = SystemTime::now();
        let need = match authentication.check(head, &px.known, consumers, now) {
            Ok(caller) => return Ok(caller),
            Err(need) => need,
        };
        waits += 1;
        match need {
            Need::Refused(refused) => return Err(refused),
            Need::Keys(_, refused) if waits > MAX_WAITS => return Err(refused),
            Need::Keys(keys, _) => {
                if !Box::pin(keys.fetched_again()).await {
                    // They may have come just before: one more look, and nobody is waited for again.
                    waits = MAX_WAITS;
                }
            }
            Need::Worth(..) if waits > MAX_WAITS => return Err(Refused::NobodySays),
            Need::Worth(asked, token) => {
                let keys = enforced.keys.as_ref();
                let password = keys.map_or("", |keys| &keys.introspection_secret);
                Box::pin(introspect(px, asked, &token, password)).await?;
            }
        }
    }
}

/// Asks what a token is worth, and remembers it.
async fn introspect(
    px: &Rc<Proxy>,
    asked: &Introspection,
    token: &str,
    password: &str,
) -> Result<(), Refused> {
    if password.is_empty() {
        return Err(Refused::NobodySays);
    }
    let known = &px.known.introspected;
    let question = match known.ask(asked, token).ok_or(Refused::NobodySays)? {
        Ask::Question(question) => question,
        Ask::Wait(mut waiting) => {
            let told = tokio::time::timeout(INTROSPECTION_TIMEOUT, waiting.changed()).await;
            return match told {
                // It has been told, or whoever asked has gone: another asks then.
                Ok(Err(_)) => Ok(()),
                Ok(Ok(())) | Err(_) => Err(Refused::NobodySays),
            };
        }
    };
    let request = asked.question(token, password).ok_or(Refused::NobodySays)?;
    let answer = fetch(
        px,
        &asked.endpoint,
        request,
        INTROSPECTION_TIMEOUT,
        MAX_ANSWER,
    )
    .await;
    let worth = match answer {
        Ok((StatusCode::OK, body)) => asked.read(&body),
        Ok((status, _)) => Err(format!("it answered {status}")),
        Err(error) => Err(error.to_string()),
    };
    match worth {
        Ok(worth) => {
            known.remember(asked, token, &worth, SystemTime::now());
            if let Worth::Inactive = worth {
                tracing::debug!("a token is not active");
            }
            Ok(())
        }
        Err(why) => {
            let endpoint = asked.endpoint.uri().host().unwrap_or_default();
            tracing::warn!(endpoint, why, "nobody says what a token is worth");
            question.unanswered();
            Err(Refused::NobodySays)
        }
    }
}
