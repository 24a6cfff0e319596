//! Claims in a cluster: a Lease for each object, in the operator's own namespace. The API server decides between
//! replicas, by the version that each writes over.

use std::time::Duration;

use compiler::ObjectKey;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use wire::grant::{LIFE, Record};

use super::{Kept, Store, StoreError};
use crate::api_server::in_time;

/// What these Leases have as a label, beside all others of the namespace.
const LABEL: (&str, &str) = ("meshwright.dev/claim", "EventSubscription");
/// Of which object it is, as an annotation.
const OBJECT: &str = "meshwright.dev/object";
/// What has begun and what is not done, as an annotation.
const POSITION: &str = "meshwright.dev/position";
/// How long the API server may take: a sidecar that waits for longer asks again.
const ANSWER: Duration = Duration::from_secs(2);
/// How many are listed at a time.
const PAGE: u32 = 500;

/// Leases of a namespace.
pub struct Leases {
    api: Api<Lease>,
}

// === impl Leases ===

impl Leases {
    /// In that namespace.
    pub fn new(client: Client, namespace: &str) -> Leases {
        Leases {
            api: Api::namespaced(client, namespace),
        }
    }
}

impl Store for Leases {
    fn read<'a>(
        &'a self,
        object: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Kept>, StoreError>> {
        Box::pin(async move {
            let name = name_of(object);
            let found = in_time(ANSWER, self.api.get_opt(&name)).await;
            let found = found.map_err(|error| failed(&name, error))?;
            found.map(|lease| kept(&name, lease)).transpose()
        })
    }

    fn write<'a>(
        &'a self,
        object: &'a ObjectKey,
        record: &'a Record,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            let name = name_of(object);
            let lease = lease(&name, object, record, version)?;
            let params = PostParams::default();
            let written = match version {
                None => in_time(ANSWER, self.api.create(&params, &lease)).await,
                Some(_) => in_time(ANSWER, self.api.replace(&name, &params, &lease)).await,
            };
            match written {
                Ok(lease) => Ok(lease.metadata.resource_version),
                // Written, made or removed meanwhile.
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(None),
                Err(error) => Err(failed(&name, error)),
            }
        })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(ObjectKey, String)>, StoreError>> {
        Box::pin(async move {
            let (label, value) = LABEL;
            let mut params = ListParams::default()
                .labels(&format!("{label}={value}"))
                .limit(PAGE);
            let mut all = Vec::new();
            loop {
                let page = in_time(ANSWER, self.api.list(&params)).await;
                let page = page.map_err(|error| failed("of any EventSubscription", error))?;
                all.extend(page.items.into_iter().filter_map(|lease| {
                    let annotations = lease.metadata.annotations.as_ref()?;
                    let (namespace, name) = annotations.get(OBJECT)?.split_once('/')?;
                    let object = ObjectKey::new(namespace, name);
                    // Whatever else somebody labels stays.
                    let own = lease.metadata.name.as_deref() == Some(&*name_of(&object));
                    own.then_some((object, lease.metadata.resource_version?))
                }));
                match page.metadata.continue_.filter(|more| !more.is_empty()) {
                    Some(more) => params = params.continue_token(&more),
                    None => return Ok(all),
                }
            }
        })
    }

    fn remove<'a>(
        &'a self,
        object: &'a ObjectKey,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let name = name_of(object);
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    resource_version: Some(version.to_owned()),
                    uid: None,
                }),
                ..DeleteParams::default()
            };
            match in_time(ANSWER, self.api.delete(&name, &params)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
                Err(error) => Err(failed(&name, error)),
            }
        })
    }
}

/// Names of objects may be too long, and two of them together one.
fn name_of(object: &ObjectKey) -> String {
    let text = format!("{}/{}", object.namespace, object.name);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("es-{}", &hash[..40])
}

fn failed(name: &str, error: kube::Error) -> StoreError {
    StoreError::Lease {
        name: name.to_owned(),
        error: Box::new(error),
    }
}

/// The Lease that says so. Holder and token are where people look for them.
fn lease(
    name: &str,
    object: &ObjectKey,
    record: &Record,
    version: Option<&str>,
) -> Result<Lease, StoreError> {
    let position = serde_json::to_string(record);
    let position = position.map_err(|why| StoreError::Unreadable(why.to_string()))?;
    let annotations = [
        (OBJECT, format!("{}/{}", object.namespace, object.name)),
        (POSITION, position),
    ];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value));
    let (label, value) = LABEL;
    Ok(Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: version.map(ToOwned::to_owned),
            labels: Some([(label.to_owned(), value.to_owned())].into()),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: record.holder.clone(),
            lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
            lease_transitions: Some(i32::try_from(record.token).unwrap_or(i32::MAX)),
            // Another one each time: without a change there is no new version.
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    })
}

fn kept(name: &str, lease: Lease) -> Result<Kept, StoreError> {
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let position = annotations.get(POSITION).map(String::as_str);
    let record = serde_json::from_str(position.unwrap_or_default()).map_err(|why| {
        StoreError::Unreadable(format!(
            "the Lease {name} has no {POSITION} that can be read: {why}; deleted, it is made anew"
        ))
    })?;
    Ok(Kept {
        record,
        version: lease.metadata.resource_version.unwrap_or_default(),
    })
}
