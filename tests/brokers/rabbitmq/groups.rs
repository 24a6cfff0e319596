//! What a RabbitMQ holds, and what groups are delivered of it.

use super::*;

#[tokio::test]
async fn what_no_queue_holds_is_told_and_hurts_nothing_that_is_under_way() {
    let host = host().await;
    let rabbit = host.open().await;
    let (_connection, anybody) = host.anybody().await;
    let (fanout, none) = (ExchangeKind::Fanout, FieldTable::default());
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declared = anybody.exchange_declare(
        "bound to nothing".into(),
        fanout.clone(),
        durable,
        none.clone(),
    );
    declared.await.unwrap();
    let declared = anybody.exchange_declare("unbound".into(), fanout, durable, none);
    declared.await.unwrap();
    rabbit.create_topic("orders").await.unwrap();
    // All at once.
    let topics = ["orders", "unbound", "missing"].repeat(40);
    let published = topics.iter().enumerate().map(|(number, topic)| {
        let message = message(&number.to_string());
        rabbit.publish(topic, Some("id"), message, PATIENCE)
    });
    let published = futures::future::join_all(published).await;
    for (topic, published) in topics.iter().zip(published) {
        match *topic {
            "orders" => assert_eq!(published, Ok(false)),
            topic => assert_eq!(published, Err(Unpublished::UnknownTopic), "{topic}"),
        }
    }
    for bad in ["", "bound to nothing", "amq.fanout", "a/b"] {
        let published = rabbit.publish(bad, None, message("a"), PATIENCE).await;
        assert!(matches!(published, Err(Unpublished::Refused(_))), "{bad}");
    }
    let absent = Group {
        create: false,
        ..group("billing", "missing")
    };
    let joined = rabbit.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingTopic));
    let absent = Group {
        topic: "orders".to_owned(),
        ..absent
    };
    let joined = rabbit.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingGroup));
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    let host = host().await;
    let rabbit = host.open().await;
    rabbit.create_topic("orders").await.unwrap();
    let sent = async |headers: usize, data: usize| {
        let mut message = message("a");
        message
            .headers
            .push(("long".to_owned(), "a".repeat(headers)));
        message.data = vec![0; data].into();
        rabbit.publish("orders", None, message, SOON).await
    };
    let max = 8 * 1024 * 1024;
    assert_eq!(sent(0, max).await, Err(Unpublished::TooLarge { max }));
    assert!(matches!(
        sent(128 * 1024, 0).await,
        Err(Unpublished::Refused(_))
    ));
    assert_eq!(sent(100 * 1024, max - 101 * 1024).await, Ok(false));
}

#[tokio::test]
async fn a_topic_that_was_created_holds_what_is_published_until_somebody_reads_it() {
    let host = host().await;
    let rabbit = host.open().await;
    for _ in 0..2 {
        rabbit.create_topic("letters").await.unwrap();
        publish(&rabbit, "letters", "a").await;
    }
    let (_connection, anybody) = host.anybody().await;
    assert_eq!(count(&anybody, "letters").await, 2);
}

#[tokio::test]
async fn two_in_a_group_share_what_comes_and_each_group_gets_it() {
    let host = host().await;
    let (one, other) = (host.open().await, host.open().await);
    let billing = group("billing", "orders");
    let mut queues = [
        one.join(&billing).await.unwrap(),
        other.join(&billing).await.unwrap(),
    ];
    let mut shipping = one.join(&group("shipping", "orders")).await.unwrap();
    for number in 0..20 {
        publish(&one, "orders", &number.to_string()).await;
    }
    let (mut found, mut counts, since) = (Vec::new(), [0, 0], Instant::now());
    while found.len() < 20 {
        assert!(since.elapsed() < SOON, "{found:?}");
        for (queue, count) in queues.iter_mut().zip(&mut counts) {
            if found.len() == 20 {
                break;
            }
            let came = queue.pull(1).await.unwrap();
            acknowledge(&came).await;
            *count += came.len();
            found.extend(texts(&came));
        }
    }
    found.sort();
    assert_eq!(found, numbers(0..20));
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
    lag(&mut *queues[0], 0, 0).await;
    assert_eq!(texts(&pull(&mut *shipping, 20).await), numbers(0..20));
}

