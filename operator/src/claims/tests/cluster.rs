//! Leases, with as much of an API server as they need.

use bytes::Bytes;
use http::{Method, Request, Response};
use kube::Client;
use serde_json::{Value, json};

use super::super::lease::Leases;
use super::*;
use crate::api_server::fake;

/// Leases by name, kept as an API server keeps them.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(BTreeMap<String, Value>, u64)>>);

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        fake::client(move |request| {
            let answer = server.answer(&request);
            async move { answer }
        })
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<fake::Body> {
        let (leases, version) = &mut *self.0.lock().unwrap();
        let path = request.uri().path();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let held = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match *request.method() {
            Method::GET if name == "leases" => {
                let query = request.uri().query().unwrap_or_default();
                assert!(query.contains("labelSelector=meshwright.dev"), "{query}");
                let items = Vec::from_iter(leases.values());
                return fake::json(&json!({ "metadata": {}, "items": items }));
            }
            Method::GET => {}
            Method::DELETE => {
                let wanted = &body["preconditions"]["resourceVersion"];
                match leases.get(&name).map(held) {
                    Some(held) if held == *wanted => {
                        leases.remove(&name);
                        return fake::json(&json!({ "kind": "Status", "status": "Success" }));
                    }
                    _ => return fake::refusal(409),
                }
            }
            Method::POST | Method::PUT => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let before = leases.get(&name).map(held);
                let over = body["metadata"].get("resourceVersion").cloned();
                if before != over {
                    return fake::refusal(409);
                }
                *version += 1;
                let mut lease = body.clone();
                lease["metadata"]["resourceVersion"] = json!(version.to_string());
                leases.insert(name.clone(), lease.clone());
                return fake::json(&lease);
            }
            _ => return fake::refusal(405),
        }
        match leases.get(&name) {
            Some(lease) => fake::json(lease),
            None => fake::absence(),
        }
    }

    fn lease(&self) -> Value {
        let leases = &self.0.lock().unwrap().0;
        leases.values().next().cloned().unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_cluster_a_lease_says_who_holds_what_and_the_api_server_decides() {
    let server = Server::default();
    let replica = || Claims::new(Leases::new(server.client(), "mesh"));
    let (first, second) = (replica(), replica());
    let pods = ["shop/nightly-0/uid", "shop/nightly-1/uid"];
    let granted = first.claim(&claimant(pods[0]), &begins(5)).await.unwrap();
    assert_eq!(granted.token, 1);
    assert_eq!(
        second
            .claim(&claimant(pods[1]), &begins(5))
            .await
            .unwrap()
            .token,
        0
    );

    let lease = server.lease();
    let annotations = &lease["metadata"]["annotations"];
    assert_eq!(annotations["meshwright.dev/object"], "shop/nightly");
    assert_eq!(lease["spec"]["holderIdentity"], pods[0]);
    assert_eq!(lease["spec"]["leaseTransitions"], 1);

    tokio::time::advance(FRESH).await;
    first
        .claim(&claimant(pods[0]), &has_done(1, 5))
        .await
        .unwrap();
    assert_eq!(server.lease()["spec"]["holderIdentity"], Value::Null);
    let next = second.claim(&claimant(pods[1]), &begins(6)).await.unwrap();
    assert_eq!(
        (next.token, next.begun_ms),
        (2, 6),
        "over what another replica has written"
    );
    assert_eq!(
        first
            .claim(&claimant(pods[0]), &begins(6))
            .await
            .unwrap()
            .token,
        0
    );

    let store = Leases::new(server.client(), "mesh");
    let [(object, version)] = &store.all().await.unwrap()[..] else {
        panic!("{}", server.lease())
    };
    store.remove(object, "1").await.unwrap();
    assert_eq!(store.all().await.unwrap().len(), 1, "it has changed since");
    store.remove(object, version).await.unwrap();
    assert_eq!(store.all().await.unwrap(), []);
    // What is gone is made anew, by who has not heard of that too.
    let anew = second.claim(&claimant(pods[1]), &begins(7)).await.unwrap();
    assert_eq!((anew.token, anew.begun_ms), (1, 7));
}
