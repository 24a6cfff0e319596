//! Callers that aren't in the mesh yet, while a namespace is labelled for them.

use anyhow::{Result, ensure};
use tests::cluster::{run, wait_until};

use crate::installation::{PODS, installed};
use crate::shop::{Shop, Stranger};

#[tokio::test]
async fn a_permissive_namespace_takes_plaintext_check_names_who_calls_and_without_the_label_it_is_refused()
-> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let stranger = Stranger::start(shop.cluster).await?;
    let url = format!("http://orders.{}/", shop.namespace);
    let answered = async |wanted: u16, says: &str| {
        wait_until(
            &format!("plaintext is answered {wanted}"),
            PODS,
            async || {
                let (status, body) = stranger.get(&url).await?;
                ensure!(status == wanted && body.contains(says), "{status} {body}");
                Ok(())
            },
        )
        .await
    };
    let label = async |mode: &str| {
        let label = format!("meshwright.dev/mode{mode}");
        let label = ["label", "namespace", &shop.namespace, &label];
        shop.cluster.kubectl(&label).await
    };
    answered(403, "plaintext_refused").await?;

    label("=permissive").await?;
    answered(200, "orders-").await?;
    // Members are spoken to as ever.
    shop.answered_by("http://orders/").await?;

    let address = stranger.address().await?;
    let orders = shop.pod("orders").await?;
    let namespace = &shop.namespace;
    let named = format!(
        "plaintext: {address} calls {namespace}/{orders} ({namespace}/orders) without mutual TLS: "
    );
    let checked = wait_until("the caller is named", PODS, async || {
        let checked = run(&mut shop.meshwright(&["check", "--cluster"])?, "").await?;
        ensure!(checked.contains(&named), "{checked}");
        Ok(checked)
    })
    .await?;
    assert!(checked.contains("2 of 2 sidecars asked"), "{checked}");
    assert_eq!(checked.matches("plaintext: ").count(), 1, "{checked}");
    label("-").await?;
    answered(403, "plaintext_refused").await?;
    shop.answered_by("http://orders/").await?;
    Ok(())
}
