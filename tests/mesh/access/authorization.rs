//! Who may do what.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tests::client::Client;
use tests::issuer::{Issuer, in_seconds};
use tests::mesh::Mesh;

use super::{consumer, enforced, route, until, world};
use crate::routing::services;

#[tokio::test]
async fn what_no_rule_allows_is_refused_and_what_one_denies_too() -> Result<()> {
    let access = "  authorization:\n    rules:\n    - name: read\n      methods: [GET]\n      \
                  principals: { serviceAccounts: [web, other/web] }\n    - name: \
                  no-admin\n      action: Deny\n      paths: [{ type: Prefix, value: /admin }]\n    \
                  - name: debug\n      principals: { namespaces: [shop] }\n      headers: [{ name: \
                  x-debug, value: 'on' }]\n";
    let (mesh, orders, client) = world(access, "").await?;
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let url = format!("http://orders{path}");
        let answer = client.send(method, &url, headers, Bytes::new()).await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    let refused = (403, "not_permitted".to_owned());
    let fine = (200, String::new());
    assert_eq!(send(Method::GET, "/orders", &[]).await?, fine);
    assert_eq!(send(Method::POST, "/orders", &[]).await?, refused);
    assert_eq!(
        send(Method::POST, "/orders", &[("x-debug", "on")]).await?,
        fine
    );
    assert_eq!(send(Method::GET, "/admin", &[]).await?, refused);
    assert_eq!(
        send(Method::GET, "/admin/x", &[("x-debug", "on")]).await?,
        refused
    );
    // One normal form: no spelling of a path goes around a rule.
    for path in ["//admin", "/%61dmin", "/x/../admin", "/admin/"] {
        assert_eq!(send(Method::GET, path, &[]).await?, refused, "{path}");
    }
    assert_eq!(send(Method::GET, "/administration", &[]).await?, fine);
    let other = mesh.client("cron").await?;
    let answer = other.get("http://orders/orders").await?;
    assert_eq!((answer.status, answer.reason()), (403, "not_permitted"));

    let count = async |labels: &str| {
        let series = format!("meshwright_access_total{{{labels}}}");
        orders.sidecar.metric(&series).await
    };
    let of = |rule: &str, outcome: &str| {
        format!(r#"route="shop/orders",rule="{rule}",outcome="{outcome}",why="""#)
    };
    assert_eq!(count(&of("read", "allowed")).await?, Some(2.0));
    assert_eq!(count(&of("no-admin", "denied")).await?, Some(6.0));
    assert_eq!(count(&of("", "denied")).await?, Some(2.0));
    Ok(())
}

#[tokio::test]
async fn claims_scopes_consumers_and_roles_decide_together() -> Result<()> {
    let issuer = Issuer::new("a");
    let keys = Issuer::key_set(&[&issuer]);
    let access = format!(
        "  auth:\n    require: Optional\n    jwt: [{{ issuer: https://issuer, audiences: [orders], \
         jwks: {{ inline: '{keys}' }} }}]\n    apiKey: {{}}\n  authorization:\n    roles:\n    - \
         name: buyers\n      members:\n      - jwtClaims: [{{ name: /realm/roles, values: [buyer, \
         vip] }}]\n      - plans: [gold]\n    rules:\n    - name: buy\n      methods: [POST]\n      \
         principals: {{ roles: [buyers] }}\n    - name: read\n      methods: [GET]\n      principals: \
         {{ scopes: [orders.read, orders.list] }}\n    - name: health\n      paths: [{{ type: Exact, \
         value: /health }}]\n"
    );
    let more = [
        consumer("acme", "gold", "mk_gold1_a", "")?,
        consumer("poor", "free", "mk_free1_a", "")?,
    ];
    let (_mesh, _orders, client) = world(&access, &more.concat()).await?;
    let token = |more: serde_json::Value| {
        let mut claims = json!({"iss": "https://issuer", "aud": "orders", "exp": in_seconds(600)});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        format!("Bearer {}", issuer.token(&claims))
    };
    let buyer = token(json!({"realm": {"roles": ["x", "vip"]}}));
    let reader = token(json!({"scope": "orders.list orders.read x"}));
    let half = token(json!({"scope": "orders.read"}));
    for (method, path, headers, status) in [
        (Method::POST, "/", vec![("authorization", &*buyer)], 200),
        (Method::GET, "/", vec![("authorization", &*buyer)], 403),
        (Method::GET, "/", vec![("authorization", &*reader)], 200),
        (Method::POST, "/", vec![("authorization", &*reader)], 403),
        (Method::GET, "/", vec![("authorization", &*half)], 403),
        (Method::POST, "/", vec![("x-api-key", "mk_gold1_a")], 200),
        (Method::POST, "/", vec![("x-api-key", "mk_free1_a")], 403),
        (Method::GET, "/health", vec![], 200),
        (Method::GET, "/", vec![], 403),
        // A credential that is bad is no way of having none.
        (
            Method::GET,
            "/health",
            vec![("x-api-key", "mk_nope1_a")],
            401,
        ),
        (
            Method::GET,
            "/health",
            vec![("authorization", "Bearer x")],
            401,
        ),
    ] {
        let url = format!("http://orders{path}");
        let answer = client
            .send(method.clone(), &url, &headers, Bytes::new())
            .await?;
        assert_eq!(
            answer.status,
            status,
            "{method} {path} {headers:?}: {}",
            answer.reason()
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_audit_tells_what_would_have_been_refused_and_lets_it_pass() -> Result<()> {
    let access = "  authorization:\n    mode: Audit\n    audit: Denied\n    rules: [{ name: cron, \
                  principals: { serviceAccounts: [cron] } }]\n";
    let (_mesh, orders, client) = world(access, "").await?;
    assert_eq!(client.get("http://orders/secret-report").await?.status, 200);
    let found = async || {
        let log = orders.sidecar.log()?;
        let mut lines = log.lines().filter(|line| line.contains("/secret-report"));
        anyhow::Ok(lines.next().map(str::to_owned))
    };
    until("there is a line", async || Ok(found().await?.is_some())).await?;
    let line = found().await?.unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(line["decision"], "would_deny");
    let series =
        r#"meshwright_access_total{route="shop/orders",rule="",outcome="would_deny",why=""}"#;
    assert_eq!(orders.sidecar.metric(series).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn who_has_no_good_credentials_stands_in_the_audit_too() -> Result<()> {
    let access = "  auth: { apiKey: {} }\n  authorization: { audit: Denied, rules: [{ principals: { consumers: \
                  [acme] } }] }\n";
    let (_mesh, orders, client) = world(access, "").await?;
    let key = [("x-api-key", "mk_acme1_wrong")];
    let refused = client.get_with("http://orders/secret-report", &key).await?;
    assert_eq!(
        (refused.status, refused.reason()),
        (401, "credentials_invalid")
    );
    let found = async || {
        let log = orders.sidecar.log()?;
        let mut lines = log.lines().filter(|line| line.contains("/secret-report"));
        anyhow::Ok(lines.next().map(str::to_owned))
    };
    until("there is a line", async || Ok(found().await?.is_some())).await?;
    let line = found().await?.unwrap_or_default();
    assert!(!line.contains("mk_acme1"), "{line}");
    let line: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(
        (&line["decision"], &line["reason"]),
        (&"denied".into(), &"credentials_invalid".into())
    );
    Ok(())
}

#[tokio::test]
async fn whatever_the_callers_sidecar_was_told_the_destination_decides() -> Result<()> {
    // Whoever calls the pod by its own address, or by the name of another Service, finds the same.
    let more = "---\napiVersion: v1\nkind: Service\nmetadata: { name: backdoor, namespace: shop }\n\
                spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }\n";
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [cron] } }] }\n";
    let (mesh, orders, client) = world(access, more).await?;
    let address = format!("http://{}:8080/", orders.sidecar.address());
    for url in ["http://orders/", "http://backdoor/", &address] {
        let answer = client.get(url).await?;
        assert_eq!(
            (answer.status, answer.reason()),
            (403, "not_permitted"),
            "{url}"
        );
    }
    let cron = mesh.client("cron").await?;
    for url in ["http://orders/", "http://backdoor/"] {
        assert_eq!(cron.get(url).await?.status, 200, "{url}");
    }
    assert_eq!(orders.upstream.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn backends_of_a_rule_are_closed_as_the_host_is() -> Result<()> {
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [cron] } }] }\n  rules: \
                  [{ backendRefs: [{ name: orders-v2, port: 80 }] }]\n";
    let yaml = services(&["orders", "orders-v2"]) + &route(access);
    let mesh = Mesh::start(&yaml).await?;
    let (_orders, v2) = (
        mesh.workload("orders").await?,
        mesh.workload("orders-v2").await?,
    );
    let (web, cron) = (mesh.client("web").await?, mesh.client("cron").await?);
    enforced(&mesh).await?;
    for url in ["http://orders/", "http://orders-v2/"] {
        assert_eq!(web.get(url).await?.status, 403, "{url}");
        assert_eq!(cron.get(url).await?.status, 200, "{url}");
    }
    assert_eq!(v2.upstream.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_an_edit_opens_nothing() -> Result<()> {
    let access = "  authorization: { rules: [{ principals: { serviceAccounts: [cron] } }] }\n";
    let (mesh, orders, client) = world(access, "").await?;
    let cron = mesh.client("cron").await?;
    assert_eq!(client.get("http://orders/").await?.status, 403);

    // Its rules lead nowhere: what it says of access holds all the same.
    let wrong = format!(
        "{access}  rules: [{{ backendRefs: [{{ kind: ApiRoute, name: x, port: 80 }}] }}]\n"
    );
    mesh.write("routes.yaml", &(services(&["orders"]) + &route(&wrong)))?;
    let accepted = async |says: &str| {
        let found = async || {
            let verdict = mesh.verdict("orders").await?;
            let accepted = &verdict["conditions"][0];
            let message = accepted["message"].as_str().unwrap_or_default().to_owned();
            anyhow::Ok((accepted["status"] == "False" && message.contains(says)).then_some(message))
        };
        until(says, async || Ok(found().await?.is_some())).await?;
        anyhow::Ok(found().await?.unwrap_or_default())
    };
    let message = accepted("backendRefs[0].kind: the pods behind ApiRoute shop/x").await?;
    assert!(
        message.ends_with("What it says of who may enter is enforced all the same."),
        "{message}"
    );
    assert_eq!(client.get("http://orders/").await?.status, 403);
    assert_eq!(cron.get("http://orders/").await?.status, 200);

    // What it says of access is not understood: nobody enters.
    let unknown = "  authorization: { rules: [{ principals: { roles: [nobody] } }] }\n";
    mesh.write("routes.yaml", &(services(&["orders"]) + &route(unknown)))?;
    until("the edit is in force", async || {
        let answer = cron.get("http://orders/").await?;
        Ok(answer.reason() == "access_closed")
    })
    .await?;
    let message = accepted("there is no role").await?;
    assert!(
        message.ends_with("Until this is corrected, nobody may call these Services."),
        "{message}"
    );
    assert_eq!(client.get("http://orders/").await?.status, 503);

    let before = orders.upstream.requests();
    mesh.write("routes.yaml", &(services(&["orders"]) + &route(access)))?;
    until("the edit is in force", async || {
        Ok(cron.get("http://orders/").await?.status == 200)
    })
    .await?;
    assert_eq!(orders.upstream.requests(), before + 1);
    Ok(())
}

#[tokio::test]
async fn who_calls_in_plaintext_is_nobody() -> Result<()> {
    let rules = "  authorization: { rules: [{ principals: { namespaces: [shop] } }, { paths: [{ type: \
                 Exact, value: /health }] }] }\n";
    let (mesh, orders, client) = world(rules, "").await?;
    mesh.mark(
        orders.sidecar.pod(),
        "labels",
        "meshwright.dev/mode",
        "permissive",
    )?;
    let call = async |path: &str| {
        let url = format!("http://{}:8080{path}", orders.sidecar.address());
        Client::direct().get(&url).await
    };
    until("plaintext is taken", async || {
        Ok(call("/health").await?.status == 200)
    })
    .await?;
    let answer = call("/").await?;
    assert_eq!((answer.status, answer.reason()), (403, "not_permitted"));
    assert_eq!(client.get("http://orders/").await?.status, 200);
    // Nor is it believed how long it waits, as a peer is.
    orders.upstream.takes(Duration::from_millis(300));
    let url = format!("http://{}:8080/health", orders.sidecar.address());
    let hurry = [("meshwright-timeout-ms", "1")];
    assert_eq!(Client::direct().get_with(&url, &hurry).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_does_not_let_a_health_check_in_is_not_thought_to_be_ill() -> Result<()> {
    let access = "  auth: { apiKey: {} }\n";
    let check = "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: { name: orders, \
                 namespace: shop }\nspec: { targetRefs: [{ kind: Service, name: orders }], healthCheck: { \
                 path: /health, interval: 5s, unhealthyThreshold: 1 } }\n";
    let key = consumer("acme", "gold", "mk_acme1_a", check)?;
    let (_mesh, orders, client) = world(access, &key).await?;
    let call = async || {
        client
            .get_with("http://orders/", &[("x-api-key", "mk_acme1_a")])
            .await
    };
    call().await?;
    // The check comes, is refused, and changes nothing.
    let refused =
        r#"meshwright_access_total{route="shop/orders",rule="",outcome="refused",why="missing"}"#;
    until("a check was refused", async || {
        call().await?;
        // Twice: the first has been answered by then.
        Ok(orders.sidecar.metric(refused).await? >= Some(2.0))
    })
    .await?;
    assert_eq!(call().await?.status, 200);
    let avoided = client
        .sidecar()
        .metric("meshwright_endpoints_avoided")
        .await?;
    assert_eq!(avoided, Some(0.0));
    let config = orders.sidecar.config().await?;
    let said = &config["inForce"]["serves"][0]["whoMayEnter"][0];
    assert_eq!(said["route"], "shop/orders");
    assert_eq!(said["credentials"]["consumerKeys"], 1);
    Ok(())
}
