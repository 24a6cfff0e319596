//! Claims on their way to the operator, and who waits for the answers.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::{
    discovery::{Claim, Claims, Grant, Grants},
    grant::MAX_CLAIMS,
};

/// A claim, and where its answer goes. That is dropped when there will be none.
#[derive(Debug)]
pub struct Claiming {
    /// What is claimed; its number is given on the stream.
    pub claim: Claim,
    /// Whoever no longer waits has not asked.
    pub answer: oneshot::Sender<Grant>,
}

/// Who waits for an answer on this stream.
#[derive(Debug, Default)]
pub(super) struct Claimants {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Grant>>,
}

// === impl Claimants ===

impl Claimants {
    /// This claim and those that wait, in one message; `None` when nobody waits for an answer any more.
    pub(super) fn put(
        &mut self,
        first: Claiming,
        more: &mut mpsc::Receiver<Claiming>,
    ) -> Option<Claims> {
        self.waiting.retain(|_, answer| !answer.is_closed());
        let mut next = Some(first);
        let mut claims = Vec::new();
        while let Some(Claiming { mut claim, answer }) = next.take() {
            if !answer.is_closed() {
                self.last += 1;
                claim.number = self.last;
                self.waiting.insert(claim.number, answer);
                claims.push(claim);
            }
            if claims.len() < MAX_CLAIMS {
                next = more.try_recv().ok();
            }
        }
        (!claims.is_empty()).then_some(Claims { claims })
    }

    /// Hands answers to whoever waits for them.
    pub(super) fn answered(&mut self, grants: Grants) {
        for grant in grants.grants {
            if let Some(answer) = self.waiting.remove(&grant.number) {
                // Who has ceased to wait claims it again.
                let _ = answer.send(grant);
            }
        }
    }

    /// The stream has ended: nobody is answered any more.
    pub(super) fn end(&mut self) {
        self.waiting.clear();
    }
}
