//! What a sidecar must be able to do to enforce a resource.
//!
//! The compiler stamps each resource with the capabilities it needs and a sidecar announces its
//! own, because protobuf drops unknown fields silently: without them an old sidecar would enforce
//! half of a new resource and say nothing.

/// Enforces `mesh.Route` as a caller.
pub const ROUTE: &str = "route";
/// Enforces `mesh.Guard` as a destination.
pub const GUARD: &str = "guard";
/// Balances over `mesh.Endpoints`.
pub const ENDPOINTS: &str = "endpoints";
/// Knows from `mesh.Workload` which guards it must hold before it serves.
pub const WORKLOAD: &str = "workload";
/// Takes trust roots from `mesh.Identity`.
pub const IDENTITY: &str = "identity";
/// Matches requests by header (`mesh.Match.headers`).
pub const MATCH_HEADER: &str = "match.header";
/// Matches headers in other ways than exactly (`mesh.HeaderMatch.type`).
pub const MATCH_HEADER_TYPE: &str = "match.header-type";
/// Matches paths by pattern (`mesh.Match.pattern`).
pub const MATCH_PATTERN: &str = "match.pattern";
/// Matches paths by regular expression (`mesh.Match.regex`).
pub const MATCH_REGEX: &str = "match.regex";
/// Matches requests by the parameters of their query (`mesh.Match.query`).
pub const MATCH_QUERY: &str = "match.query";
/// Edits the headers of requests (`mesh.Rule.request_headers`).
pub const FILTER_REQUEST_HEADERS: &str = "filter.request-headers";
/// Edits the headers of responses (`mesh.Rule.response_headers`).
pub const FILTER_RESPONSE_HEADERS: &str = "filter.response-headers";
/// Rewrites host and path (`mesh.Rule.rewrite`).
pub const FILTER_REWRITE: &str = "filter.rewrite";
/// Redirects (`mesh.Rule.redirect`).
pub const FILTER_REDIRECT: &str = "filter.redirect";
/// Answers itself (`mesh.Rule.direct_response`).
pub const FILTER_DIRECT_RESPONSE: &str = "filter.direct-response";
/// Injects delays and errors (`mesh.Rule.fault`).
pub const FILTER_FAULT: &str = "filter.fault";
/// Sends copies of requests elsewhere (`mesh.Rule.mirror`).
pub const FILTER_MIRROR: &str = "filter.mirror";
/// Answers preflights and says who may read answers (`mesh.Rule.cors`).
pub const FILTER_CORS: &str = "filter.cors";
/// Limits the bodies of requests (`mesh.Rule.max_request_bytes`).
pub const FILTER_MAX_REQUEST_BYTES: &str = "filter.max-request-bytes";
/// Refuses calls to addresses that the mesh doesn't know (`mesh.Workload.refuse_unknown`). That it
/// takes plaintext needs none: a sidecar that doesn't know of it stays strict.
pub const REFUSE_UNKNOWN: &str = "workload.refuse-unknown";
/// Carries out `mesh.RetryPolicy` as a caller.
pub const RETRY_POLICY: &str = "retry-policy";
/// Compresses responses (`mesh.Rule.compression`).
pub const FILTER_COMPRESSION: &str = "filter.compression";
/// Bounds the requests of a rule that are under way (`mesh.Rule.concurrency`).
pub const FILTER_CONCURRENCY: &str = "filter.concurrency";
/// Bounds silence as a rule says (`mesh.Rule.idle_timeout_ms`).
pub const FILTER_IDLE_TIMEOUT: &str = "filter.idle-timeout";
/// Routes connections whose bytes nobody reads (`mesh.Route.connections`).
pub const ROUTE_CONNECTIONS: &str = "route.connections";
/// Lets another ApiRoute govern what a rule sends on (`mesh.Backend.route`).
pub const ROUTE_LAYERS: &str = "route.layers";
/// Lets in whom `mesh.Access` lets in (`mesh.Guard.access`).
pub const GUARD_ACCESS: &str = "guard.access";
/// Decides by `mesh.Access` who may enter.
pub const ACCESS: &str = "access";
/// Checks tokens by an issuer's keys (`mesh.Authentication.jwt`).
pub const ACCESS_JWT: &str = "access.jwt";
/// Asks about tokens (`mesh.Authentication.introspection`).
pub const ACCESS_INTROSPECTION: &str = "access.introspection";
/// Checks consumers' keys (`mesh.Authentication.api_key`).
pub const ACCESS_API_KEY: &str = "access.api-key";
/// Compares credentials with `mesh.Keys`.
pub const KEYS: &str = "keys";
/// Sends requests again (`mesh.RetryPolicy.retries`).
pub const RETRY_POLICY_RETRIES: &str = "retry-policy.retries";
/// Finds a policy by ApiRoute and rule (`mesh.RetryPolicy.routes`).
pub const RETRY_POLICY_ROUTES: &str = "retry-policy.routes";
/// Bounds retries as it is told (`mesh.RetryPolicy.budget`).
pub const RETRY_POLICY_BUDGET: &str = "retry-policy.budget";
/// Stops calling endpoints that fail (`mesh.RetryPolicy.circuit_breaker`).
pub const RETRY_POLICY_CIRCUIT_BREAKER: &str = "retry-policy.circuit-breaker";
/// Keeps answers as `mesh.Cache` says.
pub const CACHE: &str = "cache";
/// Carries out once what `mesh.Idempotency` says.
pub const IDEMPOTENCY: &str = "idempotency";
/// Limits how much callers use, as `mesh.RateLimit` says.
pub const RATE_LIMIT: &str = "rate-limit";
/// Limits in a store that replicas share (`mesh.RateLimit.store`).
pub const RATE_LIMIT_SHARED: &str = "rate-limit.shared";
/// Limits what is called outside the cluster (`mesh.LimitTarget.outside`).
pub const RATE_LIMIT_OUTSIDE: &str = "rate-limit.outside";
/// Publishes as `mesh.Publish` says.
pub const PUBLISH: &str = "publish";
/// Waits for no broker where that is said (`mesh.Publishing.unwaited`).
pub const PUBLISH_UNWAITED: &str = "publish.unwaited";
/// Splits bodies into records (`mesh.Publishing.split`).
pub const PUBLISH_SPLIT: &str = "publish.split";
/// Keeps what is replied to an event (`mesh.Publishing.async_reply`).
pub const PUBLISH_ASYNC_REPLY: &str = "publish.async-reply";
/// Answers with a topic (`mesh.PublishRule.stream`).
pub const STREAM: &str = "stream";
/// Carries out `mesh.Subscription`.
pub const SUBSCRIPTION: &str = "subscription";
/// Carries out what is due at times, and claims it (`mesh.Subscription.schedule`).
pub const SUBSCRIPTION_SCHEDULE: &str = "subscription.schedule";
/// Delivers for others: to a topic, to a system outside the mesh, or to nobody (`mesh.Subscription.topic_target`, `url`,
/// `counts_only`).
pub const SUBSCRIPTION_ELSEWHERE: &str = "subscription.elsewhere";
/// Speaks to NATS (`mesh.Broker.url`).
pub const BROKER_NATS: &str = "broker.nats";
/// Asks about addresses in the networks of `mesh.Networks`, and takes `mesh.Lookup` for the answer.
pub const LOOKUP: &str = "lookup";

