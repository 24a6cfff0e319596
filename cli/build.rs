//! Puts the chart into the program, so that `meshwright install` needs nothing beside it but Helm.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where the chart is, from here.
const CHART: &str = "../charts/meshwright";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Of a folder this means whatever is in it.
    println!("cargo::rerun-if-changed={CHART}");
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join(CHART);
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("no UTF-8")?;
        let whole = file.to_str().ok_or("no UTF-8")?;
        writeln!(table, "    ({name:?}, include_str!({whole:?})),")?;
    }
    table.push_str("]\n");
    let output = Path::new(&std::env::var("OUT_DIR")?).join("chart.rs");
    std::fs::write(output, table)?;
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
