//! `requestHeaders` and `responseHeaders`.

use anyhow::Result;
use http::HeaderMap;

use super::world;

fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    lines
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}

#[tokio::test]
async fn request_headers_are_removed_set_and_added_before_the_application_sees_them() -> Result<()>
{
    let (_mesh, orders, client) = world(
        "    - requestHeaders:\n        remove: [X-Gone, x-renewed]\n        \
         set: [{ name: X-Set, value: new }, { name: x-renewed, value: set }]\n        \
         add: [{ name: x-kept, value: second }, { name: X-Renewed, value: added }]\n",
    )
    .await?;
    let sent = [
        ("x-gone", "1"),
        ("x-renewed", "old"),
        ("x-set", "old"),
        ("x-set", "older"),
        ("x-kept", "first"),
        ("x-other", "untouched"),
    ];
    assert_eq!(client.get_with("http://orders/", &sent).await?.status, 200);
    let seen = &orders.upstream.seen()[0].headers;
    assert_eq!(lines(seen, "x-gone"), [""; 0]);
    assert_eq!(lines(seen, "x-renewed"), ["set", "added"]);
    assert_eq!(lines(seen, "x-set"), ["new"]);
    assert_eq!(lines(seen, "x-kept"), ["first", "second"]);
    assert_eq!(lines(seen, "x-other"), ["untouched"]);
    Ok(())
}

#[tokio::test]
async fn response_headers_are_edited_when_the_service_answers_and_not_when_the_mesh_does()
-> Result<()> {
    let (mesh, mut orders, client) = world(
        "    - responseHeaders:\n        remove: [Server]\n        \
         set: [{ name: Cache-Control, value: no-store }]\n        \
         add: [{ name: x-kept, value: second }]\n",
    )
    .await?;
    orders.upstream.adds("server", "secret/1.0");
    orders.upstream.adds("cache-control", "max-age=60");
    orders.upstream.adds("x-kept", "first");
    let answer = client.get("http://orders/").await?;
    assert_eq!(lines(&answer.headers, "server"), [""; 0]);
    assert_eq!(lines(&answer.headers, "cache-control"), ["no-store"]);
    assert_eq!(lines(&answer.headers, "x-kept"), ["first", "second"]);

    // The destination's sidecar answers for its application.
    orders.upstream.close();
    let answer = client.get("http://orders/").await?;
    assert_eq!(answer.reason(), "application_unreachable");
    assert_eq!(lines(&answer.headers, "cache-control"), [""; 0]);
    // So does the caller's own.
    mesh.not_ready(orders.sidecar.pod())?;
    let answer = tests::wait_until("nobody is left", tests::mesh::SOON, async || {
        let answer = client.get("http://orders/").await?;
        anyhow::ensure!(answer.reason() == "no_endpoints", "{answer:?}");
        Ok(answer)
    })
    .await?;
    assert_eq!(lines(&answer.headers, "cache-control"), [""; 0]);
    Ok(())
}