#[tokio::test]
async fn a_group_keeps_its_position_when_all_have_left() {
    let host = host().await;
    let billing = group("shop/billing of a#b", "orders");
    let rabbit = host.open().await;
    for start in [Start::Earliest, Start::Time(SystemTime::now())] {
        let joined = rabbit
            .join(&Group {
                start,
                ..billing.clone()
            })
            .await;
        assert!(matches!(joined.map(drop), Err(Unsubscribed::Refused(_))));
    }
    let mut queue = rabbit.join(&billing).await.unwrap();
    publish(&rabbit, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    drop((queue, rabbit));
    let rabbit = host.open().await;
    publish(&rabbit, "orders", "b").await;
    // Where it would start anew does not matter to one that is there, nor who may make it.
    for (start, create) in [(Start::New, false), (Start::Earliest, true)] {
        let billing = Group {
            start,
            create,
            ..billing.clone()
        };
        let mut queue = rabbit.join(&billing).await.unwrap();
        lag(&mut *queue, 1, 0).await;
    }
    let mut queue = rabbit.join(&billing).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    assert_eq!(
        (texts(&found), found[0].attempt()),
        (vec!["b".to_owned()], 1)
    );
}

#[tokio::test]
async fn what_is_given_back_comes_again_after_its_delay_and_counts() {
    let host = host().await;
    let rabbit = host.open().await;
    let mut queue = rabbit.join(&group("billing", "orders")).await.unwrap();
    let mut other = rabbit.join(&group("shipping", "orders")).await.unwrap();
    let before = SystemTime::now() - Duration::from_millis(1);
    publish(&rabbit, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let (place, published) = (found[0].place(), found[0].published());
    assert!(published.unwrap() >= before && published.unwrap() <= SystemTime::now());
    let mut last = found;
    let (_connection, anybody) = host.anybody().await;
    // At once; held here; held here as the queue for it is made; held by the broker.
    for (number, millis) in [0, 300, 1_200, 1_200].into_iter().enumerate() {
        let (asked, since) = (Duration::from_millis(millis), Instant::now());
        last[0].give_back(asked).await.unwrap();
        if number >= 2 {
            lag(&mut *queue, 0, 1).await;
            let held = count(&anybody, "orders/billing#1s").await;
            assert_eq!(held, u32::from(number == 3));
        }
        last = pull(&mut *queue, 1).await;
        let took = since.elapsed();
        assert!(took >= asked.mul_f64(0.8), "{asked:?}: {took:?}");
        assert_eq!(last[0].attempt(), u32::try_from(number).unwrap() + 2);
        assert_eq!(last[0].message(), &message("a"));
        assert_eq!(
            (last[0].place(), last[0].published()),
            (place.clone(), published)
        );
    }
    // The counts go on from there.
    last[0].give_back(Duration::ZERO).await.unwrap();
    let last = pull(&mut *queue, 1).await;
    assert_eq!(last[0].attempt(), 6);
    acknowledge(&last).await;
    assert!(last[0].acknowledge().await.is_err());
    lag(&mut *queue, 0, 0).await;
    // It came to nobody else.
    let found = pull(&mut *other, 1).await;
    assert_eq!(found[0].attempt(), 1);
    nothing(&mut *other).await;
}

#[tokio::test]
async fn messages_given_back_do_not_block_others() {
    let host = host().await;
    let rabbit = host.open().await;
    let mut queue = rabbit.join(&group("billing", "orders")).await.unwrap();
    for _ in 0..60 {
        publish(&rabbit, "orders", "poison").await;
    }
    let (long, since) = (Duration::from_secs(300), Instant::now());
    let (_connection, anybody) = host.anybody().await;
    let (mut here, mut held) = (0, 0);
    // Until the queue for them was made.
    while held == 0 {
        assert!(since.elapsed() < SOON);
        pull(&mut *queue, 1).await[0].give_back(long).await.unwrap();
        here += 1;
        held = count(&anybody, "orders/billing#300s").await;
        // Each that is held here is one of those that are there.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    here -= 1;
    let given = pull(&mut *queue, 59 - here).await;
    let given = given.iter().map(|one| one.give_back(long));
    for given in futures::future::join_all(given).await {
        given.unwrap();
    }
    publish(&rabbit, "orders", "fresh").await;
    let fresh = pull(&mut *queue, 1).await;
    assert_eq!(texts(&fresh), ["fresh"]);
    lag(&mut *queue, 0, 61).await;
    // Whoever comes later knows of them as well.
    acknowledge(&fresh).await;
    let mut other = rabbit.join(&group("billing", "orders")).await.unwrap();
    let waiting = u64::try_from(60 - here).unwrap();
    lag(&mut *other, 0, waiting).await;
}

#[tokio::test]
async fn nobody_has_more_than_was_asked_for_and_what_is_not_handed_out_goes_back() {
    let host = host().await;
    let rabbit = host.open().await;
    let billing = group("billing", "orders");
    let mut one = rabbit.join(&billing).await.unwrap();
    for number in 0..10 {
        publish(&rabbit, "orders", &number.to_string()).await;
    }
    let first = pull(&mut *one, 2).await;
    let more = pull(&mut *one, 3).await;
    assert_eq!((first.len(), more.len()), (2, 3));
    let mut other = rabbit.join(&billing).await.unwrap();
    let rest = pull(&mut *other, 5).await;
    assert_eq!(rest.len(), 5);
    nothing(&mut *other).await;
    acknowledge(&rest).await;
    // What was handed out is not given back with the rest, and can still be done with.
    for number in 10..13 {
        publish(&rabbit, "orders", &number.to_string()).await;
    }
    acknowledge(&first).await;
    let late = one.pull(1).await.unwrap();
    drop(one);
    let again = pull(&mut *other, 3 - late.len()).await;
    nothing(&mut *other).await;
    acknowledge(&more).await;
    acknowledge(&late).await;
    acknowledge(&again).await;
    lag(&mut *other, 0, 0).await;
}

#[tokio::test]
async fn what_is_dropped_comes_again() {
    let host = host().await;
    let rabbit = host.open().await;
    let mut queue = rabbit.join(&group("billing", "orders")).await.unwrap();
    publish(&rabbit, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    assert_eq!(found[0].extend().await, Ok(()));
    nothing(&mut *queue).await;
    drop(found);
    let found = pull(&mut *queue, 1).await;
    assert_eq!(
        (texts(&found), found[0].attempt()),
        (vec!["a".to_owned()], 2)
    );
    // Its member is gone, with everything: it may have come to that once more.
    drop((found, queue, rabbit));
    let rabbit = host.open().await;
    let mut queue = rabbit.join(&group("billing", "orders")).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    assert_eq!(texts(&found), ["a"]);
    assert!(found[0].attempt() >= 3);
}

#[tokio::test]
async fn what_others_publish_is_read_whatever_its_headers_are() {
    let host = host().await;
    let rabbit = host.open().await;
    let mut queue = rabbit.join(&group("billing", "orders")).await.unwrap();
    let (_connection, anybody) = host.anybody().await;
    let say = async |text: &str, table: FieldTable| {
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_timestamp(1_000)
            .with_user_id("mesh".into())
            .with_headers(table);
        let options = BasicPublishOptions::default();
        let (exchange, key) = ("orders".into(), "any".into());
        let sent = anybody.basic_publish(exchange, key, options, text.as_bytes(), properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    };
    let words = |words: &[u8]| AMQPValue::LongString(words.to_vec().into());
    let mut deep = FieldTable::default();
    for _ in 0..500 {
        let mut outer = FieldTable::default();
        outer.insert("a".into(), AMQPValue::FieldTable(deep));
        deep = outer;
    }
    say("deep", deep).await;
    let mut table = FieldTable::default();
    table.insert("cloudEvents:id".into(), words(b"7"));
    table.insert("latin".into(), words(b"\xe4"));
    table.insert("line".into(), words(b"a\r\nb"));
    table.insert(
        "x-meshwright-attempts".into(),
        AMQPValue::LongLongInt(i64::MAX),
    );
    table.insert(
        "CC".into(),
        AMQPValue::FieldArray(vec![words(b"elsewhere")].into()),
    );
    say("foreign", table).await;
    let mut found = pull(&mut *queue, 2).await;
    found.sort_by_key(|one| one.message().data.clone());
    assert_eq!(found[0].message().headers, []);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let wanted = [pair("content-type", "text/plain"), pair("ce-id", "7")];
    assert_eq!(found[1].message().headers, wanted);
    assert_eq!(found[1].attempt(), u32::MAX);
    let published = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    assert_eq!(found[1].published(), Some(published));
    // It has a place from when the broker first holds it for later.
    let (mut one, since) = (found.remove(1), Instant::now());
    loop {
        assert!(since.elapsed() < SOON);
        one.give_back(Duration::from_millis(600)).await.unwrap();
        let mut again = pull(&mut *queue, 1).await;
        assert_eq!(again[0].message(), one.message());
        assert_eq!(again[0].published(), Some(published));
        let place = std::mem::replace(&mut one, again.remove(0)).place();
        if one.place() == place {
            break;
        }
    }
    one.acknowledge().await.unwrap();
}

#[tokio::test]
async fn what_differs_is_told() {
    let host = host().await;
    let rabbit = host.open().await;
    let (_connection, anybody) = host.anybody().await;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = anybody.queue_declare("orders/classic".into(), durable, FieldTable::default());
    declared.await.unwrap();
    for create in [true, false] {
        rabbit.create_topic("orders").await.unwrap();
        let classic = Group {
            create,
            ..group("classic", "orders")
        };
        let joined = rabbit.join(&classic).await.map(drop);
        assert_eq!(
            joined,
            Err(Unsubscribed::Differs("x-queue-type".to_owned()))
        );
    }
    let options = ExchangeDeclareOptions::default();
    let declared = anybody.exchange_declare(
        "direct".into(),
        ExchangeKind::Direct,
        options,
        FieldTable::default(),
    );
    declared.await.unwrap();
    let joined = rabbit.join(&group("billing", "direct")).await.map(drop);
    assert!(
        matches!(joined, Err(Unsubscribed::Differs(_))),
        "{joined:?}"
    );
}

#[tokio::test]
async fn a_deleted_group_is_lost_and_joined_again() {
    let host = host().await;
    let rabbit = host.open().await;
    let billing = group("billing", "orders");
    let mut queue = rabbit.join(&billing).await.unwrap();
    let mut other = rabbit.join(&group("shipping", "orders")).await.unwrap();
    publish(&rabbit, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    let (_connection, anybody) = host.anybody().await;
    let delete = anybody.queue_delete("orders/billing".into(), QueueDeleteOptions::default());
    let (deleted, waiting) = tokio::join!(delete, async {
        let since = Instant::now();
        (
            queue.pull(1).await.map(|found| found.len()),
            since.elapsed(),
        )
    });
    deleted.unwrap();
    let lost: Result<usize, Lost> = waiting.0;
    assert!(
        lost.is_err() && waiting.1 < Duration::from_secs(4),
        "{lost:?}"
    );
    // Others go on.
    acknowledge(&pull(&mut *other, 1).await).await;
    let mut queue = rabbit.join(&billing).await.unwrap();
    publish(&rabbit, "orders", "b").await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
}
