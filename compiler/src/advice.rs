//! What is legal and unwise: said by `check`, and to whoever applies the object. It changes nothing,
//! and stands in no status.

use std::collections::{BTreeMap, VecDeque};

use crds::api_route::authorization::Mode;
use crds::rate_limit::Scope;
use crds::{
    ApiRoute, ApiRouteSpec, CredentialPlace, Duration, EventSubscription, Method, RateLimit,
    RetryPolicy, TargetKind,
};

use crate::inputs::{Inputs, ObjectKey, ObjectKind, ObjectRef};

/// From this on a count of one sidecar's own is taken for a quota, which a restart must not forget.
const LONG_MILLIS: u64 = 3_600_000;
/// How many topics of a chain are named: the first ones, and where it leads back to.
const TOPICS_NAMED: usize = 5;

/// A topic of a broker.
type Topic<'a> = (&'a str, &'a str);

/// What an EventSubscription leads from and to.
struct Link<'a> {
    from: Topic<'a>,
    to: Topic<'a>,
    /// The field that says so.
    at: &'static str,
}

/// What is unwise about an object, in sentences that begin with the field; nothing, mostly.
pub fn advice(inputs: &Inputs, object: &ObjectRef) -> Vec<String> {
    let key = object.key();
    match object.kind {
        ObjectKind::ApiRoute => {
            let route = inputs.api_routes.get(&key);
            route.map_or_else(Vec::new, |route| on_route(&route.spec))
        }
        ObjectKind::RetryPolicy => {
            let policy = inputs.retry_policies.get(&key);
            policy.map_or_else(Vec::new, |policy| on_policy(&key, policy, inputs))
        }
        ObjectKind::RateLimit => {
            let limit = inputs.rate_limits.get(&key);
            limit.map_or_else(Vec::new, |limit| on_limit(limit))
        }
        ObjectKind::EventSubscription => {
            let subscription = inputs.event_subscriptions.get(&key);
            subscription.map_or_else(Vec::new, |one| on_subscription(&key, one, inputs))
        }
    }
}

fn on_route(spec: &ApiRouteSpec) -> Vec<String> {
    let mut advice = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let backends = &rule.backend_refs;
        if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
            advice.push(format!(
                "spec.rules[{index}].backendRefs: each has the weight 0, so that every request is \
                 answered 503: give one a weight."
            ));
        }
        if rule.fault.is_some() {
            advice.push(format!(
                "spec.rules[{index}].fault: requests are delayed or failed on purpose until it is \
                 taken out."
            ));
        }
    }
    let auth = spec.auth.as_ref();
    let in_query = |place: CredentialPlace| place == CredentialPlace::Query;
    let of_tokens = auth.is_some_and(|auth| {
        let asked = auth.introspection.iter().flat_map(|asked| &asked.from);
        let tokens = auth.jwt.iter().flat_map(|jwt| &jwt.from).chain(asked);
        tokens.into_iter().any(|from| in_query(from.place))
    });
    let of_keys = auth.and_then(|auth| auth.api_key.as_ref());
    if of_tokens || of_keys.is_some_and(|keys| in_query(keys.place)) {
        advice.push(
            "spec.auth: what stands in a query is written into logs and histories on its way: take \
             credentials from a header."
                .to_owned(),
        );
    }
    if spec
        .authorization
        .as_ref()
        .is_some_and(|one| one.mode == Mode::Audit)
    {
        advice.push(
            "spec.authorization.mode: Audit lets everybody in whom the rules refuse: write Enforce \
             once what it tells is as it should be."
                .to_owned(),
        );
    }
    advice
}

fn on_policy(key: &ObjectKey, policy: &RetryPolicy, inputs: &Inputs) -> Vec<String> {
    let spec = &policy.spec;
    let mut advice = Vec::new();
    let methods = spec.methods.iter().flatten();
    let repeats = methods.filter(|method| matches!(method, Method::Post | Method::Patch));
    let repeats: Vec<&str> = repeats.map(|method| method.as_str()).collect();
    // Every gRPC call is a POST, and who names its statuses knows what they mean.
    let knows = spec
        .retry_on
        .as_ref()
        .is_some_and(|on| !on.grpc_codes.is_empty());
    if !repeats.is_empty() && !knows {
        advice.push(format!(
            "spec.methods: an application may carry out a {} twice that is sent again: write \
             idempotencyKey instead, unless it bears that.",
            repeats.join(" or a ")
        ));
    }
    let Some(per_try) = &spec.per_try_timeout else {
        return advice;
    };
    for target in &spec.target_refs {
        let namespace = target.namespace.as_ref().unwrap_or(&key.namespace);
        let route = ObjectKey::new(namespace, &*target.name);
        let route = match target.kind {
            TargetKind::ApiRoute => inputs.api_routes.get(&route),
            TargetKind::Service => None,
        };
        let request = route.and_then(|route| shortest(route, target.section_name.as_deref()));
        if let Some(request) = request.filter(|request| per_try.millis() >= request.millis()) {
            advice.push(format!(
                "spec.perTryTimeout: {per_try} leaves no time for a second try within the {request} \
                 that ApiRoute {namespace}/{} gives a request: lower it.",
                target.name
            ));
        }
    }
    advice
}

