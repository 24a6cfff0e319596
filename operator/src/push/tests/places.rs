//! How many places streams take, and how soon they give them back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pod_that_opens_streams_and_says_nothing_keeps_one_of_them() {
    let mesh = Mesh::new(&["orders-1"]);
    let started = tokio::time::Instant::now();
    let mut silent: Vec<_> = (0..400)
        .map(|_| mesh.dial(subscriber("orders-1")))
        .collect();
    let newest = silent.pop().unwrap();
    for older in &mut silent {
        let refused = older.deltas.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        // With its task goes what it has received of a message.
        older.to.closed().await;
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(!newest.to.is_closed());
    assert_eq!(mesh.streams.len(), 1);
}

#[test]
fn streams_that_have_ended_take_no_place_from_others() {
    let mesh = Mesh::new(&["orders-1"]);
    let join = |pod: &str| mesh.streams.join(subscriber(pod), Mailbox::new());
    // None of these leaves: their tasks have not run yet.
    for _ in 0..=MAX_STREAMS {
        join("orders-1").unwrap();
    }
    for n in 1..MAX_STREAMS {
        join(&format!("web-{n}")).unwrap();
    }
    assert!(join("one-too-many").is_err());
    assert!(join("orders-1").is_ok(), "in place of its own");
}

#[test]
fn no_more_streams_begin_than_there_is_room_for_and_the_rest_is_sent_elsewhere() {
    let streams = Streams::with_room(2);
    let join = |pod: &str| streams.join(subscriber(pod), Mailbox::new());
    join("web-1").unwrap();
    let second = join("web-2").unwrap();
    let refused = join("web-3").unwrap_err().to_string();
    assert!(
        refused.contains("serves 2 streams already; try another one"),
        "{refused}"
    );
    streams.leave(second);
    join("web-3").unwrap();
}
