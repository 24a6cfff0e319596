//! What people write: the kinds of the group `meshwright.dev`, and their schemas.
//!
//! A kind or a field enters the schema in the change that enforces it; nothing here is a promise
//! for later. The schemas are generated (`cargo run -p crds --bin crdgen`) and committed next to
//! this crate, so that `kubectl apply -f crds/` works from a checkout.

pub mod api_route;
pub mod event_subscription;
pub mod rate_limit;
pub mod reference;
pub mod retry_policy;
pub mod schema;
pub mod status;
mod units;

pub use api_route::auth::{
    self, Algorithm, ApiKey, Auth, ClaimToHeader, CredentialPlace, Introspection, Jwks, Jwt,
    Require, SecretKeyRef, TokenSource,
};
pub use api_route::authorization::{
    self, Action, Audit, Authorization, AuthorizationRule, ClaimMatch, Mode, Principals, Role,
};
pub use api_route::cache::{self, AtCaller, Cache};
pub use api_route::filters::{
    self, Abort, Compression, Concurrency, Cors, Delay, DirectResponse, Fault, Header, HeaderEdits,
    Mirror, MirrorRef, PathChange, PathChangeType, Redirect, RedirectScheme, Rewrite,
};
pub use api_route::idempotency::{self, Idempotency};
pub use api_route::publish::{
    AsyncReply, Publish, PublishAck, PublishSplit, PublishedEvent, PublishedExtension, RecordError,
    SplitFormat, ValueFrom,
};
pub use api_route::stream::Stream;
pub use api_route::{
    ApiProtocol, ApiRoute, ApiRouteSpec, BackendKind, BackendRef, HeaderMatch, Match, Method,
    PathMatch, PathType, QueryMatch, RouteRule, Timeouts, ValueType,
};
pub use event_subscription::{EventSubscription, EventSubscriptionSpec};
pub use rate_limit::{RateLimit, RateLimitSpec};
pub use retry_policy::{
    Backoff, BackoffType, BalancingType, Budget, CircuitBreaker, Condition, FailureOn, GrpcCode,
    HashOn, HashType, HealthCheck, Hedging, IdempotencyKey, Jitter, LoadBalancing, RetryAfter,
    RetryOn, RetryPolicy, RetryPolicySpec, StatusClass, TargetGroup, TargetKind, TargetRef,
};
pub use status::ObjectStatus;
pub use units::{Duration, ParseDurationError};

/// The API group of every kind.
pub const GROUP: &str = "meshwright.dev";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every kind: group and version.
pub const API_VERSION: &str = "meshwright.dev/v1alpha1";
