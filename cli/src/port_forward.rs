//! `meshwright port-forward`: a port of this machine that is a port of a workload.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::kubectl::{self, Forward};
use crate::sidecar::{Beside, Inside, Reached};
use crate::signals::told_to_end;
use crate::up::table::say;

/// How long nobody is accepted after that has failed, for want of descriptors.
const AGAIN: Duration = Duration::from_millis(100);

/// Forwards ports of this machine (127.0.0.1) to ports of a workload, as a program beside its
/// application would reach them: around its sidecar.
#[derive(Clone, Debug, clap::Args)]
pub struct PortForwardArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub beside: Beside,
    /// Which: `8080`, or another one of this machine, `9090:8080`; `:8080` takes any that is free.
    #[arg(value_name = "[LOCAL:]PORT", required = true)]
    pub ports: Vec<Ports>,
}

/// A port of this machine, any for 0, and the port of a workload that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Here.
    pub local: u16,
    /// There.
    pub port: u16,
}

/// Forwards until it is told to end; returns the exit code. Must be called while the process has one
/// thread.
///
/// # Errors
/// When there is no such workload, a port here is taken, or the way there ends.
pub fn run(args: &PortForwardArgs) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before anything is started that has to be ended.
    let ending = {
        let _inside = runtime.enter();
        told_to_end()?
    };
    if !args.beside.place.is_here()? {
        return runtime.block_on(through_kubectl(args, ending));
    }
    let workload = &args.beside.workload;
    // Here, before this process goes to where nobody of this machine could connect to.
    let mut heard = Vec::new();
    for ports in &args.ports {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, ports.local));
        let listener = listener.with_context(|| ports.taken())?;
        listener.set_nonblocking(true)?;
        heard.push((listener, ports.port));
    }
    let mut mesh = Inside::of(&args.beside.place)?;
    let reached = mesh.reach(workload)?;
    for (listener, port) in &heard {
        forwards(listener.local_addr()?.port(), *port, &reached.pod);
    }
    let forwarded = Rc::new(Forwarded {
        workload: workload.clone(),
        mesh: RefCell::new(mesh),
        reached: RefCell::new(Rc::new(reached)),
    });
    LocalSet::new().block_on(&runtime, async {
        for (listener, port) in heard {
            let listener = TcpListener::from_std(listener)?;
            tokio::task::spawn_local(serve(listener, port, forwarded.clone()));
        }
        ending.await;
        Ok(0)
    })
}

fn forwards(local: u16, port: u16, to: &str) {
    say(format_args!(
        "127.0.0.1:{local} leads to port {port} of {to}; Ctrl-C ends it"
    ));
}

/// What is forwarded to, in its life now: a pod that was started anew is another place.
struct Forwarded {
    workload: String,
    mesh: RefCell<Inside>,
    reached: RefCell<Rc<Reached>>,
}

async fn serve(listener: TcpListener, port: u16, forwarded: Rc<Forwarded>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        let forwarded = forwarded.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = forwarded.carry(stream, port).await {
                let _ = writeln!(io::stderr(), "{error:#}");
            }
        });
    }
}

async fn through_kubectl(
    args: &PortForwardArgs,
    ending: impl Future<Output = ()>,
) -> anyhow::Result<i32> {
    let cluster = &args.beside.place.cluster;
    let (namespace, workload) = kubectl::split(&args.beside.workload);
    let ports: Vec<_> = args.ports.iter().map(Ports::for_kubectl).collect();
    let mut forward = Forward::start(cluster, namespace, workload, &ports)?;
    for ports in &args.ports {
        // kubectl says each as it has begun, in their order.
        forwards(
            forward.forwarded()?.port(),
            ports.port,
            &args.beside.workload,
        );
    }
    let (ended, end) = oneshot::channel::<()>();
    if let Some(output) = forward.take_output() {
        std::thread::spawn(move || {
            Forward::heard(output);
            drop(ended);
        });
    }
    tokio::select! {
        () = ending => Ok(0),
        _ = end => bail!("kubectl port-forward has ended"),
    }
}

// === impl Forwarded ===

impl Forwarded {
    async fn carry(&self, mut stream: TcpStream, port: u16) -> anyhow::Result<()> {
        let reached = self.reached.borrow().clone();
        let connected = match reached.application(port).await {
            Ok(connected) => Ok(connected),
            Err(_) => {
                let reached = Rc::new(self.mesh.borrow_mut().reach(&self.workload)?);
                *self.reached.borrow_mut() = reached.clone();
                reached.application(port).await
            }
        };
        let pod = || format!("connecting to port {port} of {}", reached.pod);
        let mut application = connected.with_context(pod)?;
        // Whichever side breaks off, the other learns of it.
        let _ = copy_bidirectional(&mut stream, &mut application).await;
        Ok(())
    }
}

// === impl Ports ===

impl Ports {
    fn taken(&self) -> String {
        let Self { local, port } = self;
        format!("port {local} of this machine can't be had: write another one, `LOCAL:{port}`")
    }

    fn for_kubectl(&self) -> String {
        match self.local {
            0 => format!(":{}", self.port),
            local => format!("{local}:{}", self.port),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a port, `8080`, or two, `9090:8080`".to_owned();
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let ports = match text.split_once(':') {
            Some(("", port)) => Self {
                local: 0,
                port: number(port)?,
            },
            Some((local, port)) => Self {
                local: number(local)?,
                port: number(port)?,
            },
            None => Self {
                local: number(text)?,
                port: number(text)?,
            },
        };
        match ports.port {
            0 => Err(wrong()),
            _ => Ok(ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_number_or_two() {
        let ports = |local, port| Ok(Ports { local, port });
        assert_eq!("8080".parse(), ports(8080, 8080));
        assert_eq!("9090:8080".parse(), ports(9090, 8080));
        assert_eq!(":8080".parse(), ports(0, 8080));
        for wrong in ["", "0", "http", "1:2:3", "70000", "8080:", "8080:0"] {
            let refused = wrong.parse::<Ports>();
            assert!(refused.is_err(), "{wrong}: {refused:?}");
        }
    }
}
