//! The redirect at work: each test runs inside an unprivileged user namespace and a network
//! namespace of its own, where these rules are the only ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use netlink_bindings::{rt_addr, rt_link, rt_route};
use netlink_socket2::NetlinkSocket;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

use super::*;

mod in_force;
mod ipv6;

const MARK: u32 = 1337;
/// The user a test is inside its namespace.
const OWN_UID: u32 = 0;
const NOT_OWN_UID: u32 = 1337;
/// The pod's own address.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 7);
/// A Service's address: nothing answers there.
const SERVICE: SocketAddr = address([10, 96, 0, 10], 80);

/// Runs the ignored test `name` in namespaces of its own.
fn in_a_namespace(name: &str) {
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(match name.contains("::") {
            true => format!("capture::tests::{name}"),
            false => format!("capture::tests::namespaced::{name}"),
        })
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
fn a_call_to_a_service_arrives_at_the_sidecar_with_its_destination() {
    in_a_namespace("service");
}

#[test]
fn a_call_from_the_sidecar_by_mark_is_not_redirected() {
    in_a_namespace("escape_by_mark");
}

#[test]
fn a_call_from_the_sidecar_by_user_is_not_redirected() {
    in_a_namespace("escape_by_uid");
}

#[test]
fn a_call_to_oneself_passes_the_sidecar_on_both_sides() {
    in_a_namespace("self_call");
}

#[test]
fn the_sidecar_reaches_its_application_at_the_original_destination() {
    in_a_namespace("application");
}

#[test]
fn loopback_is_left_alone() {
    in_a_namespace("loopback");
}

#[test]
fn a_call_to_an_excluded_port_or_network_goes_around_the_sidecar() {
    in_a_namespace("excluded_outbound");
}

#[test]
fn an_excluded_port_is_reached_without_the_sidecar_by_others_and_by_oneself() {
    in_a_namespace("excluded_inbound");
}

#[test]
fn no_more_is_excluded_than_is_compared_in_a_moment() {
    let most = |number| Rules {
        excluded: Excluded {
            outbound_ports: vec![80; number],
            ..Excluded::default()
        },
        ..Rules::new(Escape::Mark(MARK))
    };
    assert!(most(MAX_EXCLUDED).excluded.check().is_ok());
    let error = redirect(&most(MAX_EXCLUDED + 1)).unwrap_err().to_string();
    assert!(error.contains("33 outbound ports are excluded"), "{error}");
}

#[test]
fn a_port_of_the_sidecars_is_not_excluded_for_who_calls_the_pod() {
    for port in SIDECAR_PORTS {
        let mut rules = Rules::new(Escape::Uid(1337));
        rules.excluded.inbound_ports = vec![8080, port];
        let said = redirect(&rules).unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("port {port} is the sidecar's")),
            "{said}"
        );
        // What it calls elsewhere is another's: a scraper may well call sidecars' 15020 as they are.
        rules.excluded.inbound_ports.clear();
        rules.excluded.outbound_ports = vec![port];
        assert!(rules.check().is_ok());
    }
    let mut rules = Rules::new(Escape::Uid(1337));
    rules.untouched.push(rules.outbound);
    assert!(matches!(redirect(&rules), Err(Error::OwnPort(15001))));
}

#[test]
fn a_second_run_replaces_the_first_and_removal_leaves_nothing() {
    in_a_namespace("twice");
}

