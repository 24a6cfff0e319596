use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::time::{advance, timeout};

use super::*;
use crate::api_server::fake;

const LONG: Duration = Duration::from_secs(600);

/// One Lease, kept as an API server keeps it.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    lease: Option<Lease>,
    version: u64,
    /// Whom it gives no answer.
    deaf: Vec<&'static str>,
    writes: usize,
}

impl Server {
    fn kept<T>(&self, with: impl FnOnce(&mut Kept) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self, of: &'static str) -> Client {
        let server = self.clone();
        fake::client(move |request| {
            let server = server.clone();
            async move {
                match server.kept(|kept| kept.deaf.contains(&of)) {
                    true => fake::silence().await,
                    false => server.answer(&request),
                }
            }
        })
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<fake::Body> {
        self.kept(|kept| {
            let now = kept.version.to_string();
            let written: Option<Lease> = serde_json::from_slice(request.body()).ok();
            match (request.method(), written) {
                (&Method::GET, _) => {}
                (&Method::POST, Some(lease)) if kept.lease.is_none() => kept.write(lease),
                (&Method::PUT, Some(lease))
                    if lease.metadata.resource_version.as_ref() == Some(&now) =>
                {
                    kept.write(lease);
                }
                _ => return fake::refusal(409),
            }
            match &kept.lease {
                Some(lease) => fake::json(&serde_json::to_value(lease).unwrap()),
                None => fake::absence(),
            }
        })
    }

    fn holder(&self) -> Option<String> {
        self.kept(|kept| kept.lease.clone()?.spec?.holder_identity)
    }

    /// A replica that takes part, until the handle is aborted: then it is dead, or frozen.
    fn replica(&self, name: &'static str) -> (watch::Receiver<Leader>, tokio::task::AbortHandle) {
        let address = SocketAddr::from(([10, 0, 0, 1], 15012));
        let metrics = Metrics::new();
        let election = Election::new(self.client(name), "mesh", name, Some(address), metrics);
        let (sender, leader) = watch::channel(Leader::Nobody);
        let task = tokio::spawn(election.run(sender));
        (leader, task.abort_handle())
    }
}

impl Kept {
    fn write(&mut self, mut lease: Lease) {
        self.version += 1;
        self.writes += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease);
    }
}

async fn leads(leader: &mut watch::Receiver<Leader>) {
    let leads = leader.wait_for(Leader::is_us);
    timeout(LONG, leads).await.unwrap().unwrap();
}

