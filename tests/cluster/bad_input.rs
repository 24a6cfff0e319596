//! What is wrong and comes all the same: each has an answer, and nothing else suffers.

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, run, wait_until};

use crate::configuration::is_soon_met;
use crate::installation::{PODS, SYSTEM, installed, operator_stays, root};
use crate::life::operators;
use crate::load::Load;
use crate::shop::Shop;
use crate::validation::{applied, object};

/// A Service without pods, which is enough to govern.
fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

/// Waits until an ApiRoute has a condition of this type, status and generation.
async fn condition(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    type_: &str,
    status: &str,
    generation: i64,
) -> Result<Value> {
    let what = format!("{name} has {type_}={status} of generation {generation}");
    wait_until(&what, PODS, async || {
        let route = cluster
            .json(&["get", "apiroute", name, "-n", namespace])
            .await?;
        let conditions = route["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|one| one["type"] == type_);
        let found = found.with_context(|| format!("{route}"))?;
        ensure!(
            found["status"] == status && found["observedGeneration"] == generation,
            "{found}"
        );
        Ok(found.clone())
    })
    .await
}

/// How often the operator's container has been started anew.
async fn restarts(cluster: &Cluster) -> Result<i64> {
    let pods = operators(cluster).await?;
    let pod = pods.first().context("no operator")?;
    let pod = cluster.json(&["get", "pod", "-n", SYSTEM, pod]).await?;
    let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
    restarts.as_i64().context("no count")
}

#[tokio::test]
async fn a_namespace_that_is_deleted_in_the_midst_takes_only_its_own_with_it() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let before = restarts(cluster).await?;
    let [stays, goes] = [
        cluster.namespace("stays").await?,
        cluster.namespace("goes").await?,
    ];
    let key = json!({ "apiKey": { "in": "Header", "name": "x-api-key" } });
    let store = json!({ "redis": { "urlSecretRef": { "name": "redis", "key": "url" } } });
    let targets = json!([{ "group": "", "kind": "Service", "name": "orders" }]);
    let mut items = vec![service(&stays, "orders"), service(&goes, "orders")];
    for number in 0..20 {
        let limit = json!({ "targetRefs": targets, "scope": "Shared", "store": store,
                            "limits": [{ "name": "all", "requests": 9, "per": "1m" }] });
        items.push(object(
            "RateLimit",
            &goes,
            &format!("limit-{number}"),
            &limit,
        ));
    }
    let guarded = json!({ "hosts": ["orders"], "auth": key });
    items.push(object("ApiRoute", &goes, "orders", &guarded));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    cluster.apply(&list.to_string()).await?;
    // Its objects are just being judged, its Secrets just being asked for.
    cluster
        .kubectl(&["delete", "namespace", &goes, "--wait=false"])
        .await?;
    let route = object("ApiRoute", &stays, "orders", &guarded);
    let (stored, said) = applied(cluster, &route).await?;
    ensure!(stored, "{said}");
    condition(cluster, (&stays, "orders"), "Accepted", "True", 1).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=delete",
            &format!("namespace/{goes}"),
            "--timeout=90s",
        ])
        .await?;
    // And what comes after it is done as well.
    cluster
        .kubectl(&["delete", "apiroute", "orders", "-n", &stays])
        .await?;
    cluster.apply(&route.to_string()).await?;
    condition(cluster, (&stays, "orders"), "Accepted", "True", 1).await?;
    ensure!(
        restarts(cluster).await? == before,
        "the operator has failed"
    );
    Ok(())
}

