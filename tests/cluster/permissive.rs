//! Callers that aren't in the mesh yet, while a namespace is labelled for them.

use anyhow::{Result, ensure};
use tests::cluster::{run, wait_until};

use crate::installation::{PODS, installed};
use crate::page::{Page, Shell};
use crate::shop::{Shop, Stranger, application};

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

/// What the page names beside the way in.
const ELSEWHERE: &[(&str, &str)] = &[
    ("meshwright check DIR", "of a folder: `cli/tests/up`"),
    ("meshwright up DIR", "of a folder: `cli/tests/up`"),
    ("meshwright check --cluster", "the test above types it"),
];

#[tokio::test]
async fn a_namespace_is_moved_into_the_mesh_as_its_page_says_and_callers_outside_are_let_in_until_the_end()
-> Result<()> {
    let callers = Shop::open(installed().await?, &[]).await?;
    let cluster = callers.cluster;
    let namespace = cluster.namespace("old").await?;
    let image = cluster.web_image().await?;
    cluster
        .apply(&application("orders", &namespace, image, 2))
        .await?;
    cluster.ready(&namespace, "deployment/orders", PODS).await?;
    let stranger = Stranger::start(cluster).await?;
    let url = format!("http://orders.{namespace}/");
    let answered = async |wanted: u16| {
        wait_until(
            &format!("plaintext is answered {wanted}"),
            PODS,
            async || {
                let (status, body) = stranger.get(&url).await?;
                ensure!(status == wanted, "{status} {body}");
                // Whoever is in the mesh is answered all the while.
                callers.answered_by(&url).await.map(drop)
            },
        )
        .await
    };
    answered(200).await?;

    let mut page = Page::read("docs/moving-in.md")?;
    let shell = Shell::open(cluster)?.writes(&[
        ("-n shop", &format!("-n {namespace}")),
        ("namespace shop", &format!("namespace {namespace}")),
    ]);
    let way_in = "The way in, a namespace at a time";
    page.types(&shell, way_in, 0).await?;
    answered(200).await?;
    let address = stranger.address().await?;
    wait_until("the caller is named", PODS, async || {
        // Who answered before may have been a pod that was ending, and had no sidecar.
        stranger.get(&url).await?;
        let checked = page.types(&shell, way_in, 1).await?.concat();
        let named = format!("plaintext: {address} calls {namespace}/orders-");
        ensure!(checked.contains(&named), "{checked}");
        Ok(())
    })
    .await?;
    page.types(&shell, way_in, 2).await?;
    answered(403).await?;
    let again = "kubectl label namespace shop meshwright.dev/mode=permissive";
    page.types_line(&shell, again).await?;
    answered(200).await?;
    page.is_typed_whole(ELSEWHERE)
}
