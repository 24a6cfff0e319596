use super::*;
use http::Request;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, json};
use wire::mesh::r#match::Path;

use crate::policy::authentication::api_key::Consumer;

/// Who calls, and what for, as a test writes it.
#[derive(Clone, Debug)]
struct Call {
    account: Option<(&'static str, &'static str)>,
    consumer: Option<(&'static str, &'static str)>,
    scopes: Option<Vec<&'static str>>,
    roles: Vec<&'static str>,
    method: &'static str,
    path: &'static str,
}

fn peer(call: &Call) -> Option<SpiffeId> {
    let (namespace, account) = call.account?;
    let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    Some(id.parse().unwrap())
}

fn caller(call: &Call) -> Caller {
    let token = call.scopes.as_ref().map(|scopes| {
        let claims = json!({"scope": scopes.join(" "), "realm": {"roles": call.roles}, "n": 17});
        let claims: Map<_, _> = claims.as_object().unwrap().clone();
        Arc::new(Token::introspected(claims).unwrap())
    });
    let consumer = call.consumer.map(|(name, plan)| {
        Arc::new(Consumer {
            name: name.into(),
            plan: plan.into(),
        })
    });
    let mut caller = Caller::default();
    (caller.token, caller.consumer) = (token, consumer);
    caller
}

fn decide(rules: Vec<mesh::AccessRule>, call: &Call) -> Decision {
    let sent = mesh::Authorization {
        rules,
        ..Default::default()
    };
    let authorization = Authorization::build(sent).unwrap();
    let request = Request::builder().method(call.method).uri(call.path);
    let (head, ()) = request.body(()).unwrap().into_parts();
    authorization.decide(peer(call).as_ref(), &caller(call), Some(&head))
}

