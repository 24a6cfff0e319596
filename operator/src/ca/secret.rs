//! In a cluster: the certificate authority's keys in a Secret of the operator's own namespace, and
//! beside it what is wished for: a ConfigMap that asks for a rotation, or another Secret that provides
//! the authority.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::provided::{self, Provided, Provider};
use super::store::{
    AUTHORITY, AUTHORITY_OF_OLD, Kept, KeyStore, ROOTS, Saved, StoreError, request_of,
};
use crate::api_server::{ANSWER, in_time};

/// The Secret's name.
pub const NAME: &str = "meshwright-ca";

/// The name of the ConfigMap that asks for a rotation. Not a part of the Secret: whoever may change
/// that is shown the keys in answer.
pub const REQUEST: &str = "meshwright-rotation";
/// Its key: any text, another one for each request.
pub const REQUESTED: &str = "request";

/// The Secret [`NAME`] of one namespace.
#[derive(Clone, Debug)]
pub struct InSecret {
    api: Api<Secret>,
    requests: Api<ConfigMap>,
    namespace: String,
}

/// A Secret of the operator's own namespace that somebody else writes, cert-manager most likely.
#[derive(Clone, Debug)]
pub struct ProvidedSecret {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

// === impl InSecret ===

impl InSecret {
    /// The Secret in that namespace; made at the first save.
    pub fn new(client: Client, namespace: &str) -> InSecret {
        InSecret {
            api: Api::namespaced(client.clone(), namespace),
            requests: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    fn error(&self, what: &'static str, error: kube::Error) -> StoreError {
        let name = format!("{}/{NAME}", self.namespace);
        StoreError::Secret {
            what,
            name,
            error: Box::new(error),
        }
    }

    async fn read(&self) -> Result<Option<Kept>, StoreError> {
        let secret = in_time(ANSWER, self.api.get_opt(NAME))
            .await
            .map_err(|error| self.error("read", error))?;
        let Some(secret) = secret else {
            return Ok(None);
        };
        let version = secret.metadata.resource_version.unwrap_or_default();
        let text = secret.data.and_then(|mut data| {
            let of_old = data.remove(AUTHORITY_OF_OLD);
            data.remove(AUTHORITY).or(of_old)
        });
        let text = text.and_then(|text| String::from_utf8(text.0).ok());
        match text {
            Some(text) => Ok(Some(Kept { text, version })),
            None => Err(StoreError::Other(format!(
                "the Secret {}/{NAME} has no {AUTHORITY}: delete it to have a new certificate authority made \
                 (every injected pod must then be restarted, for it trusts the old one)",
                self.namespace
            ))),
        }
    }

    async fn requested(&self) -> Result<Option<String>, StoreError> {
        let request = in_time(ANSWER, self.requests.get_opt(REQUEST)).await;
        let request = request.map_err(|error| StoreError::ConfigMap {
            name: format!("{}/{REQUEST}", self.namespace),
            error: Box::new(error),
        })?;
        let data = request.and_then(|map| map.data).unwrap_or_default();
        Ok(data.get(REQUESTED).and_then(|text| request_of(text)))
    }

    async fn write(
        &self,
        text: String,
        roots: String,
        version: Option<String>,
    ) -> Result<Saved, StoreError> {
        let data = [(AUTHORITY, text), (ROOTS, roots)];
        let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        let label = (
            "app.kubernetes.io/managed-by".to_owned(),
            "meshwright-operator".to_owned(),
        );
        let first = version.is_none();
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                // The API server refuses it when the Secret is no longer of that version.
                resource_version: version,
                labels: Some(BTreeMap::from([label])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from(data)),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let params = PostParams::default();
        let written = async {
            match first {
                true => self.api.create(&params, &secret).await,
                false => self.api.replace(NAME, &params, &secret).await,
            }
        };
        // Whether one that is late was written is seen when the Secret is read again.
        match in_time(ANSWER, written).await {
            Ok(_) => Ok(Saved::Done),
            // 409: AlreadyExists, or Conflict. 404: deleted since it was read.
            Err(kube::Error::Api(status))
                if matches!(status.code, 409) || (!first && status.code == 404) =>
            {
                Ok(Saved::Overtaken)
            }
            Err(error) => Err(self.error("write", error)),
        }
    }
}

impl KeyStore for InSecret {
    fn load(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        Box::pin(self.read())
    }

    fn save(
        &self,
        text: String,
        roots: String,
        version: Option<String>,
    ) -> BoxFuture<'_, Result<Saved, StoreError>> {
        Box::pin(self.write(text, roots, version))
    }

    fn request(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(self.requested())
    }
}

// === impl ProvidedSecret ===

impl ProvidedSecret {
    /// The Secret of that name in that namespace, which need not be there yet.
    pub fn new(client: Client, namespace: &str, name: &str) -> ProvidedSecret {
        ProvidedSecret {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    async fn read(&self) -> Result<Option<Provided>, StoreError> {
        let secret = in_time(ANSWER, self.api.get_opt(&self.name)).await;
        let secret = secret.map_err(|error| StoreError::Secret {
            what: "read",
            name: format!("{}/{}", self.namespace, self.name),
            error: Box::new(error),
        })?;
        let Some(secret) = secret else {
            return Ok(None);
        };
        let mut data = secret.data.unwrap_or_default();
        let mut part = |name: &str| data.remove(name).map(|part| part.0).unwrap_or_default();
        Ok(Some(Provided {
            certificate: part(provided::CERTIFICATE),
            key: part(provided::KEY),
            roots: part(provided::ROOTS),
        }))
    }
}

impl Provider for ProvidedSecret {
    fn provided(&self) -> BoxFuture<'_, Result<Option<Provided>, StoreError>> {
        Box::pin(self.read())
    }

    fn place(&self) -> String {
        format!("the Secret {}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::fake;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_says_nothing_is_not_waited_for_for_ever() {
        let client = fake::client(|_| fake::silence());
        let store = InSecret::new(client, "meshwright-system");
        let loaded = timeout(ANSWER * 2, store.load()).await.unwrap();
        let saved = store.save("keys".to_owned(), "roots".to_owned(), None);
        let saved = timeout(ANSWER * 2, saved).await.unwrap();
        for error in [loaded.err(), saved.err()] {
            let said = error.unwrap().to_string();
            assert!(said.contains("no answer within 10s"), "{said}");
            assert!(!said.contains("keys"), "{said}");
        }
    }
}
