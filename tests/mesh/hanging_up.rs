//! Applications that hang up with a request unanswered: who may be asked again is, elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use tests::mesh::Mesh;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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

/// Takes up one request, and hangs up instead of an answer: with its listener closed before, as an
/// application has it that ends.
async fn meets(listener: TcpListener, ends: bool) -> Result<()> {
    let (stream, _) = listener.accept().await?;
    ensure!(stream.peek(&mut [0]).await? > 0, "no request");
    // It is unread, so that the connection is reset, as the kernel does with what nobody has taken up.
    if ends {
        drop(listener);
        drop(stream);
        return Ok(());
    }
    drop(stream);
    std::future::pending().await
}

#[tokio::test]
async fn a_request_that_an_application_ends_with_costs_no_call_that_may_be_repeated() -> Result<()>
{
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let _other = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let ending = tokio::spawn(meets(listener, true));
    let mut calls = 0;
    while !ending.is_finished() {
        let answer = client.get("http://orders/").await?;
        assert_eq!(answer.status, 200, "call {calls}: {answer:?}");
        calls += 1;
        ensure!(calls < 500, "it was never asked");
    }
    ending.await??;
    // What may not be repeated is not.
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    tokio::spawn(meets(listener, true));
    let url = "http://orders/";
    let answer = client.send(Method::POST, url, &[], Bytes::new()).await?;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_reset"));
    Ok(())
}

#[tokio::test]
async fn an_application_that_hangs_up_and_goes_on_is_not_asked_elsewhere() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let _other = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let hanging_up = tokio::spawn(meets(listener, false));
    let mut calls = 0;
    let failed = loop {
        let answer = client.get("http://orders/").await?;
        if answer.status != 200 {
            break answer;
        }
        calls += 1;
        ensure!(calls < 500, "it was never asked");
    };
    assert_eq!((failed.status, failed.reason()), (502, "upstream_reset"));
    hanging_up.abort();
    Ok(())
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
