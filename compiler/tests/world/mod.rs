//! Worlds for the tests: from YAML, and at random.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod random;
pub(crate) mod show;

use std::sync::Arc;

use compiler::yaml::{self, Object};
use compiler::{Inputs, ObjectKey, ObjectRef};
use wire::generation::Input;

/// The inputs that documents describe; the order of what people wrote without a timestamp is that of
/// the documents.
pub(crate) fn inputs(file: &str, text: &str) -> Inputs {
    let parsed = yaml::parse(file, text);
    let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let mut inputs = Inputs::default();
    for (place, document) in parsed.documents.into_iter().enumerate() {
        let written = match &document.object {
            Object::ApiRoute(route) => Some((ObjectRef::api_route(&document.key), &route.metadata)),
            Object::RetryPolicy(policy) => {
                let object = ObjectRef::retry_policy(&document.key);
                Some((object, &policy.metadata))
            }
            Object::RateLimit(limit) => {
                Some((ObjectRef::rate_limit(&document.key), &limit.metadata))
            }
            Object::EventSubscription(subscription) => {
                let object = ObjectRef::event_subscription(&document.key);
                Some((object, &subscription.metadata))
            }
            _ => None,
        };
        if let Some((object, metadata)) = written
            && metadata.creation_timestamp.is_none()
        {
            inputs.precedence.insert(object, place as u64);
        }
        insert(&mut inputs, document.key, document.object);
    }
    for (place, input) in Input::ALL.into_iter().enumerate() {
        inputs.seen.observe(input, place as u64 + 1);
    }
    inputs
}

pub(crate) fn insert(inputs: &mut Inputs, key: ObjectKey, object: Object) {
    match object {
        Object::ApiRoute(object) => drop(inputs.api_routes.insert(key, object)),
        Object::RetryPolicy(object) => drop(inputs.retry_policies.insert(key, object)),
        Object::RateLimit(object) => drop(inputs.rate_limits.insert(key, object)),
        Object::EventSubscription(object) => drop(inputs.event_subscriptions.insert(key, object)),
        Object::Service(object) => drop(inputs.services.insert(key, object)),
        Object::EndpointSlice(object) => drop(inputs.endpoint_slices.insert(key, object)),
        Object::Pod(object) => drop(inputs.pods.insert(key, object)),
        Object::Namespace(object) => drop(inputs.namespaces.insert(key, object)),
        Object::Secret(object) => {
            let labels = object.metadata.labels.clone().unwrap_or_default();
            if labels.contains_key(compiler::CONSUMER) {
                inputs.consumers.insert(key.clone(), object.clone());
            }
            if labels.contains_key(compiler::CREDENTIAL) {
                inputs.credentials.insert(key.clone(), object.clone());
            }
            if labels.contains_key(compiler::BROKER) {
                inputs.brokers.insert(key, object);
            }
        }
        Object::Deployment(_) | Object::Ignored => {}
    }
}

/// Every object anew, as after a watch began again.
pub(crate) fn without_sharing(inputs: &Inputs) -> Inputs {
    fn anew<T: Clone>(objects: &mut std::collections::BTreeMap<ObjectKey, Arc<T>>) {
        for object in objects.values_mut() {
            *object = Arc::new(T::clone(object));
        }
    }
    let mut inputs = inputs.clone();
    anew(&mut inputs.api_routes);
    anew(&mut inputs.retry_policies);
    anew(&mut inputs.rate_limits);
    anew(&mut inputs.event_subscriptions);
    anew(&mut inputs.services);
    anew(&mut inputs.endpoint_slices);
    anew(&mut inputs.pods);
    anew(&mut inputs.namespaces);
    anew(&mut inputs.consumers);
    anew(&mut inputs.credentials);
    anew(&mut inputs.brokers);
    inputs
}

/// A Service with a pod, a slice, an ApiRoute, a RetryPolicy and a RateLimit.
pub(crate) fn application(namespace: &str, name: &str, number: u8) -> String {
    let metadata = |name: &str| format!("name: {name}, namespace: {namespace}");
    let (service, slice) = (metadata(name), metadata(&format!("{name}-slice")));
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{{service}}}\n\
         spec: {{hosts: [{name}], rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}\n---\n\
         apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{{service}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {name}}}], loadBalancing: {{}}}}\n---\n\
         apiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\nmetadata: {{{service}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {name}}}], \
         limits: [{{name: a, requests: 1, per: 1s}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{{service}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{{service}, labels: {{app: {name}}}}}\n\
         spec: {{containers: [{{name: meshwright-sidecar}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{{slice}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{port: 8080}}]\nendpoints:\n- addresses: [10.0.0.{number}]\n  \
         targetRef: {{kind: Pod, name: {name}}}\n---\n"
    )
}
