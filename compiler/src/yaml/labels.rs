//! Labels and annotations that mean something to the mesh: what a cluster's webhook refuses in a pod,
//! or holds to be strict, is a problem of the file.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::{Fault, Object};
use crate::permissive::{Unreadable, check_namespace, check_pod};

pub(super) fn namespace(namespace: Arc<Namespace>) -> Result<Object, Vec<Fault>> {
    check_namespace(&namespace.metadata).map_err(|why| fault("", why))?;
    Ok(Object::Namespace(namespace))
}

pub(super) fn pod(pod: Arc<Pod>) -> Result<Object, Vec<Fault>> {
    check_pod(&pod.metadata).map_err(|why| fault("", why))?;
    Ok(Object::Pod(pod))
}

pub(super) fn deployment(deployment: Arc<Deployment>) -> Result<Object, Vec<Fault>> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    if let Some(metadata) = template.and_then(|template| template.metadata.as_ref()) {
        check_pod(metadata).map_err(|why| fault("spec.template.", why))?;
    }
    Ok(Object::Deployment(deployment))
}

fn fault(before: &str, why: Unreadable) -> Vec<Fault> {
    vec![Fault::new(&format!("{before}{}", why.field), why.message)]
}