#[tokio::test]
async fn of_an_object_of_a_newer_schema_the_last_good_form_holds_and_whoever_applies_it_is_told()
-> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let namespace = cluster.namespace("newer").await?;
    cluster
        .apply(&service(&namespace, "orders").to_string())
        .await?;
    let route = |protocol: &str| {
        let spec = json!({ "hosts": ["orders"], "protocol": protocol });
        object("ApiRoute", &namespace, "orders", &spec)
    };
    let (stored, said) = applied(cluster, &route("HTTP")).await?;
    ensure!(stored, "{said}");
    condition(cluster, (&namespace, "orders"), "Accepted", "True", 1).await?;

    // A version to come: it adds a protocol, which no other test writes.
    let place =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/protocol/enum/-";
    let newer = json!([{ "op": "add", "path": place, "value": "QUIC" }]).to_string();
    let crd = [
        "patch",
        "crd",
        "apiroutes.meshwright.dev",
        "--type=json",
        "-p",
    ];
    cluster.kubectl(&[&crd[..], &[&newer]].concat()).await?;
    wait_until(
        "it is stored, and whoever applies it is told",
        PODS,
        async || {
            let (stored, said) = applied(cluster, &route("QUIC")).await?;
            ensure!(stored, "{said}");
            ensure!(said.contains("older than the definitions (CRDs)"), "{said}");
            Ok(())
        },
    )
    .await?;
    // Nobody claims to have looked at it; what held before holds.
    let held = condition(cluster, (&namespace, "orders"), "Accepted", "True", 1).await?;
    ensure!(held["observedGeneration"] == 1, "{held}");
    let proxied =
        format!("/api/v1/namespaces/{SYSTEM}/services/meshwright-operator:15014/proxy/metrics");
    wait_until("it is counted", PODS, async || {
        let metrics = cluster.kubectl(&["get", "--raw", &proxied]).await?;
        let line = "meshwright_operator_unreadable_objects 1";
        ensure!(metrics.contains(line), "{metrics}");
        Ok(())
    })
    .await?;
    // Others are judged as ever.
    let other = object(
        "ApiRoute",
        &namespace,
        "other",
        &json!({ "hosts": ["missing"] }),
    );
    let (stored, said) = applied(cluster, &other).await?;
    ensure!(
        stored && said.contains("there is no Service \"missing\""),
        "{said}"
    );
    condition(cluster, (&namespace, "other"), "Accepted", "False", 1).await?;
    // Back as it was.
    cluster.apply(&route("HTTP").to_string()).await?;
    let definition = root().join("crds/apiroutes.yaml");
    let definition = std::fs::read_to_string(definition)?;
    let definition = definition.as_str();
    cluster.apply(definition).await?;
    Ok(())
}

/// Nobody may write the status of one ApiRoute: somebody's own policy of admission says so.
fn held_by_a_policy(namespace: &str) -> Value {
    let name = format!("{namespace}-held");
    let rule = json!({
        "apiGroups": ["meshwright.dev"], "apiVersions": ["v1alpha1"],
        "operations": ["UPDATE"], "resources": ["apiroutes/status"],
    });
    let others =
        format!("object.metadata.namespace != '{namespace}' || object.metadata.name != 'orders'");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [rule] },
            "validations": [{ "expression": others, "reason": "Forbidden", "message": "held" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [policy, binding] })
}

#[tokio::test]
async fn a_status_that_may_not_be_written_is_told_and_holds_up_neither_calls_nor_other_statuses()
-> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let before = object(
        "ApiRoute",
        namespace,
        "orders",
        &json!({ "hosts": ["orders"] }),
    );
    cluster.apply(&before.to_string()).await?;
    condition(cluster, (namespace, "orders"), "Accepted", "True", 1).await?;
    let policy = held_by_a_policy(namespace);
    cluster.apply(&policy.to_string()).await?;
    let held = held(&shop).await;
    // However that went, the policy goes.
    let mut delete = cluster.command("kubectl");
    delete.args(["delete", "-f", "-"]);
    run(&mut delete, &policy.to_string()).await?;
    held?;
    condition(cluster, (namespace, "orders"), "Accepted", "True", 2).await?;
    shop.programmed("orders").await.map(drop)
}

