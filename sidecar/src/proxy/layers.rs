//! What the rule that governs a request does to it: answers it, changes it, sends it on. To another
//! ApiRoute, too: then the rules of that one govern it from there on, as though it had been sent to
//! the Service that they are for, and what they do lies inside of what this one does.

use http::Response;
use http::request::Parts;

use super::body::{RequestBody, ResponseBody};
use super::cache::origin::{Origin, Outbound};
use super::captured::Captured;
use super::context::Context;
use super::destination::Routed;
use super::error::{Error, Reason};
use super::{Proxy, cache, copy, forward};
use crate::policy::retry::Retries;
use crate::policy::timeout::Deadline;

/// Through how many ApiRoutes a request is led after the first. The compiler refuses more; this bounds
/// what is done should it not have.
pub const MAX_LAYERS: u32 = 8;

/// Where a request has come to.
#[derive(Debug)]
pub struct Layer {
    /// What governs it.
    pub routed: Routed,
    /// When it must be answered.
    pub deadline: Deadline,
    /// What was called.
    pub captured: Captured,
    /// Through how many ApiRoutes it was led after the first.
    pub depth: u32,
}

/// Carries out what governs a request.
///
/// # Errors
/// Why there is no answer of an application; see [`super::error::Reason`].
pub async fn carry(
    px: &Proxy,
    cx: &mut Context,
    layer: Layer,
    mut head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let Layer {
        routed,
        deadline,
        captured,
        ..
    } = &layer;
    let filters = routed.filters();
    if let Some(cors) = &filters.cors {
        if let Some(answer) = cors.preflight(&head)? {
            return Ok(answer);
        }
        // What the page asked for is the outermost API.
        cx.cors.get_or_insert_with(|| cors.share(&head));
    }
    if let Some(fault) = &filters.fault {
        cx.delayed |= Box::pin(fault.inject(*deadline)).await?;
    }
    if let Some(redirect) = &filters.redirect {
        return redirect.answer(&head, captured.port(&head), routed.prefix);
    }
    if let Some(direct) = &filters.direct_response {
        return Ok(direct.answer(cx.is_head()));
    }
    let (body, overrun) = match filters.max_request_bytes {
        Some(limit) => limit.guard(body)?,
        None => (body, Default::default()),
    };
    if let Some(concurrency) = &filters.concurrency {
        cx.places.push(concurrency.enter(*deadline).await?);
    }
    let compression = filters.compression;
    let compression = compression.map(|one| one.ask(&head.headers, cx.is_head()));
    if let Some(edits) = &filters.request_headers {
        edits.apply(&mut head.headers);
    }
    if let Some(rewrite) = &filters.rewrite {
        rewrite.apply(&mut head, routed.prefix)?;
    }
    let body = copy::begin(px, cx, routed, &head, body);
    let answer = match routed.leads_on() {
        true => Box::pin(lead_on(px, cx, &layer, head, body)).await,
        false => send(px, cx, &layer, head, body).await,
    };
    let mut response = answer.map_err(|error| overrun.blame(error))?;
    if let Some(edits) = &filters.response_headers
        && Reason::of(response.headers()).is_none()
    {
        edits.apply(response.headers_mut());
    }
    Ok(match compression {
        Some(asked) => asked.apply(response, &px.compressors),
        None => response,
    })
}

async fn send(
    px: &Proxy,
    cx: &mut Context,
    layer: &Layer,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let backend = layer.routed.backend.as_ref();
    let backend = backend.ok_or(Reason::BackendMissing)?;
    let retries = layer.routed.retries.as_ref();
    let retries = retries.or(backend.terms.retries.as_ref());
    if let (Some(kept), Some((_, rule))) = (&layer.routed.kept, &layer.routed.route) {
        let outbound = Outbound {
            port: layer.captured.port(&head),
            rule: rule.name.clone(),
            backend: backend.clone(),
            retries: retries.cloned(),
            deadline: layer.deadline,
        };
        let (origin, kept) = (
            Origin::Service(Box::new(outbound)),
            kept.cache(&px.metrics.all().cache),
        );
        return Box::pin(cache::carry(cx, kept, &origin, head, body)).await;
    }
    let without_policy = Retries::without_policy();
    let retries = retries.map_or(without_policy, |retries| retries);
    let forwarded = forward::forward(cx, backend, retries, layer.deadline, head, body);
    // One box here keeps the future of every connection small.
    Box::pin(forwarded).await
}

/// To the rules of another ApiRoute, as the state that the request began with has them.
async fn lead_on(
    px: &Proxy,
    cx: &mut Context,
    layer: &Layer,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let depth = layer.depth + 1;
    if depth > MAX_LAYERS {
        let why = "it was led through too many ApiRoutes";
        return Err(Error::new(Reason::BackendMissing, why));
    }
    let backend = layer.routed.backend.as_ref();
    let backend = backend.ok_or(Reason::BackendMissing)?;
    let next = backend.route.as_ref().ok_or(Reason::BackendMissing)?;
    let routed = next.route(&head, || backend.alone());
    let mut routed = routed.map_err(|error| match error.reason {
        Reason::NoRoute => Error::new(
            Reason::NoRoute,
            format!(
                "ApiRoute {}, which it was led to, has no rule for it",
                next.object()
            ),
        ),
        _ => error,
    })?;
    cx.governed_by(&routed);
    // What an inner rule says comes first.
    routed.retries = routed.retries.or_else(|| layer.routed.retries.clone());
    let layer = Layer {
        deadline: layer
            .deadline
            .or_sooner(routed.request_timeout(), cx.started),
        routed,
        captured: layer.captured,
        depth,
    };
    carry(px, cx, layer, head, body).await
}
