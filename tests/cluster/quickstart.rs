//! The folder that `meshwright up` runs on one machine, applied to a cluster as it is.

use anyhow::{Context as _, Result, ensure};
use tests::cluster::wait_until;

use crate::installation::{PODS, import_built, installed, root};
use crate::shop::{Shop, condition};

#[tokio::test]
async fn the_quickstarts_folder_is_applied_to_a_cluster_as_it_is() -> Result<()> {
    let cluster = installed().await?;
    for image in ["shop", "inventory"] {
        import_built(cluster, image).await?;
    }
    let shop = Shop::elsewhere(cluster, "shop").await;
    let folder = root().join("examples/quickstart");
    let folder = folder.to_str().context("a path in UTF-8")?;
    cluster.kubectl(&["apply", "-f", folder]).await?;
    let services = ["web", "orders-v1", "orders-v2", "customers", "inventory"];
    for name in services {
        let deployment = format!("deployment/{name}");
        cluster.ready("shop", &deployment, PODS).await?;
    }

    for route in ["orders", "inventory"] {
        shop.programmed(route).await?;
        let object = shop.object(route).await?;
        let accepted = condition(&object, "Accepted");
        assert_eq!(accepted["status"], "True", "{route}: {accepted}");
        let programmed = condition(&object, "Programmed");
        assert_eq!(programmed["status"], "True", "{route}: {programmed}");
    }

    // What it answers, as a person sees it who asks from one of its pods.
    let ask = async |request: &[&str]| {
        let command = [&["shop", "call"], request].concat();
        let pod = "deployment/customers";
        cluster.exec("shop", pod, "customers", &command).await
    };
    let page = wait_until("web answers with a page", PODS, async || {
        let page = ask(&["GET", "http://web/"]).await?;
        ensure!(page.starts_with("HTTP/1.1 200"), "{page}");
        Ok(page)
    })
    .await?;
    for part in [r#""customer":"Ada""#, r#""inStock":1000"#] {
        assert!(page.contains(part), "no {part}: {page}");
    }
    // And what its routes say.
    let canary = ask(&["GET", "http://web/", "x-canary:always"]).await?;
    assert!(canary.contains(r#""ordersVersion":"v2""#), "{canary}");
    let slow = ask(&["GET", "http://web/slow"]).await?;
    assert!(slow.contains(r#""reason":"request_timeout""#), "{slow}");
    let delete = ask(&["DELETE", "http://inventory/items/teapot"]).await?;
    assert!(delete.contains(r#""reason":"no_route""#), "{delete}");
    Ok(())
}
