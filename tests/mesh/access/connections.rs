//! Connections whose bytes nobody reads.

use anyhow::Result;
use tests::client::Client;
use tests::mesh::Mesh;
use tests::raw::tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{enforced, route, until};
use crate::routing::service;

/// Answers every connection with a word once it has said one, and closes it.
fn says(listener: TcpListener, word: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 4];
                if stream.read_exact(&mut asked).await.is_ok() {
                    let _ = stream.write_all(word.as_bytes()).await;
                }
            });
        }
    });
}

/// What is answered to a word on a connection to `orders`.
async fn ask(client: &Client) -> Result<String> {
    let mut stream = tunnel(client, "orders:80").await?;
    let mut said = String::new();
    // Who is refused finds the connection closed, however far it has come.
    if stream.write_all(b"\x00ask").await.is_ok() {
        let _ = stream.read_to_string(&mut said).await;
    }
    Ok(said)
}

#[tokio::test]
async fn a_workload_that_may_not_connect_finds_the_connection_closed() -> Result<()> {
    let access = |account: &str| {
        route(&format!(
            "  protocol: TCP\n  authorization: {{ audit: All, rules: [{{ name: one, principals: {{ \
             serviceAccounts: [{account}] }} }}] }}\n"
        ))
    };
    let mesh = Mesh::start(&(service("orders", "") + &access("web"))).await?;
    let (listener, sidecar) = mesh.listener("orders").await?;
    says(listener, "hello");
    let (web, cron) = (mesh.client("web").await?, mesh.client("cron").await?);
    enforced(&mesh).await?;
    assert_eq!(ask(&web).await?, "hello");
    assert_eq!(ask(&cron).await?, "");
    let series = |rule: &str, outcome: &str| {
        format!(
            r#"meshwright_access_total{{route="shop/orders",rule="{rule}",outcome="{outcome}",why=""}}"#
        )
    };
    assert_eq!(sidecar.metric(&series("one", "allowed")).await?, Some(1.0));
    assert_eq!(sidecar.metric(&series("", "denied")).await?, Some(1.0));
    let log = sidecar.log()?;
    assert!(log.contains("who may connect was decided"), "{log}");

    mesh.write("routes.yaml", &(service("orders", "") + &access("cron")))?;
    until("the edit is in force", async || {
        Ok(ask(&cron).await? == "hello")
    })
    .await?;
    assert_eq!(ask(&web).await?, "");
    Ok(())
}

#[tokio::test]
async fn bytes_do_not_enter_where_a_request_would_have_to_say_who_it_is_from() -> Result<()> {
    // Nothing is declared of the port: it takes both.
    let access =
        route("  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n");
    let mesh = Mesh::start(&(service("orders", "") + &access)).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    says(listener, "hello");
    let web = mesh.client("web").await?;
    enforced(&mesh).await?;
    assert_eq!(ask(&web).await?, "");

    mesh.write("routes.yaml", &service("orders", ""))?;
    until("nothing says who may enter", async || {
        Ok(ask(&web).await? == "hello")
    })
    .await?;
    Ok(())
}
