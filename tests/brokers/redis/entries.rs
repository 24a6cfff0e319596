//! Entries that others have written, have read, or have deleted.

use super::*;

#[tokio::test]
async fn others_read_what_we_write_and_we_read_what_they_write() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    publish(&redis, "orders", "a").await;
    let answer = server.say("XRANGE orders - +").await;
    let Value::Array(entries) = answer else {
        panic!("{answer:?}");
    };
    let Value::Array(entry) = &entries[0] else {
        panic!("{entries:?}");
    };
    let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let fields = ["ce-id", "a", "data", "a"].map(bulk);
    assert_eq!(entry[1], Value::Array(fields.to_vec()));
    server.say("XADD orders * data b").await;
    server.say("XADD orders * order 17 total 4.20").await;
    server.say("XADD orders * ce-id c ce-type t").await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let found = pull(&mut *queue, 4).await;
    assert_eq!(found[0].message(), &message("a"));
    assert_eq!(found[1].message().headers, []);
    let json = r#"{"order":"17","total":"4.20"}"#;
    assert_eq!(texts(&found), ["a", "b", json, ""]);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        found[2].message().headers,
        [header("content-type", "application/json")]
    );
    assert_eq!(
        found[3].message().headers,
        [header("ce-id", "c"), header("ce-type", "t")]
    );
}

#[tokio::test]
async fn entries_that_nobody_can_read_end_nothing() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let many = Vec::from_iter((0..20_000).map(|number| number.to_string()));
    let many = Vec::from_iter(many.iter().map(String::as_bytes));
    let long = vec![b'x'; 300_000];
    let hostile: [&[&[u8]]; 7] = [
        &[b"ce-id", b"a\r\nb", b"data", b"x"],
        &[b"ce-id\0", b"a", b"data", b"x"],
        &[b"\xff\xfe", b"\xff", b"data", b"x"],
        &[b"", b"", b"data", b"x"],
        &[b"ce-id", &long, b"data", b"x"],
        &[&long, b"a", b"data", b"x"],
        &[&many[..], &[b"data", b"x"]].concat(),
    ];
    for fields in hostile {
        server
            .ask(&[&[b"XADD".as_slice(), b"orders", b"*"], fields].concat())
            .await;
    }
    server
        .ask(&[b"XADD", b"orders", b"*", b"\xff\n", b"\xff\n"])
        .await;
    server.say("XADD orders * data last").await;
    let found = pull(&mut *queue, 9).await;
    for one in &found[..7] {
        assert_eq!(
            (&*one.message().headers, &*one.message().data),
            (&[][..], &b"x"[..])
        );
    }
    assert_eq!(
        texts(&found[7..]),
        ["{\"\u{fffd}\\n\":\"\u{fffd}\\n\"}", "last"]
    );
    acknowledge(&found).await;
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
}

#[tokio::test]
async fn an_entry_that_is_too_long_is_told_and_left_where_it_is() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let long = vec![b'x'; 17 * 1024 * 1024];
    let adding = async {
        // Who waits hears of it before it asks.
        tokio::task::yield_now().await;
        server
            .ask(&[b"XADD", b"orders", b"*", b"data", &long])
            .await;
    };
    let ((), found) = tokio::join!(adding, pull(&mut *queue, 1));
    assert_eq!(
        found[0].message().headers,
        [("ce-id".to_owned(), String::new())]
    );
    assert!(found[0].message().data.is_empty());
    acknowledge(&found).await;
    assert_eq!(server.say("XLEN orders").await, Value::Int(1));
    publish(&redis, "orders", "a").await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["a"]);
}

#[tokio::test]
async fn much_at_once_comes_in_parts() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let long = vec![b'x'; 3 * 1024 * 1024];
    for _ in 0..3 {
        server
            .ask(&[b"XADD", b"orders", b"*", b"data", &long])
            .await;
    }
    let found = queue.pull(10).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(queue.pull(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_trimmed_before_it_was_acknowledged_does_not_come_again_and_again() {
    let lease = Duration::from_millis(500);
    let server = Server::start("");
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    for text in ["a", "b", "c", "d"] {
        publish(&redis, "orders", text).await;
    }
    let found = pull(&mut *queue, 3).await;
    found[0].give_back(Duration::ZERO).await.unwrap();
    server.say("XTRIM orders MAXLEN 1").await;
    // Neither of the two can be kept, and nobody is the worse for it.
    found[1].extend().await.unwrap();
    let last = pull(&mut *queue, 1).await;
    assert_eq!(texts(&last), ["d"]);
    acknowledge(&last).await;
    let since = Instant::now();
    while queue.lag().await.unwrap().unacknowledged > 0 {
        assert!(since.elapsed() < SOON);
        nothing_comes(&mut *queue, lease / 5).await;
    }
    found[2].give_back(Duration::ZERO).await.unwrap();
    found[2].acknowledge().await.unwrap();
    let left = server.say("ZCARD meshwright:leases:{orders}:billing").await;
    assert_eq!(left, Value::Int(0));
}

#[tokio::test]
async fn a_place_may_be_any_and_the_last_one_ends_a_topic() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let last = "18446744073709551615-18446744073709551615";
    for place in ["0-1", last] {
        server.say(&format!("XADD orders {place} data a")).await;
    }
    let found = pull(&mut *queue, 2).await;
    assert_eq!(found[0].published(), Some(SystemTime::UNIX_EPOCH));
    assert_eq!(found[1].place(), last);
    let _ = found[1].published();
    found[1].extend().await.unwrap();
    acknowledge(&found).await;
    nothing_comes(&mut *queue, Duration::from_millis(200)).await;
    assert_eq!(queue.lag().await.unwrap().waiting, 0);
    let published = redis
        .publish("orders", Some("1"), message("a"), PATIENCE)
        .await;
    assert!(
        matches!(published, Err(Unpublished::Refused(_))),
        "{published:?}"
    );
}
