//! What was sent to a cluster beside what is stored there.
//!
//! Only what somebody wrote is looked at: what the API server adds (defaults, status, its own
//! metadata) is no difference, and neither is another spelling of the same amount.

use serde_json::{Map, Value};

use super::told::{Remedy, remedy};

/// A field of a document that is stored otherwise than it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// Such as `spec.rules[0].name`.
    pub(super) field: String,
    /// As written.
    pub(super) sent: Value,
    /// As stored; nothing, when it was dropped.
    pub(super) stored: Option<Value>,
}

/// What the API server writes over in every object, whatever is sent.
const THE_SERVERS: [&str; 7] = [
    "status",
    "metadata.creationTimestamp",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.selfLink",
    "metadata.uid",
];

/// Longer values are cut, in characters.
const SHOWN: usize = 80;

/// Every field of `sent` that is stored otherwise, in the order of their names.
pub(super) fn differences(sent: &Value, stored: &Value) -> Vec<Difference> {
    // Kubernetes' own kinds forget what is empty or zero, where that is what nothing means; those of
    // a definition keep it.
    let api = sent["apiVersion"].as_str().unwrap_or_default();
    let mut found = Found {
        forgets_zero: !api.starts_with("meshwright.dev/"),
        differences: Vec::new(),
    };
    found.value("", sent, stored);
    found.differences
}

struct Found {
    forgets_zero: bool,
    differences: Vec<Difference>,
}

// === impl Found ===

impl Found {
    fn value(&mut self, field: &str, sent: &Value, stored: &Value) {
        match (sent, stored) {
            (Value::Object(sent), Value::Object(stored)) => self.object(field, sent, stored),
            (Value::Array(sent), Value::Array(stored)) => self.list(field, sent, stored),
            _ if same(field, sent, stored) => {}
            _ => self.differs(field, sent, Some(stored)),
        }
    }

    fn object(&mut self, at: &str, sent: &Map<String, Value>, stored: &Map<String, Value>) {
        for (name, value) in sent {
            let field = match at {
                "" => name.clone(),
                at => format!("{at}.{name}"),
            };
            if THE_SERVERS.contains(&&*field) {
                continue;
            }
            match stored.get(name) {
                Some(stored) => self.value(&field, value, stored),
                None if self.forgets_zero && is_zero(value) => {}
                None => self.differs(&field, value, None),
            }
        }
    }

    /// Items with names are found by them: others may have been put between them. One whose name is
    /// not there may have got another, if there are as many.
    fn list(&mut self, field: &str, sent: &[Value], stored: &[Value]) {
        let name = |item: &Value| item["name"].as_str().map(str::to_owned);
        let named = !sent.is_empty() && sent.iter().all(|item| name(item).is_some());
        if !named && sent.len() != stored.len() {
            let (sent, stored) = (sent.to_vec().into(), stored.to_vec().into());
            return self.differs(field, &sent, Some(&stored));
        }
        for (index, item) in sent.iter().enumerate() {
            let at = format!("{field}[{index}]");
            let found = match named {
                true => stored
                    .iter()
                    .find(|one| name(one) == name(item))
                    .or_else(|| {
                        let renamed = stored.get(index).filter(|_| sent.len() == stored.len());
                        renamed.filter(|one| sent.iter().all(|other| name(other) != name(one)))
                    }),
                false => stored.get(index),
            };
            match found {
                Some(stored) => self.value(&at, item, stored),
                None => self.differs(&at, item, None),
            }
        }
    }

    fn differs(&mut self, field: &str, sent: &Value, stored: Option<&Value>) {
        self.differences.push(Difference {
            field: field.to_owned(),
            sent: sent.clone(),
            stored: stored.cloned(),
        });
    }
}

// === impl Difference ===

impl Difference {
    /// What is wrong, without the field.
    pub(super) fn in_words(&self) -> String {
        let sent = shown(&self.sent);
        match &self.stored {
            Some(stored) => format!("the file says {sent}, stored is {}", shown(stored)),
            None => format!(
                "the file says {sent}, and nothing is stored: the API server has dropped it, or it \
                 was taken out since"
            ),
        }
    }

