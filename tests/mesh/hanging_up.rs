//! Applications that hang up with a request unanswered: who may be asked again is, elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use tests::client::{Answer, Client};
use tests::mesh::Mesh;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::routing::service;

/// Answers the first request of a connection, keeps it, and ends it with the second unanswered, as a server
/// does that ends while another request is on its way.
async fn hangs_up(listener: TcpListener, hung_up: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let hung_up = hung_up.clone();
        tokio::spawn(async move {
            let mut asked = [0; 16 * 1024];
            if let Ok(1..) = stream.read(&mut asked).await {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                let _ = stream.write_all(answer).await;
                if let Ok(1..) = stream.read(&mut asked).await {
                    hung_up.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}

#[tokio::test]
async fn a_kept_connection_that_an_application_ends_with_a_request_costs_no_call_that_may_be_repeated()
-> Result<()> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let _other = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let hung_up = Arc::new(AtomicUsize::new(0));
    tokio::spawn(hangs_up(listener, hung_up.clone()));
    let mut calls = 0;
    while hung_up.load(Ordering::Relaxed) == 0 {
        let answer = client.get("http://orders/").await?;
        assert_eq!(answer.status, 200, "call {calls}: {answer:?}");
        calls += 1;
        ensure!(calls < 500, "it was never sent a second request");
    }
    // What may not be repeated is not.
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    tokio::spawn(hangs_up(listener, hung_up));
    let send = async || {
        let url = "http://orders/";
        let answer = client.send(Method::POST, url, &[], Bytes::new()).await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    assert_eq!(send().await?, (200, String::new()));
    assert_eq!(send().await?, (502, "upstream_reset".to_owned()));
    Ok(())
}

/// How an application hangs up with a request unanswered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// It ends, and has not read it: its kernel resets the connection, as it does what nobody has taken up.
    EndsUnread,
    /// It ends, and has read it.
    EndsRead,
    /// It resets the connection, and goes on.
    GoesOn,
}

/// Takes up one request, and hangs up.
async fn meets(listener: TcpListener, how: How) -> Result<()> {
    let (mut stream, _) = listener.accept().await?;
    ensure!(stream.peek(&mut [0]).await? > 0, "no request");
    if how == How::EndsRead {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut asked).await? > 0, "no request");
        }
    }
    if how == How::GoesOn {
        drop(stream);
        return std::future::pending().await;
    }
    drop(listener);
    drop(stream);
    Ok(())
}

/// The first answer to a GET that is not the other pod's, where there is one before the application has hung up.
async fn failed(client: &Client, hanging_up: &JoinHandle<Result<()>>) -> Result<Option<Answer>> {
    for _ in 0..500 {
        let answer = client.get("http://orders/").await?;
        if answer.status != 200 {
            return Ok(Some(answer));
        }
        if hanging_up.is_finished() {
            return Ok(None);
        }
    }
    bail!("it was never asked")
}

#[tokio::test]
async fn a_request_that_an_application_ends_with_costs_no_call_that_may_be_repeated() -> Result<()>
{
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let _other = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let ending = tokio::spawn(meets(listener, How::EndsUnread));
    let failed = failed(&client, &ending).await?;
    assert!(failed.is_none(), "{failed:?}");
    ending.await??;
    // What may not be repeated is not.
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    tokio::spawn(meets(listener, How::EndsUnread));
    let url = "http://orders/";
    let answer = client.send(Method::POST, url, &[], Bytes::new()).await?;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_reset"));
    Ok(())
}

/// What becomes of the GET that an application hangs up with, while another pod would answer it.
async fn is_told(how: How) -> Result<()> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let _other = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let hanging_up = tokio::spawn(meets(listener, how));
    let failed = failed(&client, &hanging_up).await?;
    hanging_up.abort();
    let failed = failed.context("it was sent elsewhere")?;
    assert_eq!((failed.status, failed.reason()), (502, "upstream_reset"));
    Ok(())
}

#[tokio::test]
async fn an_application_that_hangs_up_and_goes_on_is_not_asked_elsewhere() -> Result<()> {
    is_told(How::GoesOn).await
}

#[tokio::test]
async fn a_request_that_an_application_has_read_before_it_ended_is_sent_to_no_other() -> Result<()>
{
    is_told(How::EndsRead).await
}

#[tokio::test]
async fn what_is_to_be_carried_out_once_is_not_repeated_whatever_its_method() -> Result<()> {
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: { name: orders, namespace: shop }\n\
                 spec: { hosts: [orders], idempotency: { methods: [PUT] } }\n";
    let mesh = Mesh::start(&(service("orders", "http") + route)).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    tokio::spawn(hangs_up(listener, Arc::default()));
    let put = async |key: &str| {
        let headers = [("idempotency-key", key)];
        let url = "http://orders/";
        let answer = client
            .send(Method::PUT, url, &headers, Bytes::new())
            .await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    assert_eq!(put("one").await?, (200, String::new()));
    // Whether it was carried out nobody knows.
    assert_eq!(put("two").await?, (502, "upstream_reset".to_owned()));
    assert_eq!(put("two").await?, (409, "idempotency_unknown".to_owned()));
    Ok(())
}
