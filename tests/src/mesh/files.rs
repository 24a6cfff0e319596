//! The folder that a mesh's operator reads.

use anyhow::Result;

use super::Mesh;

impl Mesh {
    /// Writes a file of the folder that the operator reads.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let path = self.folder.path().join("files").join(name);
        let temporary = self.folder.path().join(format!("{name}.new"));
        std::fs::write(&temporary, yaml)?;
        Ok(std::fs::rename(temporary, path)?)
    }

    /// What stands in a file of the folder that the operator reads.
    pub fn read(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(
            self.folder.path().join("files").join(name),
        )?)
    }

    /// Removes a file of the folder that the operator reads.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(
            self.folder.path().join("files").join(name),
        )?)
    }
}