#[test]
fn without_permission_the_error_names_the_capability() {
    let output = std::process::Command::new("unshare")
        .args([
            "--user",
            "--net",
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-all",
            "--",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "capture::tests::namespaced::forbidden",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

mod namespaced {
    use super::*;

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn service() {
        let [outbound, _inbound] = pod();
        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

        let _client = TcpStream::connect(SERVICE).unwrap();

        let (accepted, _) = outbound.accept().unwrap();
        assert_eq!(original_destination(&accepted), SERVICE);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn escape_by_mark() {
        let [outbound, _inbound] = pod();
        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

        let marked = marked();
        let refusal = marked
            .connect_timeout(&SERVICE.into(), Duration::from_secs(20))
            .unwrap_err();

        // It went out to the network, where nobody has the address.
        assert_eq!(refusal.kind(), io::ErrorKind::HostUnreachable);
        assert_nobody_called(&outbound);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn escape_by_uid() {
        let [outbound, _inbound] = pod();
        redirect(&Rules::new(Escape::Uid(OWN_UID))).unwrap();
        assert_eq!(
            TcpStream::connect(SERVICE).unwrap_err().kind(),
            io::ErrorKind::HostUnreachable
        );
        assert_nobody_called(&outbound);

        redirect(&Rules::new(Escape::Uid(NOT_OWN_UID))).unwrap();
        let _client = TcpStream::connect(SERVICE).unwrap();
        let (accepted, _) = outbound.accept().unwrap();
        assert_eq!(original_destination(&accepted), SERVICE);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn self_call() {
        let [outbound, inbound] = pod();
        let own = SocketAddr::from((POD, 8080));
        let application = TcpListener::bind("0.0.0.0:8080").unwrap();
        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

        let _client = TcpStream::connect(own).unwrap();
        let (from_application, _) = outbound.accept().unwrap();
        assert_eq!(original_destination(&from_application), own);

        let sidecar = marked();
        sidecar.connect(&own.into()).unwrap();
        let (from_itself, _) = inbound.accept().unwrap();
        assert_eq!(original_destination(&from_itself), own);
        assert_nobody_called(&application);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn application() {
        let [outbound, inbound] = pod();
        let own = SocketAddr::from((POD, 8080));
        let application = TcpListener::bind("0.0.0.0:8080").unwrap();
        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

        let sidecar = marked();
        sidecar
            .bind(&SocketAddr::from((APPLICATION_SOURCE, 0)).into())
            .unwrap();
        sidecar.connect(&own.into()).unwrap();

        let (accepted, from) = application.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), own);
        assert_eq!(from.ip(), APPLICATION_SOURCE);
        assert_nobody_called(&outbound);
        assert_nobody_called(&inbound);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn loopback() {
        let [outbound, _inbound] = pod();
        let database = TcpListener::bind("127.0.0.1:5432").unwrap();
        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();

        let _client = TcpStream::connect("127.0.0.1:5432").unwrap();

        database.accept().unwrap();
        assert_nobody_called(&outbound);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn excluded_outbound() {
        let [outbound, _inbound] = pod();
        let excluded = Excluded {
            outbound_ports: vec![3306],
            outbound_cidrs: vec![
                "10.97.128.0/17".parse().unwrap(),
                "fd00:2::/64".parse().unwrap(),
            ],
            ..Excluded::default()
        };
        redirect(&Rules {
            excluded,
            ..Rules::new(Escape::Mark(MARK))
        })
        .unwrap();
        // Out to the network, where nobody has the address.
        for around in [
            address([10, 96, 0, 10], 3306),
            address([10, 97, 128, 0], 80),
            address([10, 97, 255, 255], 80),
        ] {
            let refusal = TcpStream::connect(around).unwrap_err();
            assert_eq!(refusal.kind(), io::ErrorKind::HostUnreachable, "{around}");
            assert_nobody_called(&outbound);
        }
        for through in [
            address([10, 96, 0, 10], 3307),
            address([10, 97, 127, 255], 80),
            address([10, 98, 0, 0], 80),
        ] {
            let _client = TcpStream::connect(through).unwrap();
            let (accepted, _) = outbound.accept().unwrap();
            assert_eq!(original_destination(&accepted), through);
        }
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn excluded_inbound() {
        let [outbound, inbound] = pod();
        let metrics = TcpListener::bind("0.0.0.0:9090").unwrap();
        let excluded = Excluded {
            inbound_ports: vec![9090],
            ..Excluded::default()
        };
        let rules = Rules {
            excluded,
            ..Rules::new(Escape::Mark(MARK))
        };
        redirect(&rules).unwrap();
        assert!(
            super::super::inbound(&rules)
                .contains(&(vec![Match::Tcp, Match::ToPort(9090)], Verdict::Return))
        );
        // The application calls itself: out by its sidecar, and from there to the port itself.
        let own = SocketAddr::from((POD, 9090));
        let _client = TcpStream::connect(own).unwrap();
        let (from_application, _) = outbound.accept().unwrap();
        assert_eq!(original_destination(&from_application), own);
        let sidecar = marked();
        sidecar.connect(&own.into()).unwrap();
        metrics.accept().unwrap();
        assert_nobody_called(&inbound);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn twice() {
        let [outbound, _inbound] = pod();
        let elsewhere = TcpListener::bind("0.0.0.0:25001").unwrap();
        redirect(&Rules {
            outbound: 25001,
            ..Rules::new(Escape::Mark(MARK))
        })
        .unwrap();
        let _before = TcpStream::connect(SERVICE).unwrap();
        elsewhere.accept().unwrap();

        redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
        let _after = TcpStream::connect(SERVICE).unwrap();
        outbound.accept().unwrap();
        assert_nobody_called(&elsewhere);

        remove().unwrap();
        remove().unwrap();
        assert_eq!(
            TcpStream::connect(SERVICE).unwrap_err().kind(),
            io::ErrorKind::HostUnreachable
        );
        assert_nobody_called(&outbound);
    }

    #[test]
    #[ignore = "needs a namespace: run by its caller above"]
    fn forbidden() {
        let error = redirect(&Rules::new(Escape::Uid(NOT_OWN_UID))).unwrap_err();
        assert!(matches!(error, Error::Permission), "{error}");
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
    }
}

#[tokio::test]
async fn the_way_out_hands_over_a_connected_socket_or_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("way-out.sock");
    let host = tokio::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = broker.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = host.accept().await.unwrap();
            let mut stream = tokio::io::BufReader::new(stream);
            let mut asked = String::new();
            stream.read_line(&mut asked).await.unwrap();
            if asked == format!("tcp {there}\n") {
                let socket = TcpStream::connect(there).unwrap();
                let mut space =
                    [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut passed = SendAncillaryBuffer::new(&mut space);
                let sockets = [std::os::fd::AsFd::as_fd(&socket)];
                assert!(passed.push(SendAncillaryMessage::ScmRights(&sockets)));
                let plus = [io::IoSlice::new(b"+")];
                rustix::net::sendmsg(stream.get_ref(), &plus, &mut passed, SendFlags::empty())
                    .unwrap();
            } else {
                stream.write_all(b"-nobody listens there").await.unwrap();
            }
        }
    });

    let connected = way_out::connect(&path, there).await.unwrap();
    let (_accepted, from) = broker.accept().unwrap();
    assert_eq!(connected.local_addr().unwrap(), from);

    let refused = way_out::connect(&path, address([127, 0, 0, 1], 1))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(refused.to_string(), "nobody listens there");
}

/// The network of a pod: loopback, an address, a default route to a network without neighbours;
/// and its sidecar's two listeners.
fn pod() -> [TcpListener; 2] {
    /// `RTM_NEWLINK`'s flag for an interface that is up.
    const UP: u32 = 1;
    const IPV4: u8 = 2;
    const LOOPBACK: i32 = 1;

    let mut socket = NetlinkSocket::new();
    let mut device = rt_link::Ifinfomsg::new();
    device.ifi_flags = UP;
    device.ifi_change = UP;
    let mut create = rt_link::Request::new().set_create().op_newlink_do(&device);
    create
        .encode()
        .push_ifname(c"eth0")
        .nested_linkinfo()
        .push_kind(c"bridge")
        .end_nested();
    socket.request(&create).unwrap().recv_ack().unwrap();

    device.ifi_index = LOOPBACK;
    let up = rt_link::Request::new().op_newlink_do(&device);
    socket.request(&up).unwrap().recv_ack().unwrap();

    let index = nix::net::if_::if_nametoindex("eth0").unwrap();
    let mut header = rt_addr::Ifaddrmsg::new();
    header.ifa_family = IPV4;
    header.ifa_prefixlen = 16;
    header.ifa_index = index;
    let mut address = rt_addr::Request::new().set_create().op_newaddr_do(&header);
    address
        .encode()
        .push_local(POD.into())
        .push_address(POD.into());
    socket.request(&address).unwrap().recv_ack().unwrap();

    let mut header = rt_route::Rtmsg::new();
    header.rtm_family = IPV4;
    header.rtm_table = 254;
    header.rtm_type = 1;
    let mut route = rt_route::Request::new()
        .set_create()
        .op_newroute_do(&header);
    route.encode().push_oif(index);
    socket.request(&route).unwrap().recv_ack().unwrap();

    [15001, 15006].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
}

/// A socket of the sidecar's.
fn marked() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    setsockopt(&socket, sockopt::Mark, &MARK).unwrap();
    socket
}

fn original_destination(accepted: &TcpStream) -> SocketAddr {
    SockRef::from(accepted)
        .original_dst_v4()
        .unwrap()
        .as_socket()
        .unwrap()
}

fn assert_nobody_called(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    listener.set_nonblocking(false).unwrap();
}

const fn address(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(
        std::net::IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
        port,
    )
}
