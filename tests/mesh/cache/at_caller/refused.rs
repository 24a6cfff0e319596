//! What may no longer be given, or never to whom.

use super::*;

#[tokio::test]
async fn what_is_withdrawn_in_an_api_route_is_given_to_nobody_any_more() -> Result<()> {
    let access = |account: &str| {
        format!(
            "  authorization: {{ rules: [{{ principals: {{ serviceAccounts: [{account}] }} }}] }}\n"
        )
    };
    let world = World::of(KEPT, &access("web"), App::saying(PUBLIC)).await?;
    until_own(&world.web, "/a", &[]).await?;
    let yaml = documents(KEPT, &access("cron"));
    world.mesh.write("routes.yaml", &yaml)?;
    until("it is refused", async || {
        Ok(world.get("/a").await?.status == 403)
    })
    .await?;
    // Nor is it after that.
    for _ in 0..3 {
        let refused = world.get("/a").await?;
        assert_eq!(refused.reason(), "not_permitted");
        assert_eq!(statuses(&refused), ["meshwright-caller; fwd=uri-miss"]);
    }

    // Another ApiRoute of the namespace may be about the same pods.
    let other = |account: &str| {
        let route = documents("{}", &access(account));
        let (_, route) = route.split_once("---").unwrap_or_default();
        let named = route.replace("name: orders", "name: pay");
        named.replace("hosts: [orders]", "hosts: [payments]")
    };
    let payments = services(&["payments"]);
    let yaml = documents(KEPT, &access("web"));
    let with = |account: &str| format!("{yaml}---\n{payments}---{}", other(account));
    world.mesh.write("routes.yaml", &with("web"))?;
    until_own(&world.web, "/a", &[]).await?;
    world.mesh.write("routes.yaml", &with("cron"))?;
    until("all that was kept has gone", async || {
        Ok(!is_own(&world.get("/a").await?))
    })
    .await
}

#[tokio::test]
async fn what_a_rule_refuses_for_a_header_or_a_method_no_hit_gives() -> Result<()> {
    let access = "  authorization:\n    rules:\n    - { methods: [GET] }\n    - { action: Deny, headers: \
                  [{ name: X-From-Outside, value: \"1\" }] }\n";
    let world = World::of(KEPT, access, App::saying(PUBLIC)).await?;
    until_own(&world.web, "/a", &[]).await?;
    let outside = [("x-from-outside", "1")];
    let refused = world.get_with("/a", &outside).await?;
    assert_eq!((refused.status, refused.reason()), (403, "not_permitted"));
    let url = "http://orders/a";
    let head = world.web.send(Method::HEAD, url, &[], Bytes::new()).await?;
    assert_eq!(head.status, 403);
    assert!(is_own(&world.get("/a").await?));
    Ok(())
}

#[tokio::test]
async fn a_refusal_ends_what_is_kept_also_where_a_client_asked_about_what_it_has() -> Result<()> {
    let access = "  auth: { apiKey: {} }\n";
    let key = "mk_acme1_secret0123456789secret0123456789";
    let tagged = App::new(|_, _| reply(200, &[PUBLIC, ("etag", "\"1\"")], "0"));
    let yaml = |secret: &str| documents(KEPT, access) + secret;
    let world = World::of(KEPT, access, tagged).await?;
    world
        .mesh
        .write("routes.yaml", &yaml(&consumer("acme", "gold", key, "")?))?;
    let sent = [("x-api-key", key)];
    until("its own sidecar keeps it", async || {
        Ok(is_own(&world.get_with("/a", &sent).await?))
    })
    .await?;
    world.mesh.write("routes.yaml", &yaml(""))?;
    let asks = [
        sent[0],
        ("cache-control", "max-age=0"),
        ("if-none-match", "\"1\""),
    ];
    until("the key is withdrawn", async || {
        Ok(world.get_with("/a", &asks).await?.status == 401)
    })
    .await?;
    assert_eq!(world.get_with("/a", &sent).await?.status, 401);
    Ok(())
}

#[tokio::test]
async fn what_is_withdrawn_otherwise_is_given_for_as_long_as_callers_may_and_no_longer()
-> Result<()> {
    let access = "  auth: { apiKey: {} }\n";
    let cache = "{ atCaller: { maxAge: 1s } }";
    let world = World::of(cache, access, App::saying(PUBLIC)).await?;
    world
        .mesh
        .write("routes.yaml", &keys(cache, access, &[ACME])?)?;
    let sent = [("x-api-key", ACME)];
    until_own(&world.web, "/a", &sent).await?;
    world.mesh.write("routes.yaml", &documents(cache, access))?;
    until("it is refused", async || {
        Ok(world.get_with("/a", &sent).await?.status == 401)
    })
    .await?;
    // Who was refused was asked about: what was kept has gone.
    for _ in 0..3 {
        assert_eq!(world.get_with("/a", &sent).await?.status, 401);
    }
    Ok(())
}
