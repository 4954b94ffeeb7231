//! Programs that manage a table, with our ipvsadm instead of the original: ldirectord, which
//! runs ipvsadm for everything, and keepalived, with ipvsadm used by hand beside it. Meanwhile servers
//! stop and start again.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command as Process, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ipvs_client::blocking;
use ipvs_table::Rules;
use kernel_tests::{Outcome, block_on, fresh_namespace, needing};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;

use crate::{ipvsadm_cases::directory, table_cases::run};

/// How long a director may take to notice a change. ldirectord checks one server after another.
const LIMIT: Duration = Duration::from_secs(60);

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let ip = ("ip", "iproute2");
    let ipvsadm = ("ipvsadm", "ipvsadm");
    vec![
        needing(
            &[ip, ipvsadm, ("ldirectord", "ldirectord")],
            Trial::test("director_ldirectord_on_ours", ldirectord_on_ours),
        ),
        needing(
            &[ip, ipvsadm, ("keepalived", "keepalived")],
            Trial::test("director_keepalived_beside_ours", keepalived_beside_ours),
        ),
    ]
}

/// A web server on an address, until it is dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(namespace: &NetNs, address: &str) -> Result<Self, Failed> {
        let address: SocketAddr = address.parse()?;
        let listener = namespace.run(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                // A check that only connects sends no request.
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.read(&mut [0; 1000]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nit works\n");
            }
        };
        Ok(Self { stop, thread: Some(thread::spawn(serve)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process that is killed when the case ends.
struct Director(Child);

impl Director {
    /// Terminates it, and waits for its end.
    fn stop(&mut self, namespace: &NetNs) -> Outcome {
        run(namespace, "kill", &["-TERM", &self.0.id().to_string()], "")?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with the addresses of two real servers and of the virtual service.
struct Host {
    namespace: NetNs,
    client: blocking::Client,
}

impl Host {
    fn new() -> Result<Self, Failed> {
        let namespace = block_on(fresh_namespace())?;
        for address in ["10.1.0.1/32", "10.1.0.2/32", "10.0.0.1/32"] {
            let output = run(&namespace, "ip", &["address", "add", address, "dev", "lo"], "")?;
            assert!(output.status.success(), "{output:?}");
        }
        let client = blocking::Client::connect_in(&namespace)?;
        Ok(Self { namespace, client })
    }

    fn server(&self, address: &str) -> Result<Server, Failed> {
        Server::start(&self.namespace, address)
    }

    /// The table, once it contains the lines (or does not, if false), and has not changed for a while.
    fn table(&self, lines: &[(&str, bool)], log: &Path) -> Result<String, Failed> {
        let begun = Instant::now();
        let (mut last, mut since) = (String::new(), Instant::now());
        while begun.elapsed() < LIMIT {
            let table = Rules::from(&self.client.snapshot()?).to_string();
            if table != last {
                (last, since) = (table, Instant::now());
            }
            let fits = lines.iter().all(|(line, there)| last.contains(line) == *there);
            // Checks run every second.
            if fits && since.elapsed() > Duration::from_millis(1500) {
                return Ok(last);
            }
            thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        let log: Vec<_> = log.lines().collect();
        let end = log[log.len().saturating_sub(40)..].join("\n");
        Err(format!("not seen: {lines:?}; the table is\n{last}{end}").into())
    }

    fn ipvsadm(&self, program: &str, words: &[&str]) -> Result<(i32, String, String), Failed> {
        let output = run(&self.namespace, program, words, "")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }
}

fn ldirectord_on_ours() -> Outcome {
    let ours = directory().join("ipvsadm");
    for quiescent in [true, false] {
        let expected = ldirectord(Path::new("/usr/sbin/ipvsadm"), quiescent)?;
        let found = ldirectord(&ours, quiescent)?;
        for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_eq!(found, expected, "step {number}, quiescent {quiescent}");
        }
        println!("quiescent {quiescent}: {} tables", found.len());
    }
    Ok(())
}

/// ldirectord's tables with one of the ipvsadms: at its start, while servers stop and start
/// again, after a change by hand, and at its end.
fn ldirectord(ipvsadm: &Path, quiescent: bool) -> Result<Vec<String>, Failed> {
    let host = Host::new()?;
    let directory = tempfile::tempdir()?;
    let (file, log) = (directory.path().join("cf"), directory.path().join("log"));
    // In debug mode it uses the ipvsadm in its directory, and stays in the foreground.
    symlink(ipvsadm, directory.path().join("ipvsadm"))?;
    let quiet = if quiescent { "yes" } else { "no" };
    fs::write(
        &file,
        format!(
            "checktimeout=2\ncheckinterval=1\nfailurecount=1\nquiescent={quiet}\n\
             virtual=10.0.0.1:80\n\treal=10.1.0.1:80 masq 2\n\treal=10.1.0.2:80 masq 1\n\
             \tfallback=127.0.0.1:8080 masq\n\tservice=http\n\trequest=\"index.html\"\n\
             \treceive=\"it works\"\n\tscheduler=wrr\n\tprotocol=tcp\n\tchecktype=negotiate\n\
             virtual=10.0.0.1:443\n\treal=10.1.0.1:443 masq\n\tscheduler=rr\n\tpersistent=600\n\
             \tnetmask=255.255.255.0\n\tprotocol=tcp\n\tchecktype=connect\n\
             virtual=10.0.0.1:53\n\treal=10.1.0.1:53 gate\n\tscheduler=sh\n\tprotocol=udp\n\
             \tchecktype=on\n\
             virtual=7\n\treal=10.1.0.1 ipip 5\n\tscheduler=wlc\n\tprotocol=fwm\n\tchecktype=on\n\
             virtual6=[2001:db8::1]:80\n\treal6=[2001:db8::2]:80 gate 3\n\tscheduler=lc\n\
             \tprotocol=tcp\n\tchecktype=on\n"
        ),
    )?;
    let first = host.server("10.1.0.1:80")?;
    let second = host.server("10.1.0.2:80")?;
    let _secure = host.server("10.1.0.1:443")?;
    let _fallback = host.server("127.0.0.1:8080")?;
    let output = fs::File::create(&log)?;
    let child = host.namespace.run(|| {
        Process::new("ldirectord")
            .args(["-d", "./cf", "start"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
    })??;
    let mut director = Director(child);
    let mut tables = Vec::new();
    let mut see = |lines: &[(&str, bool)]| -> Outcome {
        tables.push(host.table(lines, &log)?);
        Ok(())
    };
    // If quiescent, the server gets weight 0; else it is deleted.
    let first_up = ("-r 10.1.0.1:80 -m -w 2", true);
    let second_up = ("-r 10.1.0.2:80 -m -w 1", true);
    let first_down =
        if quiescent { ("-r 10.1.0.1:80 -m -w 0", true) } else { ("-r 10.1.0.1:80 ", false) };
    let second_down =
        if quiescent { ("-r 10.1.0.2:80 -m -w 0", true) } else { ("-r 10.1.0.2:80 ", false) };
    let fallback = |there| ("-r 127.0.0.1:8080 -m -w 1", there);
    let secure = ("-r 10.1.0.1:443 -m -w 1", true);
    see(&[first_up, second_up, secure, fallback(false), ("-r [2001:db8::2]:80 -g -w 3", true)])?;
    drop(second);
    see(&[first_up, second_down, fallback(false)])?;
    let second = host.server("10.1.0.2:80")?;
    see(&[first_up, second_up, fallback(false)])?;
    drop((first, second));
    see(&[first_down, second_down, fallback(true)])?;
    let _first = host.server("10.1.0.1:80")?;
    let _second = host.server("10.1.0.2:80")?;
    see(&[first_up, second_up, fallback(false)])?;
    let by_hand = ["-e", "-t", "10.0.0.1:80", "-r", "10.1.0.2:80", "-m", "-w", "9"];
    let (status, _, stderr) = host.ipvsadm(&ipvsadm.display().to_string(), &by_hand)?;
    assert_eq!(status, 0, "{stderr}");
    see(&[first_up])?;
    director.stop(&host.namespace)?;
    see(&[("-A", false)])?;
    Ok(tables)
}

/// Listings and saved rules of both programs are equal at each step, and a change by hand lasts.
fn keepalived_beside_ours() -> Outcome {
    let host = Host::new()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let log = directory.path().join("log");
    let check = "TCP_CHECK {\n connect_timeout 1\n retry 0\n }";
    fs::write(
        path("conf"),
        format!(
            "global_defs {{\n router_id test\n}}\n\
             virtual_server 10.0.0.1 80 {{\n delay_loop 1\n lb_algo wrr\n lb_kind NAT\n \
             protocol TCP\n persistence_timeout 300\n sorry_server 127.0.0.1 8080\n \
             real_server 10.1.0.1 80 {{\n weight 3\n {check}\n }}\n \
             real_server 10.1.0.2 80 {{\n weight 1\n inhibit_on_failure\n {check}\n }}\n}}\n\
             virtual_server fwmark 7 {{\n lb_algo sh\n lb_kind DR\n protocol TCP\n \
             real_server 10.1.0.1 0 {{\n weight 2\n }}\n}}\n"
        ),
    )?;
    let first = host.server("10.1.0.1:80")?;
    let second = host.server("10.1.0.2:80")?;
    let output = fs::File::create(&log)?;
    let child = host.namespace.run(|| {
        Process::new("keepalived")
            .args(["--dont-fork", "--check", "--log-console", "--use-file", &path("conf")])
            .args(["--pid", &path("pid"), "--checkers_pid", &path("checkers")])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
    })??;
    let mut director = Director(child);
    let ours = directory_of_ours();
    let see = |lines: &[(&str, bool)]| -> Outcome {
        host.table(lines, &log)?;
        for words in [&["-Ln"][..], &["-Ln", "--stats"], &["-Ln", "--thresholds"], &["-Sn"]] {
            let expected = host.ipvsadm("/usr/sbin/ipvsadm", words)?;
            assert_eq!(host.ipvsadm(&ours, words)?, expected, "{words:?}");
        }
        Ok(())
    };
    let (first_up, second_up) =
        (("-r 10.1.0.1:80 -m -w 3", true), ("-r 10.1.0.2:80 -m -w 1", true));
    let second_down = ("-r 10.1.0.2:80 -m -w 0", true);
    see(&[first_up, second_up, ("8080", false)])?;
    drop(second);
    see(&[first_up, second_down])?;
    let second = host.server("10.1.0.2:80")?;
    see(&[first_up, second_up])?;
    // keepalived's own changes continue beside one by hand.
    let by_hand = ["-e", "-f", "7", "-r", "10.1.0.1", "-g", "-w", "9"];
    assert_eq!(host.ipvsadm(&ours, &by_hand)?.0, 0);
    drop((first, second));
    see(&[second_down, ("-r 127.0.0.1:8080 ", true), ("-f 7 -r 10.1.0.1:0 -g -w 9", true)])?;
    let _first = host.server("10.1.0.1:80")?;
    let _second = host.server("10.1.0.2:80")?;
    see(&[first_up, second_up, ("8080", false)])?;
    let saved = host.ipvsadm(&ours, &["-Sn"])?.1;
    director.stop(&host.namespace)?;
    see(&[("-A", false)])?;
    let output = run(&host.namespace, &ours, &["-R"], &saved)?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(host.ipvsadm("/usr/sbin/ipvsadm", &["-Sn"])?.1, saved);
    Ok(())
}

fn directory_of_ours() -> String {
    directory().join("ipvsadm").display().to_string()
}
