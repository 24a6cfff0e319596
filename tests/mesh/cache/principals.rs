//! What is private is given to nobody else.

use anyhow::Result;
use bytes::Bytes;
use http::Method;

use super::app::{App, reply};
use super::{World, documents, is_hit, status, until};
use crate::access::consumer;

/// Says of itself what the path says after its first slash, with `_` for spaces; the body is the
/// number of the request.
fn as_asked() -> App {
    App::new(|head, number| {
        let says = head.uri.path().trim_start_matches('/').replace('_', " ");
        let says = match says.strip_prefix("cookie,") {
            Some(rest) => vec![
                ("cache-control", rest.to_owned()),
                ("set-cookie", "a=b".to_owned()),
            ],
            None => vec![("cache-control", says)],
        };
        let lines = Vec::from_iter(says.iter().map(|(name, says)| (*name, says.as_str())));
        reply(200, &lines, format!("{number}"))
    })
}

/// Asks often enough that what is kept would be given; whether it ever is.
async fn is_kept(world: &World, target: &str, headers: &[(&str, &str)]) -> Result<bool> {
    for _ in 0..5 {
        if is_hit(&world.get_with(target, headers).await?) {
            return Ok(true);
        }
        tokio::task::yield_now().await;
    }
    Ok(false)
}

#[tokio::test]
async fn what_says_that_it_is_private_or_sets_a_cookie_is_never_kept() -> Result<()> {
    let world = World::of("{ defaultTTL: 10m }", "", as_asked()).await?;
    for target in [
        "/private",
        "/private,_max-age=600",
        "/Private=\"x\",_public,_max-age=600",
        "/No-Store,_max-age=600",
        "/max-age=600,_no-store",
        "/cookie,max-age=600",
        "/cookie,public,_max-age=600",
    ] {
        assert!(!is_kept(&world, target, &[]).await?, "{target}");
    }
    until("what says nothing of that is", async || {
        Ok(is_hit(&world.get("/max-age=600").await?))
    })
    .await
}

#[tokio::test]
async fn what_is_answered_to_credentials_is_kept_only_if_it_says_that_it_is_for_all() -> Result<()>
{
    let world = World::of("{ defaultTTL: 10m }", "", as_asked()).await?;
    for credentials in [
        ("authorization", "Bearer a"),
        ("cookie", "session=a"),
        ("x-forwarded-user", "a"),
    ] {
        let sent = [credentials];
        for target in ["/max-age=600", "/x", "/proxy-revalidate,_max-age=600"] {
            assert!(!is_kept(&world, target, &sent).await?, "{target} {sent:?}");
        }
        for target in [
            "/public,_max-age=600",
            "/s-maxage=600",
            "/max-age=600,_must-revalidate",
        ] {
            until("it is kept", async || {
                Ok(is_hit(&world.get_with(target, &sent).await?))
            })
            .await?;
            assert!(is_hit(&world.get(target).await?));
        }
    }
    // Nor is what was answered to nobody given to somebody who may be answered otherwise.
    until("it is kept", async || {
        Ok(is_hit(&world.get("/max-age=600").await?))
    })
    .await?;
    let sent = [("authorization", "Bearer a")];
    let own = world.get_with("/max-age=600", &sent).await?;
    assert_eq!(status(&own), "meshwright; fwd=miss");
    assert!(is_hit(&world.get("/max-age=600").await?));
    Ok(())
}

#[tokio::test]
async fn who_was_found_out_by_auth_has_credentials_even_where_the_application_gets_none()
-> Result<()> {
    let access = "  auth: { apiKey: {} }\n";
    let world = World::of("{ defaultTTL: 10m }", access, as_asked()).await?;
    let key = "mk_acme1_secret0123456789secret0123456789";
    let yaml = documents("{ defaultTTL: 10m }", access) + &consumer("acme", "gold", key, "")?;
    world.mesh.write("routes.yaml", &yaml)?;
    let sent = [("x-api-key", key)];
    until("the key is known", async || {
        Ok(world.get_with("/no-store", &sent).await?.status == 200)
    })
    .await?;
    assert!(!is_kept(&world, "/max-age=600", &sent).await?);
    until("what is for all is kept", async || {
        Ok(is_hit(
            &world.get_with("/public,_max-age=600", &sent).await?,
        ))
    })
    .await?;
    let seen = world.app.seen();
    assert!(
        seen.iter()
            .all(|head| !head.headers.contains_key("x-api-key"))
    );
    // Who may not enter gets nothing of what is kept.
    let stranger = world.get("/public,_max-age=600").await?;
    assert_eq!((stranger.status, status(&stranger)), (401, ""));
    Ok(())
}

#[tokio::test]
async fn who_may_enter_is_decided_before_anything_that_is_kept_is_given() -> Result<()> {
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [web] } }] }\n";
    let world = World::of("{}", access, as_asked()).await?;
    until("it is kept", async || {
        Ok(is_hit(&world.get("/max-age=600").await?))
    })
    .await?;
    let other = world.mesh.client("cron").await?;
    let refused = other.get("http://orders/max-age=600").await?;
    assert_eq!((refused.status, refused.reason()), (403, "not_permitted"));
    assert_eq!(status(&refused), "");
    assert!(is_hit(&world.get("/max-age=600").await?));
    Ok(())
}

#[tokio::test]
async fn chosen_headers_and_parameters_tell_answers_apart() -> Result<()> {
    let app = App::new(|head, _| {
        let tenant = head.headers.get("x-tenant");
        let tenant = tenant.map_or("none", |one| one.to_str().unwrap_or_default());
        reply(200, &[("cache-control", "max-age=600")], tenant.to_owned())
    });
    let cache = "{ keyHeaders: [X-Tenant], keyQuery: [page] }";
    let world = World::of(cache, "", app).await?;
    for tenant in ["a", "b"] {
        let sent = [("x-tenant", tenant)];
        until("it is kept", async || {
            let answer = world.get_with("/x?page=1&utm=z", &sent).await?;
            assert_eq!(answer.body, tenant);
            Ok(is_hit(&answer))
        })
        .await?;
        assert!(is_hit(&world.get_with("/x?utm=other&page=1", &sent).await?));
        assert!(!is_hit(&world.get_with("/x?page=2", &sent).await?));
    }
    // All of them at once are changed by who changes what they are about.
    let url = "http://orders/x";
    world.web.send(Method::PUT, url, &[], Bytes::new()).await?;
    let sent = [("x-tenant", "a")];
    assert!(!is_hit(&world.get_with("/x?page=1", &sent).await?));
    Ok(())
}
