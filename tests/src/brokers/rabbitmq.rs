//! A real RabbitMQ: a node of its own, on loopback alone, or in the network of a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Cluster, enter};

/// A node, killed when this is dropped, and when the process of the tests ends.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    /// The network that it is in, if that is not this process's.
    network: Option<PathBuf>,
    /// What nodes find each other by, which every one needs, and where others would find this one.
    registry: (u16, Child),
    nodes_port: u16,
    node: Child,
}

// === impl Node ===

impl Node {
    /// Starts one that listens there once it is up, which takes some seconds. `definitions`: its users and virtual hosts,
    /// as `rabbitmqctl export_definitions` writes them.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(address: SocketAddr, definitions: &Value) -> Self {
        Self::configured(&format!("listeners.tcp.1 = {address}\n"), definitions)
    }

    /// Starts one with this configuration, which says where it listens.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn configured(listeners: &str, definitions: &Value) -> Self {
        Self::within(None, listeners, definitions)
    }

    /// Starts one at this port of a cluster's node, as somebody would run it beside the cluster.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn beside(cluster: &Cluster, port: &str, definitions: &Value) -> Self {
        let listeners = format!("listeners.tcp.1 = {}:{port}\n", cluster.node_ip());
        let network = cluster.netns().to_owned();
        Self::within(Some(network), &listeners, definitions)
    }

    fn within(network: Option<PathBuf>, listeners: &str, definitions: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let (registry, nodes_port) = (free(), free());
        let at = |file: &str| folder.path().join(file);
        std::fs::write(at("definitions.json"), definitions.to_string()).unwrap();
        std::fs::write(at("plugins"), "[].").unwrap();
        // What is moved from one queue to another while that one is not up yet is tried again after minutes.
        let soon = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 2000}]}].";
        std::fs::write(at("advanced.config"), soon).unwrap();
        let config = format!(
            "{listeners}load_definitions = {}\nlog.console = true\nlog.file = false\n\
             disk_free_limit.absolute = 10MB\nvm_memory_high_watermark.absolute = 2GB\n",
            at("definitions.json").display()
        );
        std::fs::write(at("rabbitmq.conf"), config).unwrap();
        let mut command = inside(network.as_deref(), "epmd".into());
        command.args(["-port", &registry.to_string(), "-address", "127.0.0.1"]);
        let registry = (registry, spawn(command));
        let node = node(network.as_deref(), &folder, registry.0, nodes_port);
        Self {
            folder,
            network,
            registry,
            nodes_port,
            node,
        }
    }

    /// The end of what it has said.
    pub fn said(&self) -> String {
        let said = std::fs::read(self.folder.path().join("output")).unwrap_or_default();
        let end = said.len().saturating_sub(2000);
        String::from_utf8_lossy(&said[end..]).into_owned()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        end(&mut self.node);
    }

    /// Starts it again, with all that it has kept.
    pub fn start_again(&mut self) {
        let network = self.network.as_deref();
        self.node = node(network, &self.folder, self.registry.0, self.nodes_port);
    }

    /// Has it do something, as `rabbitmqctl` does, and answers what that says.
    ///
    /// # Panics
    /// When it does not.
    pub fn control(&self, arguments: &[&str]) -> String {
        let program = super::rabbitmq().join("rabbitmqctl");
        let mut command = inside(self.network.as_deref(), program);
        surround(&mut command, &self.folder, self.registry.0, self.nodes_port);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.node);
        end(&mut self.registry.1);
    }
}

/// A port of this host that nobody listens on, and that no connection is given before somebody does, or while who listened
/// begins anew: it is below those that the kernel gives.
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    let ports = (0..1000).map(|_| rand::random_range(12_000..32_000));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.into_iter().find(is_free).unwrap()
}

/// A program that runs in that network, else in this process's.
fn inside(network: Option<&Path>, program: PathBuf) -> Command {
    match network {
        Some(network) => enter(network, program),
        None => Command::new(program),
    }
}

/// The same program, which ends with whoever starts it.
fn guarded(inner: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

fn node(network: Option<&Path>, folder: &TempDir, registry: u16, nodes_port: u16) -> Child {
    let mut command = guarded(&inside(network, super::rabbitmq().join("rabbitmq-server")));
    surround(&mut command, folder, registry, nodes_port);
    // Else it would be the child of a shell that hands it signals.
    command.env("RABBITMQ_ALLOW_INPUT", "1");
    command.env(
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
        "-noinput -kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
    );
    let log = std::fs::File::create(folder.path().join("output")).unwrap();
    command.stdout(log);
    spawn(command)
}

/// Tells a program of RabbitMQ's of a node.
fn surround(command: &mut Command, folder: &TempDir, registry: u16, nodes_port: u16) {
    let at = |file: &str| folder.path().join(file);
    command
        .env("HOME", folder.path())
        .env("RABBITMQ_NODENAME", "tests@localhost")
        .env("RABBITMQ_MNESIA_BASE", at("data"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_PID_FILE", at("pid"))
        .env("RABBITMQ_DIST_PORT", nodes_port.to_string())
        .env("ERL_CRASH_DUMP_SECONDS", "0")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", registry.to_string());
}

/// Starts a program that ends with this process. It would end with the thread that has started it, which with tests is
/// soon: so one does that which never ends.
fn spawn(mut command: Command) -> Child {
    type Asked = (Command, mpsc::Sender<Child>);
    static SPAWNS: OnceLock<mpsc::Sender<Asked>> = OnceLock::new();
    let spawns = SPAWNS.get_or_init(|| {
        let (spawns, asked) = mpsc::channel::<Asked>();
        std::thread::spawn(move || {
            for (mut command, answer) in asked {
                answer.send(command.spawn().unwrap()).unwrap();
            }
        });
        spawns
    });
    if command.get_program() != "setpriv" {
        command = guarded(&command);
        command.stdout(Stdio::null());
    }
    command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let (answer, answered) = mpsc::channel();
    spawns.send((command, answer)).unwrap();
    answered.recv().unwrap()
}

/// Kills it, and all that it has started.
fn end(child: &mut Child) {
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
}