async fn follows(leader: &mut watch::Receiver<Leader>) -> Leader {
    let follows = leader.wait_for(|leader| matches!(leader, Leader::Other { .. }));
    timeout(LONG, follows).await.unwrap().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn of_several_one_leads_and_the_others_know_where_it_is() {
    let server = Server::default();
    let (mut first, _) = server.replica("operator-a");
    leads(&mut first).await;
    let (mut second, _) = server.replica("operator-b");
    let known = Leader::Other {
        replica: "operator-a".to_owned(),
        address: Some(SocketAddr::from(([10, 0, 0, 1], 15012))),
    };
    assert_eq!(follows(&mut second).await, known);
    for _ in 0..300 {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(!second.borrow().is_us());
    }
    assert!(first.borrow().is_us(), "it has renewed the Lease");
    assert!(server.kept(|kept| kept.writes) > 50);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_is_followed_within_twenty_seconds() {
    let server = Server::default();
    let (mut first, task) = server.replica("operator-a");
    leads(&mut first).await;
    let (mut second, _) = server.replica("operator-b");
    let (mut third, _) = server.replica("operator-c");
    follows(&mut second).await;
    follows(&mut third).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    task.abort();
    let died = Instant::now();
    tokio::select! {
        () = leads(&mut second) => {}
        () = leads(&mut third) => {}
    }
    let took = died.elapsed();
    assert!(took <= Duration::from_secs(20), "{took:?}");
    assert!(
        took >= LIFE - RENEW,
        "no sooner than its time was over: {took:?}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_ne!(
        second.borrow().is_us(),
        third.borrow().is_us(),
        "one of them"
    );
}

#[tokio::test(start_paused = true)]
async fn who_can_not_renew_stops_leading_before_another_begins() {
    let server = Server::default();
    let (mut first, _) = server.replica("operator-a");
    leads(&mut first).await;
    let (mut second, _) = server.replica("operator-b");
    follows(&mut second).await;
    server.kept(|kept| kept.deaf.push("operator-a"));
    let began = Instant::now();
    let lost = first.wait_for(|leader| *leader == Leader::Nobody);
    timeout(LONG, lost).await.unwrap().unwrap();
    let took = began.elapsed();
    assert!(took <= HOLD, "it says so itself, and in time: {took:?}");
    assert!(!second.borrow().is_us());
    leads(&mut second).await;
    assert!(began.elapsed() >= LIFE - RENEW);
    assert_eq!(*first.borrow(), Leader::Nobody);
    server.kept(|kept| kept.deaf.clear());
    follows(&mut first).await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_frozen_leads_no_more_when_it_wakes() {
    let server = Server::default();
    let (mut first, _) = server.replica("operator-a");
    leads(&mut first).await;
    // Nothing of it runs, and time goes by.
    let said = first.borrow().clone();
    advance(HOLD).await;
    assert!(!said.is_us(), "whatever it was told last");
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_by_hours_make_no_difference() {
    let server = Server::default();
    let (mut first, task) = server.replica("operator-a");
    leads(&mut first).await;
    task.abort();
    for hours in [-48, 48] {
        // The holder's clock said so when it wrote it last.
        server.kept(|kept| {
            let mut lease = kept.lease.take().unwrap();
            let skewed = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
            let spec = lease.spec.as_mut().unwrap();
            spec.holder_identity = Some("operator-a".to_owned());
            spec.renew_time = Some(MicroTime(skewed));
            kept.write(lease);
        });
        let (mut other, task) = server.replica("operator-b");
        let began = Instant::now();
        follows(&mut other).await;
        leads(&mut other).await;
        let took = began.elapsed();
        let bounds = LIFE..LIFE + LOOK * 2;
        assert!(bounds.contains(&took), "{hours} h: {took:?}");
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_take_it_at_once_one_gets_it() {
    for _ in 0..20 {
        let server = Server::default();
        let (mut one, _) = server.replica("operator-a");
        let (mut other, _) = server.replica("operator-b");
        tokio::select! {
            () = leads(&mut one) => drop(follows(&mut other).await),
            () = leads(&mut other) => drop(follows(&mut one).await),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_ends_gives_it_up_and_only_the_holder_does() {
    let server = Server::default();
    let (mut first, task) = server.replica("operator-a");
    leads(&mut first).await;
    let (mut second, _) = server.replica("operator-b");
    follows(&mut second).await;
    task.abort();
    let resign = |replica| Resignation::new(server.client(replica), "mesh", replica).resign();
    resign("operator-b").await;
    assert_eq!(server.holder().as_deref(), Some("operator-a"));
    let ended = Instant::now();
    resign("operator-a").await;
    leads(&mut second).await;
    assert!(ended.elapsed() <= LOOK * 2, "{:?}", ended.elapsed());
    let address = server.kept(|kept| kept.lease.clone().unwrap().metadata.annotations);
    assert!(address.unwrap().contains_key(ADDRESS));
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_lease_by_somebody_else_deposes_nobody() {
    let server = Server::default();
    let (mut first, _) = server.replica("operator-a");
    leads(&mut first).await;
    for _ in 0..30 {
        server.kept(|kept| {
            let lease = kept.lease.clone().unwrap();
            kept.write(lease);
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(first.borrow_and_update().is_us());
    }
}

#[tokio::test(start_paused = true)]
async fn whom_others_took_to_lead_is_kept_while_the_api_server_is_away() {
    let server = Server::default();
    let (mut first, task) = server.replica("operator-a");
    leads(&mut first).await;
    let (mut second, _) = server.replica("operator-b");
    let known = follows(&mut second).await;
    task.abort();
    server.kept(|kept| kept.deaf.push("operator-b"));
    tokio::time::sleep(LONG).await;
    assert_eq!(*second.borrow(), known);
    server.kept(|kept| kept.deaf.clear());
    leads(&mut second).await;
}
