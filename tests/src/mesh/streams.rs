//! What who plays thousands of sidecars needs of a mesh: tokens by the thousand, where the operator
//! is, and what its process takes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use super::{Mesh, hex, lock};

/// How many of the kernel's ticks of CPU time are a second.
const TICKS: f64 = 100.0;

impl Mesh {
    /// Where sidecars reach the operator.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// The trust bundle, as it is written into pods; an operator must have run.
    pub fn roots(&self) -> Result<Vec<Vec<u8>>> {
        let path = self.folder.path().join("state/roots.pem");
        let roots = CertificateDer::pem_file_iter(&path).map_err(|why| anyhow_of(&why))?;
        let roots = roots.map(|root| Ok(root.map_err(|why| anyhow_of(&why))?.to_vec()));
        roots.collect()
    }

    /// A token for each of these pods, namespace and name: all at once, and in their order. Their
    /// service account is `default`, and their UID `uid-<name>`.
    pub fn issue_all<'a>(
        &self,
        pods: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<String>> {
        let mut issued = Vec::new();
        for (namespace, pod) in pods {
            let token = hex(&rand::random::<[u8; 32]>());
            lock(&self.tokens).push(json!({
                "sha256": hex(digest(&SHA256, token.as_bytes()).as_ref()),
                "namespace": namespace, "serviceAccount": "default", "pod": pod,
                "uid": format!("uid-{pod}"), "expires": 4_102_444_800u64,
            }));
            issued.push(token);
        }
        self.write_tokens()?;
        Ok(issued)
    }

    /// The CPU time that the operator's process has taken so far.
    pub fn operator_cpu(&self) -> Result<Duration> {
        let id = lock(&self.operator)
            .as_ref()
            .and_then(tokio::process::Child::id);
        let id = id.context("the operator does not run")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name of the program, in brackets, may have any character.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |place: usize| -> Result<f64> {
            Ok(fields
                .get(place)
                .context("too few fields in stat")?
                .parse()?)
        };
        // utime and stime are fields 14 and 15, of which two stand before the bracket's end.
        Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / TICKS))
    }
}

fn anyhow_of(why: &impl fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("the trust bundle can't be read: {why}")
}
