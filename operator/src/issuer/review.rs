//! In a cluster: service-account tokens, which the API server reviews.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use super::refused::Refused;
use super::{Issuer, Refusal, Workload};

/// Whom a token must be meant for: one that leaks from elsewhere is no use here, and this one is no
/// use elsewhere.
pub const AUDIENCE: &str = "meshwright.dev/ca";

/// Where a TokenReview says which pod the token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The most of the API server's own words that are passed on, in characters.
const MAX_SAID: usize = 300;

/// Asks the API server; about a token that it has just refused, not again.
pub struct Reviewer {
    client: Client,
    refused: Refused,
}

// === impl Reviewer ===

impl Reviewer {
    /// Asks with the operator's own account, which must be allowed to create TokenReviews and to
    /// get pods.
    pub fn new(client: Client) -> Reviewer {
        Reviewer {
            client,
            refused: Refused::default(),
        }
    }

    async fn whose(&self, token: &str) -> Result<Workload, Refusal> {
        if let Some(refusal) = self.refused.why(token) {
            return Err(refusal);
        }
        let review = self.review(token).await;
        review.inspect_err(|refusal| self.refused.remember(token, refusal))
    }

    async fn review(&self, token: &str) -> Result<Workload, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        // The error names the request, never its body.
        let review = api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(%error, "the API server reviews no token");
            Refusal::Unavailable("the API server couldn't be asked to review the token; the operator's log says why".into())
        })?;
        whose(&review.status.unwrap_or_default())
    }

    async fn pod(&self, workload: &Workload, from: IpAddr) -> Result<(), Refusal> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &workload.namespace);
        let pod = api.get_opt(&workload.pod).await.map_err(|error| {
            tracing::warn!(%error, pod = %workload, "the API server doesn't say whether a pod is there");
            Refusal::Unavailable("the API server couldn't be asked for the pod; the operator's log says why".into())
        })?;
        same_pod(pod.as_ref(), workload, from)
    }
}

impl Issuer for Reviewer {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Workload, Refusal>> {
        Box::pin(self.whose(token))
    }

    fn still_runs<'a>(
        &'a self,
        workload: &'a Workload,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.pod(workload, from))
    }
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

/// What an answered TokenReview says.
fn whose(status: &TokenReviewStatus) -> Result<Workload, Refusal> {
    if status.authenticated != Some(true) {
        let said: String = status
            .error
            .iter()
            .flat_map(|error| error.chars())
            .take(MAX_SAID)
            .collect();
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        };
        return Err(Refusal::Unknown(format!(
            "the API server knows no such token for the audience {AUDIENCE}{said}"
        )));
    }
    // An API server that knows nothing of audiences returns none, whatever the token was meant for.
    if !status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE)
    {
        return Err(Refusal::Unknown(format!(
            "the token isn't meant for the audience {AUDIENCE}"
        )));
    }
    let user = status.user.clone().unwrap_or_default();
    let account = user
        .username
        .as_deref()
        .and_then(|name| name.strip_prefix("system:serviceaccount:")?.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return Err(Refusal::Denied(
            "the token is of no service account; workloads have no other identity".into(),
        ));
    };
    let extra = user.extra.unwrap_or_default();
    let (Some(pod), Some(uid)) = (one(&extra, POD_NAME), one(&extra, POD_UID)) else {
        return Err(Refusal::Denied(
            "the token isn't bound to a pod: use the projected token that injection mounts, not one made by hand".into(),
        ));
    };
    Workload::new(namespace, service_account, pod, uid)
        .map_err(|error| Refusal::Denied(error.to_string()))
}

fn one<'a>(extra: &'a BTreeMap<String, Vec<String>>, key: &str) -> Option<&'a str> {
    match extra.get(key)?.as_slice() {
        [value] => Some(value),
        _ => None,
    }
}

/// Whether the pod of that name is still the one that the token or leaf was issued to, and asks
/// itself.
fn same_pod(pod: Option<&Pod>, workload: &Workload, from: IpAddr) -> Result<(), Refusal> {
    let denied = |why: &str| {
        Err(Refusal::Denied(format!(
            "the pod {workload} {why}: no certificate is issued"
        )))
    };
    let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&workload.uid)) else {
        return denied("that this was issued to is gone");
    };
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref());
    if account.unwrap_or("default") != workload.service_account {
        return denied("runs as another service account");
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return denied("has ended");
    }
    asks_itself(pod, workload, from)
}

/// Pods reach a Service with their own addresses, so that who asks from elsewhere is not the pod.
fn asks_itself(pod: &Pod, workload: &Workload, from: IpAddr) -> Result<(), Refusal> {
    let status = pod.status.as_ref();
    let addresses = status.and_then(|status| status.pod_ips.as_deref());
    let addresses: Vec<IpAddr> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|address| address.ip.parse().ok())
        .collect();
    if addresses.contains(&from.to_canonical()) {
        return Ok(());
    }
    if addresses.is_empty() {
        // The kubelet reports them shortly after the pod's first container has started.
        return Err(Refusal::Unavailable(format!(
            "the pod {workload} has no address yet; ask again"
        )));
    }
    tracing::warn!(pod = %workload, %from, ?addresses, "somebody else asks in a pod's name");
    Err(Refusal::Denied(format!(
        "this is the pod {workload}'s, which does not ask from {from}: no certificate is issued"
    )))
}