fn texts(list: &[&'static str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A rule that asks for some of everything, and whether a call is as it asks: written once more, from
/// what the documentation says.
#[derive(Clone, Debug)]
struct Asks {
    deny: bool,
    accounts: Vec<&'static str>,
    namespaces: Vec<&'static str>,
    consumers: Vec<&'static str>,
    plans: Vec<&'static str>,
    scopes: Vec<&'static str>,
    role: Option<&'static str>,
    methods: Vec<&'static str>,
    prefix: Option<&'static str>,
}

impl Asks {
    fn sent(&self) -> mesh::AccessRule {
        mesh::AccessRule {
            deny: self.deny,
            principals: Some(mesh::Principals {
                service_accounts: texts(&self.accounts),
                namespaces: texts(&self.namespaces),
                consumers: texts(&self.consumers),
                plans: texts(&self.plans),
                scopes: texts(&self.scopes),
                ..Default::default()
            }),
            roles: Vec::from_iter(self.role.map(|role| mesh::Role {
                name: "r".into(),
                members: vec![mesh::Principals {
                    claims: vec![mesh::ClaimMatch {
                        name: "/realm/roles".into(),
                        values: vec![role.into()],
                    }],
                    ..Default::default()
                }],
            })),
            methods: texts(&self.methods),
            paths: Vec::from_iter(self.prefix.map(|prefix| mesh::Match {
                path: Some(Path::Prefix(prefix.into())),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    fn fits(&self, call: &Call) -> bool {
        let account = call
            .account
            .map(|(namespace, name)| format!("{namespace}/{name}"));
        let among = |list: &[&str], found: Option<&str>| {
            list.is_empty() || found.is_some_and(|found| list.contains(&found))
        };
        let scopes = call.scopes.clone().unwrap_or_default();
        let below = |prefix: &str| {
            prefix == "/"
                || call.path == prefix
                || call
                    .path
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let roles = match call.scopes {
            Some(_) => call.roles.clone(),
            None => Vec::new(),
        };
        among(&self.accounts, account.as_deref())
            && among(
                &self.namespaces,
                call.account.map(|(namespace, _)| namespace),
            )
            && among(&self.consumers, call.consumer.map(|(name, _)| name))
            && among(&self.plans, call.consumer.map(|(_, plan)| plan))
            && self.scopes.iter().all(|scope| scopes.contains(scope))
            && self.role.is_none_or(|role| roles.contains(&role))
            && among(&self.methods, Some(call.method))
            && self.prefix.is_none_or(below)
    }
}

fn few(list: &[&'static str]) -> impl Strategy<Value = Vec<&'static str>> + use<> {
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(list.to_vec(), 1..=list.len())]
}

fn asks() -> impl Strategy<Value = Asks> {
    (
        any::<bool>(),
        few(&["shop/web", "web/web"]),
        few(&["shop", "web"]),
        few(&["acme", "other"]),
        few(&["gold", "free"]),
        few(&["read", "write"]),
        select(vec![None, None, Some("buyer")]),
        few(&["GET", "POST"]),
        select(vec![None, None, Some("/a"), Some("/a/b"), Some("/")]),
    )
        .prop_map(
            |(deny, accounts, namespaces, consumers, plans, scopes, role, methods, prefix)| Asks {
                deny,
                accounts,
                namespaces,
                consumers,
                plans,
                scopes,
                role,
                methods,
                prefix,
            },
        )
}

fn call() -> impl Strategy<Value = Call> {
    (
        select(vec![
            None,
            Some(("shop", "web")),
            Some(("web", "web")),
            Some(("shop", "other")),
        ]),
        select(vec![None, Some(("acme", "gold")), Some(("other", "free"))]),
        select(vec![
            None,
            Some(vec![]),
            Some(vec!["read"]),
            Some(vec!["write", "read"]),
        ]),
        select(vec![vec![], vec!["x", "buyer"]]),
        select(vec!["GET", "POST"]),
        select(vec!["/", "/a", "/a/b", "/ab"]),
    )
        .prop_map(|(account, consumer, scopes, roles, method, path)| Call {
            account,
            consumer,
            scopes,
            roles,
            method,
            path,
        })
}

proptest! {
    #[test]
    fn a_request_passes_when_a_rule_allows_it_and_none_denies_it(
        asked in vec(asks(), 0..6), call in call(),
    ) {
        let decision = decide(asked.iter().map(Asks::sent).collect(), &call);
        let mut fitting = asked.iter().filter(|asks| asks.fits(&call));
        let denied = asked.iter().any(|asks| asks.deny && asks.fits(&call));
        let allowed = fitting.any(|asks| !asks.deny);
        prop_assert_eq!(decision.allows(), allowed && !denied, "{:?}", decision);
        prop_assert_eq!(matches!(decision, Decision::Denied(_)), denied);
    }
}

fn nobody() -> Call {
    Call {
        account: None,
        consumer: None,
        scopes: None,
        roles: Vec::new(),
        method: "GET",
        path: "/",
    }
}

#[test]
fn without_rules_nobody_may_do_anything() {
    assert_eq!(decide(Vec::new(), &nobody()), Decision::NotAllowed);
    let anybody = mesh::AccessRule::default();
    assert_eq!(decide(vec![anybody], &nobody()), Decision::Allowed(0));
}

#[test]
fn a_claim_is_compared_as_json_writes_it() {
    let with = |name: &str, values: &[&'static str]| mesh::AccessRule {
        principals: Some(mesh::Principals {
            claims: vec![mesh::ClaimMatch {
                name: name.into(),
                values: texts(values),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let call = Call {
        scopes: Some(vec!["read"]),
        ..nobody()
    };
    for (name, values, allowed) in [
        ("n", &["17"][..], true),
        ("n", &["17.0", "1"], false),
        ("scope", &["x", "read"], true),
        ("realm", &["{}"], false),
        ("missing", &[""], false),
    ] {
        let decision = decide(vec![with(name, values)], &call);
        assert_eq!(decision.allows(), allowed, "{name} {values:?}");
    }
}

#[test]
fn nobody_gets_past_a_denial_by_sending_a_header_twice() {
    let fits = |deny: bool, lines: &[&str]| {
        let rules = [
            mesh::AccessRule {
                deny,
                headers: vec![mesh::HeaderMatch {
                    name: "x-env".into(),
                    r#type: mesh::MatchType::Exact.into(),
                    value: "test".into(),
                }],
                ..Default::default()
            },
            mesh::AccessRule::default(),
        ];
        let sent = mesh::Authorization {
            rules: rules.into_iter().take(1 + usize::from(deny)).collect(),
            ..Default::default()
        };
        let mut request = http::Request::new(());
        for line in lines {
            let headers = request.headers_mut();
            headers.append("x-env", line.parse().unwrap());
        }
        let (head, ()) = request.into_parts();
        let authorization = Authorization::build(sent).unwrap();
        let decision = authorization.decide(None, &Caller::default(), Some(&head));
        decision
            .rule(&authorization)
            .is_some_and(|rule| rule.deny == deny)
            && !(deny && decision.allows())
    };
    for (lines, denied, allowed) in [
        (&["test"][..], true, true),
        (&["test", "other"], true, false),
        (&["other", "test"], true, false),
        (&["other"], false, false),
        (&[], false, false),
    ] {
        assert_eq!(fits(true, lines), denied, "denied {lines:?}");
        assert_eq!(fits(false, lines), allowed, "allowed {lines:?}");
    }
}

#[test]
fn a_connection_has_no_method_no_path_and_no_headers() {
    let rules = |rule: mesh::AccessRule| {
        let sent = mesh::Authorization {
            rules: vec![rule],
            ..Default::default()
        };
        let authorization = Authorization::build(sent).unwrap();
        authorization
            .decide(None, &Caller::default(), None)
            .allows()
    };
    assert!(rules(mesh::AccessRule::default()));
    let get = mesh::AccessRule {
        methods: vec!["GET".into()],
        ..Default::default()
    };
    assert!(!rules(get));
    let path = mesh::AccessRule {
        paths: vec![mesh::Match {
            path: Some(Path::Prefix("/".into())),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert!(!rules(path));
}

#[test]
fn what_is_not_known_is_rejected_with_its_rule() {
    let rejected = |rule: mesh::AccessRule| {
        let sent = mesh::Authorization {
            rules: vec![mesh::AccessRule {
                name: "a".into(),
                ..rule
            }],
            ..Default::default()
        };
        Authorization::build(sent).unwrap_err()
    };
    let no_path = mesh::AccessRule {
        paths: vec![mesh::Match::default()],
        ..Default::default()
    };
    let why = "rule `a`: a path is of a kind that this sidecar does not know";
    assert_eq!(rejected(no_path), why);
    let no_members = mesh::AccessRule {
        roles: vec![mesh::Role::default()],
        ..Default::default()
    };
    assert_eq!(rejected(no_members), "rule `a`: role `` has no members");
    let unknown = mesh::Authorization {
        audit: 17,
        ..Default::default()
    };
    assert!(Authorization::build(unknown).is_err());
}
