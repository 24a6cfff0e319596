//! The chart, as it was when this program was built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

/// Each file of charts/meshwright: its path there, and its text.
pub const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/chart.rs"));

/// The version of the chart, of its images, and of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The chart as files, for as long as this lives.
#[derive(Debug)]
pub struct Chart(TempDir);

// === impl Chart ===

impl Chart {
    /// Writes the chart into a folder of its own.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn write() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meshwright-chart-")
            .tempdir()
            .context("a folder for the chart")?;
        for (name, text) in FILES {
            let path = folder.path().join(name);
            if let Some(above) = path.parent() {
                fs::create_dir_all(above)?;
            }
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The values of three replicas.
    pub fn high_availability(&self) -> PathBuf {
        self.path().join("values-ha.yaml")
    }
}

/// The names of the definitions that the chart brings: plural and group.
pub fn definitions() -> Vec<String> {
    let files = FILES.iter().filter_map(|(name, _)| {
        let plural = name.strip_prefix("files/crds/")?.strip_suffix(".yaml")?;
        Some(format!("{plural}.meshwright.dev"))
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_holds_the_chart_of_its_own_version_whole() {
        let chart = Chart::write().unwrap();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/meshwright");
        let mut seen = 0;
        for (name, _) in FILES {
            let written = fs::read(chart.path().join(name)).unwrap();
            assert_eq!(written, fs::read(own.join(name)).unwrap(), "{name}");
            seen += 1;
        }
        assert!(seen > 10, "only {seen} files");
        let described = fs::read_to_string(chart.path().join("Chart.yaml")).unwrap();
        for line in [
            format!("version: {VERSION}"),
            format!("appVersion: {VERSION}"),
        ] {
            assert!(described.lines().any(|one| one == line), "{described}");
        }
        assert!(chart.high_availability().exists());
        assert!(definitions().contains(&"apiroutes.meshwright.dev".to_owned()));
    }
}
