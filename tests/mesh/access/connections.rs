//! Connections whose bytes nobody reads.

use anyhow::Result;
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, head, tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{enforced, route, until, world};
use crate::routing::{service, services};

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

#[tokio::test]
async fn another_service_over_the_same_port_opens_no_way_around_who_may_enter() -> Result<()> {
    // Of two Services over a pod's port, one says that its bytes are nobody's to read.
    for name in ["backdoor", "a-backdoor", "z-backdoor"] {
        let more = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {{ \
             selector: {{ app: orders }}, ports: [{{ name: x, port: 80, targetPort: 8080, appProtocol: \
             tcp }}] }}\n"
        );
        let access = "  authorization: { rules: [{ principals: { serviceAccounts: [cron] } }] }\n";
        let (mesh, orders, web) = world(access, &more).await?;
        let to = format!("{name}:80");
        let mut stream = tunnel(&web, &to).await?;
        let mut said = Vec::new();
        if stream
            .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await
            .is_ok()
        {
            // Closed or reset, but not answered.
            let ended = timeout(SOON, stream.read_to_end(&mut said)).await;
            assert!(ended.is_ok(), "{name}: {}", String::from_utf8_lossy(&said));
        }
        assert_eq!(String::from_utf8_lossy(&said), "", "{name}");
        assert_eq!(orders.upstream.requests(), 0, "{name}");
        let cron = mesh.client("cron").await?;
        assert_eq!(cron.get("http://orders/").await?.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_asked_for_with_connect_does_not_pass_who_may_enter() -> Result<()> {
    // The route's rules lead nowhere, so that it governs no calls: who may enter holds all the same.
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n  rules: [{ \
                  backendRefs: [{ kind: ApiRoute, name: x, port: 80 }] }]\n";
    let yaml = services(&["orders"]) + &route(access);
    let mesh = Mesh::start(&yaml).await?;
    let (orders, web) = (mesh.workload("orders").await?, mesh.client("web").await?);
    until("who may enter is asked", async || {
        Ok(mesh
            .client("cron")
            .await?
            .get("http://orders/")
            .await?
            .status
            == 403)
    })
    .await?;
    assert_eq!(web.get("http://orders/").await?.status, 200);
    let before = orders.upstream.requests();
    let mut stream = connect(&web).await?;
    let ask = "CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 400"), "{answer}");
    assert!(
        answer.contains("meshwright-reason: bad_request"),
        "{answer}"
    );
    assert_eq!(orders.upstream.requests(), before);
    Ok(())
}
