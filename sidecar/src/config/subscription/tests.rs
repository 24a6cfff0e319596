use super::*;

/// One that delivers to the application's port 8080 and has a dead letter topic.
pub(crate) fn sent() -> mesh::Subscription {
    mesh::Subscription {
        namespace: "shop".into(),
        name: "stock".into(),
        broker: Some(mesh::Broker {
            name: "events".into(),
            ..Default::default()
        }),
        topic: "stock".into(),
        group: "shop.stock".into(),
        start: Some(subscription::Start::New(true)),
        target: Some(subscription::Target::ApplicationPort(8080)),
        path: "/events".into(),
        mode: mesh::EventMode::Binary.into(),
        timeout_ms: 1000,
        max_in_flight: 10,
        max_retries: 2,
        backoff: Some(mesh::Backoff {
            growth: mesh::backoff::Growth::Exponential.into(),
            initial_ms: 10,
            multiplier: 2,
            max_ms: 100,
            jitter: mesh::backoff::Jitter::None.into(),
        }),
        on_exhausted: mesh::OnExhausted::DeadLetter.into(),
        dead_letter_topic: "stock.dlq".into(),
        ..Default::default()
    }
}

#[test]
fn an_answer_decides_what_becomes_of_an_event() {
    let built = Subscription::build(sent()).unwrap();
    let action = |status| built.action(StatusCode::from_u16(status).unwrap());
    for status in [200, 201, 202, 204, 299] {
        assert_eq!(action(status), Action::Acknowledge, "{status}");
    }
    for status in [404, 408, 409, 425, 429, 500, 502, 503, 504, 599] {
        assert_eq!(action(status), Action::Retry, "{status}");
    }
    for status in [301, 302, 307, 400, 401, 403, 405, 411, 413, 415, 422, 451] {
        assert_eq!(action(status), Action::Exhaust, "{status}");
    }
    assert_eq!(action(410), Action::Gone);
}

#[test]
fn what_is_written_of_an_answer_comes_before_the_table() {
    let answer = |statuses: &[u32], action: mesh::EventAction| mesh::EventAnswer {
        statuses: statuses.into(),
        action: action.into(),
    };
    let built = Subscription::build(mesh::Subscription {
        answers: vec![
            answer(&[404, 410], mesh::EventAction::DeadLetter),
            answer(&[404, 422], mesh::EventAction::Drop),
            answer(&[500], mesh::EventAction::Acknowledge),
            answer(&[302], mesh::EventAction::Retry),
        ],
        ..sent()
    });
    let built = built.unwrap();
    let action = |status| built.action(StatusCode::from_u16(status).unwrap());
    assert_eq!(action(404), Action::Exhaust);
    assert_eq!(action(410), Action::Exhaust);
    assert_eq!(action(422), Action::Drop);
    assert_eq!(action(500), Action::Acknowledge);
    assert_eq!(action(302), Action::Retry);
    assert_eq!(action(501), Action::Retry);
}

#[test]
fn what_this_sidecar_does_not_know_is_not_carried_out() {
    let told = |sent| Subscription::build(sent).unwrap_err();
    assert!(told(mesh::Subscription { mode: 9, ..sent() }).starts_with("mode: "));
    assert!(
        told(mesh::Subscription {
            ordering: 9,
            ..sent()
        })
        .starts_with("ordering: ")
    );
    assert!(
        told(mesh::Subscription {
            on_exhausted: 9,
            ..sent()
        })
        .starts_with("on_exhausted: ")
    );
    assert!(
        told(mesh::Subscription {
            target: None,
            ..sent()
        })
        .starts_with("target: ")
    );
    assert!(
        told(mesh::Subscription {
            start: None,
            ..sent()
        })
        .starts_with("start: ")
    );
    assert!(
        told(mesh::Subscription {
            broker: None,
            ..sent()
        })
        .starts_with("broker: ")
    );
    assert!(
        told(mesh::Subscription {
            schedule: Some(mesh::Schedule::default()),
            ..sent()
        })
        .starts_with("broker: ")
    );
    assert!(
        told(mesh::Subscription {
            broker: None,
            schedule: Some(mesh::Schedule {
                overlap: 9,
                ..Default::default()
            }),
            ..sent()
        })
        .starts_with("schedule.overlap: ")
    );
    let filters = vec![mesh::EventFilter { dialect: None }];
    assert!(told(mesh::Subscription { filters, ..sent() }).starts_with("filters[0]."));
}
