//! What the resources do to requests.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quickstart::client;
use tokio::time::Instant;

use crate::figures::Figures;
use crate::load::{self, Tally};
use crate::shop::Shop;
use crate::{chapter, say};

const REQUESTS: &str = "meshwright_requests_total";
const CONNECTIONS: &str = "meshwright_connections_total";
const REFUSED: &str = "meshwright_connections_refused_total";
/// Pages that are asked for where shares are told.
pub(super) const PAGES: u64 = 200;
/// What 10 of 100 comes to among [`PAGES`], give or take five standard deviations (4.2 each).
const TENTH: std::ops::RangeInclusive<u64> = 1..=41;

/// Requests that web's sidecar has sent to a version of `orders`.
pub(super) fn sent(figures: &Figures, version: &str) -> u64 {
    figures.sum(
        REQUESTS,
        &[
            ("direction", "outbound"),
            ("service", &format!("shop/orders-{version}")),
        ],
    )
}

/// Sends requests for the page; all must succeed. Tells how web's sidecar has divided them.
pub(super) async fn divided(shop: &Shop, url: &str) -> anyhow::Result<(u64, u64)> {
    let before = shop.figures("web").await?;
    let tally = load::send(&format!("{url}/"), PAGES, &[]).await;
    all_answered(&tally, PAGES)?;
    let since = |figures: &Figures, version: &str| sent(figures, version) - sent(&before, version);
    let after = shop
        .figures_when("web", |after| {
            since(after, "v1") + since(after, "v2") == PAGES
        })
        .await?;
    let (v1, v2) = (since(&after, "v1"), since(&after, "v2"));
    ensure!(
        (v1, v2) == (tally.of("v1"), tally.of("v2")),
        "web's sidecar counted {v1} requests to v1 and {v2} to v2, but {} pages name v1 and {} name v2",
        tally.of("v1"),
        tally.of("v2")
    );
    Ok((v1, v2))
}

/// Every request was answered with a page.
pub(super) fn all_answered(tally: &Tally, count: u64) -> anyhow::Result<()> {
    ensure!(
        tally.failed() == 0 && tally.answered() == count,
        "of {count} requests {} were answered with a page and {} were not:{}",
        tally.answered(),
        tally.failed(),
        tally.complaints()
    );
    Ok(())
}

/// Most go to v1, some to v2.
pub(super) async fn canary(shop: &Shop, url: &str) -> anyhow::Result<()> {
    chapter("A canary: 90 of 100 requests to `orders` go to v1, 10 to v2");
    let (v1, v2) = divided(shop, url).await?;
    say(&format!(
        "{PAGES} pages from {url}/, all answered 200. web asked http://orders for each; by the counters of its sidecar \
         {v1} of those requests went to v1 and {v2} to v2. The pages say the same."
    ));
    ensure!(
        TENTH.contains(&v2),
        "v2 got {v2} of {PAGES} requests, where about a tenth was expected"
    );
    Ok(())
}

/// Who calls whom is proven.
pub(super) async fn identities(shop: &Shop) -> anyhow::Result<()> {
    chapter("Between the pods: mutual TLS, and nothing else");
    let config = shop.config("web").await?;
    let caller = config.identity();
    let endpoints = config.endpoints("shop/orders");
    let mut requests = 0;
    let mut connections = 0;
    let mut lines = Vec::new();
    for endpoint in &endpoints {
        let figures = shop.figures(endpoint.name()).await?;
        let own = shop.config(endpoint.name()).await?.identity();
        let over =
            |kind: &str| figures.sum(CONNECTIONS, &[("direction", "inbound"), ("kind", kind)]);
        let came = figures.sum(REQUESTS, &[("direction", "inbound")]);
        let all = figures.sum(CONNECTIONS, &[("direction", "inbound")]);
        ensure!(
            all == over("mtls_http"),
            "{} took {all} connections, of which only {} were mutual TLS",
            endpoint.pod,
            over("mtls_http")
        );
        ensure!(
            came == 0 || all > 0,
            "{} answered {came} requests without a connection",
            endpoint.pod
        );
        ensure!(
            !own.is_empty() && own == endpoint.identity,
            "web expects {} to be {}, but it is {own}",
            endpoint.pod,
            endpoint.identity
        );
        lines.push(format!(
            "   {:14} {came:3} requests over {all} connections",
            endpoint.name()
        ));
        requests += came;
        connections += all;
    }
    ensure!(
        requests >= PAGES,
        "the replicas of `orders` counted only {requests} requests"
    );
    let identity = endpoints
        .first()
        .map(|endpoint| endpoint.identity.as_str())
        .unwrap_or_default();
    ensure!(
        caller.ends_with("/ns/shop/sa/web"),
        "web's certificate names {caller:?}"
    );
    say(&format!(
        "The sidecars of `orders` counted {requests} requests over {connections} connections (of the kind mtls_http; \
         of any other kind 0):\n{}\nThe caller proves to be   {caller}\nthe called must prove to be {identity}",
        lines.join("\n")
    ));
    Ok(())
}