    /// What has the file's stored.
    pub(super) fn remedy(&self, file: &str) -> Remedy {
        match &self.stored {
            Some(_) => remedy!("`kubectl apply -f {file}` sends it again"),
            None => remedy!(
                "`kubectl apply -f {file}` sends it again; if that does not bring it back, the cluster's definition of \
                 this kind is of another version"
            ),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.values().all(is_zero),
    }
}

/// Whether two values that are no objects or lists mean the same.
fn same(field: &str, sent: &Value, stored: &Value) -> bool {
    if sent == stored {
        return true;
    }
    // `cpu: 1` is stored as "1", and "1000m" as well.
    let is_amount = [".requests.", ".limits.", ".capacity."]
        .iter()
        .any(|amounts| field.contains(amounts));
    is_amount && amount(sent).is_some_and(|sent| amount(stored) == Some(sent))
}

/// A quantity in thousandths, as Kubernetes writes them: `100m`, `1Gi`, `1.5`.
fn amount(value: &Value) -> Option<i128> {
    const SUFFIXES: [(&str, i128); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    if let Some(thousandths) = text.strip_suffix('m') {
        return thousandths.parse().ok();
    }
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Three digits after the point are all that a quantity of thousandths has.
    let thousandths: i128 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let whole: i128 = whole.parse().ok()?;
    whole
        .checked_mul(1000)?
        .checked_add(thousandths)?
        .checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(sent: &Value, stored: &Value) -> Vec<String> {
        let found = differences(sent, stored);
        found.into_iter().map(|one| one.field).collect()
    }

    #[test]
    fn a_field_that_was_dropped_or_changed_is_named_and_nothing_else() {
        let sent = json!({
            "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": { "name": "orders", "namespace": "shop", "labels": { "team": "a" } },
            "spec": { "hosts": ["orders"], "timeouts": { "request": "2s", "idle": "" },
                "rules": [{ "name": "all", "backendRefs": [{ "name": "orders", "port": 80 }] }] },
        });
        let mut stored = sent.clone();
        // What the server adds.
        stored["metadata"]["uid"] = json!("1");
        stored["metadata"]["labels"]["other"] = json!("b");
        stored["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(1);
        stored["status"] = json!({ "conditions": [] });
        assert_eq!(differences(&sent, &stored), []);

        stored["spec"]["timeouts"] = json!({ "request": "3s" });
        stored["spec"]["hosts"] = json!(["orders", "others"]);
        stored["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
        stored["metadata"]["labels"] = json!({ "team": "b" });
        assert_eq!(
            fields(&sent, &stored),
            [
                "metadata.labels.team",
                "spec.hosts",
                "spec.rules[0].backendRefs[0].port",
                "spec.timeouts.idle",
                "spec.timeouts.request",
            ]
        );
        stored["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("elsewhere");
        assert!(fields(&sent, &stored).contains(&"spec.rules[0].backendRefs[0].name".to_owned()));
        stored["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("orders");
        let dropped = &differences(&sent, &stored)[3];
        assert_eq!((&dropped.sent, &dropped.stored), (&json!(""), &None));
    }

    #[test]
    fn what_a_server_writes_in_other_words_is_no_difference() {
        let deployment = |template: Value| {
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
                "spec": { "template": template } })
        };
        let sent = deployment(
            json!({ "spec": { "hostNetwork": false, "volumes": [], "containers": [
            { "name": "app", "env": [{ "name": "EMPTY", "value": "" }],
              "resources": { "limits": { "cpu": 1, "memory": "1024Mi" }, "requests": { "cpu": "0.25" } } }] } }),
        );
        let stored = deployment(
            json!({ "spec": { "dnsPolicy": "ClusterFirst", "containers": [
            { "name": "added" },
            { "name": "app", "env": [{ "name": "EMPTY" }], "imagePullPolicy": "Always",
              "resources": { "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "250m" } } }] } }),
        );
        assert_eq!(differences(&sent, &stored), []);

        let other = deployment(json!({ "spec": { "containers": [
            { "name": "app", "resources": { "limits": { "cpu": "2", "memory": "1Gi" } } }] } }));
        assert_eq!(
            fields(&sent, &other),
            [
                "spec.template.spec.containers[0].env",
                "spec.template.spec.containers[0].resources.limits.cpu",
                "spec.template.spec.containers[0].resources.requests",
            ]
        );
    }

    #[test]
    fn a_difference_says_what_was_sent_what_is_stored_and_what_to_do() {
        let long = json!("x".repeat(200));
        let changed = Difference {
            field: "spec".into(),
            sent: json!("2s"),
            stored: Some(long),
        };
        let said = changed.in_words();
        assert!(said.starts_with("the file says `\"2s\"`, stored is `\"xxx"));
        assert!(said.ends_with("…`"), "{said}");
        let remedy = changed.remedy("a.yaml").to_string();
        assert_eq!(remedy, "`kubectl apply -f a.yaml` sends it again");
        let dropped = Difference {
            stored: None,
            ..changed
        };
        let said = dropped.in_words();
        assert!(said.contains("and nothing is stored"), "{said}");
        let remedy = dropped.remedy("a.yaml").to_string();
        assert!(remedy.contains("is of another version"), "{remedy}");
    }
}
