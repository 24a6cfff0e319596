//! What is put into a pod: two containers and two volumes.

use compiler::pod_settings::EXCLUDE_INBOUND_FLAG;
use serde_json::{Value, json};

use super::sidecar::Own;
use super::{Config, REDIRECT, SIDECAR, UID};

/// Where the sidecar looks for its token.
const TOKEN_FOLDER: &str = "/var/run/secrets/meshwright";
/// Where the sidecar keeps what it must have after a restart; it makes a folder in it that is its
/// own alone.
const STATE_FOLDER: &str = "/var/run/meshwright/state";
/// How long a token is valid, in seconds; the kubelet replaces it in time. The sidecar needs it
/// once, and again if it was away for longer than its certificate lives.
const TOKEN_SECONDS: i64 = 3600;
/// How often the kubelet asks a sidecar that starts whether it is ready, before it kills it: a day
/// of seconds. One that waits for its operator must not be killed for it: each time would be
/// followed by a longer pause, and it is to be ready within seconds of the operator's return.
const STARTUP_TRIES: i32 = 86_400;

// === what is put in ===

/// Runs once, before everything else.
pub(super) fn redirect(config: &Config, own: &Own) -> Value {
    let mut args = vec!["redirect".to_owned(), "--uid".to_owned(), UID.to_string()];
    let settings = &own.settings;
    let mut exclude = |flag: &str, what: String| args.extend([flag.to_owned(), what]);
    for port in &settings.exclude_inbound_ports {
        exclude(EXCLUDE_INBOUND_FLAG, port.to_string());
    }
    for port in &settings.exclude_outbound_ports {
        exclude("--exclude-outbound-port", port.to_string());
    }
    for network in &settings.exclude_outbound_cidrs {
        exclude("--exclude-outbound-cidr", network.to_string());
    }
    json!({
        "name": REDIRECT,
        "image": config.sidecar.sidecar_image,
        "imagePullPolicy": config.sidecar.sidecar_pull_policy,
        "args": args,
        "resources": own.resources,
        // A pod that fails here says why in its status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            // Said because the pod may say otherwise for all of its containers.
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

/// Stays for as long as the pod does.
pub(super) fn sidecar(config: &Config, own: &Own) -> Value {
    let ready = json!({ "path": "/ready", "port": 15021 });
    let mut env = vec![
        json!({ "name": "MESHWRIGHT_OPERATOR", "value": config.operator }),
        json!({ "name": "MESHWRIGHT_TRUST_DOMAIN", "value": config.trust_domain }),
        json!({ "name": "MESHWRIGHT_BUNDLE", "value": config.roots }),
        json!({ "name": "MESHWRIGHT_LOG", "value": own.log }),
    ];
    if let Some(workers) = own.settings.workers {
        env.push(json!({ "name": "MESHWRIGHT_WORKERS", "value": workers.to_string() }));
    }
    if let Some(probes) = &own.probes {
        env.push(json!({ "name": "MESHWRIGHT_PROBES", "value": probes }));
    }
    json!({
        "name": SIDECAR,
        "image": config.sidecar.sidecar_image,
        "imagePullPolicy": config.sidecar.sidecar_pull_policy,
        "restartPolicy": "Always",
        "env": env,
        "ports": [{ "name": "mw-metrics", "containerPort": 15020, "protocol": "TCP" }],
        "resources": own.resources,
        "startupProbe": { "httpGet": ready, "periodSeconds": 1, "failureThreshold": STARTUP_TRIES },
        "readinessProbe": { "httpGet": ready, "periodSeconds": 2, "failureThreshold": 2 },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "meshwright-token", "mountPath": TOKEN_FOLDER, "readOnly": true },
            { "name": "meshwright-state", "mountPath": STATE_FOLDER },
        ],
    })
}

/// Only the sidecar mounts it. Who else in the pod gets at it can ask for this pod's identity, and
/// no other.
pub(super) fn token_volume() -> Value {
    let token = json!({
        "path": "token",
        "audience": crate::issuer::review::AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    });
    json!({ "name": "meshwright-token", "projected": { "sources": [{ "serviceAccountToken": token }] } })
}

/// In memory: keys are on no disk, and a sidecar that is killed comes back with what it had. Of
/// mode 0777, which lets the sidecar's user write whatever fsGroup the pod has; what the sidecar
/// makes in it is its own alone.
pub(super) fn state_volume() -> Value {
    // A sidecar holds 64 MiB of configuration at most, and a file that replaces another is there
    // beside it for a moment.
    json!({ "name": "meshwright-state", "emptyDir": { "medium": "Memory", "sizeLimit": "160Mi" } })
}