#[cfg(test)]
mod tests {
    use super::super::refused::MEMORY;
    use super::*;
    use crate::api_server::fake;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn workload() -> Workload {
        Workload::new("shop", "orders", "orders-1", "6c1f").unwrap()
    }

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": "system:serviceaccount:shop:orders",
                "uid": "a",
                "groups": ["system:serviceaccounts"],
                "extra": { POD_NAME: ["orders-1"], POD_UID: ["6c1f"] },
            },
        })
    }

    fn answer(change: impl FnOnce(&mut Value)) -> Result<Workload, Refusal> {
        let mut status = good();
        change(&mut status);
        whose(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_token_bound_to_a_pod_names_the_pod_and_its_service_account() {
        assert_eq!(answer(|_| ()), Ok(workload()));
    }

    #[test]
    fn a_token_that_is_not_authenticated_is_nobodys_and_it_is_said_why() {
        let refused = answer(|status| {
            *status =
                json!({ "authenticated": false, "error": "service account token has expired" });
        });
        let Err(Refusal::Unknown(why)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            why.ends_with(": service account token has expired"),
            "{why}"
        );
        assert!(matches!(
            whose(&TokenReviewStatus::default()),
            Err(Refusal::Unknown(_))
        ));
    }

    #[test]
    fn a_token_for_another_audience_is_refused_even_if_the_api_server_takes_it() {
        for audiences in [
            json!(["https://kubernetes.default.svc"]),
            json!([]),
            Value::Null,
        ] {
            let refused = answer(|status| status["audiences"] = audiences);
            assert!(matches!(refused, Err(Refusal::Unknown(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_token_of_no_service_account_is_refused() {
        for name in [
            "system:node:node",
            "alice",
            "system:serviceaccount:shop",
            "system:serviceaccount:shop:a/b",
        ] {
            let refused = answer(|status| status["user"]["username"] = json!(name));
            assert!(
                matches!(refused, Err(Refusal::Denied(_))),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_token_that_is_bound_to_no_pod_is_refused_with_a_sentence() {
        for key in [POD_NAME, POD_UID] {
            for value in [Value::Null, json!([]), json!(["a", "b"])] {
                let refused = answer(|status| {
                    let extra = status["user"]["extra"].as_object_mut().unwrap();
                    if value.is_null() {
                        extra.remove(key);
                    } else {
                        extra.insert(key.into(), value);
                    }
                });
                let Err(Refusal::Denied(why)) = refused else {
                    panic!("{refused:?}")
                };
                assert!(why.contains("isn't bound to a pod"), "{why}");
            }
        }
    }

    #[test]
    fn only_the_very_pod_that_still_runs_is_renewed() {
        let pod = |change: fn(&mut Value)| -> Pod {
            let mut pod = json!({
                "metadata": { "name": "orders-1", "uid": "6c1f" },
                "spec": { "serviceAccountName": "orders", "containers": [] },
                "status": { "phase": "Running", "podIPs": [{ "ip": "10.1.2.3" }] },
            });
            change(&mut pod);
            serde_json::from_value(pod).unwrap()
        };
        let own = IpAddr::from([10, 1, 2, 3]);
        assert_eq!(same_pod(Some(&pod(|_| ())), &workload(), own), Ok(()));
        assert!(same_pod(None, &workload(), own).is_err());
        let changes: [fn(&mut Value); 3] = [
            |pod| pod["metadata"]["uid"] = json!("another"),
            |pod| pod["spec"]["serviceAccountName"] = json!("another"),
            |pod| pod["status"]["phase"] = json!("Failed"),
        ];
        for change in changes {
            let refused = same_pod(Some(&pod(change)), &workload(), own);
            assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_token_is_of_no_use_at_another_address_than_its_pods() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "orders-1", "uid": "6c1f" },
            "spec": { "serviceAccountName": "orders", "containers": [] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.1.2.3" }, { "ip": "fd00::1" }] },
        }))
        .unwrap();
        let from = |address: &str| same_pod(Some(&pod), &workload(), address.parse().unwrap());
        for own in ["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"] {
            assert_eq!(from(own), Ok(()), "{own}");
        }
        assert!(matches!(from("10.1.2.4"), Err(Refusal::Denied(_))));

        let new = Pod {
            status: None,
            ..pod
        };
        let early = same_pod(Some(&new), &workload(), IpAddr::from([10, 1, 2, 3]));
        assert!(matches!(early, Err(Refusal::Unavailable(_))), "{early:?}");
    }
    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_refused_is_not_reviewed_again_for_a_while() {
        let reviews = Arc::new(AtomicUsize::new(0));
        let counted = reviews.clone();
        let client = fake::client(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let review: Value = serde_json::from_slice(request.body()).unwrap();
            let status = match review["spec"]["token"].as_str().unwrap() {
                "good" => good(),
                _ => json!({ "authenticated": false }),
            };
            let busy = review["spec"]["token"] == "busy";
            async move {
                match busy {
                    true => fake::refusal(500),
                    false => fake::json(&json!({
                        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                        "metadata": {}, "spec": {}, "status": status,
                    })),
                }
            }
        });
        let reviewer = Reviewer::new(client);
        let ask = async |token: &str, times: usize| {
            let before = reviews.load(Ordering::Relaxed);
            let mut last = None;
            for _ in 0..times {
                let answer = reviewer.identify(token).await;
                assert_eq!(*last.get_or_insert(answer.clone()), answer, "{token}");
            }
            (last.unwrap(), reviews.load(Ordering::Relaxed) - before)
        };

        let (refused, asked) = ask("bogus", 64).await;
        assert!(matches!(refused, Err(Refusal::Unknown(_))), "{refused:?}");
        assert_eq!(asked, 1);
        assert_eq!(ask("another", 1).await.1, 1);
        assert_eq!(ask("good", 3).await, (Ok(workload()), 3));
        assert_eq!(ask("busy", 3).await.1, 3, "that is no refusal");

        tokio::time::advance(MEMORY).await;
        assert_eq!(ask("bogus", 64).await.1, 1, "it may be good now");
    }
}
