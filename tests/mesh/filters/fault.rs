//! `fault`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::mesh::SOON;
use tests::wait_until;

use super::world;

/// The line of the access log of the request for this path.
async fn line(client: &Client, path: &str) -> Result<Value> {
    wait_until("the line is there", SOON, async || {
        let log = client.sidecar().log()?;
        let path = format!(r#""path":"{path}""#);
        let line = log.lines().find(|line| line.contains(&path));
        let line = line.ok_or_else(|| anyhow::anyhow!("{log}"))?;
        Ok(serde_json::from_str(line)?)
    })
    .await
}

#[tokio::test]
async fn an_aborted_request_says_so_in_response_log_and_metric_and_is_not_sent() -> Result<()> {
    let (_mesh, orders, client) =
        world("    - name: broken\n      fault: { abort: { status: 418 } }\n").await?;
    let answer = client.get("http://orders/aborted").await?;
    assert_eq!((answer.status, answer.reason()), (418, "fault_injected"));
    let problem: Value = serde_json::from_str(&answer.body)?;
    assert_eq!(problem["status"], 418);
    assert_eq!(problem["reason"], "fault_injected");
    assert_eq!(orders.upstream.requests(), 0);

    let line = line(&client, "/aborted").await?;
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&418.into(), &"fault_injected".into())
    );
    let metric = r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="shop/orders",rule="broken",code="418",reason="fault_injected"}"#;
    assert_eq!(client.sidecar().metric(metric).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn a_delayed_request_is_answered_later_by_the_service_and_labelled() -> Result<()> {
    let (_mesh, orders, client) =
        world("    - name: slow\n      fault: { delay: { duration: 400ms } }\n").await?;
    orders.upstream.says("as ever");
    let began = Instant::now();
    let answer = client.get("http://orders/delayed").await?;
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!((answer.status, answer.body.as_str()), (200, "as ever"));
    assert_eq!(answer.reason(), "fault_injected");
    assert_eq!(line(&client, "/delayed").await?["reason"], "fault_injected");
    Ok(())
}

#[tokio::test]
async fn a_delay_that_outlasts_the_request_timeout_is_a_timeout() -> Result<()> {
    let (_mesh, orders, client) =
        world("    - timeouts: { request: 300ms }\n      fault: { delay: { duration: 5m } }\n")
            .await?;
    let answer = client.get("http://orders/late").await?;
    assert_eq!((answer.status, answer.reason()), (504, "request_timeout"));
    assert_eq!(orders.upstream.requests(), 0);
    let line = line(&client, "/late").await?;
    assert_eq!(line["detail"], "during an injected delay");
    Ok(())
}

#[tokio::test]
async fn a_percentage_of_the_requests_fails_and_the_others_are_answered() -> Result<()> {
    let (_mesh, orders, client) =
        world("    - fault: { abort: { status: 503, percent: 30 } }\n").await?;
    const REQUESTS: usize = 500;
    let mut failed = 0;
    for _ in 0..REQUESTS {
        let answer = client.get("http://orders/").await?;
        match answer.status {
            200 => ensure!(answer.reason().is_empty(), "{answer:?}"),
            _ => {
                assert_eq!((answer.status, answer.reason()), (503, "fault_injected"));
                failed += 1;
            }
        }
    }
    assert_eq!(orders.upstream.requests(), REQUESTS - failed);
    // Six standard deviations of 500 draws at 30 % are 61.
    assert!((89..=211).contains(&failed), "{failed} of {REQUESTS}");
    Ok(())
}
