//! What is told of answers that are kept.

use super::*;

#[test]
fn where_answers_are_kept_is_told_of_requests_that_they_can_answer() {
    let all = || vec![mesh::Rule::default()];
    let world = World::shop().route("orders", "cached", |route| {
        (route.rules, route.cached) = (all(), true);
    });
    let told = world.told("url=http://orders/");
    assert_eq!(told["does"], json!([filters::KEPT]));
    assert_eq!(
        world.told("method=POST&url=http://orders/")["does"],
        json!([])
    );
    let world = World::shop().requests("orders", all());
    assert_eq!(world.told("url=http://orders/")["does"], json!([]));
    let world = World::shop().route("orders", "cached", |route| {
        let cache = mesh::Cache {
            max_bytes: 1 << 16,
            max_entries: 1,
            max_entry_bytes: 1,
            revision: vec![7; 16].into(),
            ..Default::default()
        };
        let kept = mesh::CacheAtCaller {
            cache: Some(cache),
            max_age_ms: 1_500,
            ..Default::default()
        };
        (route.rules, route.cached, route.cache_at_caller) = (all(), true, Some(kept));
    });
    let told = world.told("url=http://orders/");
    let first = told["does"][0].as_str().unwrap();
    assert!(
        first.starts_with("answers may be those that this sidecar keeps itself, for 1.5 s"),
        "{first}"
    );
    assert_eq!(told["does"][1], filters::KEPT);
}
