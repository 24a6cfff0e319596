//! What a rule does to requests and responses beside routing them: one file for each filter.

mod body_limit;
mod compression;
mod concurrency;
mod cors;
mod direct_response;
mod fault;
mod headers;
mod idle;
mod mirror;
mod redirect;
mod rewrite;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::routing::{route, services};

/// A caller of the Service `orders`, whose ApiRoute has these rules and is in force.
async fn world(rules: &str) -> Result<(Mesh, Workload, Client)> {
    let yaml = services(&["orders"]) + &route(rules);
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    Ok((mesh, orders, client))
}

/// A connection to the outbound port of the client's sidecar, for bytes that no client would send.
async fn connect(client: &Client) -> Result<TcpStream> {
    let to = SocketAddr::new(client.sidecar().address().into(), 15001);
    Ok(TcpStream::connect(to).await?)
}

/// All that is answered until the connection ends, or until it ends with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> Result<String> {
    let mut answer = Vec::new();
    let read = async {
        // Who answers before it has read all may close on the rest: what it has said is there.
        while stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {
            if answer.ends_with(end.as_bytes()) {
                return;
            }
        }
    };
    let read = tokio::time::timeout(SOON, read).await;
    read.with_context(|| format!("only {:?}", String::from_utf8_lossy(&answer)))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// One chunk of a chunked body; of no bytes, the last.
async fn chunk(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let chunk = format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
    stream.write_all(chunk.as_bytes()).await
}
