//! HTTP/1.1, byte by byte: what it allows arrives as it was sent.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, h2, head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::services;

#[tokio::test]
async fn a_body_of_any_framing_arrives_whole_with_its_trailers() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let (asked, mut body) = head(&mut stream).await?;
        while !body.ends_with(b"0\r\n\r\n") && !body.ends_with(b"x-sum: 7\r\n\r\n") {
            ensure!(stream.read_buf(&mut body).await? > 0);
        }
        stream
            .write_all(
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\ntrailer: x-checked\r\ntransfer-encoding: chunked\r\n\r\n\
                  3\r\nyes\r\n0\r\nx-checked: 1\r\n\r\n",
            )
            .await?;
        anyhow::Ok((asked, String::from_utf8(body)?))
    });
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(
            b"POST http://orders/ HTTP/1.1\r\nhost: orders\r\nte: trailers\r\nconnection: te\r\n\
              trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\ntwo!\r\n\
              0\r\nx-sum: 7\r\n\r\n",
        )
        .await?;
    let (asked, body) = timeout(SOON, application).await???;
    assert!(asked.contains("te: trailers"), "{asked}");
    assert!(body.contains("one") && body.contains("two!"), "{body}");
    assert!(body.contains("x-sum: 7"), "{body}");
    let (answer, mut rest) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    while !rest.ends_with(b"\r\n\r\n") {
        ensure!(timeout(SOON, stream.read_buf(&mut rest)).await?? > 0);
    }
    let rest = String::from_utf8(rest)?;
    assert!(
        rest.contains("yes") && rest.contains("x-checked: 1"),
        "{rest}"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_without_a_body_is_given_no_length() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    for method in ["GET", "OPTIONS", "PROPFIND", "POST"] {
        let application = async {
            let (mut stream, _) = listener.accept().await?;
            anyhow::Ok(head(&mut stream).await?.0)
        };
        let mut stream = connect(&client).await?;
        let request = format!("{method} http://orders/ HTTP/1.1\r\nhost: orders\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let asked = timeout(SOON, application).await??;
        assert!(!asked.contains("content-length"), "{asked}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it_and_its_body_arrives() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(
            b"POST http://orders/ HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\n\
              content-length: 4\r\nconnection: close\r\n\r\n",
        )
        .await?;
    let (interim, _) = head(&mut stream).await?;
    assert!(interim.starts_with("http/1.1 100"), "{interim}");
    stream.write_all(b"body").await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert_eq!(orders.upstream.seen()[0].body, "body");
    Ok(())
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    let mut ahead = String::new();
    for n in 1..=5 {
        let end = if n == 5 { "connection: close\r\n" } else { "" };
        ahead += &format!("GET http://orders/{n} HTTP/1.1\r\nhost: orders\r\n{end}\r\n");
    }
    stream.write_all(ahead.as_bytes()).await?;
    let mut answers = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answers)).await??;
    let answers = String::from_utf8(answers)?;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 5, "{answers}");
    let order: Vec<_> = orders
        .upstream
        .seen()
        .iter()
        .map(|s| s.target.clone())
        .collect();
    assert_eq!(order, ["/1", "/2", "/3", "/4", "/5"]);
    Ok(())
}

#[tokio::test]
async fn the_answer_to_head_has_the_length_and_no_body() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(b"HEAD http://orders/ HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8(answer)?;
    let length = orders.upstream.address().to_string().len();
    assert!(
        answer.contains(&format!("content-length: {length}")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_large_body_flows_through_without_being_held() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut h2 = h2(&client).await?;
    let body = Full::new(Bytes::from(vec![7; 32 << 20]));
    let request = Request::post("http://orders/").body(body)?;
    let answer = timeout(SOON, h2.send_request(request)).await??;
    assert_eq!(answer.status(), 200);
    assert_eq!(orders.upstream.seen()[0].body.len(), 32 << 20);
    let resident = client.sidecar().resident_bytes()?;
    assert!(resident < 64 << 20, "{resident} bytes for a body of 32 MiB");
    Ok(())
}
