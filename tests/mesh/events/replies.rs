//! What targets reply.

use anyhow::{Result, ensure};

use super::*;

const REPLY: &str = "  reply: { topic: invoices }\n";

/// The target replies with an event.
fn replies(world: &World) {
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "invoice-1"),
        ("ce-source", "/billing"),
        ("ce-type", "com.shop.invoice"),
        ("content-type", "text/plain"),
    ] {
        world.billing.upstream.adds(name, value);
    }
    world.billing.upstream.says("paid");
}

#[tokio::test]
async fn what_a_target_replies_is_published_before_the_event_is_done() -> Result<()> {
    let world = World::subscribed("", REPLY).await?;
    replies(&world);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("traceparent", parent),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/stock"),
        ("ce-type", "com.shop.stock"),
        ("ce-correlationid", "order-7"),
    ];
    assert_eq!(world.publish(&headers, "{}").await?.status, 202);
    wait_until("the reply is held", SOON, async || {
        ensure!(world.nats.held("invoices").await? == 1);
        Ok(())
    })
    .await?;
    let (head, body) = &world.nats.messages("invoices").await?[0];
    let head = head.to_lowercase();
    for line in [
        "ce-id: invoice-1",
        "ce-type: com.shop.invoice",
        &format!("ce-traceparent: {parent}"),
        "ce-correlationid: order-7",
        "ce-meshwrighthops: 1",
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
    assert_eq!(body, "paid");
    let counted =
        "meshwright_events_published_total{broker=\"events\",topic=\"invoices\",outcome=\"held\"}";
    assert_eq!(world.billing.sidecar.metric(counted).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn an_event_whose_reply_is_not_held_is_not_done_and_comes_again() -> Result<()> {
    let world = World::subscribed("", REPLY).await?;
    world.delete_topic("invoices").await?;
    replies(&world);
    world.accepted("1").await?;
    let letters = world.dead_letters(1).await?;
    let head = letters[0].0.to_lowercase();
    for told in ["ce-id: 1", "ce-dlqreason: exhausted", "ce-dlqattempts: 3"] {
        assert!(head.contains(told), "{told}\n{head}");
    }
    assert_eq!(world.billing.upstream.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn who_has_only_accepted_an_event_or_answers_with_none_has_not_replied() -> Result<()> {
    let world = World::subscribed("", REPLY).await?;
    world.accepted("plain").await?;
    world.delivered(&["plain"]).await?;
    replies(&world);
    world.billing.upstream.answers(202);
    world.accepted("accepted").await?;
    world.delivered(&["accepted"]).await?;
    let done =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"acknowledged\"}";
    wait_until("both are done", SOON, async || {
        let count = world.billing.sidecar.metric(done).await?;
        ensure!(count == Some(2.0), "{count:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.nats.held("invoices").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_reply_that_is_no_event_makes_a_dead_letter_of_what_it_replies_to() -> Result<()> {
    let world = World::subscribed("", REPLY).await?;
    let upstream = &world.billing.upstream;
    upstream.adds("content-type", "application/cloudevents+json");
    upstream.says("{\"specversion\":\"1.0\"}");
    world.accepted("1").await?;
    let letters = world.dead_letters(1).await?;
    let head = letters[0].0.to_lowercase();
    assert!(
        head.contains("ce-id: 1") && head.contains("ce-dlqreason: reply"),
        "{head}"
    );
    assert_eq!(world.billing.upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_chain_of_replies_that_leads_back_to_where_it_began_ends() -> Result<()> {
    let world = World::subscribed("", REPLY).await?;
    // Each reply has an id of its own, as the broker tells duplicates: the hops are at their end already.
    replies(&world);
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-meshwrighthops", "32"),
    ];
    assert_eq!(world.publish(&headers, "").await?.status, 202);
    let letters = world.dead_letters(1).await?;
    assert!(letters[0].0.to_lowercase().contains("ce-dlqreason: loop"));
    assert_eq!(world.nats.held("invoices").await?, 0);
    Ok(())
}
