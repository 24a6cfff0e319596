//! The host's side of a mesh: what must happen in the host's network, and how it begins and ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use operator::source::folder::Folder;
use operator::source::reading::{Reading, read_folder};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::accepted::Accepted;
use super::addresses::{HOST, HOST_NAME};
use super::ground::Ground;
use super::launches::Surroundings;
use super::link::{self, FromHost, HostLink, ToHost};
use super::mesh::{self, Settings};
use super::plan::Plan;
use super::process::own_executable;
use super::state::{Layout, State};
use super::table::say;
use super::{Publish, UpArgs, inside, plain};
use crate::fds;

/// Longer than a connection that will succeed takes.
const CONNECT: Duration = Duration::from_secs(5);
/// The wait after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// A request to the way out is one short line.
const LONGEST_REQUEST: u64 = 128;

/// What the mesh inside is told by its argument.
#[derive(Debug, Serialize, Deserialize)]
struct Inside {
    name: String,
    state: PathBuf,
    folder: PathBuf,
    shown_folder: PathBuf,
    publish: Vec<(String, u16)>,
}

/// How a mesh in namespaces ended.
enum Ended {
    With(i32),
    /// Namespaces were refused, for this reason.
    Blocked(String),
}

/// Runs a mesh until Ctrl-C; returns the exit code.
pub fn run(args: &UpArgs) -> anyhow::Result<i32> {
    let folder = args
        .folder
        .canonicalize()
        .with_context(|| format!("the folder {} can't be read", args.folder.display()))?;
    // What is wrong is told before anything is started.
    let reading = read_folder(std::slice::from_ref(&args.folder), &Reading::default());
    if plan(&reading, &folder).is_none() {
        return Ok(1);
    }
    let own_name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let state = State::create(
        args.name.as_deref().unwrap_or(&own_name),
        args.name.is_some(),
    )?;
    say(format_args!("{} ({})", state.name, args.folder.display()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        if !args.no_namespaces {
            match in_namespaces(&state, args, &folder).await? {
                Ended::With(code) => return Ok(code),
                Ended::Blocked(reason) => say(format_args!("  note: {reason}")),
            }
        }
        on_loopback(&state, args, &folder).await
    });
    // A thread that waits for a message would be waited for.
    runtime.shutdown_background();
    code
}

/// The hidden subcommand that is the mesh itself, inside its namespaces.
pub fn supervise(arguments: &[String]) -> anyhow::Result<i32> {
    inside::supervise_dies_with_init()?;
    let line = inside::line()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let inside: Inside =
        serde_json::from_str(arguments.first().context("the mesh was told nothing")?)?;
    let publish = inside
        .publish
        .iter()
        .map(|(what, on)| format!("{what}={on}").parse().map_err(anyhow::Error::msg))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let mut watched = Folder::new(vec![inside.shown_folder.clone()]);
        let reading = watched.reading().await.context("nothing was read")?;
        let Some(plan) = plan(reading, &inside.folder) else {
            return Ok(1);
        };
        let ground = match Ground::namespaces() {
            Ok(ground) => ground,
            Err(error) => {
                fds::send(&line, &ToHost::Blocked(format!("{error:#}")), &[])?;
                return Ok(1);
            }
        };
        let layout = Layout { root: inside.state };
        let mut accepted = Accepted::new(&layout, &inside.shown_folder);
        accepted.take(reading)?;
        let settings = Settings {
            name: inside.name,
            shown_folder: inside.shown_folder,
            around: Surroundings::new(ground, layout, inside.folder)?,
            publish,
            watched,
            accepted,
        };
        mesh::run(settings, plan, HostLink::remote(line))
            .await
            .map(|()| 0)
    });
    runtime.shutdown_background();
    done
}

/// What the folder asks for. `None`: something is wrong with it, which was said.
fn plan(reading: &Reading, folder: &Path) -> Option<Plan> {
    match Plan::of(reading, folder) {
        Ok(plan) => Some(plan),
        Err(problems) => {
            for problem in &problems {
                say(plain(&problem.to_string()));
            }
            say("nothing was started");
            None
        }
    }
}

