//! Writes the generated schemas into `crds/`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, definition) in crds::schema::definitions() {
        std::fs::write(folder.join(name), crds::schema::to_yaml(&definition)?)?;
    }
    Ok(())
}
