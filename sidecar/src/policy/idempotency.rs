//! Idempotency: a call with a key that its caller chose is carried out once, however often it is sent.
//!
//! Phase: before the application, at the destination, behind authentication, authorization and rate
//! limits, and before the cache. From `ApiRoute.idempotency`. The header is that of
//! draft-ietf-httpapi-idempotency-key-header; a key is compared byte for byte, with its quotes.
//!
//! The first answer to a principal's key is kept for a window, and given again with
//! `idempotent-replayed: true`. While the first call is under way others wait, or are answered 409 with
//! reason `idempotency_in_progress`; a key that comes with another request is answered 409 with
//! `idempotency_conflict`; one whose first call may have been carried out, but has no answer that is
//! kept, 409 with `idempotency_unknown`. One without a key, where one is required, or with one that is
//! none, 400 with `idempotency_key_required`. Where it can't be told what became of a key, 503 with
//! `idempotency_unavailable`: nothing is carried out twice for that.
//!
//! The call goes on when its caller hangs up, and only what surely never reached the application gives
//! its key back. Metrics: `meshwright_idempotency_…`, by what became of a request.

pub mod answer;
pub mod key;
pub mod memory;
pub mod outcome;
pub mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request::Parts;
use http::{Method, StatusCode};
use wire::mesh;

use crate::config::route::matching::Asked;
use crate::config::service::ServiceKey;
use crate::config::store::Address;
use crate::telemetry::metrics::idempotency::{Counters, Counts};
use memory::Memory;

/// The longest key, in bytes.
const MAX_KEY: usize = 255;

/// What one ApiRoute says of calls that are carried out once.
#[derive(Debug)]
pub struct Idempotency {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services at whose pods it holds.
    pub services: Vec<ServiceKey>,
    /// The header that the key is in.
    pub header: HeaderName,
    /// Whether a request that it is about must have a key.
    pub required: bool,
    /// For how long a key stands for its first call.
    pub window: Duration,
    /// How long the application may take.
    pub timeout: Duration,
    /// Whether who comes while the first call is under way waits for its answer.
    pub waits: bool,
    /// Bytes that a request's body may have.
    pub max_request_bytes: u64,
    /// Bytes that an answer may have to be kept.
    pub max_answer_bytes: u64,
    /// What is held here, from one state to the next.
    pub memory: Arc<Memory>,
    /// Where replicas keep answers together, if they do.
    pub together: Option<Together>,
    /// What is counted.
    pub counts: Counts,
    methods: Vec<Method>,
    asked: Asked,
    release_on: Vec<StatusCode>,
}

/// Where replicas keep answers together.
#[derive(Clone, Debug)]
pub struct Together {
    /// Where the store is; `None` when it can't be had.
    pub address: Option<Arc<Address>>,
    /// Whether requests pass while it does not answer.
    pub allows: bool,
}

/// What is no key: empty, longer than 255 bytes, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable;

// === build ===

impl Idempotency {
    /// Builds from what was sent; what was kept is kept on.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(
        sent: mesh::Idempotency,
        old: Option<&Self>,
        counters: &Counters,
    ) -> Result<Self, String> {
        let object: Arc<str> = format!("{}/{}", sent.namespace, sent.name).into();
        let header = HeaderName::from_bytes(sent.header.as_bytes())
            .map_err(|_| format!("header: {:?} is no name of a header", sent.header))?;
        let methods = sent.methods.iter().map(|name| {
            Method::from_bytes(name.as_bytes())
                .map_err(|_| format!("methods: {name:?} is no method"))
        });
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        if methods.is_empty() {
            return Err("methods: it is about none".to_owned());
        }
        let release_on = sent.release_on.iter().map(|status| {
            let status = u16::try_from(*status).ok();
            status
                .and_then(|status| StatusCode::from_u16(status).ok())
                .ok_or_else(|| "release_on: one is no status".to_owned())
        });
        if sent.window_ms == 0 || sent.timeout_ms == 0 {
            return Err("window and timeout: one of them is 0".to_owned());
        }
        if sent.max_bytes == 0 || sent.max_answer_bytes == 0 || sent.max_request_bytes == 0 {
            return Err("it has no room for any call".to_owned());
        }
        let memory = old.map_or_else(Arc::default, |old| old.memory.clone());
        memory.holds_at_most(sent.max_bytes);
        let window = Duration::from_millis(sent.window_ms);
        Ok(Self {
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            header,
            required: sent.required,
            window,
            timeout: Duration::from_millis(sent.timeout_ms).min(window),
            waits: !sent.reject_concurrent,
            max_request_bytes: sent.max_request_bytes,
            max_answer_bytes: sent.max_answer_bytes,
            together: sent.store.map(Together::build).transpose()?,
            counts: counters.of(&object, &memory),
            memory,
            methods,
            asked: Asked::build(sent.paths, Vec::new())?,
            release_on: release_on.collect::<Result<_, _>>()?,
            object,
        })
    }

    /// The store that answers are kept in.
    pub fn store(&self) -> Option<&Arc<Address>> {
        self.together.as_ref()?.address.as_ref()
    }

    // === request ===

    /// Whether it is about a request.
    pub fn is_about(&self, head: &Parts) -> bool {
        self.methods.contains(&head.method) && (self.asked.is_anything() || self.asked.fits(head))
    }

    /// The key of a request.
    ///
    /// # Errors
    /// That it is none.
    pub fn key<'h>(&self, head: &'h Parts) -> Result<Option<&'h [u8]>, Unusable> {
        let mut lines = head.headers.get_all(&self.header).iter();
        let Some(key) = lines.next() else {
            return Ok(None);
        };
        let key = key.as_bytes();
        match lines.next() {
            None if !key.is_empty() && key.len() <= MAX_KEY => Ok(Some(key)),
            _ => Err(Unusable),
        }
    }

    /// Whether the application says with a status that it has not carried out the call.
    pub fn releases(&self, status: StatusCode) -> bool {
        self.release_on.contains(&status)
    }
}

// === impl Together ===

impl Together {
    fn build(sent: mesh::SharedStore) -> Result<Self, String> {
        let allows = match sent.on_failure() {
            mesh::StoreFailure::Allow => true,
            mesh::StoreFailure::Deny => false,
            mesh::StoreFailure::LocalFallback | mesh::StoreFailure::Unspecified => {
                return Err("nothing says what becomes of requests without the store".to_owned());
            }
        };
        let address = match sent.url.is_empty() {
            true => None,
            false => Some(Arc::new(Address::build(sent.url, sent.ca_certificates)?)),
        };
        Ok(Self { address, allows })
    }
}
