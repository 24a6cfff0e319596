//! Who may enter, for people: nothing of a credential, and of keys only how many there are.

use serde_json::{Value, json};

use crate::config::access::Enforced;
use crate::config::state::Served;

/// What says who may enter at a port.
pub(super) fn may_enter(served: &Served) -> Value {
    let said = match served.reads_requests() {
        true => served.for_requests(),
        false => served.for_connections(),
    };
    said.iter().map(one).collect()
}

fn one(enforced: &Enforced) -> Value {
    let access = &enforced.access;
    let mut shown = json!({ "route": &*access.object, "closed": access.closed });
    if let Some(authentication) = &access.authentication {
        let issuers = authentication.issuers().iter().map(|issuer| {
            json!({
                "issuer": issuer.provider.issuer,
                "keysAreHere": issuer.keys.are_here(),
                "skippedKeys": issuer.keys.current().skipped(),
            })
        });
        let keys = enforced.keys.as_ref();
        shown["credentials"] = json!({
            "issuers": issuers.collect::<Vec<_>>(),
            "consumerKeys": keys.map(|keys| keys.consumers.len()),
        });
    }
    if let Some(authorization) = &access.authorization {
        let rules = authorization.rules().iter().map(|rule| {
            let does = if rule.deny { "deny" } else { "allow" };
            json!({ "rule": &*rule.name, "does": does })
        });
        shown["rules"] = rules.collect();
        shown["toldOnly"] = authorization.audit_only.into();
    }
    shown
}
