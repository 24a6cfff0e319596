//! An AdmissionReview (admission.k8s.io/v1), read and answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::{Config, inject};

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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

/// The namespace of the object that a review is about; empty if it is in none, or this is no review.
pub(super) fn namespace(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Review {
        request: Option<Request>,
    }
    #[derive(Deserialize)]
    struct Request {
        #[serde(default)]
        namespace: String,
    }
    let review: Review = serde_json::from_slice(body).unwrap_or_default();
    review
        .request
        .map(|request| request.namespace)
        .unwrap_or_default()
}

/// The answer to a review, as JSON. What is not the creation of a pod is let through as it is.
pub(super) fn answer(body: &[u8], config: &Config) -> Result<Vec<u8>, BadReview> {
    let Review {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body)?;
    if (api_version.as_str(), kind.as_str()) != (API_VERSION, "AdmissionReview") {
        return Err(BadReview::Kind { api_version, kind });
    }
    let request = request.ok_or(BadReview::NoRequest)?;
    let mut response = json!({ "uid": request.uid, "allowed": true });
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
                tracing::info!(
                    namespace = request.namespace,
                    pod = called(),
                    "a pod gets a sidecar"
                );
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
                response["status"] =
                    json!({ "code": 422, "reason": "Invalid", "message": message });
            }
        }
    }
    let answer =
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response });
    Ok(serde_json::to_vec(&answer)?)
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
