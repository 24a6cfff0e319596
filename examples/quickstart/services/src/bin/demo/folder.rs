//! A copy of the quickstart's documents, to be edited and broken while the mesh runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::say;

/// The documents in the checkout.
const ORIGINAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The file that the story edits.
const ROUTES: &str = "routes.yaml";

/// The copy. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where the documents are.
    pub(crate) path: PathBuf,
    /// Where the programs are: beside this one.
    pub(crate) programs: PathBuf,
    _temporary: TempDir,
}

// === impl Folder ===

impl Folder {
    /// Copies the documents, and builds the service that is written in Go.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let programs = own
            .parent()
            .context("this program is in no folder")?
            .to_owned();
        for name in [
            "meshwright",
            "meshwright-operator",
            "meshwright-sidecar",
            "shop",
        ] {
            let path = programs.join(name);
            ensure!(
                path.is_file(),
                "there is no {}: `make demo` builds it",
                path.display()
            );
        }
        say("Building the service that is written in Go ...");
        build_inventory(&programs)?;
        let temporary = tempfile::Builder::new()
            .prefix("meshwright-demo-")
            .tempdir()?;
        let path = temporary.path().join("shop");
        fs::create_dir(&path)?;
        for entry in fs::read_dir(ORIGINAL)? {
            let from = entry?.path();
            if let Some(name) = from.file_name()
                && from
                    .extension()
                    .is_some_and(|extension| extension == "yaml")
            {
                fs::copy(&from, path.join(name))?;
            }
        }
        Ok(Self {
            path,
            programs,
            _temporary: temporary,
        })
    }

    /// The file that the story edits.
    pub(crate) fn routes(&self) -> PathBuf {
        self.path.join(ROUTES)
    }

    /// What the routes say now.
    pub(crate) fn read_routes(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.routes())
            .with_context(|| format!("reading {}", self.routes().display()))
    }

    /// Writes the routes in one step, as most editors do: nobody reads half of it unless it is half.
    pub(crate) fn write_routes(&self, text: &str) -> anyhow::Result<()> {
        let new = self.path.join(".routes.new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.routes()))
            .with_context(|| format!("writing {}", self.routes().display()))
    }
}

/// Replaces the one place where `text` has `from`.
pub(crate) fn replaced(text: &str, from: &str, to: &str) -> anyhow::Result<String> {
    match text.matches(from).count() {
        1 => Ok(text.replacen(from, to, 1)),
        n => bail!("{ROUTES} has `{from}` {n} times, where the story needs it once"),
    }
}

/// The line, from 1, on which `text` has `part` first.
pub(crate) fn line_of(text: &str, part: &str) -> Option<usize> {
    text.lines()
        .position(|line| line.contains(part))
        .map(|index| index + 1)
}

fn build_inventory(programs: &Path) -> anyhow::Result<()> {
    let source = Path::new(ORIGINAL).join("inventory");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(programs.join("inventory"))
        .arg(".")
        .current_dir(&source)
        // Neither a newer Go nor the history of the checkout is to be looked for.
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-buildvcs=false")
        .status();
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("building {} failed ({status})", source.display()),
        Err(error) => {
            bail!("the service `inventory` is written in Go, but `go` can't be run: {error}")
        }
    }
}
