//! Mixed load on a mesh in which endpoints come and go, routes are edited, and certificates rotate.
//!
//! No error is explained: an endpoint that leaves lets what it has end, an edit is met by the next
//! request, a certificate by the next handshake. A caller that gives up its own request is no error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::time::{Instant, interval};

use crate::applications::{Application, Speaks};
use crate::flows::Way;
use crate::length;
use crate::load::{Load, Tally};
use crate::watch::{PACE, Watched};

/// Services, what their ports carry, and what their applications speak.
const SERVICES: &[(&str, &str, Speaks)] = &[
    ("orders", "http", Speaks::Http),
    ("orders-v2", "http", Speaks::Http),
    ("stock", "grpc", Speaks::Http),
    ("ledger", "tcp", Speaks::Opaque),
];

/// The shortest life of a certificate; each is replaced at half of it.
const LEAF_LIFE: &str = "60s";

/// Endpoints that come in one run: a mesh has addresses for a few more.
const MOST_COMING: u32 = 80;

/// The shortest time between two.
const COMING: Duration = Duration::from_secs(2);

/// How often the route is edited.
const EDITING: Duration = Duration::from_millis(1500);

/// Written when all is over.
const LAST_EDIT: u32 = 1_000_000;

/// Descriptors more than before: connections to peers and to the own application that are kept for
/// the next request.
const KEPT: usize = 12;

/// An application and what is beside it.
struct Endpoint {
    application: Application,
    sidecar: Sidecar,
}

/// A mesh, and the endpoint of each Service that stays in it.
struct Shop {
    mesh: Mesh,
    stay: Vec<Endpoint>,
}

// === impl Shop ===

