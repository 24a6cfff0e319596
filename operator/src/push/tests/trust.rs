use super::*;

/// Waits until so many streams lack the bundle of the world as it was published last.
async fn lacking(mesh: &Mesh, wanted: usize) {
    let revision = mesh.inputs.seen.at(Input::Settings);
    let counted = async {
        while mesh.streams.without_bundle(revision) != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(LONG, counted).await;
    let now = mesh.streams.without_bundle(revision);
    assert!(in_time.is_ok(), "{wanted} was expected, not {now:?}");
}

#[tokio::test]
async fn streams_that_have_not_acknowledged_the_bundle_are_counted() {
    let mut mesh = Mesh::new(&["orders-1", "orders-2"]);
    let trust = |mesh: &mut Mesh, root: &str| {
        mesh.inputs.settings.roots = vec![root.as_bytes().to_vec()];
        mesh.publish();
    };
    trust(&mut mesh, "one");
    lacking(&mesh, 0).await;
    let mut first = mesh.connect("orders-1").await;
    let mut second = mesh.connect("orders-2").await;
    lacking(&mesh, 2).await;
    first.step().await;
    second.step().await;
    lacking(&mesh, 0).await;

    trust(&mut mesh, "two");
    let revision = mesh.inputs.seen.at(Input::Settings);
    let later = mesh.streams.without_bundle(revision + 1);
    assert_eq!(later, None, "it was not published yet");
    lacking(&mesh, 2).await;
    first.step().await;
    lacking(&mesh, 1).await;
    // One that refuses keeps what it had.
    let domain = mesh.inputs.settings.trust_domain.clone();
    second.rejects = Some(ResourceId::new(Kind::Identity, &*domain, "bundle"));
    second.step().await;
    mesh.route("/v2");
    first.step().await;
    lacking(&mesh, 1).await;

    // One that comes back says what it holds.
    let held = first.held;
    let mut back = mesh.dial(subscriber("orders-1"));
    back.held = held;
    lacking(&mesh, 2).await;
    let hello = back.held.hello();
    back.say(hello).await;
    back.step().await;
    lacking(&mesh, 1).await;
}
