//! What somebody may do in a cluster decides what the commands can tell: docs/cli.md lists the rights.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::{run, wait_until};
use tests::mesh::binary;
use tokio::process::Command;
use tokio::time::timeout;

use crate::commands::{forwarded, tapped};
use crate::installation::{PODS, installed};
use crate::shop::Shop;

/// An API group, a resource, and what is done with it.
type Right = (&'static str, &'static str, &'static str);

/// What it takes to ask a pod by its name.
const POD: [Right; 2] = [("", "pods", "get"), ("", "pods/portforward", "create")];

/// What it takes besides to ask a Deployment.
const DEPLOYMENT: [Right; 2] = [("", "pods", "list"), ("apps", "deployments", "get")];

/// What it takes to check a namespace, besides what its pods take, and a folder with an ApiRoute.
const CHECK: [Right; 7] = [
    ("", "namespaces", "get"),
    ("", "pods", "list"),
    ("meshwright.dev", "apiroutes", "list"),
    ("meshwright.dev", "eventsubscriptions", "list"),
    ("meshwright.dev", "ratelimits", "list"),
    ("meshwright.dev", "retrypolicies", "list"),
    ("meshwright.dev", "apiroutes", "get"),
];

/// What it takes to check a whole cluster, each in all of it, with a part of what is told without it where
/// that is not the end of it.
const WHOLE: [(Right, &str); 15] = [
    (("", "namespaces", "list"), ""),
    (("", "pods", "get"), ""),
    (("", "pods", "list"), ""),
    (("", "pods/portforward", "create"), ""),
    (("meshwright.dev", "apiroutes", "list"), ""),
    (("meshwright.dev", "eventsubscriptions", "list"), ""),
    (("meshwright.dev", "ratelimits", "list"), ""),
    (("meshwright.dev", "retrypolicies", "list"), ""),
    (("apps", "deployments", "get"), ""),
    (
        ("apps", "deployments", "list"),
        "the operator can't be looked for: ",
    ),
    (
        ("apps", "daemonsets", "list"),
        "the CNI plugin can't be looked at: ",
    ),
    (
        (ADMISSION, "mutatingwebhookconfigurations", "get"),
        "the webhooks' configurations can't be looked at: ",
    ),
    (
        (ADMISSION, "validatingwebhookconfigurations", "get"),
        "the webhooks' configurations can't be looked at: ",
    ),
    (
        ("", "services", "get"),
        "the webhooks' configurations can't be looked at: ",
    ),
    (
        ("apiextensions.k8s.io", "customresourcedefinitions", "get"),
        "the definitions can't be looked at: ",
    ),
];
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Somebody who has these rights in a namespace or in all of the cluster, and no others.
struct User<'a> {
    shop: &'a Shop,
    /// Of its own: kubeconfig, and what kubectl remembers.
    home: TempDir,
}

// === impl User ===

impl<'a> User<'a> {
    /// `name` is not anybody else's.
    async fn with(shop: &'a Shop, name: &str, rights: &[Right]) -> Result<Self> {
        let metadata = json!({ "name": name, "namespace": shop.namespace });
        Self::bound(shop, name, "Role", &metadata, rights).await
    }

    /// The same with rights in all of the cluster.
    async fn everywhere(shop: &'a Shop, name: &str, rights: &[Right]) -> Result<Self> {
        let metadata = json!({ "name": format!("{}-{name}", shop.namespace) });
        Self::bound(shop, name, "ClusterRole", &metadata, rights).await
    }