/// A pod's own address is no way around the mesh.
pub(super) async fn own_address(shop: &Shop) -> anyhow::Result<()> {
    chapter("Around the mesh? A pod is called by its own address");
    if shop.mesh.is_without_namespaces() {
        say(
            "Skipped here: without network namespaces the application itself can be reached on this machine, around its \
             sidecar, which can refuse nothing then.",
        );
        return Ok(());
    }
    let endpoints = shop.config("web").await?.endpoints("shop/orders-v1");
    let endpoint = endpoints.first().context("orders-v1 has no endpoint")?;
    let came = |figures: &Figures| figures.sum(REQUESTS, &[("direction", "inbound")]);
    let before = came(&shop.figures(endpoint.name()).await?);
    let url = format!("http://{}/orders", endpoint.address);
    let answer = shop.mesh.call_from("web", "GET", &url).await?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(
        status.contains(" 200 "),
        "{} should answer at its own address, but answered:\n{answer}",
        endpoint.pod
    );
    let figures = shop
        .figures_when(endpoint.name(), |after| came(after) == before + 1)
        .await?;
    let after = came(&figures);
    ensure!(
        after == before + 1,
        "the sidecar of {} counted {} requests more, not one",
        endpoint.pod,
        after - before
    );
    let all = figures.sum(CONNECTIONS, &[("direction", "inbound")]);
    let mutual = [("direction", "inbound"), ("kind", "mtls_http")];
    ensure!(
        figures.sum(CONNECTIONS, &mutual) == all && figures.sum(REFUSED, &[]) == 0,
        "{} took something else than mutual TLS, or refused a connection",
        endpoint.pod
    );
    say(&format!(
        "From inside web, `GET {url}` names no Service but a pod. It goes to that very pod, over mutual TLS like any \
         other call: {status}. The sidecar of {} has counted it, and no connection of another kind.",
        endpoint.name()
    ));
    Ok(())
}

/// A header decides.
pub(super) async fn header(shop: &Shop, url: &str) -> anyhow::Result<()> {
    const TRIES: u64 = 20;
    chapter("For testers: `x-canary: always` leads to v2, always");
    let before = shop.figures("web").await?;
    let tally = load::send(&format!("{url}/"), TRIES, &[("x-canary", "always")]).await;
    all_answered(&tally, TRIES)?;
    let by_rule = |figures: &Figures| {
        figures.sum(
            REQUESTS,
            &[
                ("route", "shop/orders"),
                ("rule", "testers"),
                ("service", "shop/orders-v2"),
            ],
        )
    };
    let after = shop
        .figures_when("web", |after| by_rule(after) - by_rule(&before) == TRIES)
        .await?;
    let (rule, v1) = (
        by_rule(&after) - by_rule(&before),
        sent(&after, "v1") - sent(&before, "v1"),
    );
    ensure!(
        rule == TRIES && v1 == 0 && tally.of("v2") == TRIES,
        "of {TRIES} requests with the header {rule} went to v2 by the rule `testers`, and {v1} to v1"
    );
    say(&format!(
        "{TRIES} pages with the header: {rule} requests to v2 by the rule `testers`, {v1} to v1."
    ));
    Ok(())
}

/// Who is too slow is not waited for.
pub(super) async fn timeout(shop: &Shop, url: &str) -> anyhow::Result<()> {
    chapter("A time limit: what takes 2 s is given 300 ms");
    let labels = [
        ("rule", "slow"),
        ("code", "504"),
        ("reason", "request_timeout"),
    ];
    let before = shop.figures("web").await?.sum(REQUESTS, &labels);
    let begun = Instant::now();
    let answer = client::get(&format!("{url}/slow")).await?;
    let took = begun.elapsed();
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    ensure!(
        answer.status == 504 && problem["reason"] == "request_timeout",
        "{url}/slow should be answered 504 with the reason request_timeout, but was {}: {}",
        answer.status,
        answer.text()
    );
    let range = Duration::from_millis(300)..Duration::from_millis(1500);
    ensure!(
        range.contains(&took),
        "{url}/slow was answered after {} ms instead of 300",
        took.as_millis()
    );
    let counted = shop
        .figures_when("web", |after| after.sum(REQUESTS, &labels) == before + 1)
        .await?;
    let counted = counted.sum(REQUESTS, &labels) - before;
    ensure!(
        counted == 1,
        "web's sidecar counted {counted} timeouts, not one"
    );
    say(&format!(
        "{url}/slow: {} after {} ms, {} (reason request_timeout, counted by web's sidecar under the rule `slow`)",
        answer.status,
        took.as_millis(),
        problem["detail"]
    ));
    Ok(())
}

/// What no rule allows is no route.
pub(super) async fn methods(shop: &Shop) -> anyhow::Result<()> {
    chapter("An API is what its route says: `inventory` takes GET and POST");
    let item = "http://inventory/items/teapot";
    let deleted = shop.mesh.call_from("web", "DELETE", item).await?;
    let status = deleted.lines().next().unwrap_or_default().to_owned();
    ensure!(
        status.contains(" 404 ") && deleted.contains("meshwright-reason: no_route"),
        "DELETE {item} should find no route, but was answered:\n{deleted}"
    );
    let looked = shop.mesh.call_from("web", "GET", item).await?;
    let found = looked.lines().last().unwrap_or_default();
    ensure!(
        looked.starts_with("HTTP/1.1 200") && found.contains("inStock"),
        "GET {item} was answered:\n{looked}"
    );
    say(&format!(
        "`inventory`, written in Go, would delete what it is asked to delete. From inside web: DELETE {item} is answered \
         {status}, reason no_route; GET finds the teapot where it was: {found}"
    ));
    Ok(())
}
