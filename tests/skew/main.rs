//! Operators and sidecars of different versions, beside one another and one after another, while they
//! are called.
//!
//! `make skew` builds the versions of `tests/skew/versions` from the history of this repository and
//! says where they are; without that, in `make test`, both are of this version, and it is the order of
//! things that is tested.

mod calls;
mod world;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tests::mesh::built;

use crate::calls::Calls;
use crate::world::{Version, World};

/// The variable that says where older versions are: `0.1.0=/folder 0.2.0=/folder`.
const OLDER: &str = "MESHWRIGHT_OLDER";

/// How many calls a story is told under, at least.
const ENOUGH: usize = 10_000;

/// The versions that this one is tested with.
fn older() -> Result<Vec<Version>> {
    let Ok(said) = std::env::var(OLDER) else {
        return Ok(vec![this()?]);
    };
    let versions = said.split_whitespace().map(|one| {
        let (name, folder) = one.split_once('=').with_context(|| {
            format!("{OLDER} is {said:?}; write 0.1.0=/folder of meshwright-operator and -sidecar")
        })?;
        Ok(Version {
            name: name.to_owned(),
            folder: PathBuf::from(folder),
        })
    });
    versions.collect()
}

fn this() -> Result<Version> {
    Ok(Version {
        name: "this".to_owned(),
        folder: built()?,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_and_sidecars_are_upgraded_and_brought_back_and_no_call_fails() -> Result<()> {
    let newer = this()?;
    for older in older()? {
        println!("from {} to {} and back", older.name, newer.name);
        let mut world = World::start(&older).await?;
        world.is_governed("all is as before").await?;
        let calls = Calls::begin(world.callers());

        world.operator_becomes(&newer).await?;
        world.is_governed("the operator is newer").await?;
        world.destinations_become(&newer).await?;
        world
            .is_governed("so are the sidecars that are called")
            .await?;
        world.add_callers(&newer).await?;
        world.is_governed("and new pods that call").await?;

        world.operator_becomes(&older).await?;
        world
            .is_governed("the operator has been brought back")
            .await?;
        world.destinations_become(&newer).await?;
        world.add_callers(&newer).await?;
        world.is_governed("and newer pods have come").await?;
        world.operator_becomes(&newer).await?;
        world.is_governed("the operator is newer again").await?;
        world.destinations_become(&older).await?;
        world.add_callers(&older).await?;
        world.is_governed("and older pods have come").await?;

        let made = calls.end(ENOUGH).await?;
        println!("{made} calls, none failed");
    }
    Ok(())
}

#[tokio::test]
async fn a_sidecar_goes_on_with_what_its_predecessor_of_another_version_kept() -> Result<()> {
    let newer = this()?;
    for older in older()? {
        let world = World::start(&older).await?;
        world.is_governed("all is as before").await?;
        world.kill_operator().await?;
        world.sidecars_become(&newer).await?;
        world.operator_becomes(&newer).await?;
        world.is_governed("all are newer").await?;
        // Of what it can't read an older one is told anew.
        world.operator_becomes(&older).await?;
        world.sidecars_become(&older).await?;
        world.is_governed("all have been brought back").await?;
    }
    Ok(())
}
