//! The table of docs/access.md, row by row.

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tests::issuer::{Issuer, in_seconds};
use tests::mesh::Mesh;

use super::{enforced, route, until, world};
use crate::routing::services;

/// A situation of the table: what is written, and what is sent.
fn situation(reason: &str, issuer: &Issuer) -> Result<(String, Vec<(&'static str, String)>)> {
    let claims = json!({"iss": "http://issuer", "aud": "orders", "exp": in_seconds(600)});
    let inline = Issuer::key_set(&[issuer]);
    let jwt = |keys: &str, more: &str| {
        format!(
            "  auth:\n    jwt: [{{ issuer: http://issuer, audiences: [orders], jwks: {{ {keys} }}{more} }}]\n"
        )
    };
    let inline = format!("inline: '{inline}'");
    let with = |text: String| vec![("authorization", format!("Bearer {text}"))];
    Ok(match reason {
        "credentials_missing" => (jwt(&inline, ""), Vec::new()),
        "credentials_invalid" => (jwt(&inline, ""), with("x".to_owned())),
        "scope_missing" => (
            jwt(&inline, ", requiredScopes: [read]"),
            with(issuer.token(&claims)),
        ),
        "not_permitted" => ("  authorization: { rules: [] }\n".to_owned(), Vec::new()),
        "credentials_uncheckable" => (
            jwt("uri: 'http://nobody/keys'", ""),
            with(issuer.token(&claims)),
        ),
        "access_closed" => (
            "  authorization: { rules: [{ principals: { roles: [nobody] } }] }\n".to_owned(),
            Vec::new(),
        ),
        other => bail!("{other}: no situation is known for this row"),
    })
}

#[tokio::test]
async fn the_caller_sees_what_the_table_of_access_says() -> Result<()> {
    let table = include_str!("../../../docs/access.md");
    let (_, table) = table
        .split_once("## What the caller sees")
        .context("a table")?;
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut walked = 0;
    for row in rows {
        let cells = Vec::from_iter(row.split('|').map(str::trim));
        let [_, _, status, grpc, reason, header, metric, _] = cells[..] else {
            bail!("{row}");
        };
        let reason = reason.trim_matches('`');
        if reason == "not_ready" {
            // A pod that has not been told yet: no_port_is_served_until_every_guard_of_the_set_is_held.
            continue;
        }
        walked += 1;
        let issuer = Issuer::new("a");
        let (access, headers) = situation(reason, &issuer)?;
        let (orders, client, _mesh) = if reason == "access_closed" {
            let mesh = Mesh::start(&(services(&["orders"]) + &route(&access))).await?;
            let (orders, client) = (mesh.workload("orders").await?, mesh.client("web").await?);
            (orders, client, mesh)
        } else {
            let (mesh, orders, client) = world(&access, "").await?;
            enforced(&mesh).await?;
            (orders, client, mesh)
        };
        let mut headers =
            Vec::from_iter(headers.iter().map(|(name, value)| (*name, value.as_str())));
        until(reason, async || {
            Ok(client.get_with("http://orders/", &headers).await?.reason() == reason)
        })
        .await?;
        let answer = client.get_with("http://orders/", &headers).await?;
        assert_eq!(answer.status.to_string(), status, "{row}");
        if let Some(name) = header
            .split('`')
            .nth(1)
            .and_then(|text| text.split(':').next())
        {
            assert!(
                answer.headers.contains_key(name.to_ascii_lowercase()),
                "{row}"
            );
        }
        headers.push(("content-type", "application/grpc"));
        let answer = client.get_with("http://orders/", &headers).await?;
        assert_eq!((answer.status, answer.reason()), (200, reason), "{row}");
        assert_eq!(answer.headers["grpc-status"], grpc, "{row}");
        let outcome = metric.split('`').nth(1).context("an outcome")?;
        let metrics = orders.sidecar.admin("/metrics", None).await?.body;
        let counted = metrics.lines().any(|line| {
            line.starts_with("meshwright_access_total")
                && line.contains(&format!("outcome=\"{outcome}\""))
        });
        assert!(counted, "{row}");
        assert_eq!(orders.upstream.requests(), 0, "{row}");
    }
    assert_eq!(walked, 6);
    Ok(())
}
