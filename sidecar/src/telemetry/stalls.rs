//! Which ports make callers wait: nothing is declared of them, and their servers speak first. For the
//! person who can declare them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Ports that are remembered; for one more the one that nobody has waited at for longest is forgotten.
const MAX_PORTS: usize = 64;

/// A Service, `namespace/name`, and its port.
pub type ServicePort = (Arc<str>, u16);

/// At which ports connections have waited. Shared by all workers: who has waited can wait for a lock.
#[derive(Debug, Default)]
pub struct Stalls(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    ports: HashMap<ServicePort, Stall>,
    forgotten: u64,
}

/// What has waited at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Connections, since the port was first remembered.
    pub connections: u64,
    /// The last of them.
    pub last: SystemTime,
}

// === impl Stalls ===

impl Stalls {
    /// Notes a connection.
    pub fn waited(&self, service: &Arc<str>, port: u16, now: SystemTime) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { ports, forgotten } = &mut *remembered;
        let key = (service.clone(), port);
        if let Some(stall) = ports.get_mut(&key) {
            stall.connections += 1;
            stall.last = now;
            return;
        }
        if ports.len() >= MAX_PORTS {
            let oldest = ports.iter().min_by_key(|(_, stall)| stall.last);
            let oldest = oldest.map(|(key, _)| key.clone());
            if oldest.is_some_and(|oldest| ports.remove(&oldest).is_some()) {
                *forgotten += 1;
            }
        }
        let stall = Stall {
            connections: 1,
            last: now,
        };
        ports.insert(key, stall);
    }

    /// Every port that is remembered, by name, and how many have been forgotten.
    pub fn all(&self) -> (Vec<(ServicePort, Stall)>, u64) {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = remembered.ports.iter();
        let mut ports: Vec<_> = ports.map(|(key, stall)| (key.clone(), *stall)).collect();
        ports.sort_by(|(one, _), (other, _)| one.cmp(other));
        (ports, remembered.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_64_ports_at_which_somebody_waited_are_remembered() {
        let stalls = Stalls::default();
        let service: Arc<str> = "shop/mail".into();
        let start = SystemTime::now();
        let at = |second: u64| start + Duration::from_secs(second);
        for port in 0..70 {
            stalls.waited(&service, port, at(port.into()));
        }
        // A port that is waited at again is not the next to be forgotten.
        stalls.waited(&service, 6, at(100));
        stalls.waited(&service, 99, at(101));
        let (all, forgotten) = stalls.all();
        assert_eq!((all.len(), forgotten), (64, 7));
        let stall = Stall {
            connections: 2,
            last: at(100),
        };
        assert_eq!(all[0], ((service.clone(), 6), stall));
        assert!(!all.iter().any(|((_, port), _)| *port == 7));
    }
}
