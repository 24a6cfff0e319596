//! What the called workload's sidecar does of which a caller is told.

use super::*;

#[test]
fn that_a_call_is_carried_out_once_is_told_of_what_may_change_something() {
    let world = World::shop().route("orders", "once", |route| {
        route.rules = vec![mesh::Rule::default()];
        route.idempotency_key = "idempotency-key".into();
    });
    let told = world.told("method=POST&url=http://orders/");
    assert_eq!(told["does"], json!([filters::once("idempotency-key")]));
    assert_eq!(world.told("url=http://orders/")["does"], json!([]));
}
