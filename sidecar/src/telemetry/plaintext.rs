//! Who still calls in plaintext: the addresses that called last, for the person who wants to end it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Addresses that are remembered; for one more the one that has been silent for longest is
/// forgotten.
const MAX_CALLERS: usize = 64;

/// Who has called in plaintext. Shared by all workers: plaintext is a way in, and takes a lock that
/// requests of peers don't.
#[derive(Debug, Default)]
pub struct Callers(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    callers: HashMap<IpAddr, Caller>,
    forgotten: u64,
}

/// One address that has called in plaintext.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `namespace/service` that it called last.
    pub service: Arc<str>,
    /// Requests and opaque connections, since it was first remembered.
    pub requests: u64,
    /// The last of them.
    pub last: SystemTime,
}

// === impl Callers ===

impl Callers {
    /// Notes a request, or an opaque connection.
    pub fn called(&self, from: IpAddr, service: &Arc<str>, now: SystemTime) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { callers, forgotten } = &mut *remembered;
        // The same address in its two forms is the same caller.
        let from = from.to_canonical();
        if let Some(caller) = callers.get_mut(&from) {
            caller.requests += 1;
            caller.last = now;
            if caller.service != *service {
                caller.service = service.clone();
            }
            return;
        }
        if callers.len() >= MAX_CALLERS {
            let oldest = callers.iter().min_by_key(|(_, caller)| caller.last);
            let oldest = oldest.map(|(address, _)| *address);
            if oldest.is_some_and(|oldest| callers.remove(&oldest).is_some()) {
                *forgotten += 1;
            }
        }
        let caller = Caller {
            service: service.clone(),
            requests: 1,
            last: now,
        };
        callers.insert(from, caller);
    }

    /// Everyone remembered, who called last first, and how many have been forgotten.
    pub fn all(&self) -> (Vec<(IpAddr, Caller)>, u64) {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let callers = remembered.callers.iter();
        let mut callers: Vec<_> = callers
            .map(|(address, caller)| (*address, caller.clone()))
            .collect();
        callers.sort_by_key(|(address, caller)| (std::cmp::Reverse(caller.last), *address));
        (callers, remembered.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_64_addresses_are_remembered_with_their_counts() {
        let callers = Callers::default();
        let service: Arc<str> = "shop/orders".into();
        let start = SystemTime::now();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        for n in 0..70 {
            callers.called(address(n), &service, start + Duration::from_secs(n.into()));
        }
        // Who calls again is not the next to be forgotten.
        callers.called(address(6), &service, start + Duration::from_secs(100));
        callers.called(address(99), &service, start + Duration::from_secs(101));
        let (all, forgotten) = callers.all();
        assert_eq!((all.len(), forgotten), (64, 7));
        let first: Vec<_> = all
            .iter()
            .take(2)
            .map(|(address, caller)| (*address, caller.requests))
            .collect();
        assert_eq!(first, [(address(99), 1), (address(6), 2)]);
        assert!(!all.iter().any(|(known, _)| *known == address(7)));
        let mapped = "::ffff:10.0.0.6".parse().unwrap();
        callers.called(mapped, &service, start + Duration::from_secs(102));
        assert_eq!(callers.all().0[0].1.requests, 3);
    }
}
