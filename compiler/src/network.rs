//! Networks that the cluster's addresses lie in, as far as Services tell.
//!
//! A sidecar holds the Services that its pod uses. Before it takes an address for one outside the mesh it
//! asks, but not about every address in the world: about those in a network that some Service's address
//! lies in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network: 65 536 addresses of IPv4, which pods and Services of a cluster seldom leave, or a /64 of
/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Network(IpAddr);

// === impl Network ===

impl Network {
    /// The one that an address lies in.
    pub(crate) fn of(address: &IpAddr) -> Network {
        Network(match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                Ipv4Addr::new(a, b, 0, 0).into()
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(bits).into()
            }
        })
    }

    /// All of IPv4 or of IPv6.
    pub(crate) fn whole(self) -> &'static str {
        match self.0 {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(first) => write!(f, "{first}/16"),
            IpAddr::V6(first) => write!(f, "{first}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_its_network() {
        for (address, network) in [
            ("10.96.3.4", "10.96.0.0/16"),
            ("::ffff:10.96.3.4", "10.96.0.0/16"),
            ("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::/64"),
        ] {
            let found = Network::of(&address.parse().unwrap());
            assert_eq!(found.to_string(), network, "{address}");
        }
    }
}