/// The shortest time that a rule of a route gives a request, where it gives any.
fn shortest<'a>(route: &'a ApiRoute, rule: Option<&str>) -> Option<&'a Duration> {
    let of = |timeouts: &'a Option<crds::Timeouts>| timeouts.as_ref()?.request.as_ref();
    let common = of(&route.spec.timeouts);
    let rules = route.spec.rules.iter();
    let rules = rules.filter(|one| rule.is_none_or(|rule| one.name.as_deref() == Some(rule)));
    let given = rules.map(|rule| of(&rule.timeouts).or(common));
    let given = given.chain(route.spec.rules.is_empty().then_some(common));
    let bounded = given.flatten().filter(|time| time.millis() > 0);
    bounded.min_by_key(|time| time.millis())
}

fn on_limit(limit: &RateLimit) -> Vec<String> {
    if limit.spec.scope != Scope::PerReplica {
        return Vec::new();
    }
    let limits = limit.spec.limits.iter().enumerate();
    let long = limits.filter(|(_, limit)| limit.per.millis() >= LONG_MILLIS);
    let advice = long.map(|(index, limit)| {
        format!(
            "spec.limits[{index}].per: {} is long for a count that each pod has for itself and loses \
             when it restarts: write scope Shared.",
            limit.per
        )
    });
    advice.collect()
}

fn on_subscription(key: &ObjectKey, one: &EventSubscription, inputs: &Inputs) -> Vec<String> {
    let Some(own) = Link::of(one) else {
        return Vec::new();
    };
    let first = ObjectKey::new(&*key.namespace, "");
    let others = inputs.event_subscriptions.range(first..);
    let others = others.take_while(|(other, _)| other.namespace == key.namespace);
    let links = others.filter_map(|(_, other)| Link::of(other));
    let mut next: BTreeMap<Topic<'_>, Vec<Topic<'_>>> = BTreeMap::new();
    for link in links {
        next.entry(link.from).or_default().push(link.to);
    }
    let Some(mut way) = shortest_way(own.to, own.from, &next) else {
        return Vec::new();
    };
    way.insert(0, own.from);
    let named = |(broker, topic): &Topic<'_>| match *broker == own.from.0 {
        true => (*topic).to_owned(),
        false => format!("{topic} of {broker}"),
    };
    let mut chain = Vec::from_iter(way.iter().map(named));
    if chain.len() > TOPICS_NAMED {
        let last = chain.len() - 1;
        chain.splice(TOPICS_NAMED - 2..last, ["...".to_owned()]);
    }
    vec![format!(
        "{}: events lead back to where they began, {}: each leads to another until there are 32, and what comes then \
         is exhausted (Loop): write another topic, or filter.",
        own.at,
        chain.join(" -> ")
    )]
}

/// The topics from one to another, both of them included, where there is a way.
fn shortest_way<'a>(
    from: Topic<'a>,
    to: Topic<'a>,
    next: &BTreeMap<Topic<'a>, Vec<Topic<'a>>>,
) -> Option<Vec<Topic<'a>>> {
    let mut before = BTreeMap::from([(from, from)]);
    let mut waiting = VecDeque::from([from]);
    while let Some(topic) = waiting.pop_front() {
        if topic == to {
            let mut way = vec![to];
            let mut at = to;
            while at != from {
                at = *before.get(&at)?;
                way.push(at);
            }
            way.reverse();
            return Some(way);
        }
        for &after in next.get(&topic).into_iter().flatten() {
            before.entry(after).or_insert_with(|| {
                waiting.push_back(after);
                topic
            });
        }
    }
    None
}

// === impl Link ===

impl<'a> Link<'a> {
    /// Nothing where nothing is replied or copied, and where filters may be what ends a chain: nobody can tell from here
    /// what they keep out.
    fn of(one: &'a EventSubscription) -> Option<Self> {
        let source = one.spec.source.broker.as_ref()?;
        let copied = one.spec.target.topic.as_ref().map(|to| {
            let broker = to.broker.as_ref().unwrap_or(&source.name);
            ((&**broker, &*to.name), "spec.target.topic.name")
        });
        let replied = one.spec.reply.as_ref();
        let replied = replied.map(|reply| ((&*source.name, &*reply.topic), "spec.reply.topic"));
        let (to, at) = copied.or(replied)?;
        one.spec.filters.is_empty().then_some(Self {
            from: (&source.name, &source.topic),
            to,
            at,
        })
    }
}
