//! The examples of events: what their READMEs can't show in a line or two.

use anyhow::{Context as _, Result, ensure};
use compiler::yaml::values;
use serde_json::Value;
use tests::mesh::{SOON, series};
use tests::wait_until;

use crate::{Up, read, root};

/// Posts from a workload with a key, until it is published.
async fn published(up: &Up, from: &str, url: &str, key: &str) -> Result<()> {
    let post =
        format!("meshwright exec {from} -- shop call POST {url} idempotency-key:{key} | head -1");
    wait_until("it is published", SOON, async || {
        let said = up.types(&post);
        ensure!(said.starts_with("HTTP/1.1 202 "), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_purge_that_is_only_tried_says_how_many_would_go_and_takes_none_away() -> Result<()> {
    let up = Up::of("events");
    for key in ["1", "2"] {
        published(&up, "web", "http://stock/updates", key).await?;
    }
    let peek = "meshwright events peek shop/billing";
    let both = wait_until("both are dead letters", SOON, async || {
        let said = up.types(peek);
        ensure!(said.lines().count() == 3, "{said}");
        Ok(said)
    })
    .await?;
    let purge = "meshwright events purge shop/billing";
    for (also, told) in [
        ("--dry-run", "2 would be dropped\n"),
        (
            "--dry-run --until 2020-01-01T00:00:00Z",
            "0 would be dropped\n",
        ),
    ] {
        assert_eq!(up.types(&format!("{purge} {also}")), told);
        assert_eq!(up.types(peek), both, "they are as they were");
    }
    assert_eq!(up.types(purge), "2 dropped\n");
    assert_eq!(up.types(peek), "there are no dead letters\n");
    let told = "0 would be dropped\n";
    assert_eq!(up.types(&format!("{purge} --dry-run")), told);
    Ok(())
}

/// What KEDA is told of the workload that is scaled to zero.
fn scaled_object() -> Result<Value> {
    let file = root().join("examples/scale-to-zero/scaled-object.yaml.keda");
    let written =
        values("scaled-object.yaml.keda", &read(&file)).map_err(|why| anyhow::anyhow!("{why}"))?;
    let [object] = <[Value; 1]>::try_from(written).map_err(|all| anyhow::anyhow!("{all:?}"))?;
    Ok(object)
}

/// What Prometheus would find on all pages of metrics for a query that adds the greatest of some series to that of others:
/// nothing where one of them is nowhere.
fn found(query: &str, pages: &str) -> Result<f64> {
    let terms = query.split('+').map(|term| {
        let of = term.trim().strip_prefix("max(");
        let of = of.and_then(|rest| rest.strip_suffix(')'));
        let of = of.with_context(|| format!("not understood here: {term}"))?;
        let greatest = series(pages, of).into_iter().reduce(f64::max);
        greatest.with_context(|| format!("nobody tells {of}"))
    });
    terms.sum()
}

/// The metrics of all pods, as they are scraped in a cluster.
fn scraped(up: &Up) -> String {
    let status = up.types("meshwright status");
    let words = status.lines().map(|line| line.split_whitespace());
    let pods = words.filter_map(|mut words| words.next().zip(words.next()));
    let pods = pods.filter(|(_, address)| address.starts_with("10."));
    let page = |(pod, _)| {
        let get = "shop call GET http://127.0.0.1:15020/metrics";
        up.types(&format!("meshwright exec {pod} -- {get}"))
    };
    pods.map(page).collect()
}

#[tokio::test]
async fn the_query_that_keda_scales_by_finds_what_waits_at_zero_pods_and_where_one_has_come()
-> Result<()> {
    let object = scaled_object()?;
    assert_eq!(object["kind"], "ScaledObject");
    let spec = &object["spec"];
    let scaled = format!(
        "metadata: {{name: {}, namespace: {}}}\nspec:\n  replicas: {}\n",
        spec["scaleTargetRef"]["name"].as_str().context("a name")?,
        object["metadata"]["namespace"]
            .as_str()
            .context("a namespace")?,
        spec["minReplicaCount"],
    );
    let shop = read(&root().join("examples/scale-to-zero/00-shop.yaml"));
    assert!(
        shop.contains(&format!("kind: Deployment\n{scaled}")),
        "{scaled}"
    );
    let trigger = &spec["triggers"][0];
    assert_eq!(trigger["type"], "prometheus");
    let query = trigger["metadata"]["query"].as_str().context("a query")?;

    let up = Up::of("scale-to-zero");
    let waiting = async |count: f64| {
        wait_until("the query finds how many wait", SOON, async || {
            let found = found(query, &scraped(&up))?;
            ensure!(found == count, "{found}, not {count}");
            Ok(())
        })
        .await
    };
    waiting(0.0).await?;
    for key in ["1", "2", "3"] {
        published(&up, "stock", "http://stock/parcels", key).await?;
    }
    waiting(3.0).await?;
    // As KEDA would.
    up.types("sed -i 's/replicas: 0/replicas: 1/' examples/scale-to-zero/00-shop.yaml");
    wait_until("a pod has come", SOON, async || {
        let said = up.types("meshwright events list");
        ensure!(said.contains("shop/labels-0"), "{said}");
        Ok(())
    })
    .await?;
    waiting(0.0).await
}
