//! In which namespaces something refers to Secrets: their own, always.

use std::collections::BTreeSet;

use crds::EventSubscriptionSpec;

use crate::inputs::{Inputs, ObjectKey};

/// The namespaces with an ApiRoute that takes consumers' keys.
pub fn refer_to_consumers(inputs: &Inputs) -> BTreeSet<&str> {
    let routes = inputs.api_routes.iter();
    let refer = routes.filter(|(_, route)| {
        let auth = route.spec.auth.as_ref();
        auth.is_some_and(|auth| auth.api_key.is_some())
    });
    namespaces(refer.map(|(key, _)| key))
}

/// The namespaces with an object that names a Secret: to ask about tokens, for a store, or for a system outside.
pub fn refer_to_credentials(inputs: &Inputs) -> BTreeSet<&str> {
    let routes = inputs.api_routes.iter().filter(|(_, route)| {
        let auth = route.spec.auth.as_ref();
        let idempotency = route.spec.idempotency.as_ref();
        auth.is_some_and(|auth| auth.introspection.is_some())
            || idempotency.is_some_and(|idempotency| idempotency.store.is_some())
            || route.spec.rules.iter().any(|rule| {
                let publish = rule.publish.as_ref();
                publish.is_some_and(|publish| publish.async_reply.is_some())
            })
    });
    let limits = inputs.rate_limits.iter();
    let limits = limits.filter(|(_, limit)| limit.spec.store.is_some());
    let subscriptions = inputs.event_subscriptions.iter();
    let subscriptions = subscriptions.filter(|(_, subscription)| {
        let EventSubscriptionSpec {
            target,
            deduplication,
            ..
        } = &subscription.spec;
        let shown = target.url.as_ref();
        let store = deduplication.as_ref();
        shown.is_some_and(|url| url.secret_ref.is_some())
            || store.is_some_and(|deduplication| deduplication.redis.is_some())
    });
    let routes = routes.map(|(key, _)| key);
    let limits = limits.map(|(key, _)| key);
    let subscriptions = subscriptions.map(|(key, _)| key);
    namespaces(routes.chain(limits).chain(subscriptions))
}

/// The namespaces with an object that names a broker: to publish to, to be listened to, or to be subscribed.
pub fn refer_to_brokers(inputs: &Inputs) -> BTreeSet<&str> {
    let routes = inputs.api_routes.iter();
    let routes = routes.filter(|(_, route)| {
        let mut rules = route.spec.rules.iter();
        rules.any(|rule| rule.publish.is_some() || rule.stream.is_some())
    });
    let routes = routes.map(|(key, _)| key);
    namespaces(routes.chain(inputs.event_subscriptions.keys()))
}

fn namespaces<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> BTreeSet<&'a str> {
    keys.map(|key| key.namespace.as_str()).collect()
}
