//! Writes the generated schemas into `crds/` and the chart, and what they say for people into `docs/`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, definition) in crds::schema::definitions() {
        let yaml = crds::schema::to_yaml(&definition)?;
        for copy in crds::schema::FOLDERS {
            std::fs::write(folder.join(copy).join(name), &yaml)?;
        }
    }
    std::fs::write(
        folder.join(crds::reference::FILE),
        crds::reference::markdown(),
    )?;
    Ok(())
}
