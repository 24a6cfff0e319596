use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::source::cluster::Cluster;
use crate::source::cluster::fake::{ApiServer, LONG, TIME};
use crate::source::{Seen, Source};

const CONSUMERS: &str = "secrets with consumer in shop";

/// An ApiRoute that takes consumers' keys.
fn route(namespace: &str, version: &str, auth: &Value) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
        "metadata": { "name": "orders", "namespace": namespace, "resourceVersion": version },
        "spec": { "hosts": ["orders"], "auth": auth } })
}

fn keys() -> Value {
    json!({ "apiKey": { "in": "Header", "name": "x-api-key" } })
}

fn secret(namespace: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "acme", "namespace": namespace, "resourceVersion": version } })
}

fn bookmark(kind: &str, version: &str) -> Value {
    json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": version } })
}

fn cluster(client: &Client) -> Cluster {
    Cluster::new(client, "meshwright-system", Arc::new(|_, _| {}))
}

async fn until(cluster: &mut Cluster, is: impl Fn(&Inputs) -> bool) -> Inputs {
    let wait = async {
        loop {
            let Seen { inputs, .. } = cluster.changed().await.unwrap();
            if is(&inputs) {
                return inputs;
            }
        }
    };
    timeout(LONG, wait).await.unwrap()
}

fn asked(server: &ApiServer) -> Vec<String> {
    let state = server.state();
    let listed = state
        .listed
        .iter()
        .filter(|what| what.starts_with("secrets"));
    listed.cloned().collect()
}

#[tokio::test]
async fn of_secrets_only_those_with_a_label_are_read_and_only_where_something_refers_to_them() {
    let (server, client) = ApiServer::start().await;
    server.list(
        "apiroutes",
        "17",
        json!([route("shop", "12", &Value::Null)]),
    );
    let mut cluster = cluster(&client);
    let inputs = until(&mut cluster, |_| true).await;
    assert_eq!(asked(&server), [TIME]);
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 10);

    server.list(CONSUMERS, "30", json!([secret("shop", "25")]));
    server
        .tell("apiroutes", "MODIFIED", route("shop", "20", &keys()))
        .await;
    // The key is there with the first word of who wants it: nobody is turned away meanwhile.
    let inputs = until(&mut cluster, |inputs| inputs.seen.at(Input::ApiRoute) == 20).await;
    let acme = ObjectKey::new("shop", "acme");
    assert!(inputs.consumers.contains_key(&acme));
    assert_eq!(asked(&server), [TIME, CONSUMERS]);
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 30);
    assert_eq!(inputs.seen_in("shop").at(Input::Credential), 10);
    // Of other namespaces nothing more is known for it.
    assert_eq!(inputs.seen_in("bank").at(Input::Consumer), 10);

    server
        .tell(CONSUMERS, "DELETED", secret("shop", "40"))
        .await;
    let inputs = until(&mut cluster, |inputs| inputs.consumers.is_empty()).await;
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 40);
    server.tell(CONSUMERS, "ADDED", secret("shop", "41")).await;
    until(&mut cluster, |inputs| inputs.consumers.contains_key(&acme)).await;

    // Nobody refers to them any more: they are forgotten, how new they were is not.
    server
        .tell("apiroutes", "MODIFIED", route("shop", "50", &Value::Null))
        .await;
    let inputs = until(&mut cluster, |inputs| inputs.seen.at(Input::ApiRoute) == 50).await;
    assert!(inputs.consumers.is_empty());
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 41);
    server
        .tell(TIME, "BOOKMARK", bookmark("Secret", "60"))
        .await;
    let inputs = until(&mut cluster, |inputs| inputs.seen.at(Input::Consumer) == 60).await;
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 60);
    assert!(inputs.seen_secrets.is_empty());
}

#[tokio::test]
async fn where_they_may_not_be_read_that_is_said_and_every_other_namespace_has_its_own() {
    let (server, client) = ApiServer::start().await;
    let routes = [route("bank", "11", &keys()), route("shop", "12", &keys())];
    server.list("apiroutes", "17", json!(routes));
    server.refuse("secrets with consumer in bank", 403);
    server.list(CONSUMERS, "30", json!([secret("shop", "25")]));
    let mut cluster = cluster(&client);
    let inputs = until(&mut cluster, |_| true).await;
    let forbidden = [("bank".to_owned(), Unreadable::Forbidden)];
    assert_eq!(inputs.unreadable, forbidden.into());
    assert_eq!(inputs.consumers.len(), 1);
    // Nothing was seen there: what a sidecar has of another replica stays.
    assert_eq!(inputs.seen_in("bank").at(Input::Consumer), 0);
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 30);

    server.list(
        "secrets with consumer in bank",
        "70",
        json!([secret("bank", "65")]),
    );
    server.refuse("secrets with consumer in bank", None);
    let inputs = until(&mut cluster, |inputs| inputs.unreadable.is_empty()).await;
    assert_eq!(inputs.consumers.len(), 2);
    assert_eq!(inputs.seen_in("bank").at(Input::Consumer), 70);
}

#[tokio::test]
async fn a_namespace_whose_secrets_are_not_answered_for_keeps_nobody_waiting_for_long() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "17", json!([route("shop", "12", &keys())]));
    server.refuse(CONSUMERS, 500);
    let mut cluster = cluster(&client);
    let start = Instant::now();
    let inputs = until(&mut cluster, |_| true).await;
    assert!(start.elapsed() >= PATIENCE);
    let unanswered = [("shop".to_owned(), Unreadable::Unanswered)];
    assert_eq!(inputs.unreadable, unanswered.into());

    server.list(CONSUMERS, "30", json!([secret("shop", "25")]));
    server.refuse(CONSUMERS, None);
    let inputs = until(&mut cluster, |inputs| inputs.unreadable.is_empty()).await;
    assert_eq!(inputs.consumers.len(), 1);
}

#[tokio::test]
async fn what_was_read_holds_on_while_they_may_not_be_read() {
    let (server, client) = ApiServer::start().await;
    server.list("apiroutes", "17", json!([route("shop", "12", &keys())]));
    server.list(CONSUMERS, "30", json!([secret("shop", "25")]));
    let mut cluster = cluster(&client);
    until(&mut cluster, |inputs| inputs.consumers.len() == 1).await;
    server.refuse(CONSUMERS, 403);
    // The watch ends, and no other begins.
    let watching = || server.state().watches.remove(CONSUMERS);
    timeout(LONG, async {
        while watching().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let inputs = until(&mut cluster, |inputs| !inputs.unreadable.is_empty()).await;
    assert_eq!(inputs.consumers.len(), 1);
    assert_eq!(inputs.seen_in("shop").at(Input::Consumer), 30);
}
