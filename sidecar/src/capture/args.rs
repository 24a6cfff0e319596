//! The arguments of `meshwright-sidecar redirect`.

use ipnet::IpNet;

use super::{Error, Escape, Excluded, Rules};

/// Redirects this network namespace's connections to the sidecar, and ends. Needs NET_ADMIN.
#[derive(Clone, Debug, clap::Args)]
pub struct RedirectArgs {
    /// User id of the sidecar: its own connections are not redirected.
    #[arg(
        long,
        value_name = "ID",
        default_value_t = 1337,
        conflicts_with = "mark"
    )]
    uid: u32,
    /// Packet mark of the sidecar, instead of its user id.
    #[arg(long, value_name = "MARK")]
    mark: Option<u32>,
    /// Where connections from the application go.
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,
    /// Where connections to the application go.
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    inbound_port: u16,
    /// Ports that are reached as they are: the sidecar's own (repeatable).
    #[arg(long = "untouched-port", value_name = "PORT", default_values_t = [15020, 15021])]
    untouched_ports: Vec<u16>,
    /// A port that is reached as it is, without the sidecar: the mesh does not protect it (repeatable).
    #[arg(long = "exclude-inbound-port", value_name = "PORT")]
    exclude_inbound_ports: Vec<u16>,
    /// A port that the application calls without the sidecar, wherever it is (repeatable).
    #[arg(long = "exclude-outbound-port", value_name = "PORT")]
    exclude_outbound_ports: Vec<u16>,
    /// A network that the application calls without the sidecar, such as 10.1.0.0/16 (repeatable).
    #[arg(long = "exclude-outbound-cidr", value_name = "CIDR")]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Removes the redirect instead.
    #[arg(long)]
    remove: bool,
}

// === impl RedirectArgs ===

impl RedirectArgs {
    /// Does what the arguments say, in the current network namespace.
    pub fn run(&self) -> Result<(), Error> {
        if self.remove {
            super::remove()
        } else {
            super::redirect(&self.rules())
        }
    }

    /// What to redirect, and where to.
    pub fn rules(&self) -> Rules {
        let escape = self.mark.map_or(Escape::Uid(self.uid), Escape::Mark);
        // A peer's sidecar connects to the inbound port itself only by mistake, but then it is
        // already where it should be.
        let untouched = std::iter::once(self.inbound_port)
            .chain(self.untouched_ports.iter().copied())
            .collect();
        Rules {
            escape,
            outbound: self.outbound_port,
            inbound: self.inbound_port,
            untouched,
            excluded: Excluded {
                inbound_ports: self.exclude_inbound_ports.clone(),
                outbound_ports: self.exclude_outbound_ports.clone(),
                outbound_cidrs: self.exclude_outbound_cidrs.clone(),
            },
        }
    }
}
