//! As much of an API server as a source needs, over a real socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Longer than anything takes.
pub(in crate::source) const LONG: Duration = Duration::from_secs(20);

/// Secrets, of which nothing is asked but how new they are. Those of a namespace are called
/// `secrets with consumer in shop`, and everything else by its plural.
pub(in crate::source) const TIME: &str = "secrets' time";

/// As much of an API server as a watch needs.
#[derive(Clone, Default)]
pub(in crate::source) struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
pub(in crate::source) struct State {
    /// By what is asked for: what a list answers.
    lists: HashMap<String, Value>,
    /// By what is asked for: the status that it is refused with.
    refused: HashMap<String, u16>,
    /// By what is asked for: who watches.
    pub(in crate::source) watches: HashMap<String, Sender<Bytes>>,
    /// Every list there was.
    pub(in crate::source) listed: Vec<String>,
}

type Body = BoxBody<Bytes, Infallible>;

impl ApiServer {
    pub(in crate::source) async fn start() -> (ApiServer, Client) {
        let server = ApiServer::default();
        for kind in [
            "apiroutes",
            "eventsubscriptions",
            "ratelimits",
            "retrypolicies",
            "services",
            "endpointslices",
            "pods",
            "namespaces",
            TIME,
        ] {
            server.list(kind, "10", json!([]));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = answering.clone();
                let service = service_fn(move |request| {
                    let response = server.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(http1::Builder::new().serve_connection(io, service));
            }
        });
        let config = kube::Config::new(url.parse().unwrap());
        (server, Client::try_from(config).unwrap())
    }

    pub(in crate::source) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(in crate::source) fn list(&self, plural: &str, version: &str, items: Value) {
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": version }, "items": items });
        self.state().lists.insert(plural.to_owned(), list);
    }

    /// From now on what is asked for is refused, or no longer.
    pub(in crate::source) fn refuse(&self, what: &str, status: impl Into<Option<u16>>) {
        let mut state = self.state();
        match status.into() {
            Some(status) => state.refused.insert(what.to_owned(), status),
            None => state.refused.remove(what),
        };
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut path = request.uri().path().rsplit('/');
        let mut what = path.next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let watch = query.contains("watch=true");
        if let Some((_, label)) = query.split_once("labelSelector=meshwright.dev%2F") {
            let label = label.split('&').next().unwrap();
            what = format!("{what} with {label} in {}", path.next().unwrap());
        }
        if query.contains("fieldSelector=metadata.name%3Dmeshwright-ca") {
            what = TIME.to_owned();
        }
        let mut state = self.state();
        if let Some(status) = state.refused.get(&what) {
            let refusal = json!({ "kind": "Status", "status": "Failure", "message": "no",
                                  "reason": "no", "code": status });
            let body = Full::new(Bytes::from(refusal.to_string())).boxed();
            let response = Response::builder().status(*status);
            return response.body(body).unwrap();
        }
        if watch {
            let (sender, body) = Channel::new(16);
            state.watches.insert(what, sender);
            Response::new(body.boxed())
        } else {
            state.listed.push(what.clone());
            let list = state
                .lists
                .get(&what)
                .unwrap_or_else(|| panic!("no list of {what}"));
            Response::new(Full::new(Bytes::from(list.to_string())).boxed())
        }
    }

    /// Tells a watch of an event, once there is a watch.
    pub(in crate::source) async fn tell(&self, plural: &str, type_: &str, object: Value) {
        let mut line = json!({ "type": type_, "object": object }).to_string();
        line.push('\n');
        let watched = async {
            loop {
                if let Some(sender) = self.state().watches.remove(plural) {
                    return sender;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut sender = timeout(LONG, watched).await.unwrap();
        sender.send_data(Bytes::from(line)).await.unwrap();
        self.state()
            .watches
            .entry(plural.to_owned())
            .or_insert(sender);
    }
}