impl Shop {
    async fn open() -> Result<Self> {
        let services = SERVICES.iter().map(|(name, declared, _)| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
                 spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: 8080, \
                 appProtocol: {declared} }}] }}\n"
            )
        });
        let yaml = Vec::from_iter(services).join("---\n");
        let mesh = Mesh::start_with(&yaml, &["--leaf-life", LEAF_LIFE]).await?;
        let stay = Vec::new();
        let mut shop = Self { mesh, stay };
        shop.edit(0)?;
        for number in 0..SERVICES.len() {
            let endpoint = shop.comes(number).await?;
            shop.stay.push(endpoint);
        }
        Ok(shop)
    }

    /// An endpoint of one Service after the other.
    async fn comes(&self, number: usize) -> Result<Endpoint> {
        let (name, _, speaks) = SERVICES[number % SERVICES.len()];
        let (listener, sidecar) = self.mesh.arriving(name).await?;
        let application = Application::start(listener, speaks);
        Ok(Endpoint {
            application,
            sidecar,
        })
    }

    async fn goes(&self, endpoint: Endpoint) -> Result<()> {
        let code = self.mesh.leaves(&endpoint.sidecar).await?;
        let pod = endpoint.sidecar.pod();
        ensure!(code == Some(0), "{pod} ended with {code:?}");
        // Its sidecar first: nobody is under way to the application any more.
        drop(endpoint.application);
        Ok(())
    }

    /// Writes another route, and in between one that cannot be read and changes nothing.
    fn edit(&self, number: u32) -> Result<()> {
        let share = number % 10 * 10;
        let (rest, timeout) = (100 - share, 20 + number % 5);
        let route = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
             metadata: {{ name: orders, namespace: shop }}\n\
             spec:\n  hosts: [orders]\n  rules:\n\
             \x20   - name: edit-{number}\n\
             \x20     timeouts: {{ request: {timeout}s }}\n\
             \x20     responseHeaders: {{ set: [{{ name: x-edit, value: \"{number}\" }}] }}\n\
             \x20     backendRefs:\n\
             \x20       - {{ name: orders, port: 80, weight: {rest} }}\n\
             \x20       - {{ name: orders-v2, port: 80, weight: {share} }}\n"
        );
        match number % 7 {
            6 => self.mesh.write("orders.yaml", &route[..route.len() / 2]),
            _ => self.mesh.write("orders.yaml", &route),
        }
    }
}

/// What happens to a mesh until a moment; how often of each.
#[derive(Debug, Default)]
struct Churn {
    came: u32,
    edits: u32,
}

/// One comes, and the one that is there for longest goes, as in a Deployment that is rolled over.
async fn churn(
    shop: &Shop,
    come_and_go: &mut VecDeque<Endpoint>,
    length: Duration,
) -> Result<Churn> {
    let mut churn = Churn::default();
    let each = (length / MOST_COMING).max(COMING);
    let (mut coming, mut editing) = (interval(each), interval(EDITING));
    let until = Instant::now() + length;
    while Instant::now() < until {
        tokio::select! {
            _ = editing.tick() => {
                churn.edits += 1;
                shop.edit(churn.edits)?;
            }
            _ = coming.tick(), if churn.came < MOST_COMING => {
                come_and_go.push_back(shop.comes(churn.came as usize).await?);
                let oldest = come_and_go.pop_front().context("nobody to go")?;
                shop.goes(oldest).await?;
                churn.came += 1;
            }
        }
    }
    Ok(churn)
}

/// When the certificate in force ends.
async fn expires(sidecar: &Sidecar) -> Result<String> {
    let config = sidecar.config().await?;
    let expires = config["certificate"]["expires"].as_str();
    Ok(expires.context("no certificate")?.to_owned())
}

/// Looks at all processes that stay, until cancelled.
async fn watching(mesh: &Mesh, sidecars: &[&Sidecar], watched: &mut [Watched]) -> Result<()> {
    let mut looks = interval(PACE);
    loop {
        looks.tick().await;
        let Some((operator, others)) = watched.split_first_mut() else {
            bail!("nobody to look at");
        };
        operator.sees(mesh.operator_usage()?);
        for (watched, sidecar) in others.iter_mut().zip(sidecars) {
            watched.sees(sidecar.usage()?);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_load_with_churn_fails_nowhere_grows_nowhere_and_keeps_no_descriptor() -> Result<()> {
    let shop = Shop::open().await?;
    let mesh = &shop.mesh;
    let mut come_and_go = VecDeque::new();
    for number in 0..SERVICES.len() {
        come_and_go.push_back(shop.comes(number).await?);
    }
    let client = Arc::new(mesh.client("web").await?);
    let stay = shop.stay.iter().map(|one| &one.sidecar);
    let sidecars: Vec<&Sidecar> = [client.sidecar()].into_iter().chain(stay).collect();
    let mut watched = vec![Watched::new("operator", mesh.operator_usage()?)];
    let mut leaves = Vec::new();
    for sidecar in &sidecars {
        watched.push(Watched::new(sidecar.pod(), sidecar.usage()?));
        leaves.push(expires(sidecar).await?);
    }

    let (begun, tally) = (Instant::now(), Tally::default());
    let load = Load::start(client.clone(), tally.clone());
    let churned = async {
        let churned = churn(&shop, &mut come_and_go, length()).await?;
        wait_until(
            "every certificate has been replaced",
            3 * SOON,
            async || {
                for (sidecar, first) in sidecars.iter().zip(&leaves) {
                    ensure!(expires(sidecar).await? != *first, "{}", sidecar.pod());
                }
                Ok(())
            },
        )
        .await?;
        anyhow::Ok(churned)
    };
    let churned = tokio::select! {
        churned = churned => churned?,
        looked = watching(mesh, &sidecars, &mut watched) => bail!("{looked:?}"),
    };
    let took = begun.elapsed();
    load.end().await;

    // What was edited last is in force.
    shop.edit(LAST_EDIT)?;
    wait_until("the last edit is in force", SOON, async || {
        let answer = client.get("http://orders/small").await?;
        let edit = answer.headers.get("x-edit").context("no header")?;
        ensure!(*edit == LAST_EDIT.to_string(), "{edit:?}");
        Ok(())
    })
    .await?;
    let quiet = wait_until("what was open is closed", SOON, async || {
        for (watched, sidecar) in watched.iter().skip(1).zip(&sidecars) {
            let (idle, now) = (watched.idle().descriptors, sidecar.usage()?.descriptors);
            ensure!(now <= idle + KEPT, "{}: {idle}, then {now}", sidecar.pod());
            for direction in ["inbound", "outbound"] {
                let series = format!("meshwright_requests_in_flight{{direction=\"{direction}\"}}");
                let in_flight = sidecar.metric(&series).await?;
                ensure!(in_flight.is_none_or(|n| n == 0.0), "{series} {in_flight:?}");
            }
        }
        let (idle, now) = (
            watched[0].idle().descriptors,
            mesh.operator_usage()?.descriptors,
        );
        ensure!(now <= idle + KEPT, "operator: {idle}, then {now}");
        Ok(())
    })
    .await;

    let obtained = client
        .sidecar()
        .log()?
        .matches("certificate obtained")
        .count();
    let (right, wrong) = tally.total();
    eprintln!(
        "{right} requests right, {wrong} wrong in {took:?}; {} endpoints came and as many went, \
         {} edits, {} rotations of each certificate\n{tally}",
        churned.came,
        churned.edits,
        obtained.saturating_sub(1),
    );
    let usages = [mesh.operator_usage()].into_iter();
    let usages = usages.chain(sidecars.iter().map(|one| one.usage()));
    for (watched, after) in watched.iter().zip(usages) {
        eprintln!("{}", watched.line(after?));
    }
    ensure!(
        wrong == 0 && tally.ways() == Way::COUNT,
        "not all were right:\n{tally}"
    );
    watched.iter().try_for_each(Watched::is_flat)?;
    quiet
}
