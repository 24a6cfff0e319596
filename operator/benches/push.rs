//! How long an edit takes to reach a thousand sidecars: from the file to the last ACK.
//!
//! `cargo bench -p operator --bench push`. A whole operator on a folder, and `STREAMS` (1000)
//! sidecars' ends of the stream over loopback TLS, all in this process: what is measured includes
//! what the sidecars do, but for enforcing. They connect `BATCH` (50) at a time: the next ones when
//! the last hold everything.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code)]
#[path = "../tests/sidecar/mod.rs"]
mod sidecar;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use compiler::{ObjectKey, ObjectRef};
use operator::app::{self, Running};
use operator::args::Config;
use sidecar::{Identity, Sidecar};

const EDITS: usize = 21;

fn main() {
    let streams = number("STREAMS", 1000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(streams));
    runtime.shutdown_background();
}

async fn run(streams: usize) {
    let dir = tempfile::tempdir().unwrap();
    write_world(dir.path(), streams);
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let operator = app::start(Config::parse_from([
        "meshwright-operator",
        "--files",
        &path("files"),
        "--state",
        &path("state"),
        "--tokens",
        &path("tokens.json"),
        "--listen-grpc",
        "127.0.0.1:0",
        "--listen-http",
        "127.0.0.1:0",
    ]))
    .await
    .unwrap();
    let start = Instant::now();
    assert!(operator.ready().await);
    println!(
        "the world of {streams} pods and 100 Services is compiled after {:?}",
        start.elapsed()
    );

    let start = Instant::now();
    let mut sidecars = Vec::new();
    let batch = number("BATCH", 50);
    for n in 0..streams {
        let identity = Identity::issue(&operator, "shop", &format!("web-{n}"), &format!("u{n}"));
        sidecars.push(Sidecar::start(&operator, &identity));
        // Not all at once: with both ends of a thousand handshakes on a few cores they would give
        // up before their turn came.
        if (n + 1) % batch == 0 || n + 1 == streams {
            until(&operator, |held, m| (held, m) == (n + 1, n + 1)).await;
        }
    }
    println!(
        "{streams} sidecars, connecting {batch} at a time, hold everything after {:?}",
        start.elapsed()
    );

    let (mut published, mut acked, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for edit in 0..EDITS {
        // Clear of the last one's debounce.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let start = Instant::now();
        write_route(dir.path(), edit + 1);
        until(&operator, |n, m| n < m).await;
        published.push(start.elapsed());
        let told = Instant::now();
        until(&operator, |n, m| n == m).await;
        acked.push(told.elapsed());
        whole.push(start.elapsed());
    }
    println!("an edit of one ApiRoute, median of {EDITS} (least to greatest):");
    println!(
        "  from the file to the last of {streams} ACKs:          {}",
        spread(whole)
    );
    println!(
        "  of it, to published (100 ms of it debounce):     {}",
        spread(published)
    );
    println!(
        "  of it, from published to the last ACK:           {}",
        spread(acked)
    );
}

fn number(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(default)
}

async fn until(operator: &Running, is: impl Fn(usize, usize) -> bool) {
    let route = ObjectRef::api_route(&ObjectKey::new("shop", "orders"));
    loop {
        let programmed = operator.streams.programmed(&route);
        if is(programmed.n, programmed.m) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn spread(mut all: Vec<Duration>) -> String {
    all.sort();
    let (median, least, greatest) = (all[all.len() / 2], all[0], all[all.len() - 1]);
    format!("{median:.1?} ({least:.1?} to {greatest:.1?})")
}

fn write_world(dir: &Path, streams: usize) {
    fs::create_dir(dir.join("files")).unwrap();
    let mut services = String::new();
    for n in 0..100 {
        write!(
            services,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{n}, namespace: shop }}\n\
             spec: {{ selector: {{ app: s{n} }}, clusterIP: 10.96.0.{n}, ports: [{{ name: http, port: 80 }}] }}\n"
        )
        .unwrap();
    }
    fs::write(dir.join("files/services.yaml"), services).unwrap();
    let mut pods = String::new();
    for n in 0..streams {
        write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{ name: web-{n}, namespace: shop, uid: u{n}, labels: {{ app: s{} }} }}\n\
             spec: {{ containers: [{{ name: meshwright-sidecar }}] }}\n\
             status: {{ podIP: 10.0.{}.{}, conditions: [{{ type: Ready, status: 'True' }}] }}\n",
            n % 100,
            n / 250,
            n % 250
        )
        .unwrap();
    }
    fs::write(dir.join("files/pods.yaml"), pods).unwrap();
    write_route(dir, 0);
    fs::write(dir.join("tokens.json"), r#"{"tokens":[]}"#).unwrap();
}

fn write_route(dir: &Path, edit: usize) {
    let route = format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: orders, namespace: shop }}\n\
         spec: {{ hosts: [s0], rules: [{{ matches: [{{ path: {{ type: Prefix, value: /v{edit} }} }}] }}] }}\n"
    );
    fs::write(dir.join("files/.route"), route).unwrap();
    fs::rename(dir.join("files/.route"), dir.join("files/route.yaml")).unwrap();
}
