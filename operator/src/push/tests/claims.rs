use wire::discovery::{Claims as Claimed, Grant};

use super::*;
use crate::claims::tests::Memory;

impl Default for Mesh {
    fn default() -> Self {
        Self {
            inputs: Inputs::default(),
            output: Output::default(),
            streams: Arc::default(),
            claims: Claims::new(Memory::default()),
        }
    }
}

/// An EventSubscription that is due every second, for the pods of `app: orders`.
fn subscription(app: &str) -> Arc<crds::EventSubscription> {
    let subscription = json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "EventSubscription",
        "metadata": { "name": "nightly", "namespace": "shop", "uid": "uid" },
        "spec": {
            "source": { "type": "Schedule", "schedule": { "cron": "* * * * * *" } },
            "target": { "type": "Workload", "workload": { "selector": { "app": app }, "port": 8080 } },
            "delivery": { "onExhausted": "Drop" } } });
    Arc::new(serde_json::from_value(subscription).unwrap())
}

impl Mesh {
    /// The form of what is due.
    fn form(&self) -> String {
        let published = self.streams.published();
        let compiled = &published[&id(Kind::Subscription, "nightly")];
        let sent = compiled.resource.decode::<mesh::Subscription>().unwrap();
        sent.schedule.unwrap().form
    }
}

impl Sidecar {
    /// Claims with this number, and reads until there is an answer to one.
    async fn claims(&mut self, number: u64, form: &str) -> Grant {
        let claim = Claim {
            number,
            id: "subscription/shop/nightly".into(),
            form: form.into(),
            ..Claim::default()
        };
        let claims = vec![claim];
        self.say(Claimed { claims }).await;
        loop {
            let mut delta = self.delta().await;
            let grants = delta.grants.take().unwrap();
            self.take(delta).await;
            if let [grant] = &grants.grants[..] {
                return grant.clone();
            }
        }
    }
}

#[tokio::test]
async fn who_is_told_of_a_schedule_may_claim_it_and_nobody_else() {
    let mut mesh = Mesh::new(&["a", "b"]);
    mesh.pod("other", "other");
    let subscriptions = &mut mesh.inputs.event_subscriptions;
    subscriptions.insert(key("nightly"), subscription("orders"));
    mesh.publish();
    let form = mesh.form();
    let mut other = mesh.connect("other").await;
    let mut own = mesh.connect("a").await;
    let claim = Claim {
        id: "subscription/shop/nightly".into(),
        form: form.clone(),
        ..Claim::default()
    };
    for id in ["subscription/shop/nightly", "route/shop/orders", "", "x"] {
        let claim = Claim {
            id: id.into(),
            ..claim.clone()
        };
        let claims = vec![claim];
        other.say(Claimed { claims }).await;
    }
    assert_eq!(own.claims(7, &form).await.number, 7);
    // What is told of the others is no answer.
    mesh.route("/v2");
    loop {
        let mut delta = other.delta().await;
        let grants = delta.grants.take().unwrap();
        assert_eq!(grants.grants, [], "nothing of what it claimed is its");
        let is_last = !delta.resources.is_empty() && !delta.complete;
        other.take(delta).await;
        if is_last {
            break;
        }
    }
}
