//! What a mesh's operator says of its certificates, and what stands in its folder.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Mesh;
use crate::client::Client;

impl Mesh {
    /// How the certificate authority is, as `GET /certificates` gives it.
    pub async fn certificates(&self) -> Result<Value> {
        let url = format!("http://{}/certificates", self.http);
        let answer = Client::direct().get(&url).await?;
        serde_json::from_str(&answer.body).context(answer.body)
    }

    /// The operator's metrics.
    pub async fn operator_metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", self.http);
        Ok(Client::direct().get(&url).await?.body)
    }

    /// Asks for a rotation of the root, as `meshwright certificates rotate` does.
    pub fn rotate(&self, request: &str) -> Result<()> {
        let folder = self.folder.path().join("state");
        let beside = folder.join("rotate.new");
        std::fs::write(&beside, request)?;
        Ok(std::fs::rename(beside, folder.join("rotate"))?)
    }

    /// What the operator keeps of its authority, keys included.
    pub fn authority(&self) -> Result<Value> {
        let path = self.folder.path().join("state/authority.json");
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