async fn in_namespaces(state: &State, args: &UpArgs, folder: &Path) -> anyhow::Result<Ended> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    // The terminal was closed.
    let mut hangups = signal(SignalKind::hangup())?;
    let inside = Inside {
        name: state.name.clone(),
        state: state.layout.root.clone(),
        folder: folder.to_owned(),
        shown_folder: args.folder.clone(),
        publish: args.publish.iter().map(Publish::to_parts).collect(),
    };
    serve_way_out(&state.layout.way_out())?;
    let (here, there) = UnixStream::pair()?;
    // Before any thread is started: the mesh dies with the thread that started it.
    let mut mesh = Command::new(own_executable())
        .arg("__mesh")
        .arg(serde_json::to_string(&inside)?)
        .stdin(Stdio::from(OwnedFd::from(there)))
        // Not in the terminal's foreground: Ctrl-C is for this process, which passes it on.
        .process_group(0)
        .spawn()
        .context("starting the mesh")?;
    let pid = Pid::from_raw(i32::try_from(mesh.id())?);
    let line = here.try_clone()?;
    let mut served = tokio::task::spawn_blocking(move || link::serve(&here));
    let mut asked = false;
    let blocked = loop {
        tokio::select! {
            ended = &mut served => break ended?,
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
            _ = hangups.recv() => {}
        }
        if asked {
            // Asked twice: at once. What is inside dies with it.
            kill(pid, Signal::SIGKILL)?;
        } else {
            asked = true;
            // It may be ending by itself just now.
            let _ = fds::send(&line, &FromHost::Stop, &[]);
        }
    };
    let status = mesh.wait()?;
    Ok(match blocked {
        Some(reason) => Ended::Blocked(reason),
        None if asked && status.code().is_none() => Ended::With(130),
        None => Ended::With(status.code().unwrap_or(1)),
    })
}

async fn on_loopback(state: &State, args: &UpArgs, folder: &Path) -> anyhow::Result<i32> {
    say(
        "  note: without network namespaces, calls are only carried by sidecars when applications use",
    );
    say(
        "        $http_proxy and listen on $HOST; whoever calls an application at its own address gets",
    );
    say(
        "        around its sidecar, so mutual TLS and access rules are not enforced against other local users",
    );
    let mut watched = Folder::new(vec![args.folder.clone()]);
    let reading = watched.reading().await.context("nothing was read")?;
    let Some(plan) = plan(reading, folder) else {
        return Ok(1);
    };
    let (ground, _claim) = Ground::loopback()?;
    let mut accepted = Accepted::new(&state.layout, &args.folder);
    accepted.take(reading)?;
    let around = Surroundings::new(ground, state.layout.clone(), folder.to_owned())?;
    let (stopping, stop) = watch::channel(false);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    // The terminal was closed.
    let mut hangups = signal(SignalKind::hangup())?;
    let settings = Settings {
        name: state.name.clone(),
        shown_folder: args.folder.clone(),
        around,
        publish: args.publish.clone(),
        watched,
        accepted,
    };
    let mut running = std::pin::pin!(mesh::run(settings, plan, HostLink::local(stop)));
    loop {
        tokio::select! {
            done = &mut running => return done.map(|()| 0),
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
            _ = hangups.recv() => {}
        }
        if stopping.send_replace(true) {
            // Asked twice: at once. What was started dies with this process.
            return Ok(130);
        }
    }
}

/// Opens connections in the host's network for whoever asks at `path`, from now on.
fn serve_way_out(path: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path).context("opening the way out")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            // Out of descriptors, say: a later one may work.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            tokio::spawn(async move {
                // Who asked and went away needs no answer.
                let _ = let_out(stream).await;
            });
        }
    });
    Ok(())
}

async fn let_out(stream: tokio::net::UnixStream) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    (&mut stream)
        .take(LONGEST_REQUEST)
        .read_line(&mut request)
        .await?;
    let mut stream = stream.into_inner();
    match open(&request).await {
        Ok(socket) => {
            let socket = socket.into_std()?;
            stream
                .async_io(Interest::WRITABLE, || pass(&stream, &socket))
                .await?;
        }
        Err(error) => stream.write_all(format!("-{error:#}").as_bytes()).await?,
    }
    Ok(())
}

async fn open(request: &str) -> anyhow::Result<TcpStream> {
    let Some(address) = request.trim_end().strip_prefix("tcp ") else {
        bail!("asked for something else than tcp")
    };
    let asked: SocketAddr = address.parse().context("that is no address")?;
    // Inside, the host's loopback has an address of its own, for theirs is each workload's own.
    let (to, name) = if asked.ip() == IpAddr::V4(HOST) {
        (
            SocketAddr::from((Ipv4Addr::LOCALHOST, asked.port())),
            format!("{HOST_NAME}:{} (127.0.0.1 on the host)", asked.port()),
        )
    } else {
        (asked, format!("{asked} from the host's network"))
    };
    match timeout(CONNECT, TcpStream::connect(to)).await {
        Ok(connected) => connected.with_context(|| format!("connecting to {name}")),
        Err(_) => bail!(
            "connecting to {name} took longer than {} s",
            CONNECT.as_secs()
        ),
    }
}

fn pass(stream: &tokio::net::UnixStream, socket: &std::net::TcpStream) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    if !passed.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("there is room for one descriptor"));
    }
    rustix::net::sendmsg(
        stream,
        &[io::IoSlice::new(b"+")],
        &mut passed,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}
