//! What a sidecar takes where there are few Services, and where there are many that its pod does not call.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;
use tokio::time::sleep;

use crate::bounds::SIDECAR;
use crate::plan::Plan;
use crate::world::{PODS, World};

/// How many sidecars are looked at in each world.
const SIDECARS: usize = 3;

/// How many Services of other namespaces each calls.
const OTHERS: usize = 5;

/// How long a sidecar is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// In bytes, the median of some sidecars.
struct Memory {
    at_rest: u64,
    after_calls: u64,
    /// Endpoints that a sidecar was told after its calls.
    held: f64,
}

#[tokio::test]
async fn a_sidecars_memory_follows_what_its_pod_calls_and_not_the_cluster() -> Result<()> {
    let plan = Plan::of_environment()?;
    let few = measure(World { pods: PODS }).await?;
    let world = World {
        pods: PODS * plan.namespaces,
    };
    let many = measure(world).await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let says = format!(
        "a sidecar with {:.2} MiB among {} Services has {:.2} among {}, and {:.2} once it has called \
         {OTHERS} of them; it holds {} Services then",
        mib(few.at_rest),
        World { pods: PODS }.services(),
        mib(many.at_rest),
        world.services(),
        mib(many.after_calls),
        many.held,
    );
    println!("{says}");
    ensure!(many.held == few.held + OTHERS as f64, "{says}");
    let more = |than: u64| many.at_rest.max(many.after_calls) as f64 - than as f64;
    ensure!(more(few.at_rest) < SIDECAR, "{says}");
    Ok(())
}

async fn measure(world: World) -> Result<Memory> {
    let mesh = Mesh::prepare()?;
    world.write(&mesh)?;
    mesh.start_operator().await?;
    let problems = mesh.problems().await?;
    ensure!(problems.is_empty(), "the world can't be read: {problems:?}");
    let app = format!("{}/caller", World::namespace(0));
    let mut clients = Vec::new();
    for _ in 0..SIDECARS {
        clients.push(mesh.client(&app).await?);
    }
    sleep(SETTLE).await;
    let at_rest = median(&clients)?;
    for client in &clients {
        let others = OTHERS.min(world.namespaces() - 1);
        for other in 1..=others {
            // Nobody is there, which the sidecar finds out once it has been told who should be.
            client
                .get(&format!("http://s0.{}/", World::namespace(other)))
                .await?;
        }
        wait_until("the questions are answered", SOON, async || {
            let answered = client.sidecar().metric(ANSWERED).await?;
            ensure!(
                answered.unwrap_or_default() >= others as f64,
                "{answered:?}"
            );
            Ok(())
        })
        .await?;
    }
    sleep(SETTLE).await;
    let held = clients.first().map(Client::sidecar);
    let held = match held {
        Some(sidecar) => sidecar.metric(ENDPOINTS).await?,
        None => None,
    };
    Ok(Memory {
        at_rest,
        after_calls: median(&clients)?,
        held: held.unwrap_or_default(),
    })
}

const ENDPOINTS: &str = "meshwright_config_resources{kind=\"endpoints\"}";
const ANSWERED: &str = "meshwright_lookups_total{outcome=\"answered\"}";

fn median(clients: &[Client]) -> Result<u64> {
    let all = clients
        .iter()
        .map(|client| client.sidecar().resident_bytes());
    let mut all = all.collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all.get(all.len() / 2).copied().unwrap_or_default())
}