async fn held(shop: &Shop) -> Result<()> {
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let patch = ["patch", "apiroute", "orders", "-n", namespace];
    let status = r#"{ "status": { "programmed": "9/9" } }"#;
    let status = ["--subresource=status", "--type=merge", "-p", status];
    wait_until("the API server refuses it", PODS, async || {
        let dry = [&patch[..], &status, &["--dry-run=server"]].concat();
        let refused = cluster.kubectl(&dry).await.err();
        let refused = format!("{:#}", refused.context("it is taken")?);
        ensure!(
            refused.contains("forbidden: ValidatingAdmissionPolicy"),
            "{refused}"
        );
        Ok(())
    })
    .await?;

    // What it says is enforced, although nobody can be told so.
    cluster.apply(&shop.route("two")).await?;
    wait_until("calls are led as it says", PODS, async || {
        let by = shop.answered_by("http://orders/").await?;
        ensure!(by.starts_with("two-"), "{by}");
        Ok(())
    })
    .await?;
    let operator = operators(cluster).await?;
    let operator = operator.first().context("no operator")?;
    wait_until("the operator says so", PODS, async || {
        let logs = ["logs", operator, "-n", SYSTEM];
        let log = cluster.kubectl(&logs).await?;
        let object = format!("ApiRoute {namespace}/orders");
        let told = log
            .lines()
            .find(|line| line.contains("the status can't be written") && line.contains(&object));
        let told = told.context("nothing is said of it")?;
        ensure!(told.contains("forbidden"), "{told}");
        Ok(())
    })
    .await?;
    let proxied =
        format!("/api/v1/namespaces/{SYSTEM}/services/meshwright-operator:15014/proxy/metrics");
    let metrics = cluster.kubectl(&["get", "--raw", &proxied]).await?;
    let counted = "meshwright_operator_status_write_failures_total ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(counted));
    ensure!(counted.is_some_and(|count| count != "0"), "{counted:?}");

    // Others have theirs, as often as they are edited.
    for generation in 1..4 {
        let rule = json!({ "name": format!("edit-{generation}"),
                           "backendRefs": [{ "name": "two", "port": 80 }] });
        let hosts = json!({ "hosts": ["two"], "rules": [rule] });
        let other = object("ApiRoute", namespace, "other", &hosts);
        cluster.apply(&other.to_string()).await?;
        condition(
            cluster,
            (namespace, "other"),
            "Accepted",
            "True",
            generation,
        )
        .await?;
    }
    let held = condition(cluster, (namespace, "orders"), "Accepted", "True", 1).await?;
    ensure!(held["observedGeneration"] == 1, "{held}");
    Ok(())
}

#[tokio::test]
async fn a_second_chart_is_refused_and_the_first_one_goes_on() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let before = cluster
        .json(&["get", "clusterrole", "meshwright-operator"])
        .await?;
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let second = cluster.namespace("second").await?;
    let args = ["install", "another", chart, "--namespace", &second];
    let refused = cluster.helm(&args).await.unwrap_err().to_string();
    let why = "is installed in this cluster already, as release meshwright in namespace meshwright-system";
    ensure!(refused.contains(why), "{refused}");
    let after = cluster
        .json(&["get", "clusterrole", "meshwright-operator"])
        .await?;
    ensure!(before == after, "{after}");
    let pods = cluster.kubectl(&["get", "pods", "-n", &second]).await?;
    ensure!(!pods.contains("meshwright"), "{pods}");
    Ok(())
}

#[tokio::test]
async fn a_thousand_objects_at_once_are_each_told_and_hold_nobody_up() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    let cluster = shop.cluster;
    let before = restarts(cluster).await?;
    cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    let many = cluster.namespace("many").await?;
    let lost = |number: usize| {
        let spec = json!({ "hosts": [format!("nobody-{number}")] });
        object("ApiRoute", &many, &format!("lost-{number}"), &spec)
    };
    let items: Vec<Value> = (0..1000).map(lost).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string();

    let load = Load::begin(&shop, "http://orders/", "20ms").await?;
    let mut create = cluster.command("kubectl");
    let is_created = Cell::new(false);
    let created = async {
        let created = run(create.args(["create", "-f", "-"]), &list).await;
        is_created.set(true);
        created
    };
    let edited = async {
        let mut amid = 0;
        for backend in ["two", "orders", "two", "orders"] {
            let expected = format!("{backend}-");
            let apply = async || cluster.apply(&shop.route(backend)).await;
            is_soon_met(&shop, &expected, apply).await?;
            amid += usize::from(!is_created.get());
            shop.programmed("orders").await?;
        }
        ensure!(amid > 0, "they were there before anything was edited");
        Ok(())
    };
    tokio::try_join!(created, edited)?;
    wait_until("each is told", PODS, async || {
        let routes = cluster.json(&["get", "apiroutes", "-n", &many]).await?;
        let routes = routes["items"].as_array().context("a list")?;
        let refused = |route: &&Value| {
            let conditions = route["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|one| one["type"] == "Accepted" && one["status"] == "False")
        };
        let told = routes.iter().filter(refused).count();
        ensure!(told == 1000, "{told} of {}", routes.len());
        Ok(())
    })
    .await?;
    cluster.forget_namespace(&many);
    let asked = load.end().await?;
    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    ensure!(failed.is_empty(), "{failed:?}");
    ensure!(
        restarts(cluster).await? == before,
        "the operator has failed"
    );
    Ok(())
}
