//! Answering what others ask a running mesh.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use compiler::ObjectKey;

use super::callers;
use super::control::{Answer, Asked, Request, Status};
use super::fleet::Running;
use super::ground::Place;
use super::mesh::{Mesh, told, verdicts};
use super::{stalls, troubles};

/// Answers now, or as soon as the operator has answered.
pub(super) fn answer(mesh: &Mesh, asked: Asked) {
    let Asked { request, answer } = asked;
    match request {
        Request::Enter(workload) => {
            // Who asked may have gone away.
            let _ = answer.send(match enter(mesh, &workload) {
                Ok((entrance, descriptors)) => (entrance, descriptors),
                Err(error) => (Err(format!("{error:#}")), Vec::new()),
            });
        }
        Request::Status => {
            let mut status = Status {
                mesh: mesh.name.clone(),
                folder: mesh.shown_folder.clone(),
                pods: mesh.rows(),
                published: mesh.published_at(),
                verdicts: serde_json::Value::Null,
                endpoints: Vec::new(),
            };
            let troubles = troubles::gather(places(mesh));
            let (operator, names) = (mesh.operator(), mesh.accepted.names.clone());
            tokio::spawn(async move {
                status.endpoints = troubles.await;
                status.verdicts = verdicts(operator).await.unwrap_or(serde_json::Value::Null);
                names.in_verdicts(&mut status.verdicts);
                let status = serde_json::to_value(status).map_err(|error| error.to_string());
                let _ = answer.send((status, Vec::new()));
            });
        }
        Request::Pods(workload) => {
            let pods = match workload {
                Some(workload) => find_all(mesh, &workload),
                None => Ok(mesh.pods.keys().collect()),
            };
            let names = pods.map(|pods| Vec::from_iter(pods.iter().map(ToString::to_string)));
            let _ = answer.send(match names {
                Ok(names) => (Ok(names.into()), Vec::new()),
                Err(error) => (Err(format!("{error:#}")), Vec::new()),
            });
        }
        Request::Plaintext => {
            let gathering = callers::gather(mesh.around.folder.clone(), places(mesh));
            tokio::spawn(async move {
                let callers = serde_json::to_value(gathering.await);
                let callers = callers.map_err(|error| error.to_string());
                let _ = answer.send((callers, Vec::new()));
            });
        }
        Request::Certificates => {
            let operator = mesh.operator();
            tokio::spawn(async move {
                let told = told(operator, "/certificates").await;
                let told = told.map_err(|error| format!("{error:#}"));
                let _ = answer.send((told, Vec::new()));
            });
        }
        Request::Stalls => {
            let gathering = stalls::gather(mesh.around.folder.clone(), places(mesh));
            tokio::spawn(async move {
                let stalls = serde_json::to_value(gathering.await);
                let stalls = stalls.map_err(|error| error.to_string());
                let _ = answer.send((stalls, Vec::new()));
            });
        }
    }
}

/// Every pod and where it is.
fn places(mesh: &Mesh) -> Vec<(ObjectKey, Arc<Place>)> {
    let pods = mesh.pods.iter();
    pods.map(|(key, pod)| (key.clone(), pod.place.clone()))
        .collect()
}

fn enter(mesh: &Mesh, workload: &str) -> anyhow::Result<(Answer, Vec<OwnedFd>)> {
    let pod = find(mesh, workload)?;
    let mut descriptors = Vec::new();
    if let Some(namespaces) = &pod.place.namespaces {
        for of_all in ["user", "pid"] {
            let path = format!("/proc/self/ns/{of_all}");
            descriptors.push(
                File::open(&path)
                    .with_context(|| format!("opening {path}"))?
                    .into(),
            );
        }
        descriptors.push(namespaces.mounts.as_fd().try_clone_to_owned()?);
        descriptors.push(namespaces.network.as_fd().try_clone_to_owned()?);
    }
    Ok((Ok(serde_json::to_value(&pod.entrance)?), descriptors))
}

/// `[NAMESPACE/]NAME` of a pod or a Deployment, as people write it: `deployment/` or `pod/` may
/// stand before the name.
fn find<'a>(mesh: &'a Mesh, asked: &str) -> anyhow::Result<&'a Running> {
    let fits = named(asked);
    let mut found: Vec<_> = mesh.pods.iter().filter(|(key, _)| fits(key)).collect();
    for workload in mesh.plan.workloads.keys().filter(|key| fits(key)) {
        // Any of its replicas.
        found.extend(
            mesh.pods
                .iter()
                .find(|(_, pod)| pod.workload.as_ref() == Some(workload)),
        );
    }
    match found.as_slice() {
        [(_, pod)] => Ok(pod),
        [] => Err(nobody(mesh, asked)),
        several => {
            let known: Vec<_> = several.iter().map(|(key, _)| format!("`{key}`")).collect();
            bail!("`{asked}` may be {}: name one of them", known.join(" or "))
        }
    }
}

/// As [`find`], every replica of a Deployment.
fn find_all<'a>(mesh: &'a Mesh, asked: &str) -> anyhow::Result<Vec<&'a ObjectKey>> {
    let fits = named(asked);
    let is_meant =
        |key: &ObjectKey, pod: &Running| fits(key) || pod.workload.as_ref().is_some_and(&fits);
    let pods = mesh.pods.iter();
    let found: Vec<_> = pods
        .filter(|(key, pod)| is_meant(key, pod))
        .map(|(key, _)| key)
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(nobody(mesh, asked)),
    }
}

/// Whether a pod or a Deployment is meant by what people write.
fn named(asked: &str) -> impl Fn(&ObjectKey) -> bool {
    let mut name = asked;
    for kind in ["deployments/", "deployment/", "deploy/", "pods/", "pod/"] {
        name = name.strip_prefix(kind).unwrap_or(name);
    }
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, name),
    };
    move |key| key.name == name && namespace.is_none_or(|namespace| key.namespace == namespace)
}

fn nobody(mesh: &Mesh, asked: &str) -> anyhow::Error {
    let known = mesh.plan.workloads.keys().map(ToString::to_string);
    let known: Vec<_> = known.collect();
    let known = known.join(", ");
    anyhow::anyhow!("no workload is named `{asked}`; there are {known}")
}
