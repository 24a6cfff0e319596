//! How many sidecars one operator carries, and that a sidecar's memory follows what its pod uses.
//!
//! Thousands of real streams against one real operator, which reads a folder: mutual TLS with a leaf
//! each, from an address each, and the sidecar's own end of the protocol. Client and operator share the
//! machine, so that times are those of both together; memory and CPU time are the operator's.
//!
//! In `make test` there are few streams, and only what does not depend on the machine must hold.
//! `make scale` goes from 10 to 10 000, prints a table, fails when a bound is broken, and leaves
//! `scale.json` and `scale.svg` in `target/scale`.

mod board;
mod bounds;
mod connection;
mod fleet;
mod measure;
mod memory;
mod plan;
mod plot;
mod report;
mod world;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::plan::Plan;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_tells_whom_it_concerns_and_sends_nothing_again_after_a_restart() -> Result<()>
{
    let plan = Plan::of_environment()?;
    plan.raise_limit()?;
    let mut rows = Vec::new();
    for &streams in &plan.streams {
        let row = measure::measure(streams, &plan).await;
        rows.push(row.with_context(|| format!("with {streams} streams"))?);
        println!("\n{}", report::table(&rows));
        if plan.in_earnest {
            let folder = folder()?;
            std::fs::write(
                folder.join("scale.json"),
                format!("{:#}\n", report::json(&rows)),
            )?;
            std::fs::write(folder.join("scale.svg"), plot::svg(&rows))?;
        }
    }
    let bounds = bounds::bounds(&rows, plan.in_earnest);
    println!("{}", report::verdicts(&bounds));
    let broken = bounds.iter().filter(|bound| !bound.holds).count();
    ensure!(
        broken == 0,
        "{broken} bounds are broken:\n{}",
        report::verdicts(&bounds)
    );
    Ok(())
}

/// Where what was measured is left: beside the folder of the build.
fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).context("no build folder")?;
    let folder = target.join("scale");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
