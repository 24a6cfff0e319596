//! An AdmissionReview (admission.k8s.io/v1), read and answered; for pods, with [`crate::inject`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::{Config, INJECTED, Refusal, inject};

const API_VERSION: &str = "admission.k8s.io/v1";

/// Why a review gets no answer, for the API server's log.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReview {
    #[error("not an AdmissionReview in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this is {kind} of {api_version}, not an AdmissionReview of {API_VERSION}")]
    Kind { api_version: String, kind: String },
    #[error("the AdmissionReview has no request")]
    NoRequest,
    #[error("the request's namespace {0:?} is no name of one")]
    Namespace(String),
}

/// Whether it can be asked for: whoever reaches this port may write anything into a review, and must not
/// choose by it what the operator asks the API server.
pub(super) fn is_namespace(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// What is asked about.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) uid: String,
    pub(super) kind: Kind,
    pub(super) operation: String,
    /// Empty for what its creator leaves the API server to name.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    /// `status` and the like; empty for the object itself.
    #[serde(default)]
    pub(super) sub_resource: String,
    #[serde(default)]
    pub(super) object: Value,
    /// What is stored, of an update.
    #[serde(default)]
    pub(super) old_object: Value,
}

/// A group, a version and a kind.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

/// The request of a review.
pub(super) fn read(body: &[u8]) -> Result<Request, BadReview> {
    let Review {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body)?;
    if (api_version.as_str(), kind.as_str()) != (API_VERSION, "AdmissionReview") {
        return Err(BadReview::Kind { api_version, kind });
    }
    request.ok_or(BadReview::NoRequest)
}

/// The review that answers a request, as JSON.
pub(super) fn written(uid: &str, mut response: Value) -> Result<Vec<u8>, BadReview> {
    response["uid"] = json!(uid);
    let answer =
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response });
    Ok(serde_json::to_vec(&answer)?)
}

/// The answer to a request about a pod. What is not the creation of one is let through as it is.
pub(super) fn injected(request: Request, config: &Config) -> Result<Value, BadReview> {
    let mut response = json!({ "allowed": true });
    if is_new_pod(&request) {
        let pod: Pod = serde_json::from_value(request.object)?;
        let called = || {
            let metadata = &pod.metadata;
            metadata
                .name
                .as_deref()
                .or(metadata.generate_name.as_deref())
                .unwrap_or_default()
        };
        match inject(&pod, config) {
            Ok(patch) if patch.0.is_empty() => {}
            Ok(patch) => {
                let annotations = pod.metadata.annotations.as_ref();
                let what = match annotations.is_some_and(|all| all.contains_key(INJECTED)) {
                    true => "the sidecar of a pod asks what others have added to it",
                    false => "a pod gets a sidecar",
                };
                tracing::info!(namespace = request.namespace, pod = called(), "{what}");
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(serde_json::to_vec(&patch)?));
            }
            Err(refusal) => {
                tracing::warn!(namespace = request.namespace, pod = called(), %refusal, "a pod can't have a sidecar and is refused");
                let message = format!(
                    "this pod can't have a Meshwright sidecar: {refusal}; to leave it out of the mesh, \
                     label it {}: disabled",
                    crate::inject::LABEL
                );
                response["allowed"] = json!(false);
                let (code, reason) = match refusal {
                    // It isn't the pod's fault, and whoever makes it tries again.
                    Refusal::RootsEnded(_) => (503, "ServiceUnavailable"),
                    _ => (422, "Invalid"),
                };
                response["status"] = json!({ "code": code, "reason": reason, "message": message });
            }
        }
    }
    Ok(response)
}

fn is_new_pod(request: &Request) -> bool {
    let Kind {
        group,
        version,
        kind,
    } = &request.kind;
    (group.as_str(), version.as_str(), kind.as_str()) == ("", "v1", "Pod")
        && request.operation == "CREATE"
}