    /// `metadata` is that of the role, which is of this kind, and of its binding.
    async fn bound(
        shop: &'a Shop,
        name: &str,
        kind: &str,
        metadata: &Value,
        rights: &[Right],
    ) -> Result<Self> {
        let account = json!({ "name": name, "namespace": shop.namespace });
        let rules = rights.iter().map(|(group, resource, verb)| {
            json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] })
        });
        let rbac = "rbac.authorization.k8s.io";
        let objects = [
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account }),
            json!({
                "apiVersion": format!("{rbac}/v1"), "kind": kind, "metadata": metadata,
                "rules": rules.collect::<Vec<_>>(),
            }),
            json!({
                "apiVersion": format!("{rbac}/v1"), "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": { "apiGroup": rbac, "kind": kind, "name": metadata["name"] },
                "subjects": [
                    { "kind": "ServiceAccount", "name": name, "namespace": shop.namespace },
                ],
            }),
        ];
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        shop.cluster.apply(&list.to_string()).await?;
        let token = ["create", "token", name, "-n", &shop.namespace];
        let token = shop.cluster.kubectl(&token).await?;
        let mut config = shop.cluster.json(&["config", "view", "--raw"]).await?;
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("kubeconfig"), config.to_string())?;
        Ok(Self { shop, home })
    }

    fn meshwright(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.shop.meshwright(arguments)?;
        command
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("HOME", self.home.path());
        Ok(command)
    }

    /// What a command says, once the API server knows of the rights.
    async fn succeeds(&self, arguments: &[&str]) -> Result<String> {
        wait_until(&format!("{arguments:?} succeeds"), PODS, async || {
            run(&mut self.meshwright(arguments)?, "").await
        })
        .await
    }

    /// Checks the whole cluster until what is said fits; other tests have things in it that are wrong.
    async fn checks(&self, fits: impl Fn(&str) -> bool) -> Result<()> {
        wait_until("the cluster is checked", PODS, async || {
            let mut command = self.shop.cluster.command(binary("meshwright")?);
            command
                .args(["check", "--cluster"])
                .env("KUBECONFIG", self.home.path().join("kubeconfig"))
                .env("HOME", self.home.path());
            let output = timeout(PODS, command.kill_on_drop(true).output()).await??;
            let said = String::from_utf8([output.stderr, output.stdout].concat())?;
            ensure!(
                said.contains(" objects of the mesh looked at") && fits(&said),
                "{said}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until a command has failed and said this; the API server may not know of all rights yet.
    async fn is_refused(&self, arguments: &[&str], says: &str) -> Result<()> {
        wait_until(&format!("{arguments:?} is refused"), PODS, async || {
            let mut command = self.meshwright(arguments)?;
            let output = timeout(PODS, command.kill_on_drop(true).output()).await??;
            let said = String::from_utf8(output.stderr)?;
            ensure!(
                output.status.code() == Some(1) && said.contains(says),
                "{}: {said}",
                output.status
            );
            Ok(())
        })
        .await
    }

    /// Every command that asks one workload.
    async fn asks(&self, workload: &str) -> Result<()> {
        let config: Value = serde_json::from_str(&self.succeeds(&["config", workload]).await?)?;
        let own = config["inForce"]["workload"].as_str().unwrap_or_default();
        let of_web = format!("{}/web-", self.shop.namespace);
        assert!(own.starts_with(&of_web), "{config}");
        let routes = self.succeeds(&["routes", workload]).await?;
        let orders = format!("{}/orders ", self.shop.namespace);
        assert!(routes.contains(&orders), "{routes}");
        let explain = ["explain", "http://orders/", "--from", workload];
        let explained = self.succeeds(&explain).await?;
        assert!(explained.contains("goes to "), "{explained}");
        let seen = tapped(self.shop, self.meshwright(&["tap", workload])?).await?;
        assert_eq!(seen["direction"], "outbound");
        let forward = self.meshwright(&["port-forward", workload, ":8080"])?;
        let (status, body) = forwarded(self.shop, forward).await?;
        assert!(status == 200 && body.starts_with("web-"), "{status} {body}");
        Ok(())
    }
}

/// The commands that ask one workload.
fn of_one(workload: &str) -> [Vec<&str>; 5] {
    [
        vec!["config", workload],
        vec!["routes", workload],
        vec!["explain", "http://orders/", "--from", workload],
        vec!["tap", workload],
        vec!["port-forward", workload, ":8080"],
    ]
}

#[tokio::test]
async fn the_rights_that_are_listed_are_all_that_the_commands_need() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let web = shop.pod("web").await?;
    let route = shop.route("orders");
    shop.cluster.apply(&route).await?;
    shop.programmed("orders").await?;

    let user = User::with(&shop, "asks-a-pod", &POD).await?;
    user.asks(&web).await?;

    let rights = [POD, DEPLOYMENT].concat();
    let user = User::with(&shop, "asks-a-deployment", &rights).await?;
    user.asks("deployment/web").await?;

    let rights = [&POD[..], &CHECK].concat();
    let user = User::with(&shop, "checks", &rights).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("route.yaml"), &route)?;
    let folder = folder.path().to_str().context("a path")?;
    let checked = user.succeeds(&["check", folder]).await?;
    let conclusion = "1 documents compared with what is stored, 1 objects of the mesh looked at, 2 of 2 sidecars asked";
    assert!(checked.contains(conclusion), "{checked}");
    // Who may ask each pod of a namespace may watch all of it.
    let seen = tapped(&shop, user.meshwright(&["tap"])?).await?;
    assert_eq!(seen["service"], format!("{}/orders", shop.namespace));
    Ok(())
}

#[tokio::test]
async fn without_one_of_the_rights_a_command_fails_in_kubectls_words_that_name_it() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let web = shop.pod("web").await?;
    let route = shop.route("orders");
    shop.cluster.apply(&route).await?;
    shop.programmed("orders").await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("route.yaml"), route)?;
    let folder = folder.path().to_str().context("a path")?;
    let all = [&POD[..], &DEPLOYMENT, &CHECK].concat();
    let without = async |(group, resource, verb): Right| {
        let left: Vec<_> = all
            .iter()
            .filter(|right| **right != (group, resource, verb))
            .copied()
            .collect();
        let name = format!("cannot-{verb}-{}", resource.replace('/', "-"));
        let says = format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"");
        anyhow::Ok((User::with(&shop, &name, &left).await?, says))
    };

    for (rights, workload) in [(POD, &*web), (DEPLOYMENT, "deployment/web")] {
        for right in rights {
            let (user, says) = without(right).await?;
            for command in of_one(workload) {
                user.is_refused(&command, &says).await?;
            }
        }
    }
    let (user, says) = without(("meshwright.dev", "apiroutes", "get")).await?;
    user.is_refused(&["check", folder], &says).await?;
    for kind in [
        "apiroutes",
        "eventsubscriptions",
        "ratelimits",
        "retrypolicies",
    ] {
        let (user, says) = without(("meshwright.dev", kind, "list")).await?;
        user.is_refused(&["check"], &says).await?;
    }

    // That somebody may not ask sidecars is no fault that a check finds: it is told, with the rest.
    let (user, says) = without(POD[1]).await?;
    wait_until("the rest is told", PODS, async || {
        let output = user.meshwright(&["check"])?.output().await?;
        let told = String::from_utf8([output.stderr, output.stdout].concat())?;
        let web = format!("the sidecar of {}/{web} can't be asked: ", shop.namespace);
        ensure!(
            output.status.success()
                && told.contains(&says)
                && told.contains(&web)
                && told.contains("1 objects of the mesh looked at, 0 of 2 sidecars asked"),
            "{}: {told}",
            output.status
        );
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_rights_that_are_listed_are_all_that_a_whole_cluster_is_checked_with() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let all = WHOLE.map(|(right, _)| right);
    let user = User::everywhere(&shop, "checks-all", &all).await?;
    let looked = ["can't be looked", "the operator can't be asked"];
    user.checks(|said| !looked.iter().any(|part| said.contains(part)))
        .await?;

    for ((group, resource, verb), told) in WHOLE {
        if told.is_empty() {
            continue;
        }
        // Nor pods, so that each is not asked again.
        let not = [(group, resource, verb), ("", "pods", "list")];
        let left = all.into_iter().filter(|right| !not.contains(right));
        let left: Vec<_> = left.collect();
        let name = format!("cannot-{verb}-{resource}");
        let user = User::everywhere(&shop, &name, &left).await?;
        let why = format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"");
        user.checks(|said| said.contains(told) && said.contains(&why))
            .await?;
    }
    Ok(())
}