/// What the sidecar of this build can do.
pub const ALL: &[&str] = &[
    ROUTE,
    GUARD,
    ENDPOINTS,
    WORKLOAD,
    IDENTITY,
    MATCH_HEADER,
    MATCH_HEADER_TYPE,
    MATCH_PATTERN,
    MATCH_REGEX,
    MATCH_QUERY,
    FILTER_REQUEST_HEADERS,
    FILTER_RESPONSE_HEADERS,
    FILTER_REWRITE,
    FILTER_REDIRECT,
    FILTER_DIRECT_RESPONSE,
    FILTER_FAULT,
    FILTER_MIRROR,
    FILTER_CORS,
    FILTER_MAX_REQUEST_BYTES,
    REFUSE_UNKNOWN,
    RETRY_POLICY,
    FILTER_COMPRESSION,
    FILTER_CONCURRENCY,
    FILTER_IDLE_TIMEOUT,
    ROUTE_CONNECTIONS,
    ROUTE_LAYERS,
    GUARD_ACCESS,
    ACCESS,
    ACCESS_JWT,
    ACCESS_INTROSPECTION,
    ACCESS_API_KEY,
    KEYS,
    RETRY_POLICY_RETRIES,
    RETRY_POLICY_ROUTES,
    RETRY_POLICY_BUDGET,
    RETRY_POLICY_CIRCUIT_BREAKER,
    CACHE,
    IDEMPOTENCY,
    RATE_LIMIT,
    RATE_LIMIT_SHARED,
    RATE_LIMIT_OUTSIDE,
    PUBLISH,
    PUBLISH_UNWAITED,
    PUBLISH_SPLIT,
    PUBLISH_ASYNC_REPLY,
    STREAM,
    SUBSCRIPTION,
    SUBSCRIPTION_SCHEDULE,
    SUBSCRIPTION_ELSEWHERE,
    BROKER_NATS,
    LOOKUP,
];
