//! What a replica does beside serving its streams: the one that leads writes the statuses, the others
//! tell it what they know.

use std::sync::Arc;

use tokio::sync::watch;

use super::follow::Follower;
use crate::leader::Leader;
use crate::status::Statuses;

/// Both duties of a replica, of which it has one at a time: each takes what has changed from the
/// streams.
#[derive(Debug)]
pub struct Duty {
    /// For who leads; `None` where there is nothing to write to.
    pub statuses: Option<Arc<Statuses>>,
    /// For who doesn't.
    pub follower: Follower,
}

// === impl Duty ===

impl Duty {
    /// Does what is to be done, until nobody says any more who leads.
    pub async fn run(self, mut leader: watch::Receiver<Leader>) {
        loop {
            let now = leader.borrow_and_update().clone();
            let changed = leader.wait_for(|then| !then.is_same(&now));
            let duty = async {
                match (&now, &self.statuses) {
                    (Leader::Us { .. }, Some(statuses)) => statuses.clone().write().await,
                    (
                        Leader::Other {
                            address: Some(address),
                            ..
                        },
                        _,
                    ) => {
                        self.follower.follow(*address).await;
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changed => if changed.is_err() { return },
                () = duty => {}
            }
        }
    }
}
