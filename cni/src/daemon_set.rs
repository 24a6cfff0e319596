//! Whether the DaemonSet that this process belongs to stays.
//!
//! A pod of it that ends is replaced in most cases: an upgrade, a restart. Were the plugin taken off
//! the node each time, pods that start in between would not be captured, and would never be ready.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

/// How often the API server is asked, how long one answer may take, and the pause in between: in all
/// less than the grace of a pod (30 s).
const TRIES: u32 = 5;
const ANSWER: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(3);

/// What becomes of a DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there: somebody replaces one of its pods.
    Stays,
    /// It was deleted, perhaps with all rights to look for it.
    Gone,
    /// The API server says neither.
    Unknown(String),
}

/// Asks the API server of the cluster that this process runs in.
pub async fn fate(namespace: &str, name: &str) -> Fate {
    match Client::try_default().await {
        Ok(client) => ask(&client, namespace, name).await,
        Err(error) => Fate::Unknown(error.to_string()),
    }
}

async fn ask(client: &Client, namespace: &str, name: &str) -> Fate {
    let api = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let mut seen = String::new();
    let mut denied = 0;
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(PAUSE).await;
        }
        match timeout(ANSWER, api.get_metadata(name)).await {
            Ok(Ok(found)) if found.metadata.deletion_timestamp.is_none() => return Fate::Stays,
            Ok(Ok(_)) => return Fate::Gone,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Fate::Gone,
            // An uninstallation takes the rights away with the DaemonSet. But an API server that starts
            // denies all for as long as it has not read who may do what.
            Ok(Err(kube::Error::Api(status))) if [401, 403].contains(&status.code) => {
                denied += 1;
                seen = status.to_string();
            }
            Ok(Err(error)) => seen = error.to_string(),
            Err(_) => seen = format!("the API server gave no answer within {ANSWER:?}"),
        }
    }
    match denied == TRIES {
        true => Fate::Gone,
        false => Fate::Unknown(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use serde_json::{Value, json};

    /// What becomes of the DaemonSet when the API server answers this.
    async fn answered(status: u16, body: Value) -> Fate {
        answered_in_turn(vec![(status, body)]).await
    }

    /// The same of several answers, of which the last is given from then on.
    async fn answered_in_turn(answers: Vec<(u16, Value)>) -> Fate {
        let mut nth = 0;
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let path = request.uri().path().to_owned();
            assert_eq!(path, "/apis/apps/v1/namespaces/mesh/daemonsets/cni");
            let (status, body) = answers[nth.min(answers.len() - 1)].clone();
            nth += 1;
            let body = Full::new(Bytes::from(body.to_string()));
            let answer = Response::builder().status(status).body(body);
            async move { Ok::<_, kube::Error>(answer.unwrap()) }
        });
        ask(&Client::new(service, "default"), "mesh", "cni").await
    }

    fn found(metadata: Value) -> Value {
        json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
    }

    fn refused(code: u16) -> Value {
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code })
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_there_stays() {
        assert_eq!(
            answered(200, found(json!({ "name": "cni" }))).await,
            Fate::Stays
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_deleted_is_gone_with_or_without_the_right_to_look() {
        let deleted = json!({ "name": "cni", "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert_eq!(answered(200, found(deleted)).await, Fate::Gone);
        for code in [401, 403, 404] {
            assert_eq!(answered(code, refused(code)).await, Fate::Gone, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_starts_and_denies_all_for_a_moment_takes_no_plugin_away() {
        let there = (200, found(json!({ "name": "cni" })));
        for code in [401, 403] {
            let denied = (code, refused(code));
            let answers = vec![denied.clone(), denied.clone(), there.clone()];
            assert_eq!(answered_in_turn(answers).await, Fate::Stays, "{code}");
            let answers = vec![(503, refused(503)), denied];
            let fate = answered_in_turn(answers).await;
            assert!(matches!(fate, Fate::Unknown(_)), "{code}: {fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_in_trouble_takes_no_plugin_away() {
        for code in [429, 500, 503] {
            let fate = answered(code, refused(code)).await;
            assert!(matches!(fate, Fate::Unknown(_)), "{code}: {fate:?}");
        }
    }
}
