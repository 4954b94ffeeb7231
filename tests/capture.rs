//! Captures what ipvsadm sends and what the kernel answers, for the golden files of ipvs-packet.
//!
//!     cargo run -p kernel-tests --bin capture -- crates/ipvs-packet/tests/golden
//!
//! runs each command line of [`CASES`] in a new network namespace, on a kernel with IPVS (from the crate
//! `lvs-guest`: `LVS_GUEST_KERNEL=uml-testing` chooses another one), and writes the IPVS messages
//! seen through an nlmon link to `<directory>/<kernel>/<case>.txt`. A second run writes the
//! same bytes. It needs the programs `ipvsadm` (1.31) and `ip`.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::RcvBuf,
    },
};

/// The cases: a name, the commands that prepare the state, and the captured command. Commands
/// are ipvsadm's arguments. Tables have at most one service, since the kernel chooses the order of
/// several.
const CASES: &[(&str, &[&str], &str)] = &[
    // Services.
    ("add-tcp", &[], "-A -t 10.0.0.185:80"),
    ("add-udp", &[], "-A -u 10.0.0.185:53"),
    ("add-sctp", &[], "-A --sctp-service 10.0.0.185:5060"),
    ("add-mark", &[], "-A -f 10"),
    ("add-mark-large", &[], "-A -f 2147483647"),
    ("add-tcp-ipv6", &[], "-A -t [2001:db8::1]:80"),
    ("add-udp-ipv6", &[], "-A -u [2001:db8::1]:53"),
    ("add-sctp-ipv6", &[], "-A --sctp-service [2001:db8::1]:5060"),
    ("add-mark-ipv6", &[], "-A -f 10 -6"),
    ("add-rr", &[], "-A -t 10.0.0.185:80 -s rr"),
    ("add-wrr", &[], "-A -t 10.0.0.185:80 -s wrr"),
    ("add-lc", &[], "-A -t 10.0.0.185:80 -s lc"),
    ("add-wlc", &[], "-A -t 10.0.0.185:80 -s wlc"),
    ("add-lblc", &[], "-A -t 10.0.0.185:80 -s lblc"),
    ("add-lblcr", &[], "-A -t 10.0.0.185:80 -s lblcr"),
    ("add-dh", &[], "-A -t 10.0.0.185:80 -s dh"),
    ("add-sh", &[], "-A -t 10.0.0.185:80 -s sh"),
    ("add-sed", &[], "-A -t 10.0.0.185:80 -s sed"),
    ("add-nq", &[], "-A -t 10.0.0.185:80 -s nq"),
    ("add-fo", &[], "-A -t 10.0.0.185:80 -s fo"),
    ("add-ovf", &[], "-A -t 10.0.0.185:80 -s ovf"),
    ("add-mh", &[], "-A -t 10.0.0.185:80 -s mh"),
    ("add-none", &[], "-A -t 10.0.0.185:80 -s none"),
    ("add-persistent", &[], "-A -t 10.0.0.185:80 -p"),
    ("add-persistent-600", &[], "-A -t 10.0.0.185:80 -p 600"),
    ("add-persistent-netmask", &[], "-A -t 10.0.0.185:80 -p 600 -M 255.255.255.0"),
    ("add-persistent-ipv6", &[], "-A -t [2001:db8::1]:80 -p"),
    ("add-persistent-prefix", &[], "-A -t [2001:db8::1]:80 -p 600 -M 64"),
    ("add-persistent-mark-prefix", &[], "-A -f 10 -6 -p 600 -M 64"),
    ("add-every-port", &[], "-A -t 10.0.0.185:0 -p"),
    ("add-without-port", &[], "-A -t 10.0.0.185 -p"),
    ("add-engine", &[], "-A -u 10.0.0.185:5060 -p 600 --pe sip"),
    ("add-one-packet", &[], "-A -u 10.0.0.185:53 -o"),
    ("add-sh-fallback", &[], "-A -t 10.0.0.185:80 -s sh -b sh-fallback"),
    ("add-sh-port", &[], "-A -t 10.0.0.185:80 -s sh -b sh-port"),
    ("add-sh-both", &[], "-A -t 10.0.0.185:80 -s sh -b sh-fallback,sh-port"),
    ("add-mh-fallback", &[], "-A -t 10.0.0.185:80 -s mh -b mh-fallback"),
    ("add-mh-port", &[], "-A -t 10.0.0.185:80 -s mh -b mh-port"),
    ("add-flags", &[], "-A -t 10.0.0.185:80 -s rr -b flag-1,flag-2,flag-3"),
    ("edit-scheduler", &["-A -t 10.0.0.185:80"], "-E -t 10.0.0.185:80 -s wrr"),
    ("edit-persistent", &["-A -t 10.0.0.185:80"], "-E -t 10.0.0.185:80 -p 600 -M 255.255.0.0"),
    ("edit-mark", &["-A -f 10 -6"], "-E -f 10 -6 -s rr"),
    ("edit-engine", &["-A -u 10.0.0.185:5060 -p"], "-E -u 10.0.0.185:5060 -p --pe sip"),
    ("delete-tcp", &["-A -t 10.0.0.185:80"], "-D -t 10.0.0.185:80"),
    ("delete-udp", &["-A -u 10.0.0.185:53"], "-D -u 10.0.0.185:53"),
    ("delete-sctp", &["-A --sctp-service 10.0.0.185:5060"], "-D --sctp-service 10.0.0.185:5060"),
    ("delete-mark", &["-A -f 10"], "-D -f 10"),
    ("delete-mark-ipv6", &["-A -f 10 -6"], "-D -f 10 -6"),
    ("delete-tcp-ipv6", &["-A -t [2001:db8::1]:80"], "-D -t [2001:db8::1]:80"),
    // Destinations.
    ("add-masquerade", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m"),
    ("add-masquerade-port", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:8080 -m"),
    ("add-direct", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -g"),
    ("add-default", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3"),
    ("add-tunnel", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i"),
    ("add-weight-zero", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 0"),
    ("add-weight-max", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 2147483647"),
    ("add-thresholds", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3 -x 100 -y 50"),
    ("add-upper-threshold", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -x 100"),
    ("add-ipip", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type ipip"),
    ("add-gue", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gue --tun-port 6080"),
    (
        "add-gue-without-checksum",
        TCP,
        "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gue --tun-port 6080 --tun-nocsum",
    ),
    (
        "add-gue-checksum",
        TCP,
        "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gue --tun-port 6080 --tun-csum",
    ),
    (
        "add-gue-remote-checksum",
        TCP,
        "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gue --tun-port 6080 --tun-remcsum",
    ),
    ("add-gre", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gre"),
    (
        "add-gre-without-checksum",
        TCP,
        "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gre --tun-nocsum",
    ),
    ("add-gre-checksum", TCP, "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gre --tun-csum"),
    ("add-destination-ipv6", TCP6, "-a -t [2001:db8::1]:80 -r [2001:db8::3]:80 -m"),
    ("add-ipv6-through-ipv4", TCP6, "-a -t [2001:db8::1]:80 -r 172.17.0.3:80 -i"),
    ("add-ipv4-through-ipv6", TCP, "-a -t 10.0.0.185:80 -r [2001:db8::3]:80 -i"),
    ("add-destination-udp", &["-A -u 10.0.0.185:53"], "-a -u 10.0.0.185:53 -r 172.17.0.3:53 -m"),
    (
        "add-destination-sctp",
        &["-A --sctp-service 10.0.0.185:5060"],
        "-a --sctp-service 10.0.0.185:5060 -r 172.17.0.3:5060 -m",
    ),
    ("add-destination-mark", &["-A -f 10"], "-a -f 10 -r 172.17.0.3 -g"),
    ("add-destination-mark-port", &["-A -f 10"], "-a -f 10 -r 172.17.0.3:80 -m"),
    ("add-destination-mark-ipv6", &["-A -f 10 -6"], "-a -f 10 -6 -r [2001:db8::3]:0 -g"),
    ("edit-weight", TCP_ONE, "-e -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 7"),
    ("edit-method", TCP_ONE, "-e -t 10.0.0.185:80 -r 172.17.0.3:80 -g"),
    ("edit-thresholds", TCP_ONE, "-e -t 10.0.0.185:80 -r 172.17.0.3:80 -m -x 9 -y 3"),
    (
        "edit-tunnel",
        TCP_ONE,
        "-e -t 10.0.0.185:80 -r 172.17.0.3:80 -i --tun-type gue --tun-port 6080 --tun-csum",
    ),
    ("delete-destination", TCP_ONE, "-d -t 10.0.0.185:80 -r 172.17.0.3:80"),
    (
        "delete-destination-ipv6",
        &["-A -t [2001:db8::1]:80", "-a -t [2001:db8::1]:80 -r [2001:db8::3]:80 -m"],
        "-d -t [2001:db8::1]:80 -r [2001:db8::3]:80",
    ),
    (
        "delete-ipv4-through-ipv6",
        &["-A -t 10.0.0.185:80", "-a -t 10.0.0.185:80 -r [2001:db8::3]:80 -i"],
        "-d -t 10.0.0.185:80 -r [2001:db8::3]:80",
    ),
    (
        "delete-destination-mark",
        &["-A -f 10", "-a -f 10 -r 172.17.0.3 -g"],
        "-d -f 10 -r 172.17.0.3",
    ),
    // Sync daemons.
    ("start-master", &[], "--start-daemon master --mcast-interface dummy0"),
    ("start-master-id", &[], "--start-daemon master --mcast-interface dummy0 --syncid 7"),
    ("start-backup", &[], "--start-daemon backup --mcast-interface dummy0"),
    (
        "start-master-ipv4",
        &[],
        "--start-daemon master --mcast-interface dummy0 --syncid 7 --sync-maxlen 1400 \
         --mcast-group 224.0.0.82 --mcast-port 8849 --mcast-ttl 3",
    ),
    (
        "start-backup-ipv4",
        &[],
        "--start-daemon backup --mcast-interface dummy0 --syncid 7 --sync-maxlen 1600 \
         --mcast-group 224.0.0.82 --mcast-port 8849 --mcast-ttl 3",
    ),
    (
        "start-master-ipv6",
        &[],
        "--start-daemon master --mcast-interface dummy0 --syncid 7 --mcast-group ff02::82",
    ),
    ("stop-master", MASTER, "--stop-daemon master"),
    ("stop-backup", &["--start-daemon backup --mcast-interface dummy0"], "--stop-daemon backup"),
    ("list-daemon-none", &[], "-L --daemon"),
    ("list-daemon-master", MASTER, "-L --daemon"),
    (
        "list-daemon-both",
        &[
            "--start-daemon master --mcast-interface dummy0 --syncid 7 --sync-maxlen 1400 \
             --mcast-group 224.0.0.82 --mcast-port 8849 --mcast-ttl 3",
            "--start-daemon backup --mcast-interface dummy0 --syncid 8 --sync-maxlen 1600 \
             --mcast-group ff02::82 --mcast-port 8850",
        ],
        "-L --daemon",
    ),
    // Settings and the whole table.
    ("set-timeouts", &[], "--set 1000 100 200"),
    ("set-timeouts-one", &[], "--set 0 100 0"),
    ("list-timeouts", &[], "-L --timeout"),
    ("list-timeouts-set", &["--set 1000 100 200"], "-L --timeout"),
    ("zero", TCP_ONE, "-Z"),
    ("zero-tcp", TCP_ONE, "-Z -t 10.0.0.185:80"),
    ("zero-mark-ipv6", &["-A -f 10 -6"], "-Z -f 10 -6"),
    ("clear", TCP_ONE, "-C"),
    ("clear-empty", &[], "-C"),
    ("save", TCP_ONE, "-S -n"),
    // Lists.
    ("list-empty", &[], "-L -n"),
    ("list-tcp", &["-A -t 10.0.0.185:80 -s rr"], "-L -n"),
    ("list-udp", &["-A -u 10.0.0.185:53 -o"], "-L -n"),
    ("list-sctp", &["-A --sctp-service 10.0.0.185:5060"], "-L -n"),
    ("list-mark", &["-A -f 10"], "-L -n"),
    ("list-mark-ipv6", &["-A -f 10 -6 -p 600 -M 64"], "-L -n"),
    ("list-tcp-ipv6", &["-A -t [2001:db8::1]:80 -p 600 -M 64"], "-L -n"),
    ("list-engine", &["-A -u 10.0.0.185:5060 -p 600 --pe sip"], "-L -n"),
    (
        "list-flags",
        &["-A -t 10.0.0.185:80 -s sh -b sh-fallback,sh-port -p 50 -M 255.0.0.0"],
        "-L -n",
    ),
    ("list-none", &["-A -t 10.0.0.185:80 -s none"], "-L -n"),
    (
        "list-edited",
        &["-A -u 10.0.0.185:5060 -p 600 --pe sip", "-E -u 10.0.0.185:5060 -s mh -b mh-port"],
        "-L -n",
    ),
    ("list-one", TCP_ONE, "-L -n -t 10.0.0.185:80"),
    ("list-one-mark-ipv6", &["-A -f 10 -6"], "-L -n -f 10 -6"),
    ("list-destination", TCP_ONE, "-L -n"),
    (
        "list-destinations",
        &[
            "-A -t 10.0.0.185:80",
            "-a -t 10.0.0.185:80 -r 172.17.0.3:8080 -m -w 0",
            "-a -t 10.0.0.185:80 -r 172.17.0.4:80 -g -w 2147483647",
            "-a -t 10.0.0.185:80 -r 172.17.0.5:80 -i -w 5 -x 100 -y 50",
            "-a -t 10.0.0.185:80 -r 172.17.0.6:80 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            "-a -t 10.0.0.185:80 -r 172.17.0.7:80 -i --tun-type gre --tun-csum",
            "-a -t 10.0.0.185:80 -r [2001:db8::3]:80 -i",
        ],
        "-L -n",
    ),
    (
        "list-destinations-ipv6",
        &[
            "-A -t [2001:db8::1]:80",
            "-a -t [2001:db8::1]:80 -r [2001:db8::3]:80 -m",
            "-a -t [2001:db8::1]:80 -r 172.17.0.3:80 -i",
        ],
        "-L -n",
    ),
    ("list-destinations-mark", &["-A -f 10", "-a -f 10 -r 172.17.0.3 -g"], "-L -n"),
    ("list-statistics", TCP_ONE, "-L -n --stats"),
    ("list-rate", TCP_ONE, "-L -n --rate"),
    ("list-thresholds", TCP_ONE, "-L -n --thresholds"),
    ("list-persistent-connections", TCP_ONE, "-L -n --persistent-conn"),
    ("list-tunnels", TCP_ONE, "-L -n --tun-info"),
    ("list-connections", TCP_ONE, "-L -n -c"),
];

const TCP: &[&str] = &["-A -t 10.0.0.185:80"];
const TCP6: &[&str] = &["-A -t [2001:db8::1]:80"];
const TCP_ONE: &[&str] = &["-A -t 10.0.0.185:80", "-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m"];
const MASTER: &[&str] = &["--start-daemon master --mcast-interface dummy0"];

/// How long a command may take. When a sync daemon stops, the kernel can lose the acknowledgement, and
/// ipvsadm then waits endlessly for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    guest::enter_or_exit();
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: capture DIRECTORY");
        return ExitCode::from(2);
    };
    match capture(Path::new(&directory)) {
        Ok(count) => {
            println!("{count} golden files written");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("capture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn capture(directory: &Path) -> Result<usize, Box<dyn Error>> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim();
    let version = Command::new("ipvsadm").arg("--version").output()?;
    let version = String::from_utf8(version.stdout)?;
    let directory = directory.join(kernel);
    fs::create_dir_all(&directory)?;
    for (name, before, command) in CASES {
        let messages = in_new_namespace(|| run_case(before, command))
            .map_err(|error| format!("{name}: {error}"))?;
        let mut text = format!("# {}\n# Linux {kernel}\n", version.trim());
        for line in *before {
            writeln!(text, "# ipvsadm {line}")?;
        }
        writeln!(text, "$ ipvsadm {command}")?;
        for message in messages {
            text += "\n";
            text += &message.to_text();
        }
        fs::write(directory.join(format!("{name}.txt")), text)?;
    }
    Ok(CASES.len())
}

/// Runs a closure, and what it starts, in a new network namespace. The thread that
/// enters the namespace ends with it.
fn in_new_namespace<T: Send>(
    run: impl FnOnce() -> Result<T, Box<dyn Error>> + Send,
) -> Result<T, String> {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("making a network namespace: {error}"))?;
            run().map_err(|error| error.to_string())
        });
        handle.join().unwrap_or_else(|_| Err("the capturing thread panicked".into()))
    })
}

fn run_case(before: &[&str], command: &str) -> Result<Vec<Message>, Box<dyn Error>> {
    run("ip", "link set lo up")?;
    run("ip", "link add nlmon0 type nlmon")?;
    run("ip", "link set nlmon0 up")?;
    run("ip", "link add dummy0 type dummy")?;
    run("ip", "address add 192.0.2.1/24 dev dummy0")?;
    run("ip", "address add 2001:db8:2::1/64 dev dummy0 nodad")?;
    run("ip", "link set dummy0 up")?;
    for line in before {
        run("ipvsadm", line)?;
    }
    let monitor = Monitor::new()?;
    run("ipvsadm", command)?;
    monitor.messages()
}

fn run(program: &str, arguments: &str) -> Result<(), Box<dyn Error>> {
    let mut child = Command::new(program)
        .args(arguments.split_ascii_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let end = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            if arguments.starts_with("--stop-daemon") {
                return Ok(());
            }
            return Err(format!("{program} {arguments}: no end after {COMMAND_TIMEOUT:?}").into());
        }
        thread::sleep(Duration::from_millis(2));
    };
    if status.success() { Ok(()) } else { Err(format!("{program} {arguments}: {status}").into()) }
}

/// A packet socket that sees every netlink message of the namespace through its nlmon link.
struct Monitor(OwnedFd);

impl Monitor {
    fn new() -> Result<Self, Box<dyn Error>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
            .map_err(|error| format!("opening a packet socket: {error}"))?;
        setsockopt(&fd, RcvBuf, &(4 << 20))?;
        Ok(Self(fd))
    }

    /// The IPVS messages seen. The kernel shows them while it handles them, so after a command has ended,
    /// all of its messages are here.
    fn messages(&self) -> Result<Vec<Message>, Box<dyn Error>> {
        const ARPHRD_NETLINK: u16 = 824;
        const NETLINK_GENERIC: u16 = 16;

        let mut buffer = vec![0; 1 << 16];
        let mut messages = Vec::new();
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(messages),
                Err(error) => return Err(format!("reading the packet socket: {error}").into()),
            };
            let from = from.ok_or("a packet without an address")?;
            if from.hatype() == ARPHRD_NETLINK && u16::from_be(from.protocol()) == NETLINK_GENERIC {
                split(&buffer[..length], &mut messages)?;
            }
        }
    }
}

/// A netlink message of the IPVS family: header, generic header, attributes.
struct Message(Vec<u8>);

impl Message {
    const REQUEST: u16 = 1;

    /// `>` for what ipvsadm sent or `<` for what the kernel answered, then the bytes.
    fn to_text(&self) -> String {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]);
        let direction = if flags & Self::REQUEST != 0 { '>' } else { '<' };
        let mut text = format!("{direction}\n");
        for line in self.0.chunks(16) {
            let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &bytes.join(" ");
            text += "\n";
        }
        text
    }
}

/// Takes the IPVS messages out of a datagram, with family number, sequence number and port set to
/// zero, since these differ in each run.
fn split(mut datagram: &[u8], messages: &mut Vec<Message>) -> Result<(), Box<dyn Error>> {
    const HEADERS: usize = 16 + 4;
    /// Lower numbers are netlink's own, this one is the controller that resolves families.
    const GENL_ID_CTRL: u16 = 16;

    while let [a, b, c, d, e, f, ..] = *datagram {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let family = u16::from_ne_bytes([e, f]);
        let message = datagram.get(..length).ok_or("a datagram that is cut short")?;
        if family > GENL_ID_CTRL && length >= HEADERS {
            let mut message = message.to_vec();
            message[4..6].fill(0);
            message[8..16].fill(0);
            messages.push(Message(message));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        if length == 0 {
            return Err("a message of no length".into());
        }
    }
    Ok(())
}
